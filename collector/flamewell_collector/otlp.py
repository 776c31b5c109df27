"""Decodes OTLP profiles (v1development) into columns, from a parsed request to a batch.

A profile that is broken or above a limit is rejected with a reason; the others are kept.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flamewell_collector.batch_builder import Built, Known, Profiles, build
from flamewell_collector.batch_columns import ProfileColumns
from flamewell_collector.errors import ProfileRejected
from flamewell_collector.hashing import label_set_hash
from flamewell_collector.limits import Limits
from flamewell_collector.model import DecodedBatch
from flamewell_collector.otlp_dictionary import read_stacks
from flamewell_collector.otlp_labels import attributes_of, labels_of
from flamewell_collector.otlp_profiles import HeadReader, ProfileHead, RawSamples, read_samples
from flamewell_collector.otlp_wire import not_a_request
from flamewell_collector.stack_columns import Stacks
from flamewell_collector.wire_columns import Malformed
from flamewell_wire import attributes as names

Bools = npt.NDArray[np.bool_]

_MAX_BATCH_ID_CHARACTERS = 512
_OVERFLOW = float(2**63) * (1 - 1e-9)
"""Sums are compared as floats, which err by far less than this share."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a request held.

    Attributes:
        batch: What may be stored, or None where nothing is left.
        rejected: Reason → number of profiles.
        rejected_samples: Reason → number of samples in those.
        rejected_bytes: Reason → their size as encoded.
        duplicates: Resources whose batch id is stored already.
        truncated_stacks: Stacks that lost frames.
        truncated_symbols: Names that were cut.
        message: The first rejection in words, for the sender.
    """

    batch: DecodedBatch | None
    rejected: Counter[str]
    rejected_samples: Counter[str]
    rejected_bytes: Counter[str]
    duplicates: int
    truncated_stacks: int
    truncated_symbols: int
    message: str


class Decoder:
    """Decodes requests; safe to use from several threads."""

    def __init__(
        self,
        limits: Limits,
        *,
        seen: Callable[[str, str], bool],
        room_for_series: Callable[[str, int], bool],
        known: Known | None = None,
        admit_samples: Callable[[int, int], None] = lambda _profiles, _samples: None,
    ) -> None:
        """Make a decoder.

        Args:
            limits: What is taken.
            seen: (tenant, batch id) → stored already.
            room_for_series: (tenant, series id) → known, or one more may come.
            known: Stacks that the batch need not hold.
            admit_samples: Told how many profiles and samples are to come; it may raise.
        """
        self._limits = limits
        self._seen = seen
        self._room_for_series = room_for_series
        self._known = known
        self._admit_samples = admit_samples

    def decode(self, request: Any, tenant: str, now_ms: int) -> Decoded:
        """Turn a parsed request into columns.

        Raises:
            Overloaded: The samples were not admitted.
            InvalidRequest: A sample, stack, location or function is no such message.
        """
        rejects = _Rejects()
        reader = HeadReader(request.dictionary, self._limits, now_ms)
        heads, batch_ids, duplicates = self._heads(request, tenant, reader, rejects)
        try:
            built, truncated_symbols = self._build(
                request.dictionary, heads, reader, rejects, tenant=tenant, batch_ids=batch_ids
            )
        except Malformed as error:
            raise not_a_request(error) from error
        return Decoded(
            batch=built.batch if batch_ids or built.batch.profiles.num_rows else None,
            rejected=rejects.profiles,
            rejected_samples=rejects.samples,
            rejected_bytes=rejects.bytes,
            duplicates=duplicates,
            truncated_stacks=built.truncated_stacks,
            truncated_symbols=truncated_symbols,
            message=rejects.message,
        )

    def _heads(
        self, request: Any, tenant: str, reader: HeadReader, rejects: _Rejects
    ) -> tuple[list[ProfileHead], list[str], int]:
        """Give the heads of all profiles that look well, all batch ids, and the duplicates."""
        heads: list[ProfileHead] = []
        batch_ids: dict[str, None] = {}
        duplicates = 0
        for resource_profiles in request.resource_profiles:
            profiles = [p for scope in resource_profiles.scope_profiles for p in scope.profiles]
            try:
                attributes = attributes_of(
                    resource_profiles.resource.attributes, request.dictionary
                )
                batch_id = attributes.get(names.BATCH_ID_ATTRIBUTE, "")
                if len(batch_id) > _MAX_BATCH_ID_CHARACTERS:
                    raise ProfileRejected("bad_batch_id", "the batch id is too long")  # noqa: TRY301 - rejects the resource, as a bad label does
                if batch_id and (batch_id in batch_ids or self._seen(tenant, batch_id)):
                    duplicates += 1
                    continue
                series_id, labels = self._series(tenant, attributes)
            except ProfileRejected as error:
                rejects.add(error, profiles)
                continue
            if batch_id:
                batch_ids[batch_id] = None
            for profile in profiles:
                head = ProfileHead(profile, series_id, labels, spooled=bool(batch_id))
                try:
                    reader.read(head)
                except ProfileRejected as error:
                    rejects.add(error, [profile])
                else:
                    heads.append(head)
        return heads, list(batch_ids), duplicates

    def _series(self, tenant: str, attributes: dict[str, str]) -> tuple[int, dict[str, str]]:
        """Map resource attributes to a series id and its labels.

        Raises:
            ProfileRejected: Too many or too long labels, or too many series.
        """
        labels = labels_of(attributes, self._limits)
        series_id = label_set_hash(labels.items())
        if not self._room_for_series(tenant, series_id):
            raise ProfileRejected("series_limit", f"{self._limits.series} series are the limit")
        return series_id, labels

    def _build(
        self,
        dictionary: Any,
        heads: list[ProfileHead],
        reader: HeadReader,
        rejects: _Rejects,
        *,
        tenant: str,
        batch_ids: list[str],
    ) -> tuple[Built, int]:
        """Read samples and stacks, reject what they show to be wrong, make the batch.

        Raises:
            Malformed: Something is no message.
        """
        self._admit_samples(len(heads), sum(each.sample_count for each in heads))
        samples = read_samples(heads)
        kept = _check_values(heads, samples, reader, rejects)
        try:
            stacks, table = read_stacks(dictionary, self._limits)
        except ProfileRejected as error:
            rejects.add(error, [heads[at].message for at in np.flatnonzero(kept)])
            kept[:] = False
            stacks, table = read_stacks(type(dictionary)(), self._limits)
        kept &= _check_stacks(heads, samples, kept, stacks, rejects)
        profiles, chosen = _profiles(heads, samples, kept)
        built = build(
            profiles,
            stacks,
            tenant=tenant,
            batch_ids=batch_ids,
            known=self._known,
            max_nodes=self._limits.batch_nodes,
        )
        full = [heads[chosen[at]].message for at in np.flatnonzero(built.refused)]
        problem = f"the stacks of the request have more than {self._limits.batch_nodes} nodes"
        rejects.add(ProfileRejected("too_many_frames", problem), full, place=len(heads))
        return built, table.truncated_symbols


class _Rejects:
    """Counts what is not taken, by reason."""

    def __init__(self) -> None:
        self.profiles: Counter[str] = Counter()
        self.samples: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.message = ""
        self._message_place = math.inf

    def add(self, error: ProfileRejected, profiles: Sequence[Any], *, place: int = -1) -> None:
        """Count profiles; the message is that of the first one, ``place`` says where it stands."""
        if not profiles:
            return
        self.profiles[error.reason] += len(profiles)
        self.samples[error.reason] += sum(len(each.samples) for each in profiles)
        self.bytes[error.reason] += sum(each.ByteSize() for each in profiles)
        if place < self._message_place:
            self.message, self._message_place = f"{error.reason}: {error}", place


def _check_values(
    heads: Sequence[ProfileHead], samples: RawSamples, reader: HeadReader, rejects: _Rejects
) -> Bools:
    """Tell which profiles have good values and times; fills in the times that were missing."""
    kept = np.ones(len(heads), dtype=bool)
    least = np.zeros(len(heads), dtype=np.int64)
    np.minimum.at(least, samples.profile, samples.value)
    factors = np.array([each.factor for each in heads], dtype=float)
    estimates = samples.estimate * factors
    doubtful = (least < 0) | (estimates >= _OVERFLOW)
    doubtful |= np.array([each.time_ms < 0 for each in heads], dtype=bool)
    for at in np.flatnonzero(doubtful).tolist():
        head = heads[at]
        try:
            if head.time_ms < 0:
                head.time_ms = reader.time_ms(int(samples.first_nanos[at]), spooled=head.spooled)
            if least[at] < 0 and estimates[at] < _OVERFLOW:
                raise ProfileRejected("negative_value", f"a sample has the value {least[at]}")  # noqa: TRY301 - one rejection a profile, counted in one place
            if estimates[at] >= _OVERFLOW:
                raise ProfileRejected("value_out_of_range", f"the total is {estimates[at]:.3g}")  # noqa: TRY301 - as above
        except ProfileRejected as error:
            rejects.add(error, [head.message], place=at)
            kept[at] = False
    return kept


def _check_stacks(
    heads: Sequence[ProfileHead],
    samples: RawSamples,
    kept: Bools,
    stacks: Stacks,
    rejects: _Rejects,
) -> Bools:
    """Tell which profiles refer to nothing that is not there."""
    good = np.ones(len(heads), dtype=bool)
    outside = (samples.stack < 0) | (samples.stack >= len(stacks))
    broken = outside.copy()
    if stacks.bad.any():
        broken[~outside] = stacks.bad[samples.stack[~outside]]
    if not broken.any():
        return good
    wrong = np.flatnonzero(broken & kept[samples.profile])
    profiles, firsts = np.unique(samples.profile[wrong], return_index=True)
    for at, first in zip(profiles.tolist(), firsts.tolist(), strict=True):
        number = int(samples.stack[wrong[first]])
        problem = f"is outside its table of {len(stacks)}"
        if not outside[wrong[first]]:
            problem = "refers to something outside its table"
        error = ProfileRejected("bad_index", f"stack {number} {problem}")
        rejects.add(error, [heads[at].message], place=at)
        good[at] = False
    return good


def _profiles(
    heads: Sequence[ProfileHead], samples: RawSamples, kept: Bools
) -> tuple[Profiles, list[int]]:
    """Give the profiles that are kept, and their numbers."""
    chosen = np.flatnonzero(kept).tolist()
    profile, stack, value = samples.profile, samples.stack, samples.value
    if len(chosen) < len(heads):
        left = kept[profile]
        profile, stack, value = (np.cumsum(kept) - 1)[profile[left]], stack[left], value[left]
    taken = [heads[at] for at in chosen]
    factor = np.array([each.factor for each in taken], dtype=np.int64)
    sums = np.zeros(len(taken), dtype=np.int64)
    np.add.at(sums, profile, value)
    columns = ProfileColumns(
        services=[each.labels["service_name"] for each in taken],
        type_ids=[each.type_id for each in taken],
        series_ids=[each.series_id for each in taken],
        times_ms=np.array([each.time_ms for each in taken], dtype=np.int64),
        durations_ms=np.array([each.duration_ms for each in taken], dtype=np.int64),
        totals=sums * factor,
        sample_counts=np.where(factor == 1, 0, sums),
    )
    series = {each.series_id: each.labels for each in taken}
    return Profiles(columns, series, profile, stack, value * factor[profile]), chosen
