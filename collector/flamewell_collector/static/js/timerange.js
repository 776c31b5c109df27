// Ranges of time as they are typed, and as they are asked for (pure).

const UNIT_MS = { s: 1e3, m: 60e3, h: 3_600e3, d: 86_400e3, w: 604_800e3 };
const RELATIVE = /^now(?:\s*-\s*(\d{1,9})\s*([smhdw]))?$/;
const ABSOLUTE = /^(\d{4})-(\d\d?)-(\d\d?)(?:[T ](\d\d?):(\d\d)(?::(\d\d))?)?$/;
const CLOCK = /^(\d\d?):(\d\d)(?::(\d\d))?$/;

/** Ranges of one click. */
export const PRESETS = [
  ["now-5m", "Last 5 minutes"],
  ["now-15m", "Last 15 minutes"],
  ["now-1h", "Last hour"],
  ["now-6h", "Last 6 hours"],
  ["now-24h", "Last 24 hours"],
  ["now-7d", "Last 7 days"],
];

/**
 * Turns a time as typed into ms since the epoch: `now`, `now-1h`, `2026-11-22 21:05`, `21:05`
 * (today), or ms since the epoch. Times are local.
 * @param {string} text
 * @param {number} now
 * @returns {number} NaN where it is none of these.
 */
export function toMs(text, now) {
  const cleaned = text.trim();
  const relative = RELATIVE.exec(cleaned);
  if (relative) return now - Number(relative[1] ?? 0) * UNIT_MS[relative[2] ?? "s"];
  if (/^\d{11,15}$/.test(cleaned)) return Number(cleaned);
  const clock = CLOCK.exec(cleaned);
  if (clock) return new Date(now).setHours(+clock[1], +clock[2], +(clock[3] ?? 0), 0);
  const day = ABSOLUTE.exec(cleaned);
  if (!day) return Number.NaN;
  const [, year, month, date, hour = 0, minute = 0, second = 0] = day.map((part) => part && +part);
  return new Date(year, month - 1, date, hour, minute, second).getTime();
}

/**
 * Checks a typed range.
 * @param {string} from
 * @param {string} until
 * @param {number} now
 * @returns {{from: string, until: string, error: string}} As state: relative or ms.
 */
export function readRange(from, until, now) {
  const [start, end] = [from, until].map((text) => toMs(text, now));
  const wrong = Number.isNaN(start) ? from : Number.isNaN(end) ? until : null;
  let error = "";
  if (wrong !== null) {
    error = `“${wrong}” is not a time: write now-30m, 21:05 or 2026-11-22 21:05`;
  } else if (start >= end) {
    error = "The start must be before the end.";
  }
  return { from: asState(from, start), until: asState(until, end), error };
}

/**
 * Says a range in a few words.
 * @param {string} from
 * @param {string} until
 * @param {function(number, number): string} write For absolute ones.
 * @param {number} now
 * @returns {string}
 */
export function rangeName(from, until, write, now) {
  const preset = PRESETS.find(([text]) => text === from);
  if (preset && until === "now") return preset[1];
  if (isRelative(from) && until === "now") return `Last ${from.slice(4)}`;
  return write(toMs(from, now), toMs(until, now));
}

/**
 * Tells whether a time moves with the clock.
 * @param {string} text
 * @returns {boolean}
 */
export function isRelative(text) {
  return RELATIVE.test(text.trim());
}

function asState(text, ms) {
  return isRelative(text) ? text.replace(/\s/g, "") : String(ms);
}
