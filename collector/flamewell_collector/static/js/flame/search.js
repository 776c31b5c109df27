// Search in a flame graph (pure).

/** @typedef {import("./model.js").Model} Model */

/** Longer patterns are refused: they come from a link that anybody may have made. */
const MAX_PATTERN = 300;
/** Names are tested up to this length. */
const TESTED_CHARACTERS = 400;
/** A pattern from a link may be made to take long, e.g. (a+)+$: then the search is given up. */
const PATIENCE_MS = 1_000;
const SPECIAL = /[\\^$.*+?()[\]{}|]/g;

/**
 * Compiles what stands in the search field; upper and lower case are the same.
 * @param {string} text
 * @returns {{regex: ?RegExp, error: string}} No regex for an empty text or an error.
 */
export function compile(text) {
  if (!text) return { regex: null, error: "" };
  if (text.length > MAX_PATTERN) {
    return { regex: null, error: `longer than ${MAX_PATTERN} characters` };
  }
  try {
    return { regex: new RegExp(text, "i"), error: "" };
  } catch (error) {
    const reason = String(error.message).split(": ").pop();
    return { regex: null, error: `not a regular expression: ${reason}` };
  }
}

/**
 * Writes the search that finds exactly one function name.
 * @param {string} name
 * @returns {string}
 */
export function exactly(name) {
  const pattern = `^${name.replace(SPECIAL, "\\$&")}$`;
  return pattern.length <= MAX_PATTERN ? pattern : pattern.slice(0, MAX_PATTERN).replace(/\\+$/, "");
}

/**
 * Tells whether a search came from `exactly`: it marks a function, and filters nothing.
 * @param {string} text
 * @returns {boolean}
 */
export function isExact(text) {
  const closed = text.endsWith("$") || text.length >= MAX_PATTERN - 1;
  return text.startsWith("^") && closed && !/[^\\][*+?|()[\]{}]/.test(text);
}

/**
 * Finds which names a search matches: by function name or by file.
 * @param {Model} model
 * @param {RegExp} regex
 * @returns {?Uint8Array} 1 for each matching entry of `functions`; null where it takes too long.
 */
export function matchNames(model, regex) {
  const matched = new Uint8Array(model.functions.length);
  const deadline = performance.now() + PATIENCE_MS;
  for (let id = 1; id < matched.length; id++) {
    const file = model.files[id];
    if (
      regex.test(model.functions[id].slice(0, TESTED_CHARACTERS)) ||
      (file && regex.test(file.slice(0, TESTED_CHARACTERS)))
    ) {
      matched[id] = 1;
    }
    if (performance.now() > deadline) return null;
  }
  return matched;
}

/**
 * Sums what matching nodes hold, counted once a path: nothing below a match counts again.
 * @param {Model} model
 * @param {Uint8Array} matched From `matchNames`.
 * @param {number} within Root of the subtree that is looked at.
 * @returns {{total: number, base: number, nodes: number}}
 */
export function matchedSum(model, matched, within) {
  const { name, total, end, base } = model;
  const sum = { total: 0, base: 0, nodes: 0 };
  for (let node = within; node < end[within]; ) {
    if (matched[name[node]]) {
      sum.total += total[node];
      if (base) sum.base += base.total[node];
      sum.nodes++;
      node = end[node];
    } else {
      node++;
    }
  }
  return sum;
}
