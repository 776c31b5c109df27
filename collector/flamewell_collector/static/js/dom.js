// Makes elements. Text is only ever set as text: names from profiles are hostile.

/**
 * Finds an element of the template.
 * @param {string} id
 * @returns {HTMLElement}
 */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the template has no #${id}`);
  return found;
}

/**
 * Makes an element.
 * @param {string} tag
 * @param {Object<string, *>} [attributes] `class`, `text`, `on<event>` handlers, other attributes;
 *   null, undefined and false leave one out.
 * @param {...(Node|string|null)} children
 * @returns {HTMLElement}
 */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") made.textContent = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/**
 * Makes a bar that shows a part of a whole.
 * @param {number} part From 0 to 1.
 * @param {string} kind Class that colours it.
 * @returns {HTMLElement}
 */
export function meter(part, kind) {
  const filled = el("i", { class: kind });
  // Through the object model: the content policy forbids style attributes.
  filled.style.width = `${(100 * Math.min(1, Math.max(0, part))).toFixed(2)}%`;
  return el("span", { class: "meter", "aria-hidden": "true" }, filled);
}

/**
 * Sets pressed state of a toggle button.
 * @param {HTMLElement} button
 * @param {boolean} pressed
 */
export function press(button, pressed) {
  button.setAttribute("aria-pressed", String(pressed));
}

/**
 * Calls a function once things have calmed down.
 * @param {number} ms
 * @param {function(...*): void} work
 * @returns {function(...*): void}
 */
export function debounced(ms, work) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...values), ms);
  };
}

/**
 * Notes how long something took, for the bench and the browser's own tools; only the newest of
 * each name is kept, so that a page that stays open for days does not grow.
 * @param {string} name
 * @param {number} begin From performance.now().
 */
export function newest(name, begin) {
  performance.clearMeasures(name);
  performance.measure(name, { start: begin });
}
