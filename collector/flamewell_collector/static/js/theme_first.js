// A plain script at the top of the page: sets the chosen theme before anything is painted.
try {
  const chosen = localStorage.getItem("flamewell-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // Storage may be switched off; then the system's theme is shown.
}
