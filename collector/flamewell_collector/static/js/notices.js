// What stands where there is nothing to show: always what it means and what to do.

import { el } from "./dom.js";

/**
 * @typedef {object} Notice
 * @property {string} title
 * @property {string} [text]
 * @property {string[]} [steps]
 * @property {string} [code] A command to copy.
 * @property {Array<[string, function(): void]>} [actions]
 * @property {boolean} [waiting] Whether the page goes on looking.
 */

/**
 * Draws a notice.
 * @param {Notice} notice
 * @returns {HTMLElement}
 */
export function draw({ title, text = "", code = "", actions = [], waiting = false }) {
  const buttons = actions.map(([name, onclick]) => el("button", { type: "button", text: name, onclick }));
  return el(
    "div",
    { class: "notice" },
    el("h2", { text: title }),
    text ? el("p", { text }) : null,
    code ? el("pre", {}, el("code", { text: code })) : null,
    buttons.length ? el("p", { class: "buttons" }, ...buttons) : null,
    waiting ? el("p", { class: "waiting", text: "Looking every few seconds" }) : null,
  );
}

/**
 * Nothing was ever sent.
 * @param {string} origin The collector's address.
 * @returns {Notice}
 */
export function noServices(origin) {
  return {
    title: "No profiles yet",
    text:
      "The agent sends its first samples within 30 s of its start. Is none running? Start one on " +
      "this machine:",
    code: `flamewell-agent run --collector-url ${origin}`,
    waiting: true,
  };
}

/**
 * Something was sent, but not in this range.
 * @param {function(string): void} choose Told a new start of the range.
 * @returns {Notice}
 */
export function noneInRange(choose) {
  return {
    title: "Nothing was sent in this time",
    text: "The collector has profiles of other times. Choose a longer or another range.",
    actions: [
      ["Last 24 hours", () => choose("now-24h")],
      ["Last 7 days", () => choose("now-7d")],
    ],
  };
}

/**
 * A selection that holds nothing.
 * @param {{what: string, where: string, filtered: boolean, brushed: boolean}} selection
 * @param {Array<[string, function(): void]>} actions
 * @returns {Notice}
 */
export function noSamples({ what, where, filtered, brushed }, actions) {
  const reasons = [];
  if (brushed) reasons.push("The selected part of the time line may be too short.");
  if (filtered) reasons.push("The labels may match no series.");
  reasons.push("An idle process has no samples of CPU time.");
  return { title: `No samples: ${what} of ${where}`, text: reasons.join(" "), actions };
}

/**
 * Readings have no stacks.
 * @param {string} name Of the type.
 * @param {Array<[string, function(): void]>} actions
 * @returns {Notice}
 */
export function noStacks(name, actions) {
  return {
    title: "This is a reading, it has no stacks",
    text:
      `${name} is read from the operating system: the time line above is all of it. ` +
      (actions.length
        ? "A profile tells which code it comes from:"
        : "Nothing else was sent of this process: it is none that the agent can sample."),
    actions,
  };
}

/**
 * A question that failed.
 * @param {import("./api.js").ApiError} error
 * @param {function(): void} retry
 * @returns {Notice}
 */
export function failed(error, retry) {
  if (error.unreachable) {
    return {
      title: "The collector does not answer",
      text: "What is shown may be old. The page asks again by itself.",
      waiting: true,
    };
  }
  if (error.status === 400) {
    return {
      title: "This can't be read",
      text: `${error.message}.`,
      code: 'namespace="prod", pod=~"api-.*"',
    };
  }
  const advice = error.status >= 500 ? " A shorter time range asks less of it." : "";
  return {
    title: "This can't be answered",
    text: `${error.message}.${advice}`.replace("..", "."),
    actions: [["Ask again", retry]],
  };
}
