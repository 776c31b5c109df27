// Numbers, shares and times as people read them (pure).

const KIB = 1024;
const BYTE_UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const COUNT_UNITS = ["", " k", " M", " G", " T"];
/** Nanoseconds in a unit; the largest that fits is taken. */
const TIME_UNITS = [
  [86_400e9, "d"], [3_600e9, "h"], [60e9, "min"], [1e9, "s"], [1e6, "ms"], [1e3, "µs"], [1, "ns"],
];
/** Types whose nanoseconds a second are a number of something: processors, threads. */
const COUNTED_TIME = { "process_cpu:cpu": "cores", "wall:wall": "threads" };
/** Controls, and characters that turn the direction of text: shown, so that no name can lie. */
const INVISIBLE = /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

const NAMES = {
  "process_cpu:cpu": "CPU time",
  "wall:wall": "Wall time",
  "memory:inuse_space": "Heap in use",
  "memory:inuse_objects": "Heap objects in use",
  "memory:alloc_space": "Allocated bytes",
  "memory:alloc_objects": "Allocated objects",
  "goroutine:goroutine": "Goroutines",
  "mutex:contentions": "Mutex contentions",
  "mutex:delay": "Mutex wait",
  "block:contentions": "Blocking events",
  "block:delay": "Blocked time",
  "memory:growth": "Memory growth",
  "memory:live_objects": "Live objects",
  "memory:live_bytes": "Live bytes",
  "process_memory:rss": "Memory (RSS)",
  "process_memory:anon": "Memory (anonymous)",
  "process_memory:limit": "Memory limit",
  "process_memory:start_time": "Start of the process",
};

/**
 * Names a profile type in words.
 * @param {string} id
 * @returns {string}
 */
export function typeName(id) {
  const [group = "", sample = ""] = id.split(":");
  return NAMES[`${group}:${sample}`] ?? `${group}: ${sample}`;
}

/**
 * Tells whether a type is a reading of a process, which has no stacks.
 * @param {string} id
 * @returns {boolean}
 */
export function isReading(id) {
  return id.startsWith("process_memory:");
}

/**
 * Tells whether a type says something to people: a time of start, drawn as an amount, does not.
 * @param {string} id
 * @returns {boolean}
 */
export function isOffered(id) {
  return !id.startsWith("process_memory:start_time:");
}

/**
 * Writes an amount, e.g. "1.24 s", "412 MiB", "12.3 k".
 * @param {number} value
 * @param {string} unit Of the profile type.
 * @returns {string}
 */
export function amount(value, unit) {
  if (unit === "nanoseconds") return duration(value);
  if (unit === "bytes") return bytes(value);
  return scaled(value, 1000, COUNT_UNITS).trim();
}

/**
 * Writes an amount a second (deltas) or an average (gauges), e.g. "0.42 cores", "3.1 MiB/s".
 * @param {number} value In the type's unit, a second for deltas.
 * @param {{type: string, unit: string, kind: string}} measure
 * @returns {string}
 */
export function rate(value, { type, unit, kind }) {
  if (kind === "gauge") return amount(value, unit);
  const counted = COUNTED_TIME[type.split(":", 2).join(":")];
  if (counted) return `${digits(value / 1e9)} ${counted}`;
  return `${amount(value, unit)}/s`;
}

/**
 * Writes nanoseconds.
 * @param {number} nanos
 * @returns {string}
 */
export function duration(nanos) {
  if (!nanos) return "0 s";
  const size = Math.abs(nanos);
  // 999.6 ms would be written as 1000 ms.
  const [factor, name] = TIME_UNITS.find(([each]) => size >= each * 0.9995) ?? [1, "ns"];
  return `${digits(nanos / factor)} ${name}`;
}

/**
 * Writes bytes.
 * @param {number} value
 * @returns {string}
 */
export function bytes(value) {
  return scaled(value, KIB, BYTE_UNITS.map((unit) => ` ${unit}`));
}

/**
 * Writes a part of a whole, e.g. "34.2 %".
 * @param {number} part
 * @param {number} whole
 * @returns {string}
 */
export function share(part, whole) {
  if (!(whole > 0)) return "–";
  const percent = (100 * part) / whole;
  if (percent > 0 && percent < 0.01) return "< 0.01 %";
  return `${percent.toFixed(Math.abs(percent) < 0.1 ? 2 : 1)} %`;
}

/**
 * Writes a change with its sign; a true minus, so that columns line up.
 * @param {number} value
 * @param {(size: number) => string} write For its size.
 * @returns {string}
 */
export function signed(value, write) {
  if (!value) return "±0";
  return `${value > 0 ? "+" : "−"}${write(Math.abs(value))}`;
}

/**
 * Writes a number with three significant digits.
 * @param {number} value
 * @returns {string}
 */
export function digits(value) {
  const size = Math.abs(value);
  if (size >= 100) return value.toFixed(0);
  if (size >= 10) return value.toFixed(1);
  if (size >= 0.01 || !size) return value.toFixed(2);
  return size < 0.001 ? "< 0.001" : value.toFixed(3);
}

/**
 * Writes an integer with thin spaces between thousands.
 * @param {number} value
 * @returns {string}
 */
export function integer(value) {
  return Math.round(value).toString().replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

/**
 * Writes a moment in local time; the day only where it is not today.
 * @param {number} ms Since the epoch.
 * @param {{seconds?: boolean, now?: number}} [options]
 * @returns {string}
 */
export function moment(ms, { seconds = true, now = Date.now() } = {}) {
  const at = new Date(ms);
  const two = (value) => String(value).padStart(2, "0");
  const clock = `${two(at.getHours())}:${two(at.getMinutes())}`;
  const text = seconds ? `${clock}:${two(at.getSeconds())}` : clock;
  const today = new Date(now);
  if (at.toDateString() === today.toDateString()) return text;
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${text}`;
}

/**
 * Writes a range of time.
 * @param {number} from
 * @param {number} until
 * @returns {string}
 */
export function span(from, until) {
  const sameDay = new Date(from).toDateString() === new Date(until).toDateString();
  const end = moment(until, { now: sameDay ? until : Date.now() });
  return `${moment(from)} – ${end}`;
}

/**
 * Makes what can't be seen in a name visible.
 * @param {string} text
 * @returns {string}
 */
export function visible(text) {
  return text.replace(INVISIBLE, (found) => {
    return `⟨${found.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`;
  });
}

function scaled(value, step, units) {
  let size = Math.abs(value);
  let at = 0;
  // 999.5 would be written as 1000.
  while (size >= step - 0.5 && at < units.length - 1) {
    size /= step;
    at++;
  }
  const text = at || size % 1 ? digits(size) : String(size);
  return `${value < 0 ? "−" : ""}${text}${units[at]}`;
}
