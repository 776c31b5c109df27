// Label selectors for the API: PromQL matcher lists (pure).

/**
 * Puts the chosen service and what was typed into one selector.
 * @param {string} service "" for all.
 * @param {string} typed With or without braces.
 * @returns {string}
 */
export function compose(service, typed) {
  const inner = withoutBraces(typed);
  const name = service ? `service_name=${quoted(service)}` : "";
  // What was typed stands first: the API tells where in it a mistake is.
  return `{${[inner, name].filter(Boolean).join(", ")}}`;
}

/**
 * Quotes a label value.
 * @param {string} value
 * @returns {string}
 */
export function quoted(value) {
  const escaped = value
    .replace(/\\/g, "\\\\")
    .replace(/"/g, '\\"')
    .replace(/\n/g, "\\n");
  return `"${escaped}"`;
}

/** Only a whole pair of braces is taken off: what is left over is the API's to complain about. */
function withoutBraces(text) {
  const trimmed = text.trim();
  const whole = trimmed.startsWith("{") && trimmed.endsWith("}");
  return (whole ? trimmed.slice(1, -1) : trimmed).trim().replace(/,$/, "");
}
