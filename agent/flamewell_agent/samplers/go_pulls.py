"""What is pulled from a Go program, and how what came becomes profiles.

Another kind of profile is a row in PULLS. Whether values are amounts now (gauges, taken as they
are) or grow since the program's start (turned into deltas here) follows from the profile type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from flamewell_agent.errors import ProfileFormatError
from flamewell_agent.model import Profile, Resource, Stack
from flamewell_agent.samplers.go_counters import CounterRoom, Counters, wanted_bytes
from flamewell_agent.samplers.pprof_parse import ParsedProfile, ParsedSample
from flamewell_wire import profile_types
from flamewell_wire.profile_types import ProfileType

WHOLE_FROM = 0.8
"""A window that covers this share of its time is taken as it is: the rest is the pause between
two windows, in which Go's profiler ends and the other profiles are fetched."""
_INT64_MAX = 2**63 - 1
"""Of one profile in all: one that went beyond would take the whole batch with it."""
_STANDS_FOR_NANOS_AT_MOST = 600 * 10**9
"""A window of 1 s in 100 s (the least ``cpu_share``) is drawn anew each round: gaps beyond six
times their mean are rare (e⁻⁶)."""


@dataclass(frozen=True, slots=True)
class Pull:
    """One thing to fetch.

    Attributes:
        kind: As annotations name it.
        path: Below the endpoint's base path.
        types: What to take out of it; pprof's names for values are the types' ``sample_type``.
        weight: How much waiting for it counts where not everything fits in the budget.
        windowed: Fetched with ``?seconds=N``: the values are what happened in that window.
    """

    kind: str
    path: str
    types: tuple[ProfileType, ...]
    weight: float = 1.0
    windowed: bool = False

    @property
    def growing(self) -> tuple[ProfileType, ...]:
        """Those of its types that are no gauges."""
        return tuple(kind for kind in self.types if kind.kind != "gauge")


PULLS: tuple[Pull, ...] = (
    Pull("cpu", "profile", (profile_types.CPU,), weight=4.0, windowed=True),
    # Never heap?seconds=N: it subtracts the in-use values too, which makes nonsense of them.
    # Never allocs: it is the same data, all four types, with another one marked as the default.
    Pull(
        "memory",
        "heap",
        (
            profile_types.INUSE_SPACE,
            profile_types.INUSE_OBJECTS,
            profile_types.ALLOC_SPACE,
            profile_types.ALLOC_OBJECTS,
        ),
        weight=2.0,
    ),
    Pull("goroutine", "goroutine", (profile_types.GOROUTINE,)),
    Pull("mutex", "mutex", (profile_types.MUTEX_CONTENTIONS, profile_types.MUTEX_DELAY)),
    Pull("block", "block", (profile_types.BLOCK_CONTENTIONS, profile_types.BLOCK_DELAY)),
)


def pulls_of(kinds: frozenset[str] | None) -> tuple[Pull, ...]:
    """Give the pulls of the kinds that may be pulled; None: all. Unknown kinds are nothing."""
    return tuple(each for each in PULLS if kinds is None or each.kind in kinds)


@dataclass(frozen=True, slots=True)
class Span:
    """When something was fetched.

    Attributes:
        start_unix_nanos: When it was asked for.
        duration_nanos: How long it took.
        start_nanos: The same start by a clock that never steps, which gaps are measured by.
    """

    start_unix_nanos: int
    duration_nanos: int
    start_nanos: int

    @property
    def end_unix_nanos(self) -> int:
        """When it was there."""
        return self.start_unix_nanos + self.duration_nanos


@dataclass(slots=True)
class Converter:
    """Turns what one endpoint answers into profiles; remembers counters to subtract.

    Attributes:
        room: Memory for the counters, shared by all endpoints.
        count: Told of stacks that had no room (``stacks_not_remembered``), and how many.
        whole_from: The share of its time that a window must cover to be taken as it is.
    """

    room: CounterRoom = field(default_factory=CounterRoom)
    count: Callable[[str, int], None] = lambda _reason, _count: None
    whole_from: float = WHOLE_FROM
    _previous: dict[str, Counters] = field(default_factory=dict)
    _window_end_nanos: int = 0

    def convert(
        self, parsed: ParsedProfile, pull: Pull, *, resource: Resource, span: Span
    ) -> list[Profile]:
        """Make the profiles of one answer; none for a counter that is seen for the first time.

        Raises:
            ProfileFormatError: A type of the pull is not in the answer (``missing_type``), or its
                amounts are beyond what the wire format holds (``malformed``).
        """
        columns = {kind: _column(parsed, kind) for kind in pull.types}
        profiles = []
        growing = pull.growing
        for kind in pull.types:
            if kind in growing and not pull.windowed:
                continue
            values = {each.key: each.values[columns[kind]] for each in parsed.samples}
            profile = Profile(
                resource, kind.id, span.start_unix_nanos, 0, 1, _samples(parsed.samples, values)
            )
            profiles.append(self._stretch(profile, parsed, span) if pull.windowed else profile)
        if growing and not pull.windowed:
            rows = {
                each.key: tuple(each.values[columns[kind]] for kind in growing)
                for each in parsed.samples
            }
            profiles += self._grown(parsed, pull, rows, resource, span)
        for profile in profiles:
            if sum(value for _, value in profile.samples) > _INT64_MAX:
                raise ProfileFormatError("malformed", f"{profile.type_id} is beyond 64 bits")
        return [each for each in profiles if each.samples]

    def forget(self) -> None:
        """Drop what was remembered: the program is another one now, or may be."""
        for path in self._previous:
            self.room.release((id(self), path))
        self._previous.clear()
        self._window_end_nanos = 0

    def _grown(
        self,
        parsed: ParsedProfile,
        pull: Pull,
        rows: Mapping[int, Sequence[int]],
        resource: Resource,
        span: Span,
    ) -> list[Profile]:
        """Subtract the former counters and remember the present ones."""
        kinds = pull.growing
        previous = self._previous.pop(pull.path, None)
        restarted = previous is None or previous.restarted(rows)
        profiles, unknown = [], 0
        if previous is not None and not restarted:
            start = previous.taken_unix_nanos
            duration = max(0, span.start_unix_nanos - start)
            for column, kind in enumerate(kinds):
                values, unknown = previous.deltas(rows, column)
                samples = _samples(parsed.samples, values)
                profiles.append(Profile(resource, kind.id, start, duration, 1, samples))
            if unknown:
                self.count("stacks_not_remembered", unknown)
        room = self.room.take((id(self), pull.path), wanted_bytes(len(rows), len(kinds)))
        self._previous[pull.path] = Counters.pack(span.start_unix_nanos, rows, len(kinds), room)
        return profiles

    def _stretch(self, profile: Profile, parsed: ParsedProfile, span: Span) -> Profile:
        """Let a window stand for all the time since the one before it ended.

        Where windows cover a part of the time (a share of CPU profiling, a budget), their values
        are multiplied by time / window, so that sums over hours and services stay right.
        """
        window = parsed.duration_nanos or span.duration_nanos
        end = span.start_nanos + window
        former, self._window_end_nanos = self._window_end_nanos, end
        time = min(end - former if former else window, max(window, _STANDS_FOR_NANOS_AT_MOST))
        if window <= 0 or time <= window or window / time >= self.whole_from:
            return _during(profile, span.start_unix_nanos, window, profile.samples)
        samples = scaled(profile.samples, time, window)
        return _during(profile, span.start_unix_nanos + window - time, time, samples)


def scaled(
    samples: tuple[tuple[Stack, int], ...], numerator: int, denominator: int
) -> tuple[tuple[Stack, int], ...]:
    """Multiply values by a fraction; what is cut off one goes to the next, so the sum is right."""
    rest = 0
    result = []
    for stack, value in samples:
        whole, rest = divmod(value * numerator + rest, denominator)
        result.append((stack, whole))
    return tuple(result)


def _during(
    profile: Profile, start: int, duration: int, samples: tuple[tuple[Stack, int], ...]
) -> Profile:
    return Profile(profile.resource, profile.type_id, start, duration, profile.period, samples)


def _column(parsed: ParsedProfile, kind: ProfileType) -> int:
    try:
        return parsed.sample_types.index((kind.sample_type, kind.sample_unit))
    except ValueError as error:
        raise ProfileFormatError(
            "missing_type", f"{kind.sample_type}/{kind.sample_unit} is not in the profile"
        ) from error


def _samples(
    parsed: tuple[ParsedSample, ...], values: Mapping[int, int]
) -> tuple[tuple[Stack, int], ...]:
    """Pair stacks with their values; nothing of these types is ever below 0, but for liars."""
    return tuple((each.stack, value) for each in parsed if (value := values.get(each.key, 0)) > 0)
