"""Decodes OTLP profiles (v1development) into columns; the only ingest module that knows OTLP.

A profile that is broken or above a limit is rejected with a reason; the others are kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from google.protobuf import json_format, message
from opentelemetry.proto.collector.profiles.v1development import profiles_service_pb2

from flamewell_collector.errors import InvalidRequest
from flamewell_collector.limits import Limits
from flamewell_collector.model import DecodedBatch
from flamewell_collector.otlp_stacks import BadIndex, DictionaryStacks
from flamewell_collector.store.hashing import label_set_hash
from flamewell_collector.store.schema import PROFILES, SAMPLES, SERIES
from flamewell_wire import attributes as names
from flamewell_wire import profile_types

_INT64_MAX = 2**63 - 1
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
        duplicates: Resources whose batch id is stored already.
        truncated_stacks: Stacks that lost frames.
        truncated_symbols: Names that were cut.
        message: The first rejection in words, for the sender.
    """

    batch: DecodedBatch | None
    rejected: Counter[str]
    rejected_samples: Counter[str]
    duplicates: int
    truncated_stacks: int
    truncated_symbols: int
    message: str


class _Rejected(Exception):
    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(slots=True)
class _Columns:
    """Rows of PROFILES and SAMPLES while they are collected."""

    profiles: dict[str, list[Any]] = field(default_factory=lambda: {n: [] for n in PROFILES.names})
    samples: dict[str, list[Any]] = field(default_factory=lambda: {n: [] for n in SAMPLES.names})


def parse_request(body: bytes, *, as_json: bool) -> Any:
    """Parse a request.

    Raises:
        InvalidRequest: It is not an ExportProfilesServiceRequest.
    """
    request = profiles_service_pb2.ExportProfilesServiceRequest()
    try:
        if as_json:
            json_format.Parse(body, request, ignore_unknown_fields=True, max_recursion_depth=50)
        else:
            request.ParseFromString(body)
    except (message.DecodeError, json_format.ParseError, UnicodeDecodeError, ValueError) as error:
        raise InvalidRequest(f"not an ExportProfilesServiceRequest: {error}") from error
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
    """Decodes requests of one tenant at a time."""

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
        columns = _Columns()
        series: dict[int, dict[str, str]] = {}
        rejected: Counter[str] = Counter()
        rejected_samples: Counter[str] = Counter()
        batch_ids: list[str] = []
        duplicates, first_message = 0, ""
        for resource_profiles in request.resource_profiles:
            attributes = _attributes(resource_profiles.resource.attributes)
            batch_id = attributes.get(names.BATCH_ID_ATTRIBUTE, "")
            if batch_id and (batch_id in batch_ids or self._seen(tenant, batch_id)):
                duplicates += 1
                continue
            if batch_id:
                batch_ids.append(batch_id)
            profiles = [p for scope in resource_profiles.scope_profiles for p in scope.profiles]
            for profile in profiles:
                try:
                    series_id, labels = self._series(tenant, attributes)
                    self._profile(
                        profile,
                        request.dictionary,
                        stacks,
                        columns,
                        identity=(labels["service_name"], series_id),
                        now_ms=now_ms,
                        spooled=bool(batch_id),
                    )
                    series[series_id] = labels
                except _Rejected as error:
                    rejected[error.reason] += 1
                    rejected_samples[error.reason] += len(profile.samples)
                    first_message = first_message or f"{error.reason}: {error}"
        batch = None
        if batch_ids or columns.profiles["time"]:
            batch = _batch(tenant, tuple(batch_ids), columns, stacks, series)
        return Decoded(
            batch=batch,
            rejected=rejected,
            rejected_samples=rejected_samples,
            duplicates=duplicates,
            truncated_stacks=stacks.truncated_stacks,
            truncated_symbols=stacks.truncated_symbols,
            message=first_message,
        )

    def _series(self, tenant: str, attributes: dict[str, str]) -> tuple[int, dict[str, str]]:
        """Map resource attributes to a series id and its labels.

        Raises:
            _Rejected: Too many or too long labels, or too many series.
        """
        labels = {"service_name": "unknown_service"}
        for name, value in attributes.items():
            label = names.LABEL_OF_ATTRIBUTE.get(name, "")
            if name.startswith(names.LABEL_ATTRIBUTE_PREFIX):
                label = name.removeprefix(names.LABEL_ATTRIBUTE_PREFIX)
            if label and value:
                labels[label] = value
        limits = self._limits
        if len(labels) > limits.label_names:
            raise _Rejected(
                "too_many_labels", f"{len(labels)} labels, {limits.label_names} allowed"
            )
        for label, value in labels.items():
            if len(label.encode()) > limits.label_name_bytes:
                raise _Rejected("label_name_too_long", f"label {label[:40]!r}…")
            if len(value.encode()) > limits.label_value_bytes:
                raise _Rejected("label_value_too_long", f"the value of label {label!r}")
        series_id = label_set_hash(labels.items())
        if not self._room_for_series(tenant, series_id):
            raise _Rejected("series_limit", f"{limits.series} series are the limit")
        return series_id, labels

    def _profile(
        self,
        profile: Any,
        dictionary: Any,
        stacks: DictionaryStacks,
        columns: _Columns,
        *,
        identity: tuple[str, int],
        now_ms: int,
        spooled: bool,
    ) -> None:
        """Add the rows of one profile.

        Raises:
            _Rejected: Nothing of it was added.
        """
        limits = self._limits
        if len(profile.samples) > limits.profile_samples:
            raise _Rejected("too_many_samples", f"{len(profile.samples)} in one profile")
        if profile.ByteSize() > limits.profile_bytes:
            raise _Rejected("profile_too_large", f"{profile.ByteSize()} bytes")
        time_ms = profile.time_unix_nano // _NANOS_PER_MS or now_ms
        oldest = now_ms - (limits.max_spooled_age_ms if spooled else limits.max_age_ms)
        if time_ms < oldest:
            raise _Rejected("too_old", f"began {(now_ms - time_ms) // 1000} s ago")
        if time_ms > now_ms + limits.max_ahead_ms:
            raise _Rejected("too_new", f"begins {(time_ms - now_ms) // 1000} s from now")
        try:
            type_id, factor = _type_and_factor(profile, dictionary)
            values = _values_by_stack(profile, stacks)
        except BadIndex as error:
            raise _Rejected("bad_index", str(error)) from error
        amounts = {stack_id: value * factor for stack_id, value in values.items()}
        total = sum(amounts.values())
        if total > _INT64_MAX:
            raise _Rejected("value_out_of_range", f"the profile's total is {total}")
        service, series_id = identity
        count = sum(values.values()) if factor != 1 else 0
        row = (service, type_id, time_ms, series_id)
        rest = (min(profile.duration_nano // _NANOS_PER_MS, _INT64_MAX), total, count)
        for name, value in zip(PROFILES.names, (*row, *rest), strict=True):
            columns.profiles[name].append(value)
        for name, value in zip(SAMPLES.names, row, strict=False):
            columns.samples[name].extend([value] * len(amounts))
        columns.samples["stack_id"].extend(amounts)
        columns.samples["value"].extend(amounts.values())


def _values_by_stack(profile: Any, stacks: DictionaryStacks) -> dict[int, int]:
    """Sum a profile's values by stack id, zeros left out."""
    values: dict[int, int] = {}
    for sample in profile.samples:
        # Timestamps without values mean one observation each (opentelemetry-proto, Sample).
        value = sum(sample.values) if sample.values else len(sample.timestamps_unix_nano)
        if any(each < 0 for each in sample.values):
            raise _Rejected("negative_value", f"a sample has the values {list(sample.values)[:5]}")
        if value:
            stack_id = stacks.stack_id(sample.stack_index)
            values[stack_id] = values.get(stack_id, 0) + value
    return values


def _type_and_factor(profile: Any, dictionary: Any) -> tuple[str, int]:
    """Give the profile type id, and what a value of 1 stands for.

    Raises:
        BadIndex: A string or attribute number is outside its table.
    """
    sample_type = _value_type(profile.sample_type, dictionary)
    period_type = _value_type(profile.period_type, dictionary)
    counted = sample_type == _COUNTED and period_type[1] == "nanoseconds"
    factor = profile.period if counted and profile.period > 0 else 1
    for number in profile.attribute_indices:
        if not 0 <= number < len(dictionary.attribute_table):
            raise BadIndex(f"attribute {number} is outside its table")
        attribute = dictionary.attribute_table[number]
        if _string(dictionary, attribute.key_strindex) == names.PROFILE_TYPE_ATTRIBUTE:
            try:
                return profile_types.parse_id(attribute.value.string_value).id, factor
            except ValueError as error:
                raise _Rejected("bad_profile_type", str(error)) from error
    known = _BY_SAMPLE_TYPE.get(period_type if counted else sample_type)
    if known is not None:
        return known.id, factor
    parts = ("other", *sample_type, *period_type)
    return ":".join(part.replace(":", "_") for part in parts), factor


def _value_type(value_type: Any, dictionary: Any) -> tuple[str, str]:
    return (
        _string(dictionary, value_type.type_strindex),
        _string(dictionary, value_type.unit_strindex),
    )


def _string(dictionary: Any, number: int) -> str:
    if not dictionary.string_table and number == 0:
        return ""
    if not 0 <= number < len(dictionary.string_table):
        raise BadIndex(f"string {number} is outside its table")
    return str(dictionary.string_table[number])


def _attributes(pairs: Any) -> dict[str, str]:
    """Give the attributes with a plain value as text."""
    found: dict[str, str] = {}
    for pair in pairs:
        kind = pair.value.WhichOneof("value")
        if kind in {"string_value", "int_value", "bool_value", "double_value"}:
            found[pair.key] = str(getattr(pair.value, kind))
    return found


def _batch(
    tenant: str,
    batch_ids: tuple[str, ...],
    columns: _Columns,
    stacks: DictionaryStacks,
    series: dict[int, dict[str, str]],
) -> DecodedBatch:
    stack_rows, frame_rows = stacks.tables()
    ids = sorted(series)
    return DecodedBatch(
        tenant=tenant,
        batch_ids=batch_ids,
        series=pa.table(
            {
                "series_id": pa.array(ids, pa.uint64()),
                "service_name": pa.array(
                    [series[each]["service_name"] for each in ids], pa.string()
                ),
                "labels": pa.array(
                    [sorted(series[each].items()) for each in ids],
                    pa.map_(pa.string(), pa.string()),
                ),
            },
            schema=SERIES,
        ),
        profiles=pa.table(columns.profiles, schema=PROFILES),
        samples=pa.table(columns.samples, schema=SAMPLES),
        stacks=stack_rows,
        frames=frame_rows,
    )
