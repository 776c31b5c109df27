"""Finds every process of the node and tells what runs in it.

A known process costs one read of its stat file a scan; everything else is looked at once.
"""

from __future__ import annotations

import logging
import math
import re
import time
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


NOT_LOOKED_AT = "not_looked_at_yet"


@dataclass(frozen=True, slots=True)
class _Known:
    """A process, what its stat file said when it was looked at, and how often it was."""

    process: Process
    stat: procfs.Stat
    looks: int


class Discovery:
    """Scans the node's processes.

    Args:
        proc_root: The node's /proc.
        excluded: Gives the pids that are not looked at (the samplers' own children).
        thread_cpu_seconds: Clock for what looks cost.
    """

    def __init__(
        self,
        proc_root: Path = Path("/proc"),
        *,
        excluded: Callable[[], Collection[int]] = tuple,
        thread_cpu_seconds: Callable[[], float] = time.thread_time,
    ) -> None:
        self._proc_root = proc_root
        self._excluded = excluded
        self._cpu_seconds = thread_cpu_seconds
        self._executables = Executables()
        self._known: dict[ProcessKey, _Known] = {}
        self._scans = 0
        psutil.PROCFS_PATH = str(proc_root)

    def scan(self, look_cpu_seconds: float = math.inf) -> list[Process]:
        """Give all processes but kernel threads; one that ends meanwhile is left out.

        Args:
            look_cpu_seconds: What closer looks may cost. Those for which it was not enough are
                ``not_looked_at_yet``; the next scan begins with them: a node that starts
                processes as fast as it can makes no scan dear.
        """
        stats = self._read_stats()
        found = {key: known for key in stats if (known := self._known.get(key)) is not None}
        began = self._cpu_seconds()
        for key, stat in sorted(stats.items(), key=self._urgency):
            known = found.get(key)
            if known is not None and not _look_again(known, stat):
                continue
            try:
                if self._cpu_seconds() - began > look_cpu_seconds:
                    found[key] = known or _Known(_unknown(key, stat, NOT_LOOKED_AT), stat, 0)
                else:
                    found[key] = self._look_closely(key, stat, known)
            except ProcessGoneError:
                found.pop(key, None)
            except Exception:
                # One process that nobody thought of must not hide all the others.
                log.exception("pid %d could not be looked at", key.pid)
                found[key] = _Known(_unknown(key, stat, "look_failed"), stat, _YOUNG_SCANS)
        self._known = found
        self._scans += 1
        return [each.process for each in found.values()]

    def _read_stats(self) -> dict[ProcessKey, procfs.Stat]:
        excluded = set(self._excluded())
        found = {}
        for pid in psutil.pids():
            if pid in excluded:
                continue
            try:
                stat = procfs.read_stat(self._proc_root, pid)
            except ProcessGoneError:
                continue
            except ProcessUnreadableError as error:
                log.debug("pid %d is left out: %s", pid, error)
                continue
            if not stat.kernel_thread:
                found[ProcessKey(pid, stat.start_ticks)] = stat
        return found

    def _urgency(self, item: tuple[ProcessKey, procfs.Stat]) -> tuple[int, int]:
        """Sort those that had to wait, then new ones, then known ones; each by CPU time used."""
        key, stat = item
        known = self._known.get(key)
        return (1 if known is None else 0 if not known.looks else 2), -stat.cpu_ticks

    def _look_closely(self, key: ProcessKey, stat: procfs.Stat, known: _Known | None) -> _Known:
        process = self._look(key, stat)
        # The pid may have become another's while its files were read, one by one.
        if procfs.read_stat(self._proc_root, key.pid).start_ticks != key.start_ticks:
            raise ProcessGoneError(f"process {key.pid} ended")
        first = 1 if self._scans else _YOUNG_SCANS
        return _Known(process, stat, known.looks + 1 if known and known.looks else first)

    def _look(self, key: ProcessKey, stat: procfs.Stat) -> Process:
        """Look at a process closely.

        Raises:
            ProcessGoneError: It ended meanwhile.
        """
        process = _unknown(key, stat, "")
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


def _unknown(key: ProcessKey, stat: procfs.Stat, unreadable: str) -> Process:
    return Process(key, "other", "", stat.comm, (), unreadable=unreadable, parent_pid=stat.parent)


def _look_again(known: _Known, stat: procfs.Stat) -> bool:
    # An exec keeps the pid and the start time.
    before = known.stat
    if known.looks == 0 or (stat.comm, stat.stack_start) != (before.comm, before.stack_start):
        return True
    if stat.state == "Z":
        return known.process.unreadable != "zombie"
    return known.process.runtime == "other" and known.looks < _YOUNG_SCANS


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
