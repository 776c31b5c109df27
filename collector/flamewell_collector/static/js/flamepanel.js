// The panel with flame graph and table: search, zoom, legend, hover.

import { byId, debounced, newest, press } from "./dom.js";
import { amount, integer, share } from "./format.js";
import { crumbs } from "./flame/crumbs.js";
import { diffScales } from "./flame/layout.js";
import { diffLegend, packageLegend } from "./flame/legend.js";
import { functionTotals } from "./flame/model.js";
import { findPath, pathKey } from "./flame/paths.js";
import { compile, exactly, isExact, matchedSum, matchNames } from "./flame/search.js";
import { Tooltip } from "./flame/tooltip.js";
import { FlameView } from "./flame/view.js";
import { describe, sentence, shown } from "./flame/words.js";
import * as notices from "./notices.js";
import { FunctionTable } from "./table.js";
import { shownTheme } from "./theme.js";

const TYPING_MS = 120;

/** Flame graph, table, and what steers them. */
export class FlamePanel {
  /** @param {import("./state.js").Store} store */
  constructor(store) {
    this.store = store;
    this.panel = byId("flame-panel");
    this.model = null;
    this.rows = null;
    this.zoom = 0;
    this.trail = [];
    this.matched = null;
    this.tooltip = new Tooltip(byId("tooltip"));
    const parts = { scroller: byId("scroller"), spacer: byId("spacer"), canvas: byId("flame") };
    this.view = new FlameView(parts, {
      onZoom: (node) => this.zoomTo(node),
      onPoint: (node, at) => this.point(node, at),
    });
    this.table = new FunctionTable(byId("table"), byId("table-foot"), (row) => this.pick(row));
    this.listen();
  }

  /** Says that an answer is on its way. */
  busy(is) {
    this.panel.classList.toggle("busy", is);
  }

  /**
   * Shows a model.
   * @param {import("./flame/model.js").Model} model
   * @param {?object[]} rows Exact rows of the API where the model was pruned.
   */
  show(model, rows) {
    const { state } = this.store;
    byId("flame-notice").hidden = true;
    this.panel.classList.remove("empty", "stale");
    this.model = model;
    this.rows = rows;
    this.zoom = state.zoom ? findPath(model, state.zoom) : 0;
    this.applySearch();
    this.repaint();
  }

  /** Says that what is shown may be old. Tells whether anything is shown. */
  age() {
    this.panel.classList.toggle("stale", this.model !== null);
    return this.model !== null;
  }

  /** Shows why there is nothing, and what to do. */
  fail(notice) {
    const place = byId("flame-notice");
    place.replaceChildren(notices.draw(notice));
    place.hidden = false;
    this.panel.classList.add("empty");
    this.panel.classList.remove("stale");
    this.model = null;
    this.tooltip.hide();
  }

  /** Shows exact rows that came after the model. */
  setRows(rows) {
    this.rows = rows;
    this.fillTable();
  }

  /**
   * Follows a changed state.
   * @param {Set<string>} changed Parts.
   */
  follow(changed) {
    const { state } = this.store;
    this.showControls();
    if (!this.model) return;
    if (changed.has("search")) {
      this.applySearch();
      this.view.setMatched(this.matched);
      this.showResult();
      this.fillTable();
    }
    if (changed.has("zoom") && state.zoom !== pathKey(this.model, this.zoom)) {
      this.setZoom(findPath(this.model, state.zoom));
    }
    if (changed.has("scale") || changed.has("flipped") || changed.has("view")) this.repaint();
  }

  /** Draws everything anew: model, theme, scale or direction is another one. */
  repaint() {
    this.showControls();
    if (!this.model) return;
    const { scale, flipped } = this.store.state;
    this.view.show(this.model, { scale, zoom: this.zoom, theme: shownTheme(), flipped });
    this.view.setMatched(this.matched);
    this.showResult();
    this.showCrumbs();
    this.showLegend();
    this.fillTable();
    this.describePicture();
  }

  /** Goes back by one zoom, or to the whole. Tells whether there was something to go back from. */
  zoomOut() {
    if (this.zoom <= 0) return false;
    this.setZoom(findPath(this.model, this.trail.pop() ?? ""));
    return true;
  }

  zoomTo(node) {
    if (node === this.zoom) return;
    // Kept as keys: a live refresh numbers the nodes anew.
    this.trail.push(pathKey(this.model, this.zoom));
    this.setZoom(node);
  }

  setZoom(node) {
    this.zoom = node;
    this.tooltip.hide();
    this.view.setZoom(node);
    this.showCrumbs();
    this.showResult();
    this.fillTable();
    this.describePicture();
    this.store.set({ zoom: pathKey(this.model, node) });
  }

  listen() {
    const { store } = this;
    const field = byId("search");
    const apply = () => store.set({ search: field.value });
    field.addEventListener("input", debounced(TYPING_MS, apply));
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter") apply();
      if (event.key !== "Escape") return;
      event.stopPropagation();
      if (field.value) {
        field.value = "";
        apply();
      } else {
        byId("flame").focus();
      }
    });
    byId("flip").addEventListener("click", () => store.set({ flipped: !store.state.flipped }));
    for (const name of ["view", "scale"]) {
      for (const button of this.panel.querySelectorAll(`[data-${name}]`)) {
        button.addEventListener("click", () => store.set({ [name]: button.dataset[name] }));
      }
    }
  }

  showControls() {
    const { state } = this.store;
    const field = byId("search");
    if (document.activeElement !== field) field.value = state.search;
    byId("flip").textContent = state.flipped ? "Flame" : "Icicle";
    byId("scale-group").hidden = !this.model?.base;
    byId("split").classList.toggle("diff", Boolean(this.model?.base));
    byId("split").dataset.view = state.view;
    for (const name of ["view", "scale"]) {
      for (const button of this.panel.querySelectorAll(`[data-${name}]`)) {
        press(button, button.dataset[name] === state[name]);
      }
    }
  }

  applySearch() {
    const begin = performance.now();
    const { regex, error } = compile(this.store.state.search);
    this.searchError = error;
    this.matched = regex && this.model ? matchNames(this.model, regex) : null;
    if (regex && this.model && !this.matched) this.searchError = "this pattern takes too long";
    newest("flamewell:search", begin);
  }

  showResult() {
    const output = byId("search-result");
    const field = byId("search");
    field.setAttribute("aria-invalid", String(Boolean(this.searchError)));
    output.classList.toggle("error", Boolean(this.searchError));
    if (this.searchError || !this.matched || !this.model) {
      output.textContent = this.searchError || "";
      return;
    }
    const { model } = this;
    const sum = matchedSum(model, this.matched, 0);
    if (!sum.nodes) {
      output.textContent = "no match";
      return;
    }
    if (model.base) {
      const scales = diffScales(model, "share");
      const parts = [sum.base * scales.base, sum.total * scales.now].map((part) => share(part, 1));
      output.textContent = `${parts.join(" → ")} matched`;
      return;
    }
    const within = this.zoom > 0 ? matchedSum(model, this.matched, this.zoom) : null;
    const zoomed = within ? `, ${share(within.total, model.total[this.zoom])} of zoom` : "";
    output.textContent =
      `${share(sum.total, model.total[0])} matched${zoomed} · ${amount(sum.total, model.unit)}`;
  }

  showCrumbs() {
    byId("crumbs").replaceChildren(...crumbs(this.model, this.zoom, (node) => this.zoomTo(node)));
  }

  showLegend() {
    const { model } = this;
    const theme = shownTheme();
    const parts = model.base ? diffLegend(theme) : packageLegend(model, this.view.scene);
    byId("legend").replaceChildren(...parts);
  }

  fillTable() {
    const { model, matched } = this;
    if (!model || this.store.state.view === "graph") return;
    const exact = this.zoom <= 0 && this.rows;
    const rows = exact ? this.rows : functionTotals(model, this.zoom).map((row) => named(model, row));
    const { search, scale } = this.store.state;
    const { regex } = compile(search);
    const found = (row) =>
      row.id === undefined ? regex.test(row.function) || regex.test(row.file) : matched[row.id] === 1;
    this.table.show({
      model,
      rows,
      whole: model.total[this.zoom],
      scale,
      matches: matched ? found : () => false,
      filtered: Boolean(matched) && !isExact(search),
    });
    const words = [];
    if (model.base) words.push(scale === "share" ? "Self, of each side's total" : "Self, absolute");
    if (this.zoom > 0) words.push(`Within ${shown(model.functions[model.name[this.zoom]])}`);
    byId("table-caption").hidden = !words.length;
    byId("table-caption").textContent = words.join(" · ");
  }

  pick(row) {
    const search = exactly(row.function);
    this.store.set({ search: this.store.state.search === search ? "" : search });
  }

  point(node, at) {
    if (node < 0 || !at || !this.model) {
      this.tooltip.hide();
      return;
    }
    const told = describe(this.model, node, this.zoom, this.store.state.scale);
    this.tooltip.show(told, at.x, at.y);
    if (document.activeElement === byId("flame")) byId("announce").textContent = sentence(told);
  }

  describePicture() {
    const { model } = this;
    const zoomed = this.zoom > 0 ? `, zoomed to ${shown(model.functions[model.name[this.zoom]])}` : "";
    const text =
      `Flame graph of ${integer(model.n)} nodes, ${amount(model.total[0], model.unit)} in all${zoomed}. ` +
      "Arrow keys move, Enter zooms in, Escape zooms out. The table says the same in words.";
    byId("flame").setAttribute("aria-label", text);
  }
}

function named(model, row) {
  return {
    ...row,
    function: model.functions[row.id],
    file: model.files[row.id],
    line: model.lines[row.id],
  };
}
