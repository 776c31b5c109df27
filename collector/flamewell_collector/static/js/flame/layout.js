// Where each bar lies, in fractions of the root's width (pure).

/** @typedef {import("./model.js").Model} Model */

/**
 * @typedef {object} Layout
 * @property {Float64Array} start Left edge of each node.
 * @property {Float64Array} width
 */

/**
 * How the two sides of a diff are put on one scale.
 * - share: each side's part of its own total ("normalised").
 * - rate: amount per second of its range (deltas) or average amount (gauges): "absolute", yet
 *   fair where the two ranges are not equally long.
 * @param {Model} model
 * @param {"share"|"rate"} mode
 * @returns {{now: number, base: number}} What to multiply each side's values by.
 */
export function diffScales(model, mode) {
  if (mode === "share") {
    return { now: inverse(model.total[0]), base: inverse(model.base.total[0]) };
  }
  if (model.kind === "gauge") return { now: 1, base: 1 };
  return {
    now: inverse((model.until - model.from) / 1000),
    base: inverse((model.base.until - model.base.from) / 1000),
  };
}

/**
 * Lays all nodes out. In a diff a bar is as wide as both sides together, so that what is gone
 * keeps its place.
 * @param {Model} model
 * @param {"share"|"rate"} mode Only matters for a diff.
 * @returns {Layout}
 */
export function layOut(model, mode) {
  const { n, depth, total, base } = model;
  const width = new Float64Array(n);
  const start = new Float64Array(n);
  const scale = base ? diffScales(model, mode) : null;
  for (let node = 0; node < n; node++) {
    width[node] = base ? total[node] * scale.now + base.total[node] * scale.base : total[node];
  }
  const whole = inverse(width[0]);
  // next[d]: where the next bar of depth d starts; children begin at their parent's left edge.
  const next = new Float64Array(model.maxDepth + 2);
  for (let node = 0; node < n; node++) {
    width[node] *= whole;
    const level = depth[node];
    start[node] = next[level];
    next[level] += width[node];
    next[level + 1] = start[node];
  }
  return { start, width };
}

/**
 * Finds the node at a depth and place below a zoomed one.
 * @param {Model} model
 * @param {Layout} layout
 * @param {number} zoom
 * @param {number} x As a fraction of the root.
 * @param {number} level Depth from the root.
 * @returns {number} -1 where there is none.
 */
export function nodeAt(model, layout, zoom, x, level) {
  if (level < 0) return -1;
  let node = zoom;
  while (model.depth[node] > level) node = model.parent[node];
  while (model.depth[node] < level) {
    let child = node + 1;
    const end = model.end[node];
    while (child < end && x >= layout.start[child] + layout.width[child]) child = model.end[child];
    if (child >= end || x < layout.start[child]) return -1;
    node = child;
  }
  return node;
}

/**
 * Tells how many rows the subtree of a node has below the root's row.
 * @param {Model} model
 * @param {number} node
 * @returns {number}
 */
export function deepest(model, node) {
  let most = 0;
  for (let at = node; at < model.end[node]; at++) if (model.depth[at] > most) most = model.depth[at];
  return most;
}

function inverse(value) {
  return value > 0 ? 1 / value : 0;
}
