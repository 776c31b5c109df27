// What is said about a node: in the tooltip, and to those who can't see the picture (pure).

import { amount, rate, share, signed, visible } from "../format.js";
import { isFold, packageOf } from "./colors.js";
import { diffScales } from "./layout.js";

/** @typedef {import("./model.js").Model} Model */

/** Longer names are cut in the middle: both ends tell functions apart. */
const MAX_NAME = 240;

/**
 * Writes a function's name for people.
 * @param {string} name
 * @returns {string}
 */
export function shown(name) {
  const text = visible(name) || "(no name)";
  if (text.length <= MAX_NAME) return text;
  const half = MAX_NAME / 2;
  return `${text.slice(0, half)} … ${text.slice(-half)}`;
}

/**
 * Writes where a function is.
 * @param {Model} model
 * @param {number} id Index into functions.
 * @returns {string} "" where it is not known.
 */
export function place(model, id) {
  const file = model.files[id];
  if (!file) return "";
  const line = model.lines[id];
  return shown(line > 0 ? `${file}:${line}` : file);
}

/**
 * Describes a node.
 * @param {Model} model
 * @param {number} node
 * @param {number} zoom What fills the width.
 * @param {"share"|"rate"} scale Of a diff.
 * @returns {{title: string, place: string, kind: string, head: string[], rows: string[][]}}
 */
export function describe(model, node, zoom, scale) {
  const id = model.name[node];
  const name = model.functions[id];
  const owner = packageOf(name, model.files[id]);
  const told = {
    title: node ? shown(name) : "total",
    place: place(model, id),
    kind: node && !isFold(name) ? owner || "native or not known" : "",
  };
  return model.base
    ? { ...told, ...diffRows(model, node, scale) }
    : { ...told, ...plainRows(model, node, zoom) };
}

/**
 * Says a node in one sentence.
 * @param {ReturnType<typeof describe>} told
 * @returns {string}
 */
export function sentence(told) {
  const rows = told.rows.map(([label, ...values]) => `${label} ${values.join(", ")}`);
  return [told.title, ...rows].join(". ");
}

/**
 * Writes one side of a diff in the unit of the chosen scale.
 * @param {Model} model
 * @param {number} value In the model's unit.
 * @param {number} factor From `diffScales`.
 * @param {"share"|"rate"} scale
 * @returns {string}
 */
export function onScale(model, value, factor, scale) {
  return scale === "share" ? share(value * factor, 1) : rate(value * factor, model);
}

/**
 * Writes the change of a value in a diff: percentage points, or an amount.
 * @param {Model} model
 * @param {number} now
 * @param {number} before
 * @param {"share"|"rate"} scale
 * @returns {string}
 */
export function change(model, now, before, scale) {
  const factors = diffScales(model, scale);
  const difference = now * factors.now - before * factors.base;
  if (scale === "share") return signed(difference, (size) => share(size, 1).replace("%", "pp"));
  return signed(difference, (size) => rate(size, model));
}

function plainRows(model, node, zoom) {
  const { unit } = model;
  const whole = model.total[0];
  const rows = [
    ["Total", amount(model.total[node], unit), share(model.total[node], whole)],
    ["Self", amount(model.self[node], unit), share(model.self[node], whole)],
  ];
  const head = ["", "Amount", "Of all"];
  if (zoom > 0) {
    head.push("Of zoom");
    rows[0].push(share(model.total[node], model.total[zoom]));
    rows[1].push(share(model.self[node], model.total[zoom]));
  }
  return { head, rows };
}

function diffRows(model, node, scale) {
  const factors = diffScales(model, scale);
  const row = (label, now, before) => [
    label,
    onScale(model, before, factors.base, scale),
    onScale(model, now, factors.now, scale),
    change(model, now, before, scale),
    relative(now * factors.now, before * factors.base),
  ];
  return {
    head: ["", "Baseline", "Now", "Change", ""],
    rows: [
      row("Total", model.total[node], model.base.total[node]),
      row("Self", model.self[node], model.base.self[node]),
    ],
  };
}

/** Says a ratio in words where a percentage would be nothing or endless. */
export function relative(now, before) {
  if (!before) return now ? "new" : "";
  if (!now) return "gone";
  return signed((now - before) / before, (size) => share(size, 1));
}
