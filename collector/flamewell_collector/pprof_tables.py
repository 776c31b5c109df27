"""The tables of a pprof profile as columns: samples with values and label sets, stacks, symbols."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from flamewell_collector.errors import ProfileRejected
from flamewell_collector.hashing import GOLDEN, mix
from flamewell_collector.labels import label_name
from flamewell_collector.limits import Limits
from flamewell_collector.stack_columns import Stacks
from flamewell_collector.symbol_columns import (
    NO_MAPPING,
    Locations,
    SymbolTables,
    locations,
)
from flamewell_collector.wire_columns import Fields, Malformed, Records
from flamewell_wire import pprof

Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]

# Field numbers of profile.proto.
_SAMPLE_LOCATIONS, _SAMPLE_VALUES, _SAMPLE_LABELS = 1, 2, 3
_LABEL_KEY, _LABEL_TEXT = 1, 2
_ID = 1
_LOCATION_MAPPING, _LOCATION_ADDRESS, _LOCATION_LINES = 2, 3, 4
_LINE_FUNCTION, _LINE_NUMBER = 1, 2
_FUNCTION_NAME, _FUNCTION_SYSTEM_NAME, _FUNCTION_FILE, _FUNCTION_START = 2, 3, 4, 5
_MAPPING_START, _MAPPING_OFFSET, _MAPPING_FILE = 2, 4, 5
_AS_BYTES = {"sample", "mapping", "location", "function", "string_table"}
_NOT_LABELS = {b"span_id", b"trace_id", b"profile_id"}
"""Different for each request: as labels they would make a series each."""
_ABOVE_FIXED = np.uint64(1 << 32)
"""Programs that are not position-independent are loaded below; the others anywhere, by chance."""


def _shallow() -> Any:
    """Make the message class of profile.proto with bytes for what is many."""
    file = descriptor_pb2.FileDescriptorProto()
    pprof.Profile.DESCRIPTOR.file.CopyToProto(file)
    for kind in file.message_type:
        for field in kind.field:
            if kind.name == "Profile" and field.name in _AS_BYTES:
                field.type = descriptor_pb2.FieldDescriptorProto.TYPE_BYTES
                field.ClearField("type_name")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    name = pprof.Profile.DESCRIPTOR.full_name
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


PprofMessage: Any = _shallow()
"""``Profile``, parsed one level deep."""


@dataclass(frozen=True, slots=True)
class SampleTable:
    """The samples of a profile.

    Attributes:
        references: Location ids of all stacks behind each other, leaf first.
        counts: How many each sample has, shape (samples,).
        values: Shape (samples, types).
        label_set: Which label set each sample has, shape (samples,).
        label_sets: The sets; one of them at least.
    """

    references: UInt64s
    counts: Int64s
    values: Int64s
    label_set: Int64s
    label_sets: list[dict[str, str]]


def read_samples(profile: Any) -> SampleTable:
    """Read all samples.

    Raises:
        Malformed: One is no Sample message, or has another number of values than there are types.
        ProfileRejected: A label's text is outside the table of strings.
    """
    records = Records.of(profile.sample[:])
    fields = records.fields()
    references, counts = fields.integers(_SAMPLE_LOCATIONS)
    values, sizes = fields.integers(_SAMPLE_VALUES)
    types = len(profile.sample_type)
    if (sizes != types).any():
        wrong = int(sizes[sizes != types][0])
        raise Malformed(f"a sample has {wrong} values, there are {types} types")
    label_set, label_sets = _label_sets(fields, len(records), profile.string_table)
    return SampleTable(
        references=references.view(np.uint64),
        counts=counts,
        values=values.reshape(len(records), types),
        label_set=label_set,
        label_sets=label_sets,
    )


def _label_sets(fields: Fields, samples: int, strings: Any) -> tuple[Int64s, list[dict[str, str]]]:
    """Group samples by their text labels.

    A set's hash is a sum over its pairs: their order does not matter, and no Python loop runs over
    samples.
    """
    labels, owner = fields.messages(_SAMPLE_LABELS)
    if not len(labels):
        return np.zeros(samples, dtype=np.int64), [{}]
    pairs = labels.fields()
    key, text = pairs.scalar(_LABEL_KEY), pairs.scalar(_LABEL_TEXT)
    if min(key.min(), text.min()) < 0 or max(key.max(), text.max()) >= len(strings):
        raise ProfileRejected("bad_index", "a label is outside the table of strings")
    taken = (key > 0) & (text > 0)
    for number in np.unique(key).tolist():
        if strings[number] in _NOT_LABELS:
            taken &= key != number
    owner, key, text = owner[taken], key[taken], text[taken]
    sums = np.zeros(samples, dtype=np.uint64)
    hashed = mix(key.astype(np.uint64) * GOLDEN + mix(text.astype(np.uint64) + GOLDEN))
    np.add.at(sums, owner, hashed)
    _, firsts, label_set = np.unique(sums, return_index=True, return_inverse=True)
    sets: list[dict[str, str]] = []
    begins = np.searchsorted(owner, firsts)
    ends = np.searchsorted(owner, firsts, side="right")
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        found: dict[str, str] = {}
        for at in range(begin, end):
            name = label_name(strings[int(key[at])].decode(errors="replace"))
            found[name] = strings[int(text[at])].decode(errors="replace")
        sets.append(found)
    return label_set.astype(np.int64), sets


def read_stacks(profile: Any, samples: SampleTable, limits: Limits) -> tuple[Stacks, Locations]:
    """Hash the stacks of the samples, each a stack of its own.

    Raises:
        Malformed: A table holds what is no message.
    """
    location = Records.of(profile.location[:]).fields()
    rows = _Rows(location.scalar(_ID).view(np.uint64))
    references = rows.of(samples.references)
    size = len(rows)
    references[references < 0] = size
    used = np.zeros(size + 1, dtype=bool)
    used[references] = True
    tables = _symbol_tables(profile, location)
    table = locations(tables, used[:size], symbol_bytes=limits.symbol_bytes)
    if used[size]:
        table = table.with_a_bad_one()
    stacks = Stacks(references.astype(np.int32), samples.counts, table, depth=limits.stack_depth)
    return stacks, table


def _symbol_tables(profile: Any, location: Fields) -> SymbolTables:
    function = Records.of(profile.function[:]).fields()
    mapping = Records.of(profile.mapping[:]).fields()
    lines, owner = location.messages(_LOCATION_LINES)
    line = lines.fields()
    functions = _Rows(function.scalar(_ID).view(np.uint64))
    mappings = _Rows(mapping.scalar(_ID).view(np.uint64))
    stated = location.scalar(_LOCATION_MAPPING).view(np.uint64)
    # -2 is outside every table.
    mapping_row = np.where(stated == 0, NO_MAPPING, np.where((m := mappings.of(stated)) < 0, -2, m))
    return SymbolTables(
        strings=profile.string_table[:],
        names=function.scalar(_FUNCTION_NAME),
        system_names=function.scalar(_FUNCTION_SYSTEM_NAME),
        files=function.scalar(_FUNCTION_FILE),
        start_lines=function.scalar(_FUNCTION_START),
        line_location=owner,
        line_function=functions.of(line.scalar(_LINE_FUNCTION).view(np.uint64)),
        line_numbers=line.scalar(_LINE_NUMBER),
        addresses=_addresses(location, mapping_row, mapping),
        mappings=mapping_row,
        binaries=mapping.scalar(_MAPPING_FILE),
        zero_is_none=False,
    )


def _addresses(location: Fields, mapping_row: Int64s, mapping: Fields) -> UInt64s:
    """Give addresses that are the same in each process of a program."""
    addresses = location.scalar(_LOCATION_ADDRESS).view(np.uint64).copy()
    start = mapping.scalar(_MAPPING_START).view(np.uint64)
    offset = mapping.scalar(_MAPPING_OFFSET).view(np.uint64)
    mapped = np.flatnonzero(mapping_row >= 0)
    if len(mapped):
        rows = mapping_row[mapped]
        moved = (start[rows] >= _ABOVE_FIXED) & (addresses[mapped] >= start[rows])
        places, rows = mapped[moved], rows[moved]
        addresses[places] += offset[rows] - start[rows]
    return addresses


class _Rows:
    """Finds the rows of a table by their ids, which most writers count from 1."""

    def __init__(self, ids: UInt64s) -> None:
        self._length = len(ids)
        counted = np.arange(1, len(ids) + 1, dtype=np.uint64)
        self._order: Int64s | None = None
        self._ids = ids
        if not (ids == counted).all():
            self._order = np.argsort(ids, kind="stable")
            self._ids = ids[self._order]

    def __len__(self) -> int:
        return self._length

    def of(self, ids: UInt64s) -> Int64s:
        """Give the row of each id, -1 where there is none."""
        if not self._length:
            return np.full(len(ids), -1, dtype=np.int64)
        if self._order is None:
            rows = (ids - np.uint64(1)).view(np.int64)
            return np.where((ids == 0) | (ids > np.uint64(self._length)), -1, rows)
        place = np.minimum(np.searchsorted(self._ids, ids), self._length - 1)
        found = (self._ids[place] == ids) & (ids != 0)
        return np.where(found, self._order[place], -1)
