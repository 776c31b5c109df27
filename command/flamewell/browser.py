"""Opens the page on a desktop."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping


def open_page(url: str, environ: Mapping[str, str], *, interactive: bool) -> None:
    """Show a page in the browser of the desktop, if this runs in a terminal on one."""
    opener = shutil.which("xdg-open", path=environ.get("PATH", ""))
    desktop = environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY")
    if not (interactive and desktop and opener):
        return
    subprocess.Popen(
        [opener, url],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
