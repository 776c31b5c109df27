// What the page shows, all of it, kept in the address: a link is the whole state.

/**
 * @typedef {object} State
 * @property {?string} service Name; "" for all; null while none is chosen.
 * @property {string} type Profile type id.
 * @property {string} selector More matchers, as typed.
 * @property {string} from `now-1h` or ms since the epoch.
 * @property {string} until
 * @property {?[number, number]} range What is brushed on the time line: the later one of a diff.
 * @property {boolean} compare
 * @property {?[number, number]} base The earlier range of a diff.
 * @property {string} baseSelector Where the earlier one is of other series.
 * @property {"share"|"rate"} scale How a diff counts.
 * @property {string} zoom Key of a path in the flame graph.
 * @property {string} search Regular expression.
 * @property {"both"|"graph"|"table"} view
 * @property {boolean} flipped Flames: the root at the bottom.
 * @property {boolean} live
 */

export const CPU = "process_cpu:cpu:nanoseconds:cpu:nanoseconds";
export const RSS = "process_memory:rss:bytes:space:bytes";

/** @type {State} */
export const DEFAULTS = Object.freeze({
  service: null,
  type: CPU,
  selector: "",
  // Short enough that somebody who has just started an agent sees something.
  from: "now-15m",
  until: "now",
  range: null,
  compare: false,
  base: null,
  baseSelector: "",
  scale: "share",
  zoom: "",
  search: "",
  view: "both",
  flipped: false,
  live: true,
});

const text = { write: (value) => value, read: (value) => value };
const flag = { write: (value) => (value ? "1" : "0"), read: (value) => value === "1" };
const range = { write: (value) => value.join("-"), read: readRange };
const oneOf = (...known) => ({
  write: (value) => value,
  read: (value) => (known.includes(value) ? value : undefined),
});

/** How each part stands in the address. */
const CODECS = {
  service: text,
  type: text,
  selector: text,
  from: text,
  until: text,
  range,
  compare: flag,
  base: range,
  baseSelector: text,
  scale: oneOf("share", "rate"),
  zoom: text,
  search: text,
  view: oneOf("both", "graph", "table"),
  flipped: flag,
  live: flag,
};
/** Changes of these are steps that the browser's back button takes back. */
const STEPS = new Set(["service", "type", "from", "until", "range", "compare", "base", "zoom"]);

/**
 * Writes a state as the fragment of an address; defaults are left out.
 * @param {State} state
 * @returns {string} Without the #.
 */
export function encode(state) {
  const parameters = new URLSearchParams();
  for (const [name, codec] of Object.entries(CODECS)) {
    const value = state[name];
    if (value === null || value === DEFAULTS[name]) continue;
    parameters.set(name, codec.write(value));
  }
  return parameters.toString();
}

/**
 * Reads a state; what is missing or wrong is the default.
 * @param {string} fragment With or without the #.
 * @returns {State}
 */
export function decode(fragment) {
  const parameters = new URLSearchParams(fragment.replace(/^#/, ""));
  const state = { ...DEFAULTS };
  for (const [name, codec] of Object.entries(CODECS)) {
    if (!parameters.has(name)) continue;
    const value = codec.read(parameters.get(name));
    if (value !== undefined) state[name] = value;
  }
  return state;
}

/** Holds the state, the address, and who wants to know of changes. */
export class Store {
  /** @param {function(State, Set<string>): void} onChange Told which parts have changed. */
  constructor(onChange) {
    this.onChange = onChange;
    this.state = decode(location.hash);
    addEventListener("popstate", () => this.adopt(decode(location.hash)));
  }

  /**
   * Changes parts of the state.
   * @param {Partial<State>} patch
   * @param {{quiet?: boolean}} [options] `quiet`: the page chose it, not a person: no step back.
   */
  set(patch, { quiet = false } = {}) {
    const changed = this.adopt({ ...this.state, ...patch }, { announce: false });
    if (!changed.size) return;
    const fragment = encode(this.state);
    const url = fragment ? `#${fragment}` : location.pathname + location.search;
    const step = !quiet && [...changed].some((name) => STEPS.has(name));
    history[step ? "pushState" : "replaceState"](null, "", url);
    this.onChange(this.state, changed);
  }

  adopt(next, { announce = true } = {}) {
    const before = this.state;
    const changed = new Set(Object.keys(CODECS).filter((name) => !same(before[name], next[name])));
    this.state = next;
    if (announce && changed.size) this.onChange(next, changed);
    return changed;
  }
}

function same(one, other) {
  return one === other || (one !== null && other !== null && String(one) === String(other));
}

function readRange(value) {
  const found = /^(\d{1,15})-(\d{1,15})$/.exec(value);
  if (!found) return undefined;
  const [from, until] = [Number(found[1]), Number(found[2])];
  return from < until ? [from, until] : undefined;
}
