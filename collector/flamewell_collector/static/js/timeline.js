// The time line: uPlot (vendored, a plain script) draws it, brush.js selects on it.

import { Brush } from "./brush.js";
import { moment, rate } from "./format.js";

const HEIGHT = 128;
const NARROW_HEIGHT = 104;
const NARROW = 600;
const FONT = "11px system-ui, sans-serif";
const TICK_SPACE = 64;
const DAY_SECONDS = 86_400;
const MINUTE_SECONDS = 60;

/**
 * @typedef {object} Line An answer of /api/v1/timeline.
 * @property {number} start_ms
 * @property {number} step_ms
 * @property {Array<?number>} values
 */

/** A time line of one or two lines: the second is the baseline, moved below the first. */
export class Timeline {
  /**
   * @param {HTMLElement} box
   * @param {{onBrush: function, onReset: function, onHover: function(?number): void}} handlers
   */
  constructor(box, handlers) {
    this.box = box;
    this.handlers = handlers;
    this.plot = null;
    this.brush = null;
    this.shown = null;
    this.bands = { ranges: [], active: "plain" };
    new ResizeObserver(() => this.resized()).observe(box);
  }

  /**
   * @param {{line: Line, base: ?Line, from: number, until: number, measure: object}} shown
   */
  show(shown) {
    this.shown = shown;
    this.make();
  }

  /** Makes the plot anew: the theme is another one. */
  restyle() {
    if (this.shown) this.make();
  }

  /**
   * @param {Array<{kind: string, range: [number, number]}>} ranges
   * @param {string} active
   */
  setBands(ranges, active) {
    this.bands = { ranges, active };
    this.brush?.show(ranges, active);
  }

  make() {
    this.brush?.end();
    this.brush = null;
    this.plot?.destroy();
    const { line, base, from, until } = this.shown;
    this.plot = new globalThis.uPlot(this.options(), columns(line, base, until), this.box);
    const { plot } = this;
    const scale = {
      toMs: (pixels) => plot.posToVal(pixels, "x") * 1000,
      toPixels: (ms) => plot.valToPos(ms / 1000, "x"),
      limits: () => [from, until],
      step: () => line.step_ms,
    };
    this.brush = new Brush(plot.over, this.box, scale, this.handlers);
    this.brush.show(this.bands.ranges, this.bands.active);
  }

  options() {
    const style = getComputedStyle(this.box);
    const ink = (name) => style.getPropertyValue(`--${name}`).trim();
    const { line, from, until, base, measure } = this.shown;
    // The scale of an empty line is of no unit.
    const flat = ![...line.values, ...(base?.values ?? [])].some((value) => value > 0);
    const grid = { stroke: ink("grid"), width: 1 };
    const axis = { stroke: ink("muted"), font: FONT, grid, ticks: { show: false } };
    const stepped = globalThis.uPlot.paths.stepped({ align: 1 });
    const drawn = (values, colour) => ({
      paths: stepped,
      width: 1.5,
      stroke: colour,
      points: { show: false, size: 5, fill: colour, filter: () => lonely(values) },
    });
    const series = [{}, { ...drawn(line.values, ink("line")), fill: ink("line-fill") }];
    if (base) series.push({ ...drawn(base.values, ink("base")), dash: [4, 3] });
    return {
      width: this.width(),
      height: this.height(),
      padding: [8, 28, 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 6 } },
      scales: {
        x: { time: true, range: () => [from / 1000, until / 1000] },
        y: { range: (_plot, _low, high) => [0, high > 0 ? high * 1.08 : 1] },
      },
      axes: [
        { ...axis, size: 24, gap: 2, space: TICK_SPACE, values: timeTicks },
        {
          ...axis,
          size: this.width() < NARROW ? 62 : 74,
          space: 30,
          values: (_plot, ticks) => ticks.map((tick) => (tick ? (flat ? "" : rate(tick, measure)) : "0")),
        },
      ],
      series,
      hooks: {
        setCursor: [(plot) => this.handlers.onHover(plot.cursor.idx ?? null)],
        // Pixels are known from the first picture on, and others after each resize.
        draw: [() => this.brush?.place()],
      },
    };
  }

  width() {
    return Math.max(this.box.clientWidth, 120);
  }

  height() {
    return this.width() < NARROW ? NARROW_HEIGHT : HEIGHT;
  }

  resized() {
    if (!this.plot || this.plot.width === this.width()) return;
    this.plot.setSize({ width: this.width(), height: this.height() });
  }
}

/** Makes uPlot's columns; one more point at the end gives the last step its width. */
function columns(line, base, until) {
  const times = line.values.map((_value, at) => (line.start_ms + at * line.step_ms) / 1000);
  const ended = (values) => [...values, values[values.length - 1] ?? null];
  const all = [[...times, Math.max(until / 1000, (times[times.length - 1] ?? 0) + 0.001)]];
  all.push(ended(line.values));
  if (base) all.push(ended(times.map((_time, at) => base.values[at] ?? null)));
  return all;
}

/** Gives the points without a neighbour: a line through one point can hardly be seen. */
function lonely(values) {
  const missing = (at) => values[at] === null || values[at] === undefined;
  return values.flatMap((_value, at) =>
    !missing(at) && missing(at - 1) && missing(at + 1) ? [at] : [],
  );
}

/** Writes ticks in local time, 24 hours; the day where it changes. */
function timeTicks(_plot, ticks, _axis, _space, increment) {
  const day = (tick) => new Date(tick * 1000).toDateString();
  return ticks.map((tick, at) => {
    const text = moment(tick * 1000, { seconds: increment < MINUTE_SECONDS, now: tick * 1000 });
    const another = at > 0 && day(tick) !== day(ticks[at - 1]);
    if (!another && increment < DAY_SECONDS) return text;
    return new Date(tick * 1000).toLocaleDateString(undefined, { day: "numeric", month: "short" });
  });
}
