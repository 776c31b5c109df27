"""Decodes pprof profiles (profile.proto, gzipped or not) into columns.

https://github.com/google/pprof/blob/main/proto/profile.proto. Every sample type becomes a profile
of its own; text labels of samples become series labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from google.protobuf import message

from flamewell_collector.batch_builder import Known, Profiles, build
from flamewell_collector.batch_columns import ProfileColumns
from flamewell_collector.errors import InvalidRequest, ProfileRejected
from flamewell_collector.gzipping import MAGIC, gunzip
from flamewell_collector.hashing import label_set_hash
from flamewell_collector.labels import check_labels
from flamewell_collector.limits import Limits
from flamewell_collector.model import DecodedBatch
from flamewell_collector.pprof_tables import PprofMessage, SampleTable, read_samples, read_stacks
from flamewell_collector.wire_columns import Malformed
from flamewell_wire import profile_types

Int64s = npt.NDArray[np.int64]

NAME_LABEL: Final = "__name__"
_INT64_MAX = 2**63 - 1
_OVERFLOW = float(2**63) * (1 - 1e-9)
_NANOS_PER_MS = 1_000_000
_NAME_OF_SAMPLE_TYPE: Final = {
    "cpu": "process_cpu",
    "samples": "process_cpu",
    "wall": "wall",
    "inuse_space": "memory",
    "inuse_objects": "memory",
    "alloc_space": "memory",
    "alloc_objects": "memory",
    "goroutine": "goroutine",
    "goroutines": "goroutine",
    "contentions": "mutex",
    "delay": "mutex",
}


@dataclass(frozen=True, slots=True)
class Upload:
    """What a sender says about a profile.

    Attributes:
        labels: Of its series; ``__name__`` names the group of its types (``block``, …), where the
            sample types leave it open.
        time_ms: When it began, where the profile itself does not say; 0 unknown.
        duration_ms: The same.
    """

    labels: Mapping[str, str]
    time_ms: int = 0
    duration_ms: int = 0


@dataclass(frozen=True, slots=True)
class DecodedPprof:
    """What a profile held.

    Attributes:
        batch: What may be stored.
        rejected: Reason → number of profiles (one a label set and type) that are not in it.
        rejected_samples: Reason → number of samples in those.
        truncated_stacks: Stacks that lost frames.
        truncated_symbols: Names that were cut.
        message: The first rejection in words.
    """

    batch: DecodedBatch
    rejected: Counter[str]
    rejected_samples: Counter[str]
    truncated_stacks: int
    truncated_symbols: int
    message: str


class PprofDecoder:
    """Decodes profiles; safe to use from several threads."""

    def __init__(
        self,
        limits: Limits,
        *,
        room_for_series: Callable[[str, int], bool],
        known: Known | None = None,
        admit_samples: Callable[[int, int], None] = lambda _profiles, _samples: None,
    ) -> None:
        """Make a decoder; the arguments are those of the OTLP decoder."""
        self._limits = limits
        self._room_for_series = room_for_series
        self._known = known
        self._admit_samples = admit_samples

    def decode(self, body: bytes, upload: Upload, tenant: str, now_ms: int) -> DecodedPprof:
        """Turn a profile into columns.

        Raises:
            InvalidRequest: It is no profile.
            TooLarge: More than a body may have comes out of the gzip.
            ProfileRejected: It is above a limit, or refers to what is not there.
            Overloaded: The samples were not admitted.
        """
        profile = self._parse(body)
        self._admit_samples(1, len(profile.sample) * len(profile.sample_type))
        try:
            samples = read_samples(profile)
            stacks, table = read_stacks(profile, samples, self._limits)
        except Malformed as error:
            raise InvalidRequest(f"not a pprof profile: {error}") from error
        if stacks.bad.any():
            number = int(np.flatnonzero(stacks.bad)[0])
            raise ProfileRejected("bad_index", f"sample {number} refers to what is not there")
        _check_values(samples.values)
        types = _types(profile, upload.labels.get(NAME_LABEL, ""))
        time_ms = self._time_ms(profile.time_nanos // _NANOS_PER_MS or upload.time_ms, now_ms)
        duration_ms = max(profile.duration_nanos // _NANOS_PER_MS or upload.duration_ms, 0)
        rejected: Counter[str] = Counter()
        rejected_samples: Counter[str] = Counter()
        problems: list[ProfileRejected] = []
        series: list[tuple[int, dict[str, str]] | None] = []
        sizes = np.bincount(samples.label_set, minlength=len(samples.label_sets))
        for size, own in zip(sizes.tolist(), samples.label_sets, strict=True):
            try:
                series.append(self._series(tenant, upload.labels, own))
            except ProfileRejected as error:
                series.append(None)
                problems.append(error)
                rejected[error.reason] += len(types)
                rejected_samples[error.reason] += size
        built = build(
            _profiles(samples, series, types, time_ms=time_ms, duration_ms=duration_ms),
            stacks,
            tenant=tenant,
            batch_ids=(),
            known=self._known,
            max_nodes=self._limits.batch_nodes,
        )
        if built.refused.any():
            full = ProfileRejected("too_many_frames", "the tree of all stacks is too large")
            problems.append(full)
            rejected[full.reason] += int(built.refused.sum())
        return DecodedPprof(
            batch=built.batch,
            rejected=rejected,
            rejected_samples=rejected_samples,
            truncated_stacks=built.truncated_stacks,
            truncated_symbols=table.truncated_symbols,
            message=f"{problems[0].reason}: {problems[0]}" if problems else "",
        )

    def _parse(self, body: bytes) -> Any:
        limits = self._limits
        if body.startswith(MAGIC):
            body = gunzip(body, limit_bytes=limits.body_bytes)
        if len(body) > limits.profile_bytes:
            raise ProfileRejected("profile_too_large", f"{len(body)} bytes")
        profile = PprofMessage()
        try:
            profile.ParseFromString(body)
        except message.DecodeError as error:
            raise InvalidRequest(f"not a pprof profile: {error}") from error
        if not profile.sample_type:
            raise InvalidRequest("not a pprof profile: it has no sample type")
        if len(profile.sample) > limits.profile_samples:
            raise ProfileRejected("too_many_samples", f"{len(profile.sample)} in one profile")
        return profile

    def _time_ms(self, stated_ms: int, now_ms: int) -> int:
        time_ms = stated_ms or now_ms
        if time_ms < now_ms - self._limits.max_age_ms:
            raise ProfileRejected("too_old", f"began {(now_ms - time_ms) // 1000} s ago")
        if time_ms > now_ms + self._limits.max_ahead_ms:
            raise ProfileRejected("too_new", f"begins {(time_ms - now_ms) // 1000} s from now")
        return time_ms

    def _series(
        self, tenant: str, stated: Mapping[str, str], own: Mapping[str, str]
    ) -> tuple[int, dict[str, str]]:
        """Give the series of a label set; what the sender says of the whole profile wins.

        Raises:
            ProfileRejected: Too many or too long labels, or too many series.
        """
        labels = {**own, **{name: each for name, each in stated.items() if name != NAME_LABEL}}
        labels.setdefault("service_name", "unknown_service")
        check_labels(labels, self._limits)
        series_id = label_set_hash(labels.items())
        if not self._room_for_series(tenant, series_id):
            raise ProfileRejected("series_limit", f"{self._limits.series} series are the limit")
        return series_id, labels


def _check_values(values: Int64s) -> None:
    """Hold values against what can be stored.

    Args:
        values: Shape (samples, types).

    Raises:
        ProfileRejected: One is negative, or a total is beyond 63 bits.
    """
    if not values.size:
        return
    if int(values.min()) < 0:
        raise ProfileRejected("negative_value", f"a sample has the value {int(values.min())}")
    total = float(values.astype(float).sum(axis=0).max())
    if total >= _OVERFLOW:
        raise ProfileRejected("value_out_of_range", f"the total is {total:.3g}")


def _types(profile: Any, name: str) -> list[str]:
    """Give the type id of each sample type.

    Raises:
        ProfileRejected: A string is outside its table.
    """
    period = (_text(profile, profile.period_type.type), _text(profile, profile.period_type.unit))
    ids: list[str] = []
    for each in profile.sample_type:
        kind, unit = _text(profile, each.type), _text(profile, each.unit)
        group = name or _NAME_OF_SAMPLE_TYPE.get(kind, "other")
        parts = (group, kind, unit, *period)
        ids.append(_KNOWN.get((group, kind), ":".join(part.replace(":", "_") for part in parts)))
    if len(set(ids)) < len(ids):
        raise ProfileRejected("bad_profile_type", "two sample types have one name")
    return ids


_KNOWN: Final = {(each.name, each.sample_type): each.id for each in profile_types.ALL}


def _text(profile: Any, number: int) -> str:
    if not 0 <= number < max(len(profile.string_table), 1):
        raise ProfileRejected("bad_index", f"string {number} is outside its table")
    return str(profile.string_table[number].decode(errors="replace")) if number else ""


def _profiles(
    samples: SampleTable,
    series: list[tuple[int, dict[str, str]] | None],
    types: list[str],
    *,
    time_ms: int,
    duration_ms: int,
) -> Profiles:
    """Make a profile a type and label set, by type."""
    taken = [each for each in series if each is not None]
    place = np.cumsum([each is not None for each in series]) - 1
    kept = np.array([each is not None for each in series], dtype=bool)[samples.label_set]
    stack = np.flatnonzero(kept)
    group = place[samples.label_set[stack]]
    if len(taken) > 1:
        order = np.argsort(group, kind="stable")
        stack, group = stack[order], group[order]
    count = len(taken) * len(types)
    profile = (np.arange(len(types))[:, None] * len(taken) + group).ravel()
    value = np.ascontiguousarray(samples.values[stack].T).ravel()
    totals = np.zeros(count, dtype=np.int64)
    np.add.at(totals, profile, value)
    columns = ProfileColumns(
        services=[labels["service_name"] for _, labels in taken] * len(types),
        type_ids=[each for each in types for _ in taken],
        series_ids=[series_id for series_id, _ in taken] * len(types),
        times_ms=np.full(count, time_ms),
        durations_ms=np.full(count, min(duration_ms, _INT64_MAX)),
        totals=totals,
        sample_counts=np.zeros(count, dtype=np.int64),
    )
    return Profiles(
        columns,
        dict(taken),
        profile,
        np.tile(stack, len(types)),
        value,
    )
