// Light and dark. theme_first.js has already set what was chosen, before the first paint.

/** Where theme_first.js looks, too. */
const KEY = "flamewell-theme";
const dark = matchMedia("(prefers-color-scheme: dark)");

/**
 * Gives the theme that is shown.
 * @returns {"light"|"dark"}
 */
export function shownTheme() {
  const chosen = document.documentElement.dataset.theme;
  return chosen || (dark.matches ? "dark" : "light");
}

/** The first click must change what is seen: the opposite of the system, then the other one. */
function following(choice) {
  const system = dark.matches ? "dark" : "light";
  const opposite = dark.matches ? "light" : "dark";
  if (choice === "system") return opposite;
  return choice === opposite ? system : "system";
}

/**
 * Makes the button go round: as the system, its opposite, the same fixed.
 * @param {HTMLElement} button
 * @param {function(): void} onChange
 */
export function startTheme(button, onChange) {
  const tell = () => {
    const chosen = document.documentElement.dataset.theme || "system";
    button.dataset.choice = chosen;
    const words = chosen === "system" ? `as the system (${shownTheme()})` : chosen;
    button.setAttribute("aria-label", `Theme: ${words}. Change to ${following(chosen)}`);
    button.title = `Theme: ${words}`;
  };
  button.addEventListener("click", () => {
    const next = following(document.documentElement.dataset.theme || "system");
    if (next === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    remember(next);
    tell();
    onChange();
  });
  dark.addEventListener("change", () => {
    tell();
    onChange();
  });
  tell();
}

function remember(choice) {
  try {
    if (choice === "system") localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, choice);
  } catch {
    // Storage may be switched off; then the choice lasts as long as the page.
  }
}
