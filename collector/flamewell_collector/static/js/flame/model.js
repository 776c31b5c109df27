// The flame graph's data: columns in preorder from the API, turned into typed arrays (pure).

/**
 * A flame graph. Node 0 is the root; a node's subtree is the rows [node, end[node]).
 * @typedef {object} Model
 * @property {number} n Number of nodes.
 * @property {string} type Profile type id.
 * @property {string} unit "nanoseconds", "bytes", "count", …
 * @property {string} kind "delta" or "gauge".
 * @property {number} from Start of the range, ms since the epoch.
 * @property {number} until End of the range.
 * @property {boolean} pruned Whether the smallest nodes were folded into "(n smaller)".
 * @property {string[]} functions Function names; `name` points into them.
 * @property {string[]} files
 * @property {number[]} lines 1-based, 0 where not known.
 * @property {Int32Array} name
 * @property {Int32Array} depth
 * @property {Int32Array} parent -1 for the root.
 * @property {Int32Array} end Row after the last one of the subtree.
 * @property {Float64Array} self Own values, in `unit`.
 * @property {Float64Array} total With all that is below.
 * @property {number} maxDepth
 * @property {?Base} base The earlier side of a diff.
 */

/**
 * @typedef {object} Base
 * @property {number} from
 * @property {number} until
 * @property {Float64Array} self
 * @property {Float64Array} total
 */

/**
 * Turns an answer of /api/v1/flamegraph or /api/v1/diff into a model.
 * @param {object} answer
 * @returns {Model}
 */
export function buildModel(answer) {
  const depth = Int32Array.from(answer.depth);
  const self = Float64Array.from(answer.self);
  const { parent, end, maxDepth } = shape(depth);
  let base = null;
  if (answer.base_self) {
    const baseSelf = Float64Array.from(answer.base_self);
    base = {
      from: answer.base_from_ms,
      until: answer.base_until_ms,
      self: baseSelf,
      total: totals(baseSelf, parent),
    };
  }
  return {
    n: depth.length,
    type: answer.type,
    unit: answer.unit,
    kind: answer.kind,
    from: answer.from_ms,
    until: answer.until_ms,
    pruned: answer.pruned,
    functions: answer.functions,
    files: answer.files,
    lines: answer.lines,
    name: Int32Array.from(answer.name),
    depth,
    parent,
    end,
    self,
    total: totals(self, parent),
    maxDepth,
    base,
  };
}

/**
 * Sums own values up the tree. In preorder each node comes after its parent, so one pass
 * backwards is enough.
 * @param {Float64Array} self
 * @param {Int32Array} parent
 * @returns {Float64Array}
 */
export function totals(self, parent) {
  const total = self.slice();
  for (let node = total.length - 1; node > 0; node--) total[parent[node]] += total[node];
  return total;
}

/**
 * Derives parents and ends of subtrees from depths in preorder.
 * @param {Int32Array} depth
 * @returns {{parent: Int32Array, end: Int32Array, maxDepth: number}}
 */
export function shape(depth) {
  const n = depth.length;
  const parent = new Int32Array(n);
  const end = new Int32Array(n);
  let maxDepth = 0;
  for (let node = 0; node < n; node++) if (depth[node] > maxDepth) maxDepth = depth[node];
  const open = new Int32Array(maxDepth + 1);
  let last = -1;
  for (let node = 0; node < n; node++) {
    const level = depth[node];
    for (let above = last; above >= level; above--) end[open[above]] = node;
    parent[node] = level ? open[level - 1] : -1;
    open[level] = node;
    last = level;
  }
  for (let above = last; above >= 0; above--) end[open[above]] = n;
  return { parent, end, maxDepth };
}

/**
 * Lists a node's ancestors, the root first, the node itself last.
 * @param {Model} model
 * @param {number} node
 * @returns {number[]}
 */
export function lineage(model, node) {
  const found = [];
  for (let at = node; at >= 0; at = model.parent[at]) found.push(at);
  return found.reverse();
}

/**
 * Sums self and total per function within a subtree. A function that calls itself counts once a
 * stack in `total`.
 * @param {Model} model
 * @param {number} top The subtree's root.
 * @returns {Array<{id: number, self: number, total: number, baseSelf: number, baseTotal: number}>}
 */
export function functionTotals(model, top) {
  const { name, depth, end, self, total, base } = model;
  const sums = new Map();
  const active = new Int32Array(model.functions.length);
  const stack = new Int32Array(model.maxDepth + 1);
  let height = 0;
  for (let node = top; node < end[top]; node++) {
    const level = depth[node] - depth[top];
    while (height > level) active[stack[--height]]--;
    const id = name[node];
    stack[height++] = id;
    let row = sums.get(id);
    if (!row) sums.set(id, (row = { id, self: 0, total: 0, baseSelf: 0, baseTotal: 0 }));
    row.self += self[node];
    if (base) row.baseSelf += base.self[node];
    if (active[id]++ === 0) {
      row.total += total[node];
      if (base) row.baseTotal += base.total[node];
    }
  }
  sums.delete(0); // the root is no function
  return [...sums.values()];
}
