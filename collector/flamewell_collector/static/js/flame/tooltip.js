// The box beside the pointer.

import { el } from "../dom.js";

const DISTANCE = 14;
const MARGIN = 8;

/** Shows what `describe` says. */
export class Tooltip {
  /** @param {HTMLElement} box */
  constructor(box) {
    this.box = box;
  }

  /**
   * @param {ReturnType<typeof import("./words.js").describe>} told
   * @param {number} x In the window.
   * @param {number} y
   */
  show(told, x, y) {
    const head = el("tr", {}, ...told.head.map((text) => el("th", { text })));
    const rows = told.rows.map(([label, ...values]) =>
      el("tr", {}, el("th", { text: label }), ...values.map((text) => el("td", { text }))),
    );
    this.box.replaceChildren(
      el("strong", { text: told.title }),
      told.place ? el("span", { class: "place", text: told.place }) : "",
      told.kind ? el("span", { class: "kind", text: told.kind }) : "",
      el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows)),
    );
    this.box.hidden = false;
    this.move(x, y);
  }

  hide() {
    this.box.hidden = true;
  }

  move(x, y) {
    const { offsetWidth: width, offsetHeight: height } = this.box;
    const right = x + DISTANCE + width + MARGIN <= innerWidth;
    const below = y + DISTANCE + height + MARGIN <= innerHeight;
    const left = right ? x + DISTANCE : Math.max(MARGIN, x - DISTANCE - width);
    const top = below ? y + DISTANCE : Math.max(MARGIN, y - DISTANCE - height);
    this.box.style.transform = `translate(${Math.round(left)}px, ${Math.round(top)}px)`;
  }
}
