// Draws a flame graph on a canvas: only bars that can be seen.

/** @typedef {import("./model.js").Model} Model */
/** @typedef {import("./layout.js").Layout} Layout */

/** Height of a row in CSS pixels, one of them the gap to the next. */
export const ROW = 21;
const GAP = 1;
/** Narrower bars are merged with their neighbours, and what is below them is not walked. */
const MIN_WIDTH = 0.5;
/** A merged run is drawn where it covers at least this much. */
const MIN_RUN = 0.4;
const MIN_TEXT_WIDTH = 22;
const PADDING = 5;
/** No bar is wide enough for more; hostile names may have 65,536. */
const MAX_TEXT = 400;

/**
 * What one picture shows.
 * @typedef {object} Scene
 * @property {Model} model
 * @property {Layout} layout
 * @property {number} zoom Node that fills the width.
 * @property {number} lastLevel Deepest level of the zoomed subtree.
 * @property {boolean} flipped Root at the bottom.
 * @property {number} top First CSS pixel that is seen, below the top of the whole picture.
 * @property {number} width In CSS pixels.
 * @property {number} height
 * @property {Uint8Array} styles By function, or by node in a diff.
 * @property {string[]} packages By function; empty for a diff.
 * @property {boolean} byNode Whether `styles` is by node.
 * @property {string[]} fills
 * @property {?Uint8Array} matched By function; null without a search.
 * @property {number} hovered Node, or -1.
 * @property {number} selected Node, or -1.
 * @property {object} ink Colours of text and frames: text, faint, match, matchText, unmatched,
 *   ring, ground.
 * @property {(id: number) => string} label Text on the bars of a function.
 */

/** Draws scenes; keeps buffers and text widths between pictures. */
export class Renderer {
  /** @param {CanvasRenderingContext2D} context */
  constructor(context) {
    this.context = context;
    this.font = "";
    this.widths = new Float32Array(0);
    this.dots = 0;
    this.buckets = [];
    this.texts = [];
    this.drawn = 0;
  }

  /** Forgets measured texts: the model or the font is another one. */
  reset(model, font) {
    this.font = font;
    this.context.font = font;
    this.dots = this.context.measureText("…").width;
    this.widths = new Float32Array(model.functions.length);
  }

  /**
   * @param {Scene} scene
   * @param {number} ratio Device pixels per CSS pixel.
   */
  draw(scene, ratio) {
    const { context } = this;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.fillStyle = scene.ink.ground;
    context.fillRect(0, 0, scene.width, scene.height);
    this.collect(scene);
    this.fillBars(scene);
    this.writeTexts(scene);
    this.outline(scene, scene.hovered, 1);
    this.outline(scene, scene.selected, 2);
  }

  /** Walks what can be seen, and sorts bars by colour: changing it is what costs on a canvas. */
  collect(scene) {
    const { model, layout, zoom, width: space } = scene;
    const { depth, end, name } = model;
    const { start, width } = layout;
    const unmatched = scene.fills.length;
    for (let at = 0; at < unmatched + 2; at++) (this.buckets[at] ??= []).length = 0;
    this.texts.length = 0;
    this.drawn = 0;
    const origin = start[zoom];
    const scale = width[zoom] > 0 ? space / width[zoom] : 0;
    const zoomLevel = depth[zoom];
    for (let node = model.parent[zoom]; node >= 0; node = model.parent[node]) {
      this.bar(scene, node, 0, space);
    }
    const runs = new Runs(model.maxDepth + 1);
    const lastSeen = lastSeenLevel(scene);
    for (let node = zoom; node < end[zoom]; ) {
      const level = depth[node];
      const bar = width[node] * scale;
      if (bar < MIN_WIDTH && level > zoomLevel) {
        const x = (start[node] - origin) * scale;
        if (!runs.grow(level, x, x + bar)) {
          this.run(scene, runs, level);
          runs.open(level, x, x + bar, this.style(scene, node, name[node]));
        } else if (scene.matched && scene.matched[name[node]]) {
          runs.style[level] = this.style(scene, node, name[node]);
        }
        node = end[node];
      } else {
        this.bar(scene, node, (start[node] - origin) * scale, bar);
        node = level >= lastSeen ? end[node] : node + 1;
      }
    }
    for (let level = 0; level <= model.maxDepth; level++) this.run(scene, runs, level);
  }

  bar(scene, node, x, width) {
    const y = rowTop(scene, scene.model.depth[node]);
    if (y + ROW < 0 || y > scene.height) return;
    const id = scene.model.name[node];
    const style = this.style(scene, node, id);
    this.buckets[style].push(x, y, Math.max(width - GAP, MIN_WIDTH));
    this.drawn++;
    if (width >= MIN_TEXT_WIDTH) this.texts.push(id, style, x, y, width);
  }

  run(scene, runs, level) {
    const from = runs.from[level];
    if (from < 0) return;
    const width = runs.to[level] - from;
    const y = rowTop(scene, level);
    if (width >= MIN_RUN && y + ROW >= 0 && y <= scene.height) {
      this.buckets[runs.style[level]].push(from, y, Math.max(width, MIN_WIDTH));
      this.drawn++;
    }
    runs.from[level] = -1;
  }

  style(scene, node, id) {
    const own = scene.styles[scene.byNode ? node : id];
    if (!scene.matched) return own;
    if (!scene.matched[id]) return scene.fills.length;
    return scene.byNode ? own : scene.fills.length + 1;
  }

  fillBars(scene) {
    const { context, buckets } = this;
    for (let style = 0; style < scene.fills.length + 2; style++) {
      const bars = buckets[style];
      if (!bars.length) continue;
      context.fillStyle = this.fill(scene, style);
      for (let at = 0; at < bars.length; at += 3) {
        context.fillRect(bars[at], bars[at + 1], bars[at + 2], ROW - GAP);
      }
    }
  }

  fill(scene, style) {
    const extra = style - scene.fills.length;
    if (extra < 0) return scene.fills[style];
    return extra ? scene.ink.match : scene.ink.unmatched;
  }

  writeTexts(scene) {
    const { context, texts } = this;
    context.font = this.font; // a canvas forgets it when its size changes
    context.textBaseline = "middle";
    const plain = scene.fills.length;
    for (const wanted of [0, 1, 2]) {
      context.fillStyle = [scene.ink.text, scene.ink.faint, scene.ink.matchText][wanted];
      for (let at = 0; at < texts.length; at += 5) {
        const style = texts[at + 1];
        if ((style < plain ? 0 : style - plain + 1) !== wanted) continue;
        const x = Math.max(texts[at + 2], 0);
        const room = Math.min(texts[at + 2] + texts[at + 4], scene.width) - x - 2 * PADDING;
        const text = this.fitted(scene, texts[at], room);
        if (text) context.fillText(text, x + PADDING, texts[at + 3] + (ROW - GAP) / 2 + 0.5);
      }
    }
  }

  /** Shortens a name to the room it has, by its measured width: one measurement a name. */
  fitted(scene, id, room) {
    const text = scene.label(id).slice(0, MAX_TEXT);
    let width = this.widths[id];
    if (!width) this.widths[id] = width = this.context.measureText(text).width || 1;
    if (width <= room) return text;
    const letters = Math.floor((text.length * (room - this.dots)) / width);
    return letters < 2 ? "" : `${text.slice(0, letters)}…`;
  }

  outline(scene, node, thickness) {
    if (node < 0) return;
    const box = boxOf(scene, node);
    if (!box) return;
    const { context } = this;
    context.strokeStyle = scene.ink.ring;
    context.lineWidth = thickness;
    const inset = thickness / 2;
    const width = Math.max(box.width - GAP - thickness, 1);
    context.strokeRect(box.x + inset, box.y + inset, width, ROW - GAP - thickness);
  }
}

/**
 * Gives where a node's bar lies in the picture.
 * @param {Scene} scene
 * @param {number} node
 * @returns {?{x: number, y: number, width: number}} Null for one that the zoom leaves out.
 */
export function boxOf(scene, node) {
  const { model, layout, zoom } = scene;
  const y = rowTop(scene, model.depth[node]);
  if (node <= zoom && model.end[node] >= model.end[zoom]) return { x: 0, y, width: scene.width };
  if (node < zoom || node >= model.end[zoom]) return null;
  const scale = scene.width / layout.width[zoom];
  const x = (layout.start[node] - layout.start[zoom]) * scale;
  return { x, y, width: layout.width[node] * scale };
}

/** Gives the top of a level's row on the canvas. */
function rowTop(scene, level) {
  return (scene.flipped ? scene.lastLevel - level : level) * ROW - scene.top;
}

/** Gives the deepest level that can be seen. */
function lastSeenLevel(scene) {
  if (scene.flipped) return scene.lastLevel;
  return Math.ceil((scene.top + scene.height) / ROW);
}

/** Bars of one level that are too narrow alone and touch each other. */
class Runs {
  constructor(levels) {
    this.from = new Float64Array(levels).fill(-1);
    this.to = new Float64Array(levels);
    this.style = new Uint8Array(levels);
  }

  grow(level, from, to) {
    // A run of more than a pixel ends, so that its colour is of what is there.
    if (this.from[level] < 0 || from - this.to[level] > 0.01 || to - this.from[level] > 1) {
      return false;
    }
    this.to[level] = to;
    return true;
  }

  open(level, from, to, style) {
    this.from[level] = from;
    this.to[level] = to;
    this.style[level] = style;
  }
}
