// What the colours of a flame graph mean.

import { el } from "../dom.js";
import { share, visible } from "../format.js";
import { diffFills } from "./colors.js";

const PACKAGES = 6;

/**
 * Lists the packages with most self value, which explains the colours.
 * @param {import("./model.js").Model} model
 * @param {import("./render.js").Scene} scene With the package and the style of each function.
 * @returns {HTMLElement[]}
 */
export function packageLegend(model, { packages, styles, fills }) {
  const sums = new Map();
  for (let node = 1; node < model.n; node++) {
    const owner = packages[model.name[node]];
    if (model.self[node]) sums.set(owner, (sums.get(owner) ?? 0) + model.self[node]);
  }
  const most = [...sums].sort((one, other) => other[1] - one[1]).slice(0, PACKAGES);
  return most.map(([owner, sum]) => {
    const colour = el("i");
    colour.style.background = fills[styles[packages.indexOf(owner, 1)]];
    const name = el("span", { class: "name", text: visible(owner) || "native" });
    const part = el("small", { text: share(sum, model.total[0]) });
    return el("span", { class: "key", title: "Self, of all" }, colour, name, part);
  });
}

/**
 * Explains the colours of a diff.
 * @param {"light"|"dark"} theme
 * @returns {HTMLElement[]}
 */
export function diffLegend(theme) {
  const steps = diffFills(theme).map((colour) => {
    const step = el("i");
    step.style.background = colour;
    return step;
  });
  const words = ["gone", "half", "same", "double", "new"].map((text) => el("small", { text }));
  return [
    el("span", { class: "key", text: "shrank" }),
    el(
      "span",
      { class: "ramp", role: "img", "aria-label": "Blue shrank, red grew" },
      el("span", { class: "steps" }, ...steps),
      el("span", { class: "words" }, ...words),
    ),
    el("span", { class: "key", text: "grew" }),
  ];
}
