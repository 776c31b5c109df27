// Keys that work everywhere on the page, and the drawer of services on narrow screens.

import { byId } from "./dom.js";

const FOCUSED = { "/": "search", s: "service-search", g: "flame", t: "timeline" };
const PRESSED = { c: "compare", f: "flip", l: "live" };

/**
 * Listens for keys.
 * @param {function(): boolean} zoomOut Tells whether there was something to zoom out of.
 */
export function startKeys(zoomOut) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") leave(event.target, zoomOut);
    else if (!event.target.matches("input, select, textarea")) press(event);
  });
  byId("drawer").addEventListener("click", () => openDrawer(!isOpen()));
  byId("skip").addEventListener("click", (event) => {
    event.preventDefault(); // the fragment of the address is the page's state
    byId("flame").focus();
  });
}

/**
 * Opens or closes the list of services where it has no place beside the rest.
 * @param {boolean} open
 */
export function openDrawer(open) {
  byId("services").classList.toggle("open", open);
  byId("drawer").setAttribute("aria-expanded", String(open));
  if (open) byId("service-search").focus();
}

function isOpen() {
  return byId("services").classList.contains("open");
}

function leave(target, zoomOut) {
  if (isOpen()) openDrawer(false);
  else if (!zoomOut() && target.matches("input")) target.blur();
}

function press(event) {
  const place = FOCUSED[event.key];
  const button = PRESSED[event.key];
  if (place) {
    // On a narrow screen the field is in the drawer.
    if (place === "service-search" && byId("drawer").checkVisibility()) openDrawer(true);
    byId(place).focus();
  } else if (button) {
    byId(button).click();
  } else {
    return;
  }
  event.preventDefault();
}
