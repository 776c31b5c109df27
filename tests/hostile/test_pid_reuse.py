"""A pid that becomes another process's is never told as the one that had it before.

In a PID namespace of its own, where the next pid can be chosen without touching the machine's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes a PID namespace")
INSIDE = str(Path(__file__).parent / "reuse.py")


@pytest.fixture(scope="module")
def said(tmp_path_factory) -> dict[str, Any]:
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable]
    folder = str(tmp_path_factory.mktemp("reuse"))
    done = subprocess.run(
        [*command, INSIDE, folder], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(json.dumps(found, indent=1))
    return found


def test_the_two_have_different_keys_and_names(said):
    assert not said["clock"]["same_key"]
    assert said["clock"]["names"] == ["old", "new"]


def test_cpu_time_of_the_new_one_is_not_told_as_the_old_ones(said):
    clock = said["clock"]
    told = {"old": 0, "new": 0}
    for step in ("late", "ended", "again", "rest"):
        for name, nanos in clock[step].items():
            told[name] += nanos
    assert told["old"] / 1e9 == pytest.approx(clock["old_seconds"], abs=0.2)
    assert told["new"] / 1e9 == pytest.approx(clock["new_seconds"], abs=0.1)


def test_a_window_on_the_old_one_says_that_the_pid_is_anothers(said):
    assert said["window"] == {"failure": "pid_reused", "functions": [], "target_cpu_seconds": 0}


def test_a_window_amid_which_the_pid_becomes_anothers_shows_nothing_of_the_new_one(said):
    amid = said["amid"]
    assert "spin" not in amid["functions"]
    assert amid["failure"] in {"", "pid_reused", "process_ended"}
    if not amid["failure"]:
        assert "burn_sixty" in amid["functions"]
        assert amid["target_cpu_seconds"] < 3
