// The flame graph on the page: joins model, layout and renderer with pointer, keys and scrolling.

import { diffFills, packageFills, stylesByChange, stylesByPackage } from "./colors.js";
import { deepest, diffScales, layOut, nodeAt } from "./layout.js";
import { boxOf, Renderer, ROW } from "./render.js";
import { newest } from "../dom.js";
import { shown } from "./words.js";

/** @typedef {import("./model.js").Model} Model */

/** Pixels a pointer may move between press and release and still be a click. */
const CLICK_SLACK = 4;
const INK = ["text", "faint", "match", "match-text", "unmatched", "ring", "ground"];

/**
 * @typedef {object} Handlers
 * @property {function(number): void} onZoom A node was chosen to fill the width.
 * @property {function(number, ?{x: number, y: number}): void} onPoint A node is pointed at or
 *   selected, and where in the window; -1 for none.
 */

/** A flame graph in a scrolling box. */
export class FlameView {
  /**
   * @param {{scroller: HTMLElement, spacer: HTMLElement, canvas: HTMLCanvasElement}} parts
   * @param {Handlers} handlers
   */
  constructor({ scroller, spacer, canvas }, handlers) {
    this.scroller = scroller;
    this.spacer = spacer;
    this.canvas = canvas;
    this.handlers = handlers;
    this.renderer = new Renderer(canvas.getContext("2d", { alpha: false }));
    this.model = null;
    this.scene = null;
    this.scale = "share";
    this.pending = 0;
    /** How many pictures were drawn, and how long the last one took: read by bench and tests. */
    this.frames = 0;
    this.frameMs = 0;
    new ResizeObserver(() => this.resized()).observe(scroller);
    scroller.addEventListener("scroll", () => this.scrolled(), { passive: true });
    this.listen();
  }

  /**
   * Shows another model.
   * @param {Model} model
   * @param {{scale: "share"|"rate", zoom: number, theme: "light"|"dark", flipped: boolean}} options
   */
  show(model, { scale, zoom, theme, flipped }) {
    const another = this.model !== model;
    this.model = model;
    this.scale = scale;
    this.scene = {
      model,
      layout: another || scale !== this.scene?.scale ? layOut(model, scale) : this.scene.layout,
      scale,
      zoom,
      lastLevel: deepest(model, zoom),
      flipped,
      top: 0,
      width: 0,
      height: 0,
      ...this.coloured(model, scale, theme),
      matched: another ? null : (this.scene?.matched ?? null),
      hovered: -1,
      selected: another ? -1 : (this.scene?.selected ?? -1),
      ink: this.ink(),
      label: (id) => (id ? shown(model.functions[id]) : "total"),
    };
    this.renderer.reset(model, `12px ${getComputedStyle(this.scroller).fontFamily}`);
    this.fitHeight();
  }

  /**
   * Zooms.
   * @param {number} zoom
   */
  setZoom(zoom) {
    if (!this.scene) return;
    this.scene.zoom = zoom;
    this.scene.lastLevel = deepest(this.model, zoom);
    this.fitHeight();
    this.reveal(zoom);
  }

  /**
   * Marks what a search has found.
   * @param {?Uint8Array} matched By function.
   */
  setMatched(matched) {
    if (!this.scene) return;
    this.scene.matched = matched;
    this.schedule();
  }

  /**
   * Gives where a node is drawn, in the window.
   * @param {number} node
   * @returns {?{x: number, y: number, width: number, height: number}}
   */
  where(node) {
    const box = this.scene && boxOf(this.scene, node);
    if (!box) return null;
    const canvas = this.canvas.getBoundingClientRect();
    return { x: canvas.left + box.x, y: canvas.top + box.y, width: box.width, height: ROW };
  }

  /** Draws at once. */
  draw() {
    cancelAnimationFrame(this.pending);
    this.pending = 0;
    if (!this.scene || !this.scene.width) return;
    const begin = performance.now();
    this.renderer.draw(this.scene, devicePixelRatio || 1);
    this.frameMs = performance.now() - begin;
    this.frames++;
    newest("flamewell:frame", begin);
    const { model, zoom } = this.scene;
    Object.assign(this.canvas.dataset, {
      frames: this.frames,
      drawn: this.renderer.drawn,
      nodes: model.n,
      zoom: model.functions[model.name[zoom]],
    });
  }

  /** Draws with the next frame. */
  schedule() {
    this.pending ||= requestAnimationFrame(() => this.draw());
  }

  /** Scrolls a node's row into what can be seen. */
  reveal(node) {
    const { scroller, scene } = this;
    const level = this.model.depth[node];
    const y = (scene.flipped ? scene.lastLevel - level : level) * ROW;
    if (y < scroller.scrollTop) scroller.scrollTop = y;
    else if (y + 2 * ROW > scroller.scrollTop + scroller.clientHeight) {
      scroller.scrollTop = Math.min(y - ROW, y + 2 * ROW - scroller.clientHeight);
    }
  }

  coloured(model, scale, theme) {
    if (!model.base) {
      const { styles, packages } = stylesByPackage(model);
      return { styles, packages, byNode: false, fills: packageFills(theme) };
    }
    const styles = stylesByChange(model, diffScales(model, scale));
    return { styles, packages: [], byNode: true, fills: diffFills(theme) };
  }

  ink() {
    const style = getComputedStyle(this.scroller);
    const read = (name) => style.getPropertyValue(`--flame-${name}`).trim();
    const ink = Object.fromEntries(INK.map((name) => [name, read(name)]));
    return { ...ink, matchText: ink["match-text"] };
  }

  fitHeight() {
    const { scene, scroller, spacer } = this;
    spacer.style.height = `${(scene.lastLevel + 1) * ROW}px`;
    // The root stands at the bottom of flames: that is where to look first.
    if (scene.flipped) scroller.scrollTop = scroller.scrollHeight;
    this.resized();
  }

  resized() {
    if (!this.scene) return;
    const { scroller, canvas, scene } = this;
    const ratio = devicePixelRatio || 1;
    const width = scroller.clientWidth;
    const height = Math.min(scroller.clientHeight, (scene.lastLevel + 1) * ROW);
    const [deviceWidth, deviceHeight] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (canvas.width !== deviceWidth || canvas.height !== deviceHeight) {
      canvas.width = deviceWidth;
      canvas.height = deviceHeight;
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
    }
    Object.assign(scene, { width, height, top: scroller.scrollTop });
    // A canvas that was resized is empty: waiting for a frame would flash.
    this.draw();
  }

  scrolled() {
    if (!this.scene) return;
    this.scene.top = this.scroller.scrollTop;
    this.point(-1, null);
    this.schedule();
  }

  listen() {
    const { canvas } = this;
    let pressed = null;
    canvas.addEventListener("pointermove", (event) => {
      if (event.pointerType !== "touch") this.point(this.under(event), event);
    });
    canvas.addEventListener("pointerleave", () => this.point(-1, null));
    canvas.addEventListener("pointerdown", (event) => (pressed = event));
    canvas.addEventListener("click", (event) => {
      const moved = pressed && Math.hypot(event.x - pressed.x, event.y - pressed.y);
      const node = this.under(event);
      if (node < 0 || moved > CLICK_SLACK) return;
      this.scene.selected = node;
      this.handlers.onZoom(node);
    });
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("focus", () => canvas.matches(":focus-visible") && this.select(this.current()));
    canvas.addEventListener("blur", () => this.select(-1));
  }

  under(event) {
    const { scene, canvas } = this;
    if (!scene) return -1;
    const box = canvas.getBoundingClientRect();
    const row = Math.floor((event.clientY - box.top + scene.top) / ROW);
    const level = scene.flipped ? scene.lastLevel - row : row;
    const { start, width } = scene.layout;
    const part = (event.clientX - box.left) / scene.width;
    const x = start[scene.zoom] + part * width[scene.zoom];
    if (level > scene.lastLevel) return -1;
    return nodeAt(this.model, scene.layout, scene.zoom, x, level);
  }

  point(node, event) {
    if (!this.scene) return;
    if (node !== this.scene.hovered) {
      this.scene.hovered = node;
      this.canvas.classList.toggle("pointing", node >= 0);
      this.schedule();
    }
    this.handlers.onPoint(node, event && { x: event.clientX, y: event.clientY });
  }

  current() {
    const { selected, zoom } = this.scene ?? { selected: -1, zoom: -1 };
    return selected >= 0 && boxOf(this.scene, selected) ? selected : zoom;
  }

  select(node) {
    if (!this.scene) return;
    this.scene.selected = node;
    if (node >= 0) this.reveal(node);
    this.schedule();
    const box = node >= 0 && this.where(node);
    this.handlers.onPoint(node, box && { x: box.x + Math.min(box.width, 120) / 2, y: box.y + ROW });
  }

  key(event) {
    if (!this.scene || event.altKey || event.ctrlKey || event.metaKey) return;
    const from = this.current();
    const down = this.scene.flipped ? "ArrowUp" : "ArrowDown";
    const up = this.scene.flipped ? "ArrowDown" : "ArrowUp";
    let to = -1;
    if (event.key === down) to = this.widestChild(from);
    else if (event.key === up) to = this.model.parent[from];
    else if (event.key === "ArrowRight") to = this.sibling(from, 1);
    else if (event.key === "ArrowLeft") to = this.sibling(from, -1);
    else if (event.key === "Home") to = this.scene.zoom;
    else if (event.key === "Enter") this.handlers.onZoom(from);
    else return;
    event.preventDefault();
    if (to >= 0) this.select(to);
  }

  widestChild(node) {
    const { model, scene } = this;
    let widest = -1;
    for (let child = node + 1; child < model.end[node]; child = model.end[child]) {
      if (widest < 0 || scene.layout.width[child] > scene.layout.width[widest]) widest = child;
    }
    return widest;
  }

  /** Gives the next bar of the same row that can be seen, across parents. */
  sibling(node, direction) {
    const { model, scene } = this;
    const seen = scene.layout.width[scene.zoom] / scene.width;
    let at = node + direction;
    for (; at > scene.zoom && at < model.end[scene.zoom]; at += direction) {
      if (model.depth[at] === model.depth[node] && scene.layout.width[at] >= seen) return at;
    }
    return -1;
  }
}
