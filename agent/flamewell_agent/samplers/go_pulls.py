"""What is pulled from a Go program, and how what came becomes profiles.

Another kind of profile is a row in PULLS. Whether values are amounts now (gauges, taken as they
are) or grow since the program's start (turned into deltas here) follows from the profile type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flamewell_agent.errors import ProfileFormatError
from flamewell_agent.model import Profile, Resource, Stack
from flamewell_agent.samplers.pprof_parse import ParsedProfile, ParsedSample
from flamewell_wire import profile_types
from flamewell_wire.profile_types import ProfileType


@dataclass(frozen=True, slots=True)
class Pull:
    """One thing to fetch.

    Attributes:
        path: Below the endpoint's base path.
        types: What to take out of it; pprof's names for values are the types' ``sample_type``.
        windowed: Fetched with ``?seconds=N``: the values are what happened in that window.
    """

    path: str
    types: tuple[ProfileType, ...]
    windowed: bool = False


PULLS: tuple[Pull, ...] = (
    Pull("profile", (profile_types.CPU,), windowed=True),
    # Never heap?seconds=N: it subtracts the in-use values too, which makes nonsense of them.
    Pull(
        "heap",
        (
            profile_types.INUSE_SPACE,
            profile_types.INUSE_OBJECTS,
            profile_types.ALLOC_SPACE,
            profile_types.ALLOC_OBJECTS,
        ),
    ),
    Pull("goroutine", (profile_types.GOROUTINE,)),
    Pull("mutex", (profile_types.MUTEX_CONTENTIONS, profile_types.MUTEX_DELAY)),
    Pull("block", (profile_types.BLOCK_CONTENTIONS, profile_types.BLOCK_DELAY)),
)


@dataclass(frozen=True, slots=True)
class Span:
    """When something was fetched: unix nanoseconds and how long it took."""

    start_unix_nanos: int
    duration_nanos: int


class Converter:
    """Turns what one endpoint answers into profiles; remembers counters to subtract."""

    def __init__(self) -> None:
        self._previous: dict[str, _Counters] = {}

    def convert(
        self, parsed: ParsedProfile, pull: Pull, *, resource: Resource, span: Span
    ) -> list[Profile]:
        """Make the profiles of one answer; none for a counter that is seen for the first time.

        Raises:
            ProfileFormatError: A type of the pull is not in the answer (``missing_type``).
        """
        return [
            profile
            for kind in pull.types
            if (profile := self._convert_type(parsed, pull, kind, resource, span)) is not None
        ]

    def forget(self) -> None:
        """Drop what was remembered: the program is another one now."""
        self._previous.clear()

    def _convert_type(
        self,
        parsed: ParsedProfile,
        pull: Pull,
        kind: ProfileType,
        resource: Resource,
        span: Span,
    ) -> Profile | None:
        column = _column(parsed, kind)
        values = {each.key: each.values[column] for each in parsed.samples}
        if pull.windowed:
            start, duration = span.start_unix_nanos, parsed.duration_nanos or span.duration_nanos
        elif kind.kind == "gauge":
            start, duration = span.start_unix_nanos, 0
        else:
            previous = self._previous.get(kind.id)
            self._previous[kind.id] = _Counters(span.start_unix_nanos, values)
            if previous is None or previous.restarted(values):
                return None
            start = previous.taken_unix_nanos
            duration = max(0, span.start_unix_nanos - start)
            values = previous.deltas(values)
        samples = tuple(_samples(parsed.samples, values))
        return Profile(resource, kind.id, start, duration, 1, samples) if samples else None


@dataclass(frozen=True, slots=True)
class _Counters:
    """Cumulative values by stack key, as they were at a time."""

    taken_unix_nanos: int
    values: Mapping[int, int]

    def restarted(self, values: Mapping[int, int]) -> bool:
        """Tell whether counting began anew: a counter of one program never shrinks or vanishes."""
        return any(values.get(key, -1) < value for key, value in self.values.items())

    def deltas(self, values: Mapping[int, int]) -> dict[int, int]:
        return {key: value - self.values.get(key, 0) for key, value in values.items()}


def _column(parsed: ParsedProfile, kind: ProfileType) -> int:
    try:
        return parsed.sample_types.index((kind.sample_type, kind.sample_unit))
    except ValueError as error:
        raise ProfileFormatError(
            "missing_type", f"{kind.sample_type}/{kind.sample_unit} is not in the profile"
        ) from error


def _samples(
    parsed: tuple[ParsedSample, ...], values: Mapping[int, int]
) -> list[tuple[Stack, int]]:
    return [(each.stack, values[each.key]) for each in parsed if values[each.key]]
