"""Where profiles, the log and the built demo are kept between starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flamewell.errors import CommandError


def default_data_dir(environ: Mapping[str, str]) -> Path:
    """Give the folder that is used when none is named."""
    home = environ.get("XDG_DATA_HOME") or str(Path(environ.get("HOME", "/")) / ".local/share")
    return Path(home) / "flamewell"


def make_data_dir(data_dir: Path) -> None:
    """Make the data directory, for its owner only: stacks tell much about a program.

    Raises:
        CommandError: It can't be made or written.
    """
    probe = data_dir / ".writable"
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise CommandError(
            f"cannot write to the data directory {data_dir}: {error.strerror}. "
            "Was it made by another user (sudo)? Name another one with --data-dir"
        ) from error
