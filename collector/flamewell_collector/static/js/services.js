// The list of services at the left.

import { byId, el, meter } from "./dom.js";
import { bytes, digits, visible } from "./format.js";
import { CPU, encode } from "./state.js";

/** @typedef {import("./state.js").State} State */

const RUNTIMES = { cpython: ["Py", "Python"], go: ["Go", "Go"] };

/**
 * Tells whether a service has anything but readings of its memory.
 * @param {object} service Row of /api/v1/services.
 * @returns {boolean}
 */
export function isProfiled(service) {
  return service.types.some((type) => !type.startsWith("process_memory:"));
}

/** Draws the list; each entry is a link, so that it can be opened beside. */
export class ServiceList {
  /**
   * @param {function(string): void} onChoose Told the service's name; "" for all.
   */
  constructor(onChoose) {
    this.box = byId("service-list");
    this.filter = byId("service-search");
    this.onChoose = onChoose;
    this.services = null;
    this.state = null;
    this.othersOpen = false;
    this.filter.addEventListener("input", () => this.draw());
    byId("services").addEventListener("keydown", (event) => this.key(event));
  }

  /**
   * @param {?object[]} services Rows of the API, in its order; null while they are loading.
   * @param {State} state
   */
  show(services, state) {
    this.services = services;
    this.state = state;
    this.draw();
  }

  draw() {
    if (!this.services) {
      const lines = Array.from({ length: 6 }, () => el("div", { class: "skeleton service" }));
      this.box.replaceChildren(...lines);
      return;
    }
    const focused = document.activeElement?.dataset?.service;
    const wanted = this.filter.value.trim().toLowerCase();
    const fits = (row) => row.service_name.toLowerCase().includes(wanted);
    const profiled = this.services.filter((row) => isProfiled(row) && fits(row));
    const others = this.services.filter((row) => !isProfiled(row) && fits(row));
    others.sort((one, other) => (other.memory_bytes ?? 0) - (one.memory_bytes ?? 0));
    const most = (rows, key) => Math.max(1e-9, ...rows.map((row) => row[key] ?? 0));
    const scales = { cpu: most(profiled, "cpu_cores"), memory: most(profiled, "memory_bytes") };
    const parts = [];
    if (!wanted && profiled.length > 1) parts.push(this.all(profiled));
    parts.push(...profiled.map((row) => this.entry(row, scales)));
    if (others.length) parts.push(this.others(others, Boolean(wanted)));
    if (wanted && !profiled.length && !others.length) {
      parts.push(el("p", { class: "hint", text: "No service has this in its name." }));
    }
    this.box.replaceChildren(...parts);
    if (focused !== undefined) this.links().find((a) => a.dataset.service === focused)?.focus();
  }

  all(profiled) {
    const cores = profiled.reduce((sum, row) => sum + (row.cpu_cores ?? 0), 0);
    const figures = el("span", { class: "figures" }, el("span", { text: `${digits(cores)} cores` }));
    return this.link("", "all", el("span", { class: "name", text: "All services" }), figures);
  }

  entry(row, scales) {
    const [short, long] = RUNTIMES[row.runtime] ?? ["", ""];
    const badge = short ? el("abbr", { class: `badge ${row.runtime}`, title: long, text: short }) : "";
    const name = el("span", { class: "name", text: visible(row.service_name) || "(no name)" });
    const figures = el(
      "span",
      { class: "figures" },
      row.cpu_cores === null ? null : meter(row.cpu_cores / scales.cpu, "cpu"),
      row.cpu_cores === null ? null : el("span", { text: `${digits(row.cpu_cores)} cores` }),
      row.memory_bytes === null ? null : meter(row.memory_bytes / scales.memory, "memory"),
      row.memory_bytes === null ? null : el("span", { text: bytes(row.memory_bytes) }),
    );
    return this.link(row.service_name, "service", el("span", { class: "line" }, name, badge), figures);
  }

  others(rows, open) {
    const box = el("details", { class: "others", open: open || this.othersOpen || this.holds(rows) });
    const scale = Math.max(1, ...rows.map((row) => row.memory_bytes ?? 0));
    box.append(el("summary", { text: `Other processes (${rows.length})` }));
    for (const row of rows) {
      const figures = el("span", { class: "figures" });
      if (row.memory_bytes !== null) {
        figures.append(meter(row.memory_bytes / scale, "memory"));
        figures.append(el("span", { text: bytes(row.memory_bytes) }));
      }
      const name = el("span", { class: "name", text: visible(row.service_name) || "(no name)" });
      box.append(this.link(row.service_name, "other", name, figures));
    }
    box.addEventListener("toggle", () => (this.othersOpen = box.open));
    return box;
  }

  holds(rows) {
    return rows.some((row) => row.service_name === this.state.service);
  }

  link(service, kind, ...children) {
    const chosen = this.state.service === service;
    const target = { ...this.state, service, zoom: "", search: "" };
    const link = el(
      "a",
      {
        class: `entry ${kind}`,
        href: `#${encode(target)}`,
        "aria-current": chosen ? "true" : null,
        onclick: (event) => {
          if (event.ctrlKey || event.metaKey || event.shiftKey) return;
          event.preventDefault();
          this.onChoose(service);
        },
      },
      ...children,
    );
    link.dataset.service = service;
    return link;
  }

  links() {
    return [...this.box.querySelectorAll("a.entry")].filter((link) => link.checkVisibility());
  }

  key(event) {
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    const links = this.links();
    const at = links.indexOf(document.activeElement);
    const next = event.key === "ArrowDown" ? at + 1 : at - 1;
    if (next < 0) this.filter.focus();
    else links[next]?.focus();
    event.preventDefault();
  }
}

/**
 * Chooses the profile type to show for a service: the wanted one where it has it.
 * @param {?object} service Row of the API; null for all services.
 * @param {string} wanted
 * @returns {string}
 */
export function fittingType(service, wanted) {
  if (!service || service.types.includes(wanted)) return wanted;
  if (service.types.includes(CPU)) return CPU;
  return service.types.find((type) => !type.startsWith("process_memory:"))
    ?? service.types.find((type) => type.startsWith("process_memory:rss"))
    ?? service.types[0]
    ?? wanted;
}
