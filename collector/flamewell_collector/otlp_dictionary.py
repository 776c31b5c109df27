"""The dictionary of an OTLP request: strings, stacks, and what profiles and resources refer to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from flamewell_collector.errors import ProfileRejected
from flamewell_collector.limits import Limits
from flamewell_collector.stack_columns import Stacks
from flamewell_collector.symbol_columns import (
    NO_MAPPING,
    Locations,
    SymbolTables,
    locations,
)
from flamewell_collector.wire_columns import Fields, Records, chunks, lengths

# Field numbers of opentelemetry/proto/profiles/v1development/profiles.proto.
_STACK_LOCATIONS = 1
_LOCATION_MAPPING, _LOCATION_ADDRESS, _LOCATION_LINES = 1, 2, 3
_LINE_FUNCTION, _LINE_NUMBER = 1, 2
_FUNCTION_NAME, _FUNCTION_SYSTEM_NAME, _FUNCTION_FILE, _FUNCTION_START = 1, 2, 3, 4
_MAPPING_FILE = 4
_INT32_MAX = 2**31 - 1


def read_stacks(dictionary: Any, limits: Limits) -> tuple[Stacks, Locations]:
    """Hash all stacks of a dictionary.

    Raises:
        Malformed: A table holds what is no message.
        ProfileRejected: The stacks have more frames than a request may have.
    """
    references, counts = _references(dictionary.stack_table[:], limits)
    tables = _symbol_tables(dictionary)
    size = len(tables.addresses)
    if len(references) and not 0 <= int(references.min()) <= int(references.max()) < size:
        # A row of its own stands for all numbers outside the table.
        references[(references < 0) | (references >= size)] = size
    used = np.zeros(size + 1, dtype=bool)
    used[references] = True
    table = locations(tables, used[:size], symbol_bytes=limits.symbol_bytes)
    if used[size]:
        table = table.with_a_bad_one()
    return Stacks(references, counts, table, depth=limits.stack_depth), table


def _references(
    messages: Sequence[bytes], limits: Limits
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Give the location numbers of all stacks, leaf first, and how many each has."""
    numbers: list[npt.NDArray[np.int32]] = [np.zeros(0, dtype=np.int32)]
    # Stack 0 is the empty one even where there is no table.
    counts = np.zeros(max(len(messages), 1), dtype=np.int64)
    total = 0
    for first, last in chunks(lengths(messages)):
        part, sizes = Records.of(messages[first:last]).fields().integers(_STACK_LOCATIONS)
        counts[first:last] = sizes
        if len(part) and not 0 <= int(part.min()) <= int(part.max()) <= _INT32_MAX:
            part = np.clip(part, -1, _INT32_MAX)
        numbers.append(part.astype(np.int32))
        total += len(part)
        if total > limits.batch_frames:
            raise ProfileRejected(
                "too_many_frames", f"the stacks have more than {limits.batch_frames} frames"
            )
    return np.concatenate(numbers), counts


def _symbol_tables(dictionary: Any) -> SymbolTables:
    function = _fields(dictionary.function_table)
    location = _fields(dictionary.location_table)
    lines, owner = location.messages(_LOCATION_LINES)
    line = lines.fields()
    mapping = location.scalar(_LOCATION_MAPPING)
    return SymbolTables(
        strings=dictionary.string_table[:],
        names=function.scalar(_FUNCTION_NAME),
        system_names=function.scalar(_FUNCTION_SYSTEM_NAME),
        files=function.scalar(_FUNCTION_FILE),
        start_lines=function.scalar(_FUNCTION_START),
        line_location=owner,
        line_function=line.scalar(_LINE_FUNCTION),
        line_numbers=line.scalar(_LINE_NUMBER),
        addresses=location.scalar(_LOCATION_ADDRESS).view(np.uint64),
        mappings=np.where(mapping == 0, NO_MAPPING, mapping),
        binaries=_fields(dictionary.mapping_table).scalar(_MAPPING_FILE),
        zero_is_none=True,
    )


def _fields(messages: Any) -> Fields:
    return Records.of(messages[:]).fields()


def string(dictionary: Any, number: int) -> str:
    """Give a string of the dictionary; 0 is the empty one even where the table is empty."""
    if not number:
        return ""
    text: bytes = at(dictionary.string_table, number, "string")
    return text.decode(errors="replace")


def at(table: Sequence[Any], number: int, what: str) -> Any:
    """Give an entry; numbers are signed on the wire, and -1 must not mean the last one.

    Raises:
        ProfileRejected: It is outside the table.
    """
    if not 0 <= number < len(table):
        raise ProfileRejected("bad_index", f"{what} {number} is outside its table of {len(table)}")
    return table[number]
