// Comparing two ranges: which, and what a drag sets.

import { byId, debounced } from "./dom.js";
import { span } from "./format.js";

const SHIFT_MS = { day: 86_400e3, week: 604_800e3 };
const TYPING_MS = 500;

/**
 * Chooses the two ranges with which comparing begins: what is brushed and the time before it, or
 * the two halves of the time line.
 * @param {?[number, number]} range
 * @param {[number, number]} whole Of the time line.
 * @returns {{range: [number, number], base: [number, number]}}
 */
export function firstRanges(range, [from, until]) {
  if (range) return { range, base: shifted(range, "previous") };
  const middle = Math.round((from + until) / 2);
  return { range: [middle, until], base: [from, middle] };
}

/**
 * Moves a range back.
 * @param {[number, number]} range
 * @param {"previous"|"day"|"week"} by
 * @returns {[number, number]}
 */
export function shifted([from, until], by) {
  const shift = SHIFT_MS[by] ?? until - from;
  return [from - shift, until - shift];
}

/**
 * Tells by how much the baseline's line must be moved to be seen; 0 where it is on the time line.
 * @param {import("./state.js").State} state
 * @param {[number, number]} whole
 * @returns {number} ms.
 */
export function overlayShift({ compare, range, base }, [from, until]) {
  if (!compare || !range || !base) return 0;
  return base[0] >= from && base[1] <= until ? 0 : range[0] - base[0];
}

/** The bar with both sides and the presets. */
export class CompareBar {
  /**
   * @param {import("./state.js").Store} store
   * @param {function(): void} onSide A drag sets the other side now.
   */
  constructor(store, onSide) {
    this.bar = byId("compare-bar");
    this.bar.addEventListener("change", (event) => event.target.name === "side" && onSide());
    for (const button of this.bar.querySelectorAll("[data-shift]")) {
      button.addEventListener("click", () => {
        const { range } = store.state;
        if (range) store.set({ base: shifted(range, button.dataset.shift) });
      });
    }
    const field = byId("base-selector");
    const apply = () => store.set({ baseSelector: field.value.trim() });
    field.addEventListener("input", debounced(TYPING_MS, apply));
    field.addEventListener("change", apply);
  }

  /** Which side a drag sets: "base" or "now". */
  get side() {
    return this.bar.querySelector("[name=side]:checked").value;
  }

  /** @param {import("./state.js").State} state */
  show(state) {
    this.bar.hidden = !state.compare;
    if (!state.compare) return;
    byId("base-text").textContent = state.base ? span(...state.base) : "drag on the time line";
    byId("now-text").textContent = state.range ? span(...state.range) : "drag on the time line";
    const field = byId("base-selector");
    if (document.activeElement !== field) field.value = state.baseSelector;
    for (const button of this.bar.querySelectorAll("[data-shift]")) {
      const fits = state.range && String(shifted(state.range, button.dataset.shift)) === String(state.base);
      button.setAttribute("aria-pressed", String(Boolean(fits)));
    }
  }
}
