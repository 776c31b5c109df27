// Colours of bars: by package, in grey for what is no code of a program, red and blue for a diff.

import { hashText } from "./paths.js";

/** @typedef {import("./model.js").Model} Model */

/** Hues a package can have. Twenty are told apart beside each other, more are not. */
const HUES = 20;
/** Steps to the next try: without a factor in common with HUES, and far from the first. */
const HUE_STRIDE = 7;
/** Lightness and chroma (OKLCH) by theme: text on any of these has a contrast above 6:1. */
const TONES = {
  light: { lightness: [0.86, 0.81], chroma: 0.082, grey: [0.885, 0.84] },
  dark: { lightness: [0.42, 0.37], chroma: 0.075, grey: [0.36, 0.32] },
};
/** Steps of the diff scale on each side of "same". */
export const DIFF_STEPS = 5;
/**
 * Ends and middles of ColorBrewer's RdBu, which people with any colour blindness tell apart
 * (https://colorbrewer2.org/#type=diverging&scheme=RdBu); darker on dark ground.
 */
const DIFF = {
  light: { grew: "#d6604d", shrank: "#4393c3", same: "#eceae6" },
  dark: { grew: "#b8402f", shrank: "#2c74a8", same: "#3a3b40" },
};

/** Index of styles: 0 root, 1 grey, 2 folded, then packages (two shades each), or diff steps. */
export const ROOT = 0;
export const GREY = 1;
export const FOLDED = 2;
const FIRST_PACKAGE = 3;

const PYTHON_LIBRARY = /^(?:.*\/)?(?:site|dist)-packages\/([^/]+)/;
const PYTHON_STANDARD = /^(?:.*\/)?lib\/(?:python|pypy)[\d.]+\/([^/]+)/;
const NATIVE_FILE = /\.(?:so(?:\.[\d.]+)?|c|cc|cpp|cxx|h|hpp|S|s|pyx|rs)$/;
const FOLD = /^\(\d+ smaller\)$/;

/**
 * Tells whether an entry stands for nodes that were folded together.
 * @param {string} name
 * @returns {boolean}
 */
export function isFold(name) {
  return FOLD.test(name);
}

/**
 * Names the package of a function.
 * @param {string} name Function.
 * @param {string} file Its file, or "".
 * @returns {string} "" for frames that belong to no program's code: native, pseudo, unknown.
 */
export function packageOf(name, file) {
  if (/^\[.*\]$/.test(name) || isFold(name)) return "";
  if (file.endsWith(".go") || (!file && /^[\w./-]+\.\(?\*?\w/.test(name))) {
    const dot = name.indexOf(".", name.lastIndexOf("/") + 1);
    return dot > 0 ? name.slice(0, dot) : name;
  }
  if (NATIVE_FILE.test(file)) return "";
  const frozen = /^<frozen ([^>.]+)/.exec(file);
  if (frozen) return frozen[1];
  const library = PYTHON_LIBRARY.exec(file) || PYTHON_STANDARD.exec(file);
  if (library) return library[1].replace(/\.py$/, "");
  if (file.startsWith("<")) return "";
  const parts = file.split("/");
  return (parts.pop() || "").replace(/\.py$/, "") || name;
}

/**
 * Gives each function a style index.
 * @param {Model} model
 * @returns {{styles: Uint8Array, packages: string[]}} By index into `functions`.
 */
export function stylesByPackage(model) {
  const styles = new Uint8Array(model.functions.length);
  const packages = new Array(model.functions.length).fill("");
  styles[0] = ROOT;
  for (let id = 1; id < styles.length; id++) {
    const name = model.functions[id];
    const owner = packageOf(name, model.files[id]);
    packages[id] = owner;
    if (isFold(name)) styles[id] = FOLDED;
    else if (!owner) styles[id] = GREY;
  }
  const hues = huesOf(packages);
  for (let id = 1; id < styles.length; id++) {
    const hue = hues.get(packages[id]);
    if (hue !== undefined) styles[id] = FIRST_PACKAGE + 2 * hue + (hashText(model.functions[id]) & 1);
  }
  return { styles, packages };
}

/**
 * Gives each node of a diff a style index by how its total changed.
 * @param {Model} model
 * @param {{now: number, base: number}} scales From `diffScales`.
 * @returns {Uint8Array} By node.
 */
export function stylesByChange(model, scales) {
  const styles = new Uint8Array(model.n);
  for (let node = 0; node < model.n; node++) {
    styles[node] = diffStyle(model.total[node] * scales.now, model.base.total[node] * scales.base);
  }
  return styles;
}

/**
 * Bends the scale so that doubled and halved, (2 − 1) / (2 + 1), lie half way to new and gone.
 */
const BEND = Math.log(1 / 2) / Math.log(1 / 3);

/**
 * Gives the style of a change: (now − before) / (now + before), so that doubled and halved are
 * equally strong, new and gone strongest.
 * @param {number} now
 * @param {number} before
 * @returns {number} 0 shrank most … DIFF_STEPS same … 2 × DIFF_STEPS grew most.
 */
export function diffStyle(now, before) {
  const sum = now + before;
  const change = sum > 0 ? (now - before) / sum : 0;
  const bent = Math.sign(change) * Math.abs(change) ** BEND;
  return DIFF_STEPS + Math.round(bent * DIFF_STEPS);
}

/**
 * Lists the fill colours that `stylesByPackage` points into.
 * @param {"light"|"dark"} theme
 * @returns {string[]}
 */
export function packageFills(theme) {
  const { lightness, chroma, grey } = TONES[theme];
  const fills = [oklch(grey[0], 0.004, 80), oklch(grey[0], 0.004, 80), oklch(grey[1], 0.004, 80)];
  for (let hue = 0; hue < HUES; hue++) {
    for (const light of lightness) fills.push(oklch(light, chroma, 35 + (hue * 360) / HUES));
  }
  return fills;
}

/**
 * Lists the fill colours that `stylesByChange` points into, from shrank to grew.
 * @param {"light"|"dark"} theme
 * @returns {string[]}
 */
export function diffFills(theme) {
  const { grew, shrank, same } = DIFF[theme];
  const fills = [];
  for (let step = -DIFF_STEPS; step <= DIFF_STEPS; step++) {
    fills.push(mix(same, step < 0 ? shrank : grew, Math.abs(step) / DIFF_STEPS));
  }
  return fills;
}

/**
 * Gives each package its hue: by its name, so that it keeps it from graph to graph, but another
 * one where that is taken, as long as there are free ones.
 */
function huesOf(packages) {
  const owners = [...new Set(packages)].filter(Boolean).sort();
  const taken = new Set();
  const hues = new Map();
  for (const owner of owners) {
    const wanted = hueOf(owner);
    let hue = wanted;
    while (taken.has(hue) && taken.size < HUES) hue = (hue + HUE_STRIDE) % HUES;
    taken.add(hue);
    hues.set(owner, hue);
  }
  return hues;
}

function hueOf(owner) {
  // The multiplication spreads neighbouring hashes; the upper bits are the well mixed ones.
  return (Math.imul(hashText(owner), 0x9e3779b1) >>> 16) % HUES;
}

function mix(from, to, part) {
  const channel = (at) => {
    const [a, b] = [from, to].map((colour) => Number.parseInt(colour.slice(at, at + 2), 16));
    return Math.round(a + (b - a) * part);
  };
  return `rgb(${channel(1)},${channel(3)},${channel(5)})`;
}

/** OKLCH to sRGB, by Björn Ottosson's matrices (https://bottosson.github.io/posts/oklab/). */
function oklch(lightness, chroma, degrees) {
  const a = chroma * Math.cos((degrees * Math.PI) / 180);
  const b = chroma * Math.sin((degrees * Math.PI) / 180);
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const linear = [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
  const channels = linear.map((value) => {
    const bounded = Math.min(1, Math.max(0, value));
    const gamma = bounded <= 0.0031308 ? 12.92 * bounded : 1.055 * bounded ** (1 / 2.4) - 0.055;
    return Math.round(gamma * 255);
  });
  return `rgb(${channels.join(",")})`;
}
