// Taking things away: files in other tools' formats, and links.

import { address } from "./api.js";
import { byId, el } from "./dom.js";

const FORMATS = [
  ["pprof", "pprof", "go tool pprof, Pyroscope, Parca"],
  ["folded", "Folded stacks", "flamegraph.pl, inferno, grep"],
  ["speedscope", "Speedscope", "speedscope.app"],
  ["svg", "SVG picture", "for a ticket or a mail"],
  ["parquet", "Parquet", "DuckDB, pandas, Polars"],
];
const COPIED_MS = 2_000;

/**
 * Draws the export menu.
 * @param {Object<string, string|number>} parameters type, query, from, until.
 */
export function showExports(parameters) {
  const links = FORMATS.map(([format, name, use]) =>
    el(
      "a",
      { href: address("export", { format, ...parameters }), download: true },
      el("b", { text: name }),
      el("small", { text: use }),
    ),
  );
  byId("export-links").replaceChildren(...links);
}

/**
 * Makes the copy button work.
 * @param {function(): string} link Gives the address to copy.
 */
export function startCopy(link) {
  const button = byId("copy");
  const name = button.textContent;
  let timer = 0;
  button.addEventListener("click", async () => {
    const text = link();
    const copied = await copy(text);
    button.textContent = copied ? "Copied" : "Press Ctrl+C";
    byId("announce").textContent = copied ? "Link copied, with its time range fixed" : "";
    clearTimeout(timer);
    timer = setTimeout(() => (button.textContent = name), COPIED_MS);
  });
}

/** The clipboard needs https or localhost; elsewhere a selected text is copied as of old. */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = el("textarea", { class: "unseen", "aria-hidden": "true" });
    field.value = text;
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    return done;
  }
}
