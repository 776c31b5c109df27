// Short names for paths in a flame graph, for links: the same path of names has the same key in
// every graph, however the rest has changed (pure).

/** @typedef {import("./model.js").Model} Model */

const OFFSET = 0x811c9dc5; // FNV-1a, 32 bits: http://www.isthe.com/chongo/tech/comp/fnv/
const PRIME = 0x01000193;

/**
 * Names the path from the root to a node.
 * @param {Model} model
 * @param {number} node
 * @returns {string} Empty for the root.
 */
export function pathKey(model, node) {
  if (node <= 0) return "";
  const path = [];
  for (let at = node; at > 0; at = model.parent[at]) path.push(at);
  let hash = OFFSET;
  while (path.length) hash = step(hash, nameHash(model, model.name[path.pop()]));
  return `${model.depth[node]}.${hash.toString(36)}`;
}

/**
 * Finds the node of a path's name.
 * @param {Model} model
 * @param {string} key From `pathKey`, maybe of another graph.
 * @returns {number} 0, the root, where there is no such path.
 */
export function findPath(model, key) {
  const [level, wanted] = key.split(".");
  const depth = Number.parseInt(level, 10);
  const hash = Number.parseInt(wanted, 36);
  if (!(depth > 0) || Number.isNaN(hash)) return 0;
  const names = new Map();
  const hashes = new Uint32Array(model.n);
  hashes[0] = OFFSET;
  for (let node = 1; node < model.n; node++) {
    if (model.depth[node] > depth) continue;
    const id = model.name[node];
    let own = names.get(id);
    if (own === undefined) names.set(id, (own = nameHash(model, id)));
    hashes[node] = step(hashes[model.parent[node]], own);
    if (model.depth[node] === depth && hashes[node] === hash) return node;
  }
  return 0;
}

/**
 * Hashes a text to 32 bits.
 * @param {string} text
 * @param {number} [seed]
 * @returns {number}
 */
export function hashText(text, seed = OFFSET) {
  let hash = seed;
  for (let at = 0; at < text.length; at++) hash = Math.imul(hash ^ text.charCodeAt(at), PRIME);
  return hash >>> 0;
}

function nameHash(model, id) {
  return hashText(model.files[id], hashText(`${model.functions[id]}\n`));
}

function step(hash, value) {
  return Math.imul(hash ^ value, PRIME) >>> 0;
}
