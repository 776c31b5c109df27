// The page: reads the state, asks the API, hands answers to the panels. Start reading here.

import { ApiError, get, Questions, serverNow } from "./api.js";
import { firstRanges, overlayShift } from "./compare.js";
import { byId } from "./dom.js";
import { showExports, startCopy } from "./exports.js";
import { FlamePanel } from "./flamepanel.js";
import { buildModel } from "./flame/model.js";
import { isReading, typeName, visible } from "./format.js";
import { Head } from "./head.js";
import { openDrawer, startKeys } from "./keys.js";
import { startMenus } from "./menus.js";
import * as notices from "./notices.js";
import { compose } from "./selector.js";
import { fittingType, isProfiled, ServiceList } from "./services.js";
import { encode, RSS, Store } from "./state.js";
import { shownTheme, startTheme } from "./theme.js";
import { TimePanel } from "./timepanel.js";
import { isRelative, toMs } from "./timerange.js";

/** Of all services only the largest functions are looked at: a tenth of what one is shown with. */
const EVERYBODYS_NODES = 20_000;
const LIVE_MS = 10_000;
/** While there is nothing to show, or nobody answers. */
const IMPATIENT_MS = 3_000;
/** Rows of the exact table, asked for only where the graph had to be cut. */
const TABLE_ROWS = 2_000;
/** Changes of these need other answers; the rest is drawn from what is there. */
const TIMES = ["from", "until"];
const LINE_PARTS = ["service", "type", "selector", ...TIMES];
const OVERLAY_PARTS = ["compare", "range", "base", "baseSelector"];
const GRAPH_PARTS = [...LINE_PARTS, ...OVERLAY_PARTS];

/** Everything on the page; exported for the bench and the tests. */
export class App {
  constructor() {
    this.questions = new Questions();
    this.services = null;
    this.window = [0, 0];
    this.timer = 0;
    this.shift = 0;
    this.silent = false;
    this.store = new Store((state, changed) => this.follow(state, changed));
    this.head = new Head(this.store);
    this.list = new ServiceList((service) => this.choose(service));
    this.time = new TimePanel(this.store);
    this.flame = new FlamePanel(this.store);
    startMenus();
    startTheme(byId("theme"), () => this.restyle());
    startCopy(() => this.link());
    byId("compare").addEventListener("click", () => this.toggleCompare());
    startKeys(() => this.flame.zoomOut());
    document.addEventListener("visibilitychange", () => document.hidden || this.refresh());
  }

  /** Asks for everything. */
  async refresh() {
    clearTimeout(this.timer);
    const { state } = this.store;
    this.setWindow();
    this.head.show(state, this.services);
    this.list.show(this.services, state);
    this.flame.showControls();
    const asked = [this.loadServices()];
    // What is brushed lies in the past: asking for it again would give the same.
    const fixed = state.range && this.flame.model && !this.silent;
    if (state.service !== null) asked.push(this.loadLine(), fixed ? null : this.loadGraph());
    await Promise.all(asked);
    this.plan();
  }

  /** Follows a changed state, by a person, the address or the page itself. */
  follow(state, changed) {
    const touches = (parts) => parts.some((part) => changed.has(part));
    if (touches(TIMES)) this.setWindow();
    this.head.show(state, this.services);
    if (this.services) this.list.show(this.services, state);
    this.time.showRanges();
    this.flame.follow(changed);
    if (touches(TIMES)) this.loadServices();
    if (touches(LINE_PARTS)) this.loadLine();
    else if (touches(OVERLAY_PARTS) && this.needsOverlay()) this.loadLine();
    if (touches(GRAPH_PARTS)) this.loadGraph();
    if (changed.has("live") && state.live) this.refresh();
    this.plan();
  }

  /** Plans the next refresh: often while waiting, steadily while live, never for past times. */
  plan() {
    clearTimeout(this.timer);
    const { state } = this.store;
    const waiting = this.silent || (this.services && !this.services.length);
    if (!waiting && (!state.live || !isRelative(state.until))) return;
    this.timer = setTimeout(() => document.hidden || this.refresh(), waiting ? IMPATIENT_MS : LIVE_MS);
  }

  setWindow() {
    const now = serverNow();
    const { from, until } = this.store.state;
    const ends = [from, until].map((text) => toMs(text, now));
    // An address that somebody has mangled still shows something.
    this.window = ends[0] < ends[1] ? ends : [now - 3_600_000, now];
  }

  async loadServices() {
    const [from, until] = this.window;
    const answer = await this.ask("services", "services", { from, until }, () => undefined);
    if (!answer) return;
    const first = this.services === null;
    this.services = answer.services;
    const { state } = this.store;
    this.list.show(this.services, state);
    if (!this.services.length) await this.tellNothing();
    else if (state.service === null) this.chooseFirst();
    else this.head.show(state, this.services);
    // A notice that came before the list could not offer what else there is.
    if (first && state.service !== null && !this.flame.model) await this.loadGraph();
  }

  /** Nothing in this range: is there anything at all? */
  async tellNothing() {
    const status = await this.ask("status", "status", {}, () => undefined);
    if (!status) return;
    this.endGraph();
    byId("title").textContent = "Waiting for profiles";
    const empty = !status.head_rows && !status.blocks;
    const choose = (from) => this.store.set({ from, until: "now" });
    this.flame.fail(
      empty ? notices.noServices(new URL(".", document.baseURI).href.replace(/\/$/, "")) : notices.noneInRange(choose),
    );
  }

  chooseFirst() {
    const first = this.services.find(isProfiled) ?? this.services[0];
    const type = fittingType(first, this.store.state.type);
    this.store.set({ service: first.service_name, type }, { quiet: true });
  }

  choose(name) {
    const service = this.services?.find((row) => row.service_name === name) ?? null;
    const type = fittingType(service, this.store.state.type);
    openDrawer(false);
    this.store.set({ service: name, type, zoom: "", search: "" });
  }

  async loadLine() {
    const { state } = this.store;
    if (state.service === null) return;
    const [from, until] = this.window;
    const shift = overlayShift(state, this.window);
    this.shift = shift;
    const side = (selector, by) => ({
      type: state.type,
      query: compose(state.service, selector),
      from: Math.round(from - by),
      until: Math.round(until - by),
    });
    this.time.busy(true);
    const fail = (error) => {
      if (error.unreachable && this.time.age()) return;
      this.time.fail(notices.failed(error, () => this.loadLine()));
    };
    const other = shift || (state.compare && state.baseSelector);
    const [line, base] = await Promise.all([
      this.ask("line", "timeline", side(state.selector, 0), fail),
      other ? this.ask("base line", "timeline", side(state.baseSelector || state.selector, shift), fail) : null,
    ]);
    this.time.busy(false);
    if (!line) return;
    this.head.showSelectorError("");
    this.time.show({ line, base, from, until });
  }

  needsOverlay() {
    const { state } = this.store;
    const shown = Boolean(this.time.content?.base);
    const wanted = overlayShift(state, this.window) !== 0 || Boolean(state.compare && state.baseSelector);
    return wanted !== shown || this.shift !== overlayShift(state, this.window) || Boolean(state.baseSelector);
  }

  async loadGraph() {
    const { state } = this.store;
    if (state.service === null) return;
    const parameters = this.selection();
    showExports(parameters);
    if (isReading(state.type)) {
      this.endGraph();
      this.flame.fail(notices.noStacks(typeName(state.type), this.otherTypes()));
      return;
    }
    const diff = state.compare && state.base;
    if (diff) {
      [parameters.base_from, parameters.base_until] = state.base;
      parameters.base_query = compose(state.service, state.baseSelector || state.selector);
    }
    this.flame.busy(true);
    const fail = (error) => {
      if (error.unreachable && this.flame.age()) return;
      this.flame.fail(notices.failed(error, () => this.loadGraph()));
    };
    const size = state.service === "" ? { max_nodes: EVERYBODYS_NODES } : {};
    const asked = { ...parameters, ...size };
    const answer = await this.ask("graph", diff ? "diff" : "flamegraph", asked, fail);
    if (answer) this.showGraph(buildModel(answer));
    if (answer?.pruned) await this.loadTable(diff ? "top-diff" : "top", parameters);
    if (answer !== null) this.flame.busy(false);
  }

  /** A late answer must not take the place of a notice. */
  endGraph() {
    this.questions.end("graph");
    this.questions.end("table");
    this.flame.busy(false);
  }

  showGraph(model) {
    if (model.total[0] || model.base?.total[0]) {
      this.flame.show(model, null);
      performance.mark("flamewell:picture");
      return;
    }
    const { state } = this.store;
    const selection = {
      what: typeName(state.type),
      where: visible(state.service) || "any service",
      filtered: Boolean(state.selector),
      brushed: Boolean(state.range),
    };
    this.flame.fail(notices.noSamples(selection, this.otherTypes()));
  }

  /** The graph was cut: the table's exact numbers come from the API, of the uncut one. */
  async loadTable(path, parameters) {
    const answer = await this.ask("table", path, { ...parameters, limit: TABLE_ROWS }, () => undefined);
    if (!answer) return;
    this.flame.setRows(
      answer.rows.map((row) => ({ ...row, baseSelf: row.base_self, baseTotal: row.base_total })),
    );
  }

  /** What the graph, the table and the exports are asked for with. */
  selection() {
    const { state } = this.store;
    const [from, until] = (state.range ?? this.window).map(Math.round);
    return { type: state.type, query: compose(state.service, state.selector), from, until };
  }

  otherTypes() {
    const { state } = this.store;
    const service = this.services?.find((row) => row.service_name === state.service);
    return (service?.types ?? [])
      .filter((type) => type !== state.type && (type === RSS || !isReading(type)))
      .map((type) => [visible(typeName(type)), () => this.store.set({ type, zoom: "" })]);
  }

  /** Asks; shows what went wrong where it belongs. Gives null for "no answer, already said". */
  async ask(name, path, parameters, fail) {
    try {
      const answer = await this.questions.latest(name, (signal) => get(path, parameters, signal));
      if (answer) this.reached(true);
      return answer;
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (error.unreachable) this.reached(false);
      if (/selector|matcher/i.test(`${error.code} ${error.message}`)) this.head.showSelectorError(error.message);
      fail(error);
      return undefined;
    }
  }

  reached(is) {
    const banner = byId("banner");
    if (is !== this.silent) return;
    this.silent = !is;
    banner.hidden = is;
    banner.textContent = is
      ? ""
      : "The collector does not answer: is flamewell-collector running? Trying again every 3 seconds.";
    if (!is) this.plan();
  }

  toggleCompare() {
    const { state } = this.store;
    if (state.compare) this.store.set({ compare: false, base: null });
    else this.store.set({ compare: true, ...firstRanges(state.range, this.window.map(Math.round)) });
  }

  /** A link shows others the same: its range must not move with the clock. */
  link() {
    const [from, until] = this.window.map((at) => String(Math.round(at)));
    const fixed = { ...this.store.state, from, until, live: false };
    return `${location.href.split("#")[0]}#${encode(fixed)}`;
  }

  restyle() {
    this.time.restyle();
    this.flame.repaint();
    document.documentElement.dataset.shown = shownTheme();
  }
}

export const app = new App();
app.refresh();
