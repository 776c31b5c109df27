"""The profiles of an OTLP request: what stands in their heads, and their samples as columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flamewell_collector.errors import ProfileRejected
from flamewell_collector.limits import Limits
from flamewell_collector.otlp_dictionary import at, string
from flamewell_collector.wire_columns import Fields, Records
from flamewell_wire import attributes as names
from flamewell_wire import profile_types

Int64s = npt.NDArray[np.int64]

_INT64_MAX = 2**63 - 1
_UINT_INT64_MAX = np.uint64(_INT64_MAX)
_NANOS_PER_MS = 1_000_000
_SAMPLES_AT_ONCE = 64_000
_STACK, _VALUES, _TIMESTAMPS = 1, 4, 5
"""Field numbers of Sample in opentelemetry/proto/profiles/v1development/profiles.proto."""
_COUNTED = ("samples", "count")
_BY_SAMPLE_TYPE: dict[tuple[str, str], profile_types.ProfileType] = {
    ("cpu", "nanoseconds"): profile_types.CPU,
    ("wall", "nanoseconds"): profile_types.WALL,
    ("inuse_space", "bytes"): profile_types.INUSE_SPACE,
    ("inuse_objects", "count"): profile_types.INUSE_OBJECTS,
    ("alloc_space", "bytes"): profile_types.ALLOC_SPACE,
    ("alloc_objects", "count"): profile_types.ALLOC_OBJECTS,
    ("goroutine", "count"): profile_types.GOROUTINE,
    ("goroutines", "count"): profile_types.GOROUTINE,
    ("contentions", "count"): profile_types.MUTEX_CONTENTIONS,
    ("delay", "nanoseconds"): profile_types.MUTEX_DELAY,
}


@dataclass(slots=True)
class ProfileHead:
    """One profile, as far as it is known without its samples.

    Attributes:
        message: The profile.
        series_id: Hash of its labels.
        labels: Of its series.
        spooled: It comes from a sender that keeps what it can't send.
        type_id: Pyroscope profile type id.
        factor: What a value of 1 stands for.
        time_ms: When it began; -1 as long as only its samples know.
        duration_ms: How long it was.
        sample_count: How many samples it has.
    """

    message: Any
    series_id: int
    labels: dict[str, str]
    spooled: bool
    type_id: str = ""
    factor: int = 1
    time_ms: int = -1
    duration_ms: int = 0
    sample_count: int = 0


class HeadReader:
    """Reads the heads of the profiles of one request."""

    def __init__(self, dictionary: Any, limits: Limits, now_ms: int) -> None:
        self._dictionary = dictionary
        self._limits = limits
        self._now_ms = now_ms
        self._samples = 0
        self._types: dict[tuple[int, ...], tuple[str, int]] = {}

    def read(self, head: ProfileHead) -> None:
        """Check a profile and fill in its head.

        Raises:
            ProfileRejected: Says why it is not taken.
        """
        profile, limits = head.message, self._limits
        head.sample_count = len(profile.samples)
        if head.sample_count > limits.profile_samples:
            raise ProfileRejected("too_many_samples", f"{head.sample_count} in one profile")
        if self._samples + head.sample_count > limits.batch_samples:
            raise ProfileRejected(
                "too_many_samples", f"more than {limits.batch_samples} in one request"
            )
        size = profile.ByteSize()
        if size > limits.profile_bytes:
            raise ProfileRejected("profile_too_large", f"{size} bytes")
        if profile.time_unix_nano:
            head.time_ms = self.time_ms(profile.time_unix_nano, spooled=head.spooled)
        head.type_id, head.factor = self._type_and_factor(profile)
        self._samples += head.sample_count
        head.duration_ms = min(profile.duration_nano // _NANOS_PER_MS, _INT64_MAX)

    def time_ms(self, nanos: int, *, spooled: bool) -> int:
        """Give a profile's time; 0 means now.

        Raises:
            ProfileRejected: It is too old or too new.
        """
        now_ms, limits = self._now_ms, self._limits
        time_ms = nanos // _NANOS_PER_MS or now_ms
        if time_ms < now_ms - (limits.max_spooled_age_ms if spooled else limits.max_age_ms):
            raise ProfileRejected("too_old", f"began {(now_ms - time_ms) // 1000} s ago")
        if time_ms > now_ms + limits.max_ahead_ms:
            raise ProfileRejected("too_new", f"begins {(time_ms - now_ms) // 1000} s from now")
        return time_ms

    def _type_and_factor(self, profile: Any) -> tuple[str, int]:
        sample, period = profile.sample_type, profile.period_type
        key = (
            sample.type_strindex,
            sample.unit_strindex,
            period.type_strindex,
            period.unit_strindex,
            profile.period,
            *profile.attribute_indices,
        )
        known = self._types.get(key)
        if known is None:
            known = self._types[key] = _type_and_factor(profile, self._dictionary)
        return known


def _type_and_factor(profile: Any, dictionary: Any) -> tuple[str, int]:
    """Give the profile type id, and what a value of 1 stands for.

    Raises:
        ProfileRejected: A number is outside its table, or the type is none.
    """
    sample_type = _value_type(profile.sample_type, dictionary)
    period_type = _value_type(profile.period_type, dictionary)
    counted = sample_type == _COUNTED and period_type[1] == "nanoseconds"
    factor = profile.period if counted and profile.period > 0 else 1
    stated = _stated_type(profile, dictionary)
    if stated is not None:
        is_count = (stated.sample_type, stated.sample_unit) == _COUNTED
        return stated.id, 1 if is_count else factor
    known = _BY_SAMPLE_TYPE.get(period_type if counted else sample_type)
    if known is not None:
        return known.id, factor
    if not sample_type[0]:
        raise ProfileRejected("no_profile_type", "the profile has no sample type")
    # Counts of an unknown kind stay counts: their id says so.
    parts = ("other", *sample_type, *period_type)
    return ":".join(part.replace(":", "_") for part in parts), 1


def _stated_type(profile: Any, dictionary: Any) -> profile_types.ProfileType | None:
    for number in profile.attribute_indices:
        attribute = at(dictionary.attribute_table, number, "attribute")
        if string(dictionary, attribute.key_strindex) == names.PROFILE_TYPE_ATTRIBUTE:
            try:
                return profile_types.parse_id(attribute.value.string_value)
            except ValueError as error:
                raise ProfileRejected("bad_profile_type", str(error)[:200]) from error
    return None


def _value_type(value_type: Any, dictionary: Any) -> tuple[str, str]:
    return (
        string(dictionary, value_type.type_strindex),
        string(dictionary, value_type.unit_strindex),
    )


@dataclass(frozen=True, slots=True)
class RawSamples:
    """The samples of some profiles behind each other.

    Attributes:
        profile: Which profile, ascending, shape (samples,).
        stack: Stack number, shape (samples,).
        value: -1 where one of several values is negative, shape (samples,).
        estimate: Sum of a profile's values as a float: it tells an overflow, shape (profiles,).
        first_nanos: A profile's first time stamp, 0 where there is none, shape (profiles,).
    """

    profile: Int64s
    stack: Int64s
    value: Int64s
    estimate: npt.NDArray[np.float64]
    first_nanos: Int64s


def read_samples(heads: Sequence[ProfileHead]) -> RawSamples:
    """Read the samples of profiles.

    Raises:
        Malformed: One of them is no Sample message.
    """
    stacks: list[Int64s] = [np.zeros(0, dtype=np.int64)]
    values: list[Int64s] = [np.zeros(0, dtype=np.int64)]
    estimate = np.zeros(len(heads))
    first_nanos = np.full(len(heads), _INT64_MAX, dtype=np.int64)
    counts = np.array([each.sample_count for each in heads], dtype=np.int64)
    for first, last in _groups(counts):
        messages: list[bytes] = []
        for head in heads[first:last]:
            messages += head.message.samples[:]
        fields = Records.of(messages).fields()
        profile = np.repeat(np.arange(first, last), counts[first:last])
        amounts, sizes = fields.integers(_VALUES)
        stacks.append(fields.scalar(_STACK))
        if len(amounts) == len(messages) and (sizes == 1).all():
            values.append(amounts)
        else:
            values.append(_sums(fields, amounts, sizes))
        estimate += np.bincount(
            np.repeat(profile, sizes), np.abs(amounts.astype(float)), minlength=len(heads)
        )
        if any(head.time_ms < 0 for head in heads[first:last]):
            stamps, sizes = fields.fixed64(_TIMESTAMPS)
            real = stamps > 0
            owner = np.repeat(profile, sizes)[real]
            np.minimum.at(
                first_nanos, owner, np.minimum(stamps[real], _UINT_INT64_MAX).view(np.int64)
            )
    return RawSamples(
        profile=np.repeat(np.arange(len(heads)), counts),
        stack=np.concatenate(stacks),
        value=np.concatenate(values),
        estimate=estimate,
        first_nanos=np.where(first_nanos == _INT64_MAX, 0, first_nanos),
    )


def _groups(counts: Int64s) -> Iterator[tuple[int, int]]:
    """Cut profiles into runs of some ten thousand samples: (first, behind the last)."""
    ends = np.cumsum(counts)
    first = 0
    while first < len(counts):
        before = int(ends[first - 1]) if first else 0
        last = int(np.searchsorted(ends, before + _SAMPLES_AT_ONCE, side="right"))
        yield first, max(first + 1, last)
        first = max(first + 1, last)


def _sums(fields: Fields, amounts: Int64s, sizes: Int64s) -> Int64s:
    """Give each sample's value, where there is not one each.

    Timestamps without values mean one observation each (opentelemetry-proto, Sample).
    """
    ends = np.cumsum(sizes)
    sums = np.zeros(len(amounts) + 1, dtype=np.int64)
    np.cumsum(amounts, out=sums[1:])  # what wraps around is told by the estimate
    value: Int64s = sums[ends] - sums[ends - sizes]
    owner = np.repeat(np.arange(len(sizes)), sizes)
    value[owner[amounts < 0]] = -1
    if (sizes == 0).any():
        _, stamps = fields.fixed64(_TIMESTAMPS)
        value = np.where(sizes == 0, stamps, value)
    return value
