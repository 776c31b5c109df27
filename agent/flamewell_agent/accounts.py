"""Keeps, for each Python process, how much of its CPU time has been told to the collector.

CPU time of cycles without a window is carried to the next window for a while, then told without
stacks: the sum over all profiles of a process is the CPU time that it used.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from flamewell_agent.model import Process, ProcessKey

CARRY_SECONDS = 60.0
_RATE_SMOOTHING = 0.5


@dataclass(slots=True)
class _Account:
    process: Process
    told_nanos: int
    seen_nanos: int
    seen_at: float
    told_at: float
    nanos_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class Untold:
    """CPU time for which no window came in time."""

    process: Process
    cpu_nanos: int
    seconds: float


class CpuAccounts:
    """CPU time by process. Times are monotonic seconds.

    Args:
        since_ticks: When accounting began, in clock ticks after boot: what older processes used
            before they were first seen is not ours to tell, what younger ones did is.
    """

    def __init__(self, *, since_ticks: int) -> None:
        self._since_ticks = since_ticks
        self._accounts: dict[ProcessKey, _Account] = {}
        self._passed_over: frozenset[ProcessKey] = frozenset()
        self._observed_at: float | None = None

    def observe(
        self,
        readings: Iterable[tuple[Process, int]],
        now: float,
        *,
        passed_over: Collection[ProcessKey] = (),
    ) -> list[Untold]:
        """Take the CPU clocks of a scan; gives what processes that ended had not told.

        Args:
            readings: Python processes with their CPU time in ns.
            now: When.
            passed_over: Others that were looked at: those nobody wants profiled, or that run no
                Python. Where one is among the readings later, its time until then is not ours.
        """
        alive: dict[ProcessKey, _Account] = {}
        for process, nanos in readings:
            account = self._accounts.pop(process.key, None)
            if account is None:
                older = (
                    process.key.start_ticks < self._since_ticks or process.key in self._passed_over
                )
                told = nanos if older else 0
                account = _Account(process, told, told, now, now)
                # It is not older than the time since the last look.
                age = now - self._observed_at if self._observed_at is not None else 1.0
                account.nanos_per_second = None if older else nanos / max(age, 1.0)
            elif now > account.seen_at:
                # A clock does not run backwards: a lower one is another process's, which got the
                # pid between the scan and the reading.
                nanos = max(nanos, account.seen_nanos)  # noqa: PLW2901 - see above
                rate = (nanos - account.seen_nanos) / (now - account.seen_at)
                known = rate if account.nanos_per_second is None else account.nanos_per_second
                account.nanos_per_second = known + _RATE_SMOOTHING * (rate - known)
            account.process, account.seen_nanos, account.seen_at = process, nanos, now
            alive[process.key] = account
        ended = [
            Untold(each.process, each.seen_nanos - each.told_nanos, now - each.told_at)
            for each in self._accounts.values()
            if each.seen_nanos > each.told_nanos
        ]
        self._accounts = alive
        self._passed_over = frozenset(passed_over)
        self._observed_at = now
        return ended

    def nanos_per_second(self, key: ProcessKey) -> float:
        """Give how much CPU a process used lately."""
        account = self._accounts.get(key)
        return (account.nanos_per_second if account else None) or 0.0

    def settle(self, key: ProcessKey, nanos: int, now: float) -> int:
        """Give the CPU time to tell with a window that just ended, and count it as told.

        Args:
            key: Whose.
            nanos: The CPU clock when the window ended.
            now: When.
        """
        account = self._accounts.get(key)
        if account is None:
            return 0
        latest = max(nanos, account.seen_nanos, account.told_nanos)
        untold = latest - account.told_nanos
        account.told_nanos, account.told_at = latest, now
        return untold

    def overdue(self, now: float, carry_seconds: float = CARRY_SECONDS) -> list[Untold]:
        """Give, and count as told, what has been carried for too long."""
        found = []
        for account in self._accounts.values():
            if now - account.told_at >= carry_seconds:
                untold = account.seen_nanos - account.told_nanos
                if untold > 0:
                    found.append(Untold(account.process, untold, now - account.told_at))
                account.told_nanos = max(account.told_nanos, account.seen_nanos)
                account.told_at = now
        return found
