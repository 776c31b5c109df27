"""What rights show and hide: capabilities of the agent, closed directories, hidepid."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from containers import runc, unprivileged
from containers.looking import BOUND, copy_of, pid_with

pytestmark = [
    pytest.mark.containers,
    pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is missing: util-linux"),
]

PTRACE, READ = "sys_ptrace", "dac_read_search"


@pytest.fixture
def closed_pid(start, until, tmp_path_factory) -> int:
    """Give a process whose interpreter is in a directory that only its own user may enter."""
    if BOUND is None:
        pytest.skip("no interpreter outside of /usr")
    own = copy_of(BOUND, tmp_path_factory.mktemp("closed"))
    shutil.chown(own.prefix, runc.UID, runc.UID)
    own.prefix.chmod(0o700)
    return pid_with(until, start(own, "/work/shares.py"))


def test_with_both_capabilities_another_user_samples_from_a_closed_directory(closed_pid):
    told = unprivileged.look(closed_pid, [PTRACE, READ])
    assert told["capabilities"] == 1 << 19 | 1 << 2
    assert told["check"][0] == "ok"
    assert (told["runtime"], told["version"], told["unreadable"]) == ("cpython", BOUND.version, "")
    assert told["failure"] == "", told["detail"]
    assert "burn_sixty" in told["functions"]


def test_without_the_right_to_read_a_closed_directory_is_told_and_nothing_breaks(closed_pid):
    told = unprivileged.look(closed_pid, [PTRACE])
    assert told["capabilities"] == 1 << 19
    assert told["check"][0] == "warn"
    assert "closed directories" in told["check"][1]
    assert (told["runtime"], told["version"]) == ("cpython", BOUND.version)
    assert told["failure"] == "not_permitted"
    assert told["functions"] == []


def test_an_open_directory_needs_only_the_right_to_trace(start, until, interpreter):
    told = unprivileged.look(pid_with(until, start(interpreter, "/work/shares.py")), [PTRACE])
    assert told["failure"] == "", told["detail"]
    assert "burn_sixty" in told["functions"]


def test_without_any_capability_another_users_process_is_named_as_one_that_is_not_readable(
    start, until, interpreter
):
    told = unprivileged.look(pid_with(until, start(interpreter, "/work/shares.py")), [])
    assert told["runtime"] == "cpython"
    assert told["unreadable"].startswith("not_permitted")
    assert told["failure"] == "not_permitted"
    assert told["functions"] == []


LOOK = """
import json, sys
from pathlib import Path
from flamewell_agent.checks import check_hidepid, parse_capabilities
from flamewell_agent.discovery import Discovery
pid = int(sys.argv[1])
capabilities = parse_capabilities(Path("/proc/self/status").read_text())
check = check_hidepid(Path("/proc/self/mounts").read_text(), "/proc", capabilities)
found = [p for p in Discovery().scan() if p.key.pid == pid]
print(json.dumps({
    "status": check.status, "says": check.detail,
    "runtime": found[0].runtime if found else "hidden",
    "unreadable": found[0].unreadable if found else "",
}))
"""


def look_with_hidepid(pid: int, *wrapper: str) -> dict[str, str]:
    """Look from a mount namespace whose /proc hides others, behind a command that drops rights.

    As root's uid, so that our own files can be read: hidepid asks for the capability or the
    target's uid, and that is another one.
    """
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c",
         'mount -t proc -o hidepid=2 proc /proc && exec "$@"', "sh",
         *wrapper, sys.executable, "-c", LOOK, str(pid)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_hidepid_is_lifted_by_the_capability(start, until, interpreter):
    pid = pid_with(until, start(interpreter, "/work/sleeper.py"))
    told = look_with_hidepid(pid)
    assert (told["status"], told["runtime"], told["unreadable"]) == ("ok", "cpython", "")


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is missing: util-linux")
def test_hidepid_without_the_capability_hides_others_and_check_says_so(start, until, interpreter):
    pid = pid_with(until, start(interpreter, "/work/sleeper.py"))
    # The mount's group sees all, and that is group 0 unless it says gid=.
    told = look_with_hidepid(
        pid, "setpriv", "--regid=65534", "--clear-groups", "--bounding-set=-sys_ptrace"
    )
    assert told["status"] == "fail"
    assert "hidepid" in told["says"]
    assert told["runtime"] == "hidden"
