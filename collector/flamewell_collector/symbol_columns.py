"""Names and lines of a request's locations as columns, with the content hash of each frame."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from flamewell_collector.hashing import frame_hashes, text_hashes
from flamewell_collector.wire_columns import chunks, lengths

Bools = npt.NDArray[np.bool_]
Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]

NO_MAPPING = -1
_MAX_LINE = 2**31 - 1
_UNKNOWN = b"[unknown]"


@dataclass(frozen=True, slots=True)
class SymbolTables:
    """The tables of a request. References are row numbers; those outside their table are bad.

    Attributes:
        strings: All strings, UTF-8.
        names: String of each function's name, shape (functions,).
        system_names: The same, mangled, where there is no other.
        files: String of each function's file.
        start_lines: Where each function begins, 1-based; 0 unknown.
        line_location: Location of each line, ascending; innermost line first, shape (lines,).
        line_function: Function of each line.
        line_numbers: 1-based; 0 unknown.
        addresses: Of each location, shape (locations,).
        mappings: Mapping of each location, or NO_MAPPING.
        binaries: String of each mapping's file, shape (mappings,).
        zero_is_none: Location 0 stands for no frame at all (OTLP).
    """

    strings: list[bytes]
    names: Int64s
    system_names: Int64s
    files: Int64s
    start_lines: Int64s
    line_location: Int64s
    line_function: Int64s
    line_numbers: Int64s
    addresses: UInt64s
    mappings: Int64s
    binaries: Int64s
    zero_is_none: bool


@dataclass(frozen=True, slots=True)
class Locations:
    """The frames of each location; only those of used locations are there.

    Attributes:
        first: First row of each location's frames, innermost first, shape (locations,).
        size: How many frames each has.
        bad: Refers to something outside its table.
        single: Each used location has one frame.
        strings: All strings, UTF-8.
        functions: String of each frame's function, shape (rows,).
        files: The same of its file.
        lines: 1-based; 0 unknown, shape (rows,).
        hashes: Content hashes of the frames, shape (rows,).
        truncated_symbols: Names that were cut.
    """

    first: Int64s
    size: Int64s
    bad: Bools
    single: bool
    strings: list[bytes]
    functions: Int64s
    files: Int64s
    lines: Int64s
    hashes: UInt64s
    truncated_symbols: int

    def with_a_bad_one(self) -> Locations:
        """Add a location at the end that stands for every reference to none."""
        return replace(
            self,
            first=np.append(self.first, 0),
            size=np.append(self.size, 0),
            bad=np.append(self.bad, np.True_),
            single=False,
        )

    def texts(self, strings: Int64s) -> list[str]:
        """Decode some strings; what is no UTF-8 in them is replaced."""
        return [self.strings[at].decode(errors="replace") for at in strings.tolist()]


def locations(tables: SymbolTables, used: Bools, *, symbol_bytes: int) -> Locations:
    """Give the frames of the used locations.

    Args:
        tables: The tables.
        used: Which locations stand in a stack, shape (locations,).
        symbol_bytes: Longer names are cut, and counted.
    """
    bad = np.zeros(len(used), dtype=bool)
    kept = used[tables.line_location]
    owner = tables.line_location[kept]
    sizes = lengths(tables.strings)
    name, file, line, wrong = _lines(tables, kept, sizes)
    bad[owner[wrong]] = True
    strings, truncated = _cut(tables.strings, sizes, np.concatenate((name, file)), symbol_bytes)
    has_lines = np.zeros(len(used), dtype=bool)
    has_lines[tables.line_location] = True
    bare = np.flatnonzero(used & ~has_lines)
    if len(bare):
        bare, addressed = _addressed(tables, bare, bad, symbol_bytes)
        first = len(strings)
        strings += [text for frame in addressed for text in frame]
        number = first + 2 * np.arange(len(bare))
        owner = np.concatenate((owner, bare))
        order = np.argsort(owner, kind="stable")
        owner = owner[order]
        name = np.concatenate((name, number))[order]
        file = np.concatenate((file, number + 1))[order]
        line = np.concatenate((line, np.zeros(len(bare), dtype=np.int64)))[order]
    size = np.bincount(owner, minlength=len(used))
    hashes = _hashes(strings)
    return Locations(
        first=np.cumsum(size) - size,
        size=size,
        bad=bad,
        single=bool((size[used] == 1).all()),
        strings=strings,
        functions=name,
        files=file,
        lines=line,
        hashes=frame_hashes(hashes[name], hashes[file], line),
        truncated_symbols=truncated,
    )


def _hashes(strings: list[bytes]) -> UInt64s:
    parts = [text_hashes(strings[first:last]) for first, last in chunks(lengths(strings))]
    return np.concatenate(parts)


def _lines(
    tables: SymbolTables, kept: Bools, sizes: Int64s
) -> tuple[Int64s, Int64s, Int64s, Bools]:
    """Give name, file and line number of each line, and which refer to nothing."""
    function, number = tables.line_function[kept], tables.line_numbers[kept]
    wrong = ~_inside(function, len(tables.names))
    function = np.where(wrong, 0, function)
    unknown, none = len(sizes), len(sizes) + 1  # as _cut adds them
    if not len(tables.names):
        nothing = np.zeros(len(function), dtype=np.int64)
        return nothing + unknown, nothing + none, nothing, wrong
    name, file = tables.names[function], tables.files[function]
    empty = _empty(name, sizes)
    if empty.any():
        name = np.where(empty, tables.system_names[function], name)
        empty = _empty(name, sizes)
    number = np.where(number == 0, tables.start_lines[function], number)
    number = np.where((number < 0) | (number > _MAX_LINE), 0, number)
    known = _inside(name, len(sizes)) & _inside(file, len(sizes))
    name = np.where(known & ~empty, name, unknown)
    return name, np.where(known & (file > 0), file, none), number, wrong | ~known


def _empty(numbers: Int64s, sizes: Int64s) -> Bools:
    """Tell which of these strings are empty; 0 is even where the table is empty."""
    found: Bools = numbers == 0
    inside = _inside(numbers, len(sizes)) & ~found
    found[inside] = sizes[numbers[inside]] == 0
    return found


def _inside(numbers: Int64s, length: int) -> Bools:
    """Tell which numbers are in a table; signed: -1 must not mean the last row."""
    return (numbers >= 0) & (numbers < max(length, 1))


def _cut(strings: list[bytes], sizes: Int64s, used: Int64s, limit: int) -> tuple[list[bytes], int]:
    """Cut long strings; gives all and two more, and how many of the used ones were cut.

    The two are what an unknown function is called, and no text at all.
    """
    strings = [*strings, _UNKNOWN, b""]
    count = 0
    if len(sizes) and int(sizes.max()) > limit:
        long = np.flatnonzero(sizes > limit)
        count = len(np.intersect1d(used, long))
        for number in long.tolist():
            strings[number] = strings[number][:limit].decode("utf-8", "ignore").encode()
    return strings, count


def _addressed(
    tables: SymbolTables, bare: Int64s, bad: Bools, limit: int
) -> tuple[Int64s, list[tuple[bytes, bytes]]]:
    """Name locations without lines by binary and address; gives rows and (function, file)."""
    mapping = tables.mappings[bare]
    wrong = (mapping != NO_MAPPING) & ~_inside(mapping, len(tables.binaries))
    if not len(tables.binaries):
        wrong = mapping != NO_MAPPING
    file = np.zeros(len(bare), dtype=np.int64)
    some = np.flatnonzero((mapping != NO_MAPPING) & ~wrong)
    file[some] = tables.binaries[mapping[some]]
    wrong |= ~_inside(file, len(tables.strings))
    bad[bare[wrong]] = True
    rows: list[int] = []
    frames: list[tuple[bytes, bytes]] = []
    columns = (bare, mapping, file, tables.addresses[bare], wrong)
    for at, which, number, address, broken in zip(
        *(each.tolist() for each in columns), strict=True
    ):
        if broken:
            frame = (_UNKNOWN, b"")
        elif which == NO_MAPPING and not address:
            if at == 0 and tables.zero_is_none:
                continue
            frame = (_UNKNOWN, b"")
        else:
            text = tables.strings[number] if which != NO_MAPPING and number else b""
            binary = text[:limit].decode("utf-8", "ignore")
            name = f"{binary.rpartition('/')[2]}+0x{address:x}".removeprefix("+")
            frame = (name.encode(), binary.encode())
        rows.append(at)
        frames.append(frame)
    return np.array(rows, dtype=np.int64), frames
