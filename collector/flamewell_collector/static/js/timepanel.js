// The panel with the time line: its title, what the pointer reads, the selected ranges.

import { CompareBar, overlayShift } from "./compare.js";
import { byId } from "./dom.js";
import { moment, rate, span, typeName, visible } from "./format.js";
import * as notices from "./notices.js";
import { Timeline } from "./timeline.js";

/** The time line and what belongs to it. */
export class TimePanel {
  /** @param {import("./state.js").Store} store */
  constructor(store) {
    this.store = store;
    this.content = null;
    this.panel = byId("time-panel");
    this.compare = new CompareBar(store, () => this.showRanges());
    this.timeline = new Timeline(byId("timeline"), {
      onBrush: (range) => this.brushed(range),
      onReset: () => this.reset(),
      onHover: (index) => this.read(index),
    });
    byId("range-clear").addEventListener("click", () => this.reset());
    byId("range-zoom").addEventListener("click", () => {
      const [from, until] = store.state.range;
      store.set({ from: String(from), until: String(until), range: null });
    });
  }

  /** Says that an answer is on its way. */
  busy(is) {
    this.panel.classList.toggle("busy", is);
  }

  /**
   * @param {{line: object, base: ?object, from: number, until: number}} content
   */
  show(content) {
    const { line } = content;
    const { type } = this.store.state;
    this.content = { ...content, measure: { type, unit: line.unit, kind: line.kind } };
    byId("time-title").textContent = visible(typeName(type));
    byId("time-notice").hidden = true;
    this.panel.classList.remove("stale");
    this.timeline.show(this.content);
    this.showRanges();
    this.read(null);
  }

  /** Says that what is shown may be old. Tells whether anything is shown. */
  age() {
    this.panel.classList.toggle("stale", this.content !== null);
    return this.content !== null;
  }

  /** Shows why there is no time line. */
  fail(notice) {
    const place = byId("time-notice");
    place.replaceChildren(notices.draw(notice));
    place.hidden = false;
  }

  restyle() {
    this.timeline.restyle();
  }

  /** Shows the selected ranges of the state. */
  showRanges() {
    const { state } = this.store;
    this.compare.show(state);
    const chip = byId("range-chip");
    chip.hidden = state.compare || !state.range;
    if (state.range) byId("range-chip-text").textContent = span(...state.range);
    if (!this.content) return;
    if (!state.compare) {
      const ranges = state.range ? [{ kind: "plain", range: state.range }] : [];
      this.timeline.setBands(ranges, "plain");
      return;
    }
    const ranges = [];
    const shift = overlayShift(state, [this.content.from, this.content.until]);
    if (state.base) {
      ranges.push({ kind: "base", range: state.base.map((at) => at + shift) });
    }
    if (state.range) ranges.push({ kind: "now", range: state.range });
    this.timeline.setBands(ranges, this.compare.side);
  }

  brushed(range) {
    const side = this.store.state.compare && this.compare.side === "base" ? "base" : "range";
    this.store.set({ [side]: range });
  }

  reset() {
    this.store.set({ range: null, base: null, compare: false });
  }

  /** Says what the pointer is over, or what the whole line is like. */
  read(index) {
    const { content } = this;
    const output = byId("time-readout");
    if (!content) return;
    const { line, base, measure } = content;
    if (index !== null && index < line.values.length) {
      const value = (each) => (each === null || each === undefined ? "no data" : rate(each, measure));
      const before = base ? ` · baseline ${value(base.values[index])}` : "";
      const at = moment(line.start_ms + index * line.step_ms);
      output.textContent = `${at}  ${value(line.values[index])}${before}`;
      return;
    }
    const values = line.values.filter((value) => value !== null);
    if (!values.length) {
      output.textContent = "no data";
      return;
    }
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
    output.textContent = `average ${rate(mean, measure)} · most ${rate(Math.max(...values), measure)}`;
  }
}
