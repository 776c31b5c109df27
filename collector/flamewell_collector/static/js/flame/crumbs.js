// The way from the whole to what fills the width.

import { el } from "../dom.js";
import { amount, rate, signed } from "../format.js";
import { diffScales } from "./layout.js";
import { lineage } from "./model.js";
import { shown } from "./words.js";

/** More are left out in the middle: the first two and the last four stay. */
const MOST = 6;
const FIRST = 2;

/**
 * Draws the breadcrumbs.
 * @param {import("./model.js").Model} model
 * @param {number} zoom
 * @param {function(number): void} onChoose
 * @returns {HTMLElement[]}
 */
export function crumbs(model, zoom, onChoose) {
  const path = lineage(model, zoom);
  const left = path.length > MOST ? path.length - MOST : 0;
  const parts = path.map((node) => crumb(model, node, node === zoom, onChoose));
  if (left) parts.splice(FIRST, left, el("span", { text: `… ${left}` }));
  return parts;
}

function crumb(model, node, last, onChoose) {
  const text = node ? shown(model.functions[model.name[node]]) : whole(model);
  if (last) return el("b", { text, "aria-current": "location" });
  return el("button", { type: "button", text, onclick: () => onChoose(node) });
}

function whole(model) {
  if (model.base) {
    const scales = diffScales(model, "rate");
    const before = model.base.total[0] * scales.base;
    const now = model.total[0] * scales.now;
    const difference = signed(now - before, (size) => rate(size, model));
    return `total ${rate(before, model)} → ${rate(now, model)} (${difference})`;
  }
  const sum = amount(model.total[0], model.unit);
  if (model.kind === "gauge") return `total ${sum} on average`;
  const seconds = (model.until - model.from) / 1000;
  return `total ${sum}, ${rate(model.total[0] / seconds, model)} on average`;
}
