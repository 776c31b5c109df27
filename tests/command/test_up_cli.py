"""The command line maps what happens to exit statuses, in one place."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

import pytest

from flamewell import __version__, cli
from flamewell.errors import CommandError, UsageError


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flamewell", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_without_a_command_it_teaches() -> None:
    result = run()
    assert result.returncode == 2
    assert "flamewell up" in result.stdout
    assert "exit status: 0 done, 1 failed, 2 wrong usage" in result.stdout


@pytest.mark.parametrize("arguments", [("version",), ("--version",)])
def test_version(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert (result.returncode, result.stdout) == (0, f"flamewell {__version__}\n")


@pytest.mark.parametrize("command", ["up", "demo", "top", "flame", "diff", "export", "version"])
def test_each_command_explains_itself(command: str) -> None:
    result = run(command, "--help")
    assert result.returncode == 0
    assert f"usage: flamewell {command}" in result.stdout


def test_an_unknown_command_is_wrong_usage() -> None:
    assert run("fly").returncode == 2


@pytest.mark.parametrize(
    ("error", "status"),
    [(CommandError("no"), 1), (UsageError("no"), 2), (KeyboardInterrupt(), 1)],
)
def test_errors_become_statuses(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
) -> None:
    def fail(_options: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr(cli, "_run_version", fail)
    assert cli.main(["version"]) == status
    shown = capsys.readouterr().err
    assert shown == ("" if isinstance(error, KeyboardInterrupt) else "flamewell: no\n")


def test_a_reader_that_has_enough_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "flamewell", "version"]
    result = subprocess.run(
        command, stdout=writing, stderr=subprocess.PIPE, timeout=60, check=False
    )
    os.close(writing)
    assert (result.returncode, result.stderr) == (0, b"")
