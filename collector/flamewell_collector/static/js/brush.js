// Dragging a range on the time line, with mouse, finger or keys, and the bands that show ranges.

import { el } from "./dom.js";

/** Shorter drags are clicks. */
const MIN_PIXELS = 5;

/**
 * @typedef {object} Scale
 * @property {function(number): number} toMs From pixels.
 * @property {function(number): number} toPixels From ms.
 * @property {function(): [number, number]} limits First and last ms.
 * @property {function(): number} step Length of a point in ms.
 */

/** A brush over the plot's inner box. */
export class Brush {
  /**
   * @param {HTMLElement} box The plot's inner box; bands are put into it.
   * @param {HTMLElement} focus What takes the keys.
   * @param {Scale} scale
   * @param {{onBrush: function([number, number]): void, onReset: function(): void}} handlers
   */
  constructor(box, focus, scale, handlers) {
    this.box = box;
    this.scale = scale;
    this.handlers = handlers;
    this.bands = [];
    this.ranges = [];
    this.active = "plain";
    this.ended = new AbortController();
    const { signal } = this.ended;
    const listen = (target, name, work) => target.addEventListener(name, work, { signal });
    listen(box, "pointerdown", (event) => this.begin(event));
    listen(box, "dblclick", () => handlers.onReset());
    listen(focus, "keydown", (event) => this.key(event));
  }

  /** Takes the listeners off: the plot is made anew. */
  end() {
    this.ended.abort();
  }

  /**
   * @param {Array<{kind: "plain"|"now"|"base", range: [number, number]}>} ranges
   * @param {"plain"|"now"|"base"} active Which one a drag sets.
   */
  show(ranges, active) {
    this.ranges = ranges;
    this.active = active;
    for (const band of this.bands) band.remove();
    this.bands = ranges.map(({ kind, range }) => this.band(kind, range));
  }

  /** Puts the bands where they belong after the plot's size has changed. */
  place() {
    this.show(this.ranges, this.active);
  }

  band(kind, [from, until]) {
    const band = el("div", { class: `band ${kind}` });
    const [first, last] = this.scale.limits();
    const left = this.scale.toPixels(Math.max(from, first));
    const right = this.scale.toPixels(Math.min(until, last));
    band.hidden = right <= left;
    band.style.left = `${left}px`;
    band.style.width = `${Math.max(right - left, 1)}px`;
    this.box.append(band);
    return band;
  }

  begin(event) {
    if (event.button !== 0) return;
    const { box, scale } = this;
    const edge = box.getBoundingClientRect();
    const bounded = (each) => Math.min(Math.max(each.clientX - edge.left, 0), edge.width);
    const from = bounded(event);
    const drag = new AbortController();
    let band = null;
    const range = (each) => {
      const ends = [from, bounded(each)].sort((one, other) => one - other);
      return ends.map((pixel) => Math.round(scale.toMs(pixel)));
    };
    const move = (each) => {
      if (Math.abs(bounded(each) - from) < MIN_PIXELS && !band) return;
      band?.remove();
      band = this.band(this.active, range(each));
    };
    const up = (each) => {
      drag.abort();
      if (!band) return;
      band.remove();
      if (each.type === "pointerup") this.handlers.onBrush(range(each));
    };
    box.setPointerCapture(event.pointerId);
    box.addEventListener("pointermove", move, drag);
    box.addEventListener("pointerup", up, drag);
    box.addEventListener("pointercancel", up, drag);
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const [first, last] = this.scale.limits();
    const range = this.ranges.find((each) => each.kind === this.active)?.range;
    if (event.key === "Enter" && !range) {
      const third = (last - first) / 3;
      this.handlers.onBrush([Math.round(first + third), Math.round(last - third)]);
    } else if (event.key === "Backspace" || event.key === "Delete") {
      this.handlers.onReset();
    } else if ((event.key === "ArrowLeft" || event.key === "ArrowRight") && range) {
      const step = this.scale.step() * (event.key === "ArrowLeft" ? -1 : 1);
      const from = event.shiftKey ? range[0] : range[0] + step;
      const until = range[1] + step;
      if (from >= first && until <= last && until > from) this.handlers.onBrush([from, until]);
    } else {
      return;
    }
    event.preventDefault();
  }
}
