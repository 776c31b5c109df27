// Menus are <details>: they open without script; this closes them.

/** Closes each menu by Escape, by a click elsewhere, and when another one opens. */
export function startMenus() {
  const menus = [...document.querySelectorAll("details.menu")];
  for (const menu of menus) {
    menu.addEventListener("toggle", () => {
      if (menu.open) for (const other of menus) if (other !== menu) other.open = false;
    });
    menu.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !menu.open) return;
      event.stopPropagation();
      closeMenu(menu);
    });
  }
  document.addEventListener("pointerdown", (event) => {
    for (const menu of menus) if (!menu.contains(event.target)) menu.open = false;
  });
}

/**
 * Closes a menu and gives the focus back to its button.
 * @param {HTMLDetailsElement} menu
 */
export function closeMenu(menu) {
  menu.open = false;
  menu.querySelector("summary").focus();
}
