"""Which wall-clock time the windows of a service stand for: all since the last time it was told."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from flamewell_agent.model import Resource, WindowResult

CARRY_SECONDS = 60.0
"""The longest time that the looks of a window stand for."""
_NANOS = 1_000_000_000


class WallClocks:
    """Remembers when each service was told. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._told_at: dict[Resource, float] = {}

    def stand_for(
        self, resource: Resource, windows: Sequence[WindowResult], members: int, now: float
    ) -> list[int]:
        """Give for each window the wall-clock time that it stands for, in ns, and note it as told.

        Args:
            resource: Whose.
            windows: Of processes that were drawn with equal chances.
            members: How many processes there are.
            now: When.
        """
        told_at = self._told_at.get(resource)
        self._told_at[resource] = now
        since = min(now - told_at, CARRY_SECONDS) if told_at is not None else 0.0
        return [
            int(max(since, each.wall_seconds) * _NANOS * members / len(windows)) for each in windows
        ]

    def keep_only(self, resources: Collection[Resource]) -> None:
        """Forget all others."""
        for resource in self._told_at.keys() - set(resources):
            del self._told_at[resource]
