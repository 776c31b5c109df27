"""Runs the agent's code as a user with few capabilities, as its container does on a node.

The machine's own files are bound to where that user may read them: an interpreter may live below
/root. They are seen in a mount namespace of its own, so nothing is left of it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import flamewell_agent
import flamewell_settings
import flamewell_wire
from flamewell_agent.samplers.pyspy import find_py_spy

UID = 10002
"""Another one than the user's in the containers."""

LOOK = """
import json, sys, threading
from pathlib import Path
from flamewell_agent.checks import check_other_users, parse_capabilities
from flamewell_agent.discovery import Discovery
from flamewell_agent.model import Window
from flamewell_agent.samplers.pyspy import PySpy

pid, py_spy, work = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
capabilities = parse_capabilities(Path("/proc/self/status").read_text())
(process,) = [each for each in Discovery().scan() if each.key.pid == pid]
order = Window(process, 97, 1, 0.0, cpu_limit_seconds=60.0)
(result,) = PySpy(py_spy, work / "windows").run([order], threading.Event())
print(json.dumps({
    "capabilities": capabilities,
    "runtime": process.runtime,
    "version": process.runtime_version,
    "unreadable": process.unreadable,
    "failure": result.failure,
    "detail": result.detail,
    "functions": sorted({f.function for stack, _ in result.samples for f in stack}),
    "check": [check_other_users(capabilities).status, check_other_users(capabilities).detail],
}))
"""


@contextmanager
def _bound() -> Iterator[tuple[Path, str, Path]]:
    """Give a directory that all may enter, a shell script that fills it, and one to write to."""
    sources = {
        "python": Path(sys.base_prefix),
        "site": Path(sysconfig.get_path("purelib")),
        "agent": Path(flamewell_agent.__file__).parents[1],
        "wire": Path(flamewell_wire.__file__).parents[1],
        "settings": Path(flamewell_settings.__file__).parents[1],
    }
    with tempfile.TemporaryDirectory(prefix="fw-") as name:
        top = Path(name)
        top.chmod(0o755)
        for each in sources:
            (top / each).mkdir()
        shutil.copy(find_py_spy(), top / "py-spy")
        work = top / "work"
        work.mkdir()
        shutil.chown(work, UID, UID)
        mounts = " && ".join(
            f'mount --bind "{path}" "{top}/{each}"' for each, path in sources.items()
        )
        yield top, mounts, work


def look(pid: int, capabilities: Sequence[str]) -> dict[str, Any]:
    """Discover and sample a process as a user who has only these capabilities (``sys_ptrace``)."""
    wanted = ",".join(["-all", *(f"+{each}" for each in capabilities)])
    with _bound() as (top, mounts, work):
        packages = [f"{top}/{each}" for each in ("site", "agent", "wire", "settings")]
        python = f"{top}/python/bin/python{sysconfig.get_python_version()}"
        done = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c",
             f'{mounts} && exec "$@"', "sh",
             "setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--no-new-privs",
             f"--inh-caps={wanted}", f"--ambient-caps={wanted}", f"--bounding-set={wanted}",
             python, "-c", LOOK, str(pid), f"{top}/py-spy", str(work)],
            capture_output=True, text=True, check=False, timeout=60, cwd="/",
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                 "LD_LIBRARY_PATH": f"{top}/python/lib",
                 "PYTHONPATH": ":".join(packages)},
        )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout)
