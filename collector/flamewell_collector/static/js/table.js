// The table of functions: the flame graph in words and numbers.

import { el, meter } from "./dom.js";
import { amount, integer, share } from "./format.js";
import { diffScales } from "./flame/layout.js";
import { change, onScale, relative, shown } from "./flame/words.js";

/** Rows that are drawn at first, and more with each press of the button. */
const PAGE = 200;

/**
 * @typedef {object} Row
 * @property {string} function
 * @property {string} file
 * @property {number} line
 * @property {number} self
 * @property {number} total
 * @property {number} baseSelf
 * @property {number} baseTotal
 */

/**
 * @typedef {object} Content
 * @property {import("./flame/model.js").Model} model Units and, in a diff, both sides' ranges.
 * @property {Row[]} rows
 * @property {number} whole What 100 % is.
 * @property {"share"|"rate"} scale
 * @property {function(Row): boolean} matches Whether the search finds it.
 * @property {boolean} filtered Leave out what does not match.
 */

/** A sortable table. */
export class FunctionTable {
  /**
   * @param {HTMLTableElement} table
   * @param {HTMLElement} footer
   * @param {function(Row): void} onPick
   */
  constructor(table, footer, onPick) {
    this.table = table;
    this.footer = footer;
    this.onPick = onPick;
    this.order = { key: "self", descending: true };
    this.diffOrder = { key: "change", descending: true };
    this.limit = PAGE;
    this.content = null;
  }

  /** @param {Content} content */
  show(content) {
    if (this.content?.model !== content.model) this.limit = PAGE;
    this.content = content;
    this.draw();
  }

  draw() {
    const { content } = this;
    const diff = Boolean(content.model.base);
    const columns = diff ? this.diffColumns() : this.plainColumns();
    const order = diff ? this.diffOrder : this.order;
    const rows = content.filtered ? content.rows.filter(content.matches) : [...content.rows];
    const { value } = columns.find((column) => column.key === order.key);
    rows.sort((one, other) => compare(value(one), value(other)) * (order.descending ? -1 : 1));
    const heads = columns.map((column) => this.head(column, order));
    const drawn = rows.slice(0, this.limit).map((row) => this.row(row, columns));
    this.table.classList.toggle("diff", diff);
    this.table.replaceChildren(
      el("thead", {}, el("tr", {}, ...heads)),
      el("tbody", {}, ...drawn),
    );
    this.table.setAttribute("aria-rowcount", String(rows.length + 1));
    this.foot(rows.length);
  }

  head(column, order) {
    const sorted = order.key === column.key;
    const direction = order.descending ? "descending" : "ascending";
    return el(
      "th",
      { scope: "col", class: column.kind, "aria-sort": sorted ? direction : null },
      el("button", { type: "button", text: column.name, onclick: () => this.sort(column, order) }),
    );
  }

  sort(column, order) {
    const textual = column.key === "function";
    order.descending = order.key === column.key ? !order.descending : !textual;
    order.key = column.key;
    this.draw();
    this.table.querySelector("[aria-sort] button")?.focus();
  }

  row(row, columns) {
    const { content } = this;
    const marked = content.matches(row);
    return el(
      "tr",
      { class: marked ? "marked" : null, onclick: () => this.onPick(row) },
      ...columns.map((column) => el("td", { class: column.kind }, ...column.cell(row))),
    );
  }

  plainColumns() {
    const { model, whole } = this.content;
    const figure = (key) => (row) => [
      el("span", { text: amount(row[key], model.unit) }),
      el("span", { class: "part", text: row[key] ? share(row[key], whole) : "–" }),
      meter(row[key] / whole, "share"),
    ];
    const column = (key, name) => ({ key, name, kind: "figure", value: (row) => row[key], cell: figure(key) });
    return [this.nameColumn(), column("self", "Self"), column("total", "Total")];
  }

  diffColumns() {
    const { model, scale } = this.content;
    const factors = diffScales(model, scale);
    const now = (row) => row.self * factors.now;
    const base = (row) => row.baseSelf * factors.base;
    return [
      this.nameColumn(),
      {
        key: "base", name: "Baseline", kind: "figure", value: base,
        cell: (row) => [onScale(model, row.baseSelf, factors.base, scale)],
      },
      {
        key: "now", name: "Now", kind: "figure", value: now,
        cell: (row) => [onScale(model, row.self, factors.now, scale)],
      },
      {
        key: "change", name: "Change", kind: "figure",
        // The largest changes stand first, whichever way they went.
        value: (row) => Math.abs(now(row) - base(row)),
        cell: (row) => changeCell(change(model, row.self, row.baseSelf, scale), now(row), base(row)),
      },
    ];
  }

  nameColumn() {
    return {
      key: "function",
      name: "Function",
      kind: "function",
      value: (row) => row.function,
      cell: (row) => [
        el(
          "div",
          {},
          el("button", { type: "button", class: "pick", text: shown(row.function), title: titleOf(row) }),
          row.file ? el("small", { text: shortFile(row) }) : null,
        ),
      ],
    };
  }

  foot(count) {
    const left = count - Math.min(count, this.limit);
    const more = left > 0 && el("button", {
      type: "button",
      text: `Show ${integer(Math.min(PAGE, left))} more of ${integer(left)}`,
      onclick: () => {
        this.limit += PAGE;
        this.draw();
      },
    });
    const none = this.content.filtered ? "No function matches the search." : "No functions.";
    this.footer.replaceChildren(count ? more || "" : el("p", { class: "hint", text: none }));
  }
}

function changeCell(text, now, before) {
  const kind = now > before ? "grew" : now < before ? "shrank" : "";
  const ratio = relative(now, before);
  return [el("span", { class: kind, text }), el("span", { class: "part", text: ratio })];
}

function compare(one, other) {
  if (typeof one === "string") return one < other ? -1 : one > other ? 1 : 0;
  return one - other;
}

function titleOf(row) {
  const file = row.line > 0 ? `${row.file}:${row.line}` : row.file;
  return shown(row.file ? `${row.function}\n${file}` : row.function);
}

/** The end of a path is what tells files apart. */
function shortFile(row) {
  const short = row.file.split("/").slice(-2).join("/");
  return shown(row.line > 0 ? `${short}:${row.line}` : short);
}
