"""Decodes OTLP profiles (v1development) into columns; the only ingest module that knows OTLP.

A profile that is broken or above a limit is rejected with a reason; the others are kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf import json_format, message
from opentelemetry.proto.collector.profiles.v1development import profiles_service_pb2

from flamewell_collector.errors import InvalidRequest, ProfileRejected
from flamewell_collector.limits import Limits
from flamewell_collector.model import DecodedBatch
from flamewell_collector.otlp_columns import Columns, ProfileRow
from flamewell_collector.otlp_labels import attributes_of, labels_of
from flamewell_collector.otlp_stacks import DictionaryStacks, at, string
from flamewell_collector.store.hashing import label_set_hash
from flamewell_wire import attributes as names
from flamewell_wire import profile_types

Int64s = npt.NDArray[np.int64]

_INT64_MAX = 2**63 - 1
_MAX_BATCH_ID_CHARACTERS = 512
_MAX_QUOTED = 500
"""Of a parser's message: it may quote the sender's bytes."""
_NANOS_PER_MS = 1_000_000
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


def parse_request(body: bytes, *, as_json: bool) -> Any:
    """Parse a request.

    Raises:
        InvalidRequest: It is not an ExportProfilesServiceRequest.
    """
    request = profiles_service_pb2.ExportProfilesServiceRequest()
    # json_format takes an empty list for an empty message.
    if as_json and not body.lstrip().startswith(b"{"):
        raise InvalidRequest("not an ExportProfilesServiceRequest: a JSON object is expected")
    try:
        if as_json:
            json_format.Parse(body, request, ignore_unknown_fields=True, max_recursion_depth=50)
        else:
            request.ParseFromString(body)
    except (message.DecodeError, json_format.ParseError, ValueError, RecursionError) as error:
        raise InvalidRequest(
            f"not an ExportProfilesServiceRequest: {str(error)[:_MAX_QUOTED]}"
        ) from error
    return request


def response(*, rejected_profiles: int, error_message: str, as_json: bool) -> bytes:
    """Encode the answer to a request; empty where everything was taken."""
    answer = profiles_service_pb2.ExportProfilesServiceResponse()
    if rejected_profiles or error_message:
        answer.partial_success.rejected_profiles = rejected_profiles
        answer.partial_success.error_message = error_message
    return json_format.MessageToJson(answer).encode() if as_json else answer.SerializeToString()


def rpc_status(code: int, text: str) -> bytes:
    """Encode a google.rpc.Status: code (field 1, varint), message (field 2, bytes)."""
    encoded = text.encode()[:4096]
    return b"\x08" + _varint(code) + b"\x12" + _varint(len(encoded)) + encoded


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:  # noqa: PLR2004 - seven bits a byte
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


class Decoder:
    """Decodes requests; safe to use from several threads."""

    def __init__(
        self,
        limits: Limits,
        *,
        seen: Callable[[str, str], bool],
        room_for_series: Callable[[str, int], bool],
    ) -> None:
        """Make a decoder.

        Args:
            limits: What is taken.
            seen: (tenant, batch id) → stored already.
            room_for_series: (tenant, series id) → known, or one more may come.
        """
        self._limits = limits
        self._seen = seen
        self._room_for_series = room_for_series

    def decode(self, request: Any, tenant: str, now_ms: int) -> Decoded:
        """Turn a parsed request into columns."""
        stacks = DictionaryStacks(request.dictionary, self._limits)
        reader = _ProfileReader(request.dictionary, stacks, self._limits, now_ms)
        columns, rejects = Columns(), _Rejects()
        batch_ids: list[str] = []
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
                batch_ids.append(batch_id)
            for profile in profiles:
                try:
                    row = reader.read(profile, spooled=bool(batch_id))
                except ProfileRejected as error:
                    rejects.add(error, [profile])
                else:
                    columns.add(row, series_id=series_id, labels=labels)
        batch = None
        if batch_ids or columns.profiles:
            batch = columns.batch(tenant, batch_ids, stacks)
        return Decoded(
            batch=batch,
            rejected=rejects.profiles,
            rejected_samples=rejects.samples,
            rejected_bytes=rejects.bytes,
            duplicates=duplicates,
            truncated_stacks=stacks.truncated_stacks,
            truncated_symbols=stacks.truncated_symbols,
            message=rejects.message,
        )

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


class _Rejects:
    """Counts what is not taken, by reason."""

    def __init__(self) -> None:
        self.profiles: Counter[str] = Counter()
        self.samples: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.message = ""

    def add(self, error: ProfileRejected, profiles: Sequence[Any]) -> None:
        self.profiles[error.reason] += len(profiles)
        self.samples[error.reason] += sum(len(each.samples) for each in profiles)
        self.bytes[error.reason] += sum(each.ByteSize() for each in profiles)
        self.message = self.message or f"{error.reason}: {error}"


class _ProfileReader:
    """Validates the profiles of one request."""

    def __init__(
        self, dictionary: Any, stacks: DictionaryStacks, limits: Limits, now_ms: int
    ) -> None:
        self._dictionary = dictionary
        self._stacks = stacks
        self._limits = limits
        self._now_ms = now_ms

    def read(self, profile: Any, *, spooled: bool) -> ProfileRow:
        """Check a profile and give its rows.

        Raises:
            ProfileRejected: Says why it is not taken.
        """
        limits = self._limits
        if len(profile.samples) > limits.profile_samples:
            raise ProfileRejected("too_many_samples", f"{len(profile.samples)} in one profile")
        if profile.ByteSize() > limits.profile_bytes:
            raise ProfileRejected("profile_too_large", f"{profile.ByteSize()} bytes")
        time_ms = self._time_ms(profile, spooled=spooled)
        type_id, factor = _type_and_factor(profile, self._dictionary)
        values = _values(profile)
        count = sum(values)
        if min(values, default=0) < 0:
            raise ProfileRejected("negative_value", f"a sample has the value {min(values)}")
        if count * factor > _INT64_MAX:
            raise ProfileRejected("value_out_of_range", f"the total is {count * factor}")
        node = self._stacks.node
        nodes, amounts = _merged(
            np.array([node(each.stack_index) for each in profile.samples], dtype=np.int64),
            np.array(values, dtype=np.int64),
        )
        return ProfileRow(
            type_id=type_id,
            time_ms=time_ms,
            duration_ms=min(profile.duration_nano // _NANOS_PER_MS, _INT64_MAX),
            total=count * factor,
            sample_count=count if factor != 1 else 0,
            nodes=nodes,
            values=amounts * factor,
        )

    def _time_ms(self, profile: Any, *, spooled: bool) -> int:
        """Give a profile's time: its own, else its first sample's, else now."""
        nanos = profile.time_unix_nano
        if not nanos:
            firsts = (min(each.timestamps_unix_nano, default=0) for each in profile.samples)
            nanos = min((each for each in firsts if each), default=0)
        now_ms, limits = self._now_ms, self._limits
        time_ms: int = nanos // _NANOS_PER_MS or now_ms
        if time_ms < now_ms - (limits.max_spooled_age_ms if spooled else limits.max_age_ms):
            raise ProfileRejected("too_old", f"began {(now_ms - time_ms) // 1000} s ago")
        if time_ms > now_ms + limits.max_ahead_ms:
            raise ProfileRejected("too_new", f"begins {(time_ms - now_ms) // 1000} s from now")
        return time_ms


def _values(profile: Any) -> list[int]:
    """Give each sample's value.

    Timestamps without values mean one observation each (opentelemetry-proto, Sample).
    """
    values: list[int] = []
    for sample in profile.samples:
        found = sample.values
        if len(found) == 1:
            values.append(found[0])
        elif not found:
            values.append(len(sample.timestamps_unix_nano))
        elif min(found) < 0:
            values.append(-1)
        else:
            values.append(sum(found))
    return values


def _merged(nodes: Int64s, values: Int64s) -> tuple[Int64s, Int64s]:
    """Sum the values of equal nodes (threads with one stack); zeros are left out."""
    if not len(nodes):
        return nodes, values
    order = np.argsort(nodes, kind="stable")
    ordered = nodes[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    sums = np.add.reduceat(values[order], starts)
    some = sums != 0
    return ordered[starts][some], sums[some]


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
