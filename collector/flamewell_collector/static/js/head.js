// The head of the page: what is shown, of when, and how to ask for something else.

import { serverNow } from "./api.js";
import { byId, debounced, el, press } from "./dom.js";
import { bytes, digits, isOffered, moment, span, typeName, visible } from "./format.js";
import { closeMenu } from "./menus.js";
import { PRESETS, rangeName, readRange } from "./timerange.js";

/** @typedef {import("./state.js").State} State */

const RUNTIMES = { cpython: "Python", go: "Go" };
/** Labels that say most about where a service runs, in this order. */
const PLACES = ["cluster", "namespace", "workload", "nomad_job", "node", "runtime_version"];
/** A service that was silent for longer is said to be. */
const SILENT_MS = 120_000;
const TYPING_MS = 500;

/** The controls above the time line. */
export class Head {
  /** @param {import("./state.js").Store} store */
  constructor(store) {
    this.store = store;
    this.startRange();
    this.startQuery();
    const toggle = (id, name) =>
      byId(id).addEventListener("click", () => store.set({ [name]: !store.state[name] }));
    toggle("live", "live");
  }

  /**
   * @param {State} state
   * @param {?object[]} services Rows of the API.
   */
  show(state, services) {
    const service = services?.find((row) => row.service_name === state.service) ?? null;
    const title = state.service === "" ? "All services" : visible(state.service ?? "");
    byId("title").textContent = title || "\u200b";
    document.title = state.service ? `${title} – flamewell` : "flamewell";
    this.showRuntime(service);
    byId("facts").replaceChildren(...(service ? facts(service) : []));
    this.showTypes(state, service, services ?? []);
    setField("selector", state.selector);
    press(byId("live"), state.live);
    press(byId("compare"), state.compare);
    byId("range-name").textContent = rangeName(state.from, state.until, span, serverNow());
  }

  /** Shows what the API says of the label selector. */
  showSelectorError(message) {
    const place = byId("selector-error");
    place.hidden = !message;
    place.textContent = message ? `Labels: ${message}` : "";
    byId("selector").setAttribute("aria-invalid", String(Boolean(message)));
  }

  showRuntime(service) {
    const badge = byId("runtime");
    const name = RUNTIMES[service?.runtime];
    badge.hidden = !name;
    badge.className = `badge ${service?.runtime ?? ""}`;
    const version = (service?.labels.runtime_version ?? "").replace(/^go(?=\d)/, "");
    badge.textContent = name ? [name, visible(version)].filter(Boolean).join(" ") : "";
  }

  showTypes(state, service, services) {
    const ids = service ? service.types : services.flatMap((row) => row.types);
    const known = [...new Set([...ids.filter(isOffered), state.type])].sort(byUse);
    const select = byId("type");
    const options = known.map((id) => el("option", { value: id, text: visible(typeName(id)) }));
    const before = [...select.options].map((option) => option.value).join();
    // Made anew only where it differs: a live refresh must not close an open list.
    if (before !== known.join()) select.replaceChildren(...options);
    select.value = state.type;
  }

  startQuery() {
    const { store } = this;
    byId("type").addEventListener("change", (event) => {
      store.set({ type: event.target.value, zoom: "" });
    });
    const field = byId("selector");
    const apply = () => store.set({ selector: field.value.trim() });
    field.addEventListener("input", debounced(TYPING_MS, apply));
    field.addEventListener("change", apply);
  }

  startRange() {
    const { store } = this;
    const menu = byId("range-menu");
    const choose = (from) => {
      store.set({ from, until: "now", range: null, base: null, compare: false, live: true });
      closeMenu(menu);
    };
    byId("range-presets").append(
      ...PRESETS.map(([from, name]) =>
        el("button", { type: "button", text: name, "data-from": from, onclick: () => choose(from) }),
      ),
    );
    // Not at "toggle", which comes some time after it opened and would undo what was typed since.
    menu.querySelector("summary").addEventListener("click", () => {
      if (menu.open) return;
      const typed = (text) => (/^\d+$/.test(text) ? moment(Number(text), { now: 0 }) : text);
      byId("range-from").value = typed(store.state.from);
      byId("range-until").value = typed(store.state.until);
      this.showRangeError("");
      for (const button of byId("range-presets").children) {
        const chosen = button.dataset.from === store.state.from && store.state.until === "now";
        press(button, chosen);
      }
    });
    byId("range-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const read = readRange(byId("range-from").value, byId("range-until").value, serverNow());
      this.showRangeError(read.error);
      if (read.error) return;
      store.set({ from: read.from, until: read.until, range: null, base: null, compare: false });
      closeMenu(menu);
    });
  }

  showRangeError(message) {
    const place = byId("range-error");
    place.hidden = !message;
    place.textContent = message;
  }
}

/** A field that somebody is writing in is left alone. */
function setField(id, value) {
  const field = byId(id);
  if (document.activeElement !== field) field.value = value;
}

function facts(service) {
  const found = [];
  const add = (name, text) => found.push(el("span", { title: name, text }));
  if (service.cpu_cores !== null) add("CPU", `${digits(service.cpu_cores)} cores`);
  if (service.memory_bytes !== null) {
    const limit = service.memory_limit_bytes ? ` of ${bytes(service.memory_limit_bytes)}` : "";
    add("Memory, of its limit", `${bytes(service.memory_bytes)}${limit}`);
  }
  for (const name of PLACES.slice(0, -1)) {
    if (service.labels[name]) add(name, visible(service.labels[name]));
  }
  add("Series", `${service.series} series`);
  if (serverNow() - service.last_seen_ms > SILENT_MS) {
    found.push(el("span", { class: "silent", text: `last seen ${moment(service.last_seen_ms)}` }));
  }
  return found;
}

/** CPU first, readings last. */
function byUse(one, other) {
  const rank = (id) => (id.startsWith("process_cpu") ? 0 : id.startsWith("process_memory") ? 2 : 1);
  return rank(one) - rank(other) || (typeName(one) < typeName(other) ? -1 : 1);
}
