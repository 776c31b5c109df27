// Asks the collector's API.

/** Longer than the collector's own limit for a question, so that its answer says what was wrong. */
const PATIENCE_MS = 60_000;
/** Clocks that differ by less count as the same: the header has whole seconds. */
const SAME_CLOCK_MS = 2_000;

/** What the API, or the way to it, says is wrong. */
export class ApiError extends Error {
  /**
   * @param {string} message For people.
   * @param {{status?: number, code?: string}} [details] Status 0: no answer at all.
   */
  constructor(message, { status = 0, code = "unreachable" } = {}) {
    super(message);
    this.status = status;
    this.code = code;
  }

  /** Whether nobody answered. */
  get unreachable() {
    return this.status === 0 || this.status === 502 || this.status === 504;
  }
}

/** The server's clock minus ours, in ms; 0 while they agree. */
let skew = 0;

/**
 * Gives the server's time: ranges that end now must end at its now.
 * @returns {number} ms since the epoch.
 */
export function serverNow() {
  return Date.now() + skew;
}

/**
 * Makes an address of the API. It is relative to the page, which may be served below a prefix.
 * @param {string} path Below /api/v1/.
 * @param {Object<string, string|number>} [parameters] Empty ones are left out.
 * @returns {string}
 */
export function address(path, parameters = {}) {
  const url = new URL(`api/v1/${path}`, document.baseURI);
  url.hash = "";
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== "") url.searchParams.set(name, String(value));
  }
  return url.href;
}

/**
 * Asks for JSON.
 * @param {string} path
 * @param {Object<string, string|number>} parameters
 * @param {AbortSignal} signal
 * @returns {Promise<object>}
 * @throws {ApiError} Nobody answered, or the answer is an error.
 */
export async function get(path, parameters, signal) {
  const ended = AbortSignal.any([signal, AbortSignal.timeout(PATIENCE_MS)]);
  let answer;
  try {
    answer = await fetch(address(path, parameters), { signal: ended, cache: "no-store" });
    noteClock(answer.headers.get("Date"));
    if (answer.ok) return await answer.json();
  } catch (error) {
    if (signal.aborted) throw error;
    if (error.name === "TimeoutError") throw new ApiError("no answer within a minute");
    if (error instanceof SyntaxError) {
      throw new ApiError("the answer is no JSON: is something else listening at this address?");
    }
    throw new ApiError("no connection");
  }
  const told = await answer.json().catch(() => null);
  throw new ApiError(told?.error?.message ?? `the answer was ${answer.status}`, {
    status: answer.status,
    code: told?.error?.code,
  });
}

/** Keeps only the newest of each kind of question: an older one is given up. */
export class Questions {
  constructor() {
    this.running = new Map();
  }

  /**
   * Ends a question that nobody waits for any more.
   * @param {string} name
   */
  end(name) {
    this.running.get(name)?.abort();
  }

  /**
   * Runs a question; a later one of the same name ends it.
   * @template T
   * @param {string} name
   * @param {function(AbortSignal): Promise<T>} ask
   * @returns {Promise<?T>} Null where a later one took over.
   */
  async latest(name, ask) {
    this.running.get(name)?.abort();
    const control = new AbortController();
    this.running.set(name, control);
    try {
      const answer = await ask(control.signal);
      return control.signal.aborted ? null : answer;
    } catch (error) {
      if (control.signal.aborted) return null;
      throw error;
    } finally {
      if (this.running.get(name) === control) this.running.delete(name);
    }
  }
}

function noteClock(date) {
  const server = Date.parse(date ?? "");
  if (Number.isNaN(server)) return;
  const found = server + 500 - Date.now();
  skew = Math.abs(found) < SAME_CLOCK_MS ? 0 : found;
}
