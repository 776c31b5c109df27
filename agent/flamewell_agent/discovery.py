"""Finds every process of the node and tells what runs in it.

A known process costs one read of its stat file a scan; everything else is looked at once, or a few
times where it may still load what tells.
"""

from __future__ import annotations

import logging
import math
import os
import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from flamewell_agent import procfs
from flamewell_agent.cpu_clock import ticks_since_boot
from flamewell_agent.elf import Executable, Executables
from flamewell_agent.errors import LookHungError, ProcessGoneError, ProcessUnreadableError
from flamewell_agent.look_thread import LookThread
from flamewell_agent.model import NOT_LOOKED_AT, Process, ProcessKey, Runtime

log = logging.getLogger(__name__)

_PYTHON_NAME = re.compile(r"python(?:[23](?:\.\d+)?)?(t|d)?(?:-[\w.]+)?$")
_LIBRARY = re.compile(r"/libpython([23]\.\d+)(t?)[a-z]*\.so")
_VERSIONED = re.compile(r"python([23]\.\d+)(t?)[a-z]*(?:/|$)")
_TICKS = os.sysconf("SC_CLK_TCK")
_YOUNG_TICKS = 120 * _TICKS
"""A process may load libpython some time after its start, whether the agent runs by then or not: as
long as it is younger and not all is known, it is looked at again each time its age has doubled."""
_RETRY_TICKS, _RETRY_AT_MOST_TICKS = 5 * _TICKS, 600 * _TICKS
"""After a look that failed, doubled each time."""
_LOOK_FAILED, _LOOK_HUNG = "look_failed", "look_hung"


@dataclass(frozen=True, slots=True)
class _Known:
    """A process that was looked at, or is to be.

    Attributes:
        process: What was found.
        stat: What its stat file said then.
        looks: How often it was looked at.
        again_ticks: When it is looked at again, in ticks since boot.
    """

    process: Process
    stat: procfs.Stat
    looks: int
    again_ticks: float = math.inf

    @property
    def hung_at(self) -> str:
        """The executable that gave no answer, empty otherwise."""
        word, _, path = self.process.unreadable.partition(": ")
        return path if word == _LOOK_HUNG else ""


class Discovery:
    """Scans the node's processes.

    Args:
        proc_root: The node's /proc.
        excluded: Gives the pids that are not looked at (the samplers' own children).
        thread_cpu_seconds: Clock for what looks cost.
        ticks: Clock of which processes' start times are told.
        looks: Makes those that may not end.
    """

    def __init__(
        self,
        proc_root: Path = Path("/proc"),
        *,
        excluded: Callable[[], Collection[int]] = tuple,
        thread_cpu_seconds: Callable[[], float] = time.thread_time,
        ticks: Callable[[], int] = ticks_since_boot,
        looks: LookThread | None = None,
    ) -> None:
        self._proc_root = proc_root
        self._excluded = excluded
        self._cpu_seconds = thread_cpu_seconds
        self._executables = Executables()
        self._known: dict[ProcessKey, _Known] = {}
        self._ticks = ticks
        self._looks = looks or LookThread()
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
        began = self._spent()
        for key, stat in sorted(stats.items(), key=self._urgency):
            known = found.get(key)
            if known is not None and not self._look_again(known, stat):
                continue
            try:
                if self._spent() - began > look_cpu_seconds:
                    found[key] = known or _Known(_unknown(key, stat, NOT_LOOKED_AT), stat, 0)
                else:
                    found[key] = self._look_closely(key, stat, known)
            except ProcessGoneError:
                found.pop(key, None)
            except Exception:
                # One process that nobody thought of must not hide all the others.
                log.exception("pid %d could not be looked at", key.pid)
                failed = _unknown(key, stat, _LOOK_FAILED)
                found[key] = self._note(failed, stat, known)
        self._looks.rest()
        self._known = found
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
        return self._note(process, stat, known)

    def _note(self, process: Process, stat: procfs.Stat, known: _Known | None) -> _Known:
        """Note what was found, and when to look again."""
        looks = known.looks + 1 if known else 1
        now = self._ticks()
        age = max(0, now - stat.start_ticks)
        again: float = math.inf
        if process.unreadable.startswith(_LOOK_FAILED):
            again = now + min(_RETRY_TICKS * 2.0 ** min(looks - 1, 10), _RETRY_AT_MOST_TICKS)
        elif not _is_clear(process) and stat.state != "Z" and age < _YOUNG_TICKS:
            again = now + age
        return _Known(process, stat, looks, again)

    def _spent(self) -> float:
        """Give what looks have cost so far, CPU seconds."""
        return self._cpu_seconds() + self._looks.cpu_seconds

    def _look_again(self, known: _Known, stat: procfs.Stat) -> bool:
        # An exec keeps the pid and the start time.
        before = known.stat
        if known.looks == 0 or (stat.comm, stat.stack_start) != (before.comm, before.stack_start):
            return True
        if stat.state == "Z":
            return known.process.unreadable != "zombie"
        if known.hung_at:
            return self._looks.would_try(known.hung_at)
        return self._ticks() >= known.again_ticks

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
        try:
            runtime, version, unreadable = classify(
                process.executable,
                mapped,
                all_paths=maps,
                inspect=lambda: self._inspect(key.pid, path),
            )
        except LookHungError as error:
            log.warning("pid %d is not looked at: %s", key.pid, error)
            return replace(process, unreadable=f"{_LOOK_HUNG}: {path}")
        except OSError as error:
            return replace(process, unreadable=f"{_LOOK_FAILED}: {error.strerror}")
        return replace(process, runtime=runtime, runtime_version=version, unreadable=unreadable)

    def _inspect(self, pid: int, path: str) -> Executable:
        # Through the magic link: it opens the very file, also when it is deleted or lives in
        # another mount namespace.
        link = str(self._proc_root / str(pid) / "exe")
        try:
            return self._looks.run(path, lambda: self._executables.inspect(link))
        except (FileNotFoundError, ProcessLookupError):
            return Executable()
        except PermissionError as error:
            log.debug("the executable of pid %d can't be read: %s", pid, error)
            return Executable()


def _is_clear(process: Process) -> bool:
    """Tell whether another look could tell more.

    An interpreter that was just started may be known by its own file, its version only once its
    library or a module of it is mapped; in the midst of exec a process has no arguments.
    """
    if not process.cmdline and not process.unreadable:
        return False
    if process.runtime == "cpython":
        return bool(process.runtime_version or process.unreadable)
    return process.runtime != "other"


def _unknown(key: ProcessKey, stat: procfs.Stat, unreadable: str) -> Process:
    return Process(key, "other", "", stat.comm, (), unreadable=unreadable, parent_pid=stat.parent)


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
