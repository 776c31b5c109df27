"""Finds every process of the node and tells what runs in it.

A known process costs one read of its stat file a scan; everything else is looked at once.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from flamewell_agent import procfs
from flamewell_agent.elf import Executable, Executables
from flamewell_agent.errors import ProcessGoneError, ProcessUnreadableError
from flamewell_agent.model import Process, ProcessKey, Runtime

log = logging.getLogger(__name__)

_PYTHON_NAME = re.compile(r"python(?:[23](?:\.\d+)?)?(t|d)?(?:-[\w.]+)?$")
_LIBRARY = re.compile(r"/libpython([23]\.\d+)(t?)[a-z]*\.so")
_VERSIONED = re.compile(r"python([23]\.\d+)(t?)[a-z]*(?:/|$)")
_YOUNG_SCANS = 3
"""A process may load libpython soon after its start: a new one is looked at this often."""


@dataclass(frozen=True, slots=True)
class _Known:
    """A process, its name when it was looked at, and how often it was."""

    process: Process
    comm: str
    looks: int


class Discovery:
    """Scans the node's processes.

    Args:
        proc_root: The node's /proc.
        excluded: Gives the pids that are not looked at (the samplers' own children).
    """

    def __init__(
        self,
        proc_root: Path = Path("/proc"),
        *,
        excluded: Callable[[], Collection[int]] = tuple,
    ) -> None:
        self._proc_root = proc_root
        self._excluded = excluded
        self._executables = Executables()
        self._known: dict[ProcessKey, _Known] = {}
        self._scans = 0
        psutil.PROCFS_PATH = str(proc_root)

    def scan(self) -> list[Process]:
        """Give all processes but kernel threads; one that ends meanwhile is left out."""
        excluded = set(self._excluded())
        found: dict[ProcessKey, _Known] = {}
        for pid in psutil.pids():
            if pid in excluded:
                continue
            try:
                stat = procfs.read_stat(self._proc_root, pid)
                if not stat.kernel_thread:
                    key = ProcessKey(pid, stat.start_ticks)
                    found[key] = self._up_to_date(key, stat)
            except ProcessGoneError:
                continue
            except ProcessUnreadableError as error:
                log.debug("pid %d is left out: %s", pid, error)
        self._known = found
        self._scans += 1
        return [each.process for each in found.values()]

    def _up_to_date(self, key: ProcessKey, stat: procfs.Stat) -> _Known:
        known = self._known.get(key)
        if known is None:
            looks = 1 if self._scans else _YOUNG_SCANS
            return _Known(self._look(key, stat), stat.comm, looks)
        # An exec changes the name and keeps the pid and the start time.
        again = stat.comm != known.comm or (
            known.process.unreadable != "zombie"
            if stat.state == "Z"
            else known.process.runtime == "other" and known.looks < _YOUNG_SCANS
        )
        return _Known(self._look(key, stat), stat.comm, known.looks + 1) if again else known

    def _look(self, key: ProcessKey, stat: procfs.Stat) -> Process:
        """Look at a process closely.

        Raises:
            ProcessGoneError: It ended meanwhile.
        """
        process = Process(key, "other", "", stat.comm, (), unreadable="")
        if stat.state == "Z":
            return replace(process, unreadable="zombie")
        try:
            process = replace(
                process,
                cmdline=procfs.parse_cmdline(
                    procfs.read_bytes(self._proc_root, key.pid, "cmdline")
                ),
                cgroup=procfs.parse_cgroup(procfs.read_bytes(self._proc_root, key.pid, "cgroup")),
            )
            path = procfs.read_link(self._proc_root, key.pid, "exe").removesuffix(" (deleted)")
            process = replace(process, executable=path.rpartition("/")[2] or stat.comm)
            maps = procfs.read_bytes(self._proc_root, key.pid, "maps")
            mapped = [each.path for each in procfs.executable_maps(maps)]
        except ProcessUnreadableError as error:
            # The name and the arguments may still tell that it is Python, which then shows in
            # the ledger as one that can't be read.
            return _guessed(process, str(error))
        runtime, version, unreadable = classify(
            process.executable, mapped, all_paths=maps, inspect=lambda: self._inspect(key.pid)
        )
        return replace(process, runtime=runtime, runtime_version=version, unreadable=unreadable)

    def _inspect(self, pid: int) -> Executable:
        # Through the magic link: it opens the very file, also when it is deleted or lives in
        # another mount namespace.
        try:
            return self._executables.inspect(str(self._proc_root / str(pid) / "exe"))
        except (FileNotFoundError, ProcessLookupError):
            return Executable()
        except OSError as error:
            log.debug("the executable of pid %d can't be read: %s", pid, error)
            return Executable()


def classify(
    executable: str,
    mapped: Collection[str],
    *,
    all_paths: bytes,
    inspect: Callable[[], Executable],
) -> tuple[Runtime, str, str]:
    """Tell what runs in a process: (runtime, version, why it can't be sampled or empty).

    Args:
        executable: Base name of the executable.
        mapped: Paths of files that are mapped executable.
        all_paths: The content of /proc/PID/maps, for the version of a static interpreter.
        inspect: Looks into the executable file; called only where names do not tell.
    """
    for path in mapped:
        library = _LIBRARY.search(path)
        if library:
            return "cpython", library.group(1), "free_threaded" if library.group(2) else ""
    named = _PYTHON_NAME.match(executable)
    if named or (found := inspect()).python:
        versioned = _VERSIONED.search(executable) or _VERSIONED.search(
            all_paths.decode("utf-8", "replace")
        )
        free_threaded = bool(versioned and versioned.group(2))
        version = versioned.group(1) if versioned else ""
        return "cpython", version, "free_threaded" if free_threaded else ""
    if found.go_version:
        return "go", found.go_version, ""
    return "other", "", ""


def _guessed(process: Process, reason: str) -> Process:
    program = process.cmdline[0].rpartition("/")[2] if process.cmdline else process.executable
    runtime: Runtime = "cpython" if _PYTHON_NAME.match(program) else "other"
    return replace(
        process,
        runtime=runtime,
        executable=program or process.executable,
        unreadable=f"not_permitted: {reason}" if runtime == "cpython" else "",
    )
