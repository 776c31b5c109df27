"""Names and lines of a request's locations as columns, with the content hash of each frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flamewell_collector.hashing import frame_hash

Bools = npt.NDArray[np.bool_]
Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]

NO_MAPPING = -1
_MAX_LINE = 2**31 - 1
_UNKNOWN = "[unknown]"
_GENERATION_CHARACTERS = 16 << 20
_CACHED_CHARACTERS = 1_024
"""Longer names are hashed again each time: they must not push all others out."""

Frame = tuple[str, str, int]


class SymbolHashes:
    """Remembers the hashes of frames; safe to use from several threads.

    Hashing a frame costs 1 µs, finding it here 0.15. Two generations bound the memory: when the
    younger one is full the older one is dropped, what is asked for again moves over.
    """

    def __init__(self, *, generation_characters: int = _GENERATION_CHARACTERS) -> None:
        self._limit = generation_characters
        self._young: dict[Frame, int] = {}
        self._old: dict[Frame, int] = {}
        self._characters = 0

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def of(self, frames: list[Frame]) -> UInt64s:
        """Give the hashes of frames, shape (n,)."""
        young = self._young
        found = list(map(young.get, frames))
        if None in found:
            for at, known in enumerate(found):
                if known is None:
                    found[at] = self._look_up(frames[at])
        return np.array(found, dtype=np.uint64)

    def _look_up(self, frame: Frame) -> int:
        number = self._old.get(frame)
        if number is None:
            number = frame_hash(*frame)
        size = len(frame[0]) + len(frame[1])
        if size <= _CACHED_CHARACTERS:
            self._young[frame] = number
            self._characters += size + 100  # what the tuple and the table take besides
            if self._characters > self._limit:
                self._old, self._young, self._characters = self._young, {}, 0
        return number


@dataclass(frozen=True, slots=True)
class SymbolTables:
    """The tables of a request. References are row numbers; those outside their table are bad.

    Attributes:
        strings: All strings.
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

    strings: list[str]
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
        frames: The frames, shape (rows,).
        hashes: Their content hashes, shape (rows,).
        truncated_symbols: Names that were cut.
    """

    first: Int64s
    size: Int64s
    bad: Bools
    single: bool
    frames: list[Frame]
    hashes: UInt64s
    truncated_symbols: int

    def with_a_bad_one(self) -> Locations:
        """Add a location at the end that stands for every reference to none."""
        return Locations(
            first=np.append(self.first, 0),
            size=np.append(self.size, 0),
            bad=np.append(self.bad, np.True_),
            single=False,
            frames=self.frames,
            hashes=self.hashes,
            truncated_symbols=self.truncated_symbols,
        )


def locations(
    tables: SymbolTables, used: Bools, hashes: SymbolHashes, *, symbol_bytes: int
) -> Locations:
    """Give the frames of the used locations.

    Args:
        tables: The tables.
        used: Which locations stand in a stack, shape (locations,).
        hashes: Known frames.
        symbol_bytes: Longer names are cut, and counted.
    """
    bad = np.zeros(len(used), dtype=bool)
    kept = used[tables.line_location]
    owner = tables.line_location[kept]
    name, file, line, wrong = _lines(tables, kept)
    bad[owner[wrong]] = True
    strings, truncated = _cut(tables.strings, np.concatenate((name, file)), symbol_bytes)
    text = strings.__getitem__
    functions = [each or _UNKNOWN for each in map(text, name.tolist())]
    frames = list(zip(functions, map(text, file.tolist()), line.tolist(), strict=True))
    has_lines = np.zeros(len(used), dtype=bool)
    has_lines[tables.line_location] = True
    bare = np.flatnonzero(used & ~has_lines)
    if len(bare):
        bare, addressed = _addressed(tables, bare, bad, symbol_bytes)
        frames += addressed
        owner = np.concatenate((owner, bare))
        order = np.argsort(owner, kind="stable")
        owner = owner[order]
        frames = [frames[at] for at in order.tolist()]
    size = np.bincount(owner, minlength=len(used))
    return Locations(
        first=np.cumsum(size) - size,
        size=size,
        bad=bad,
        single=bool((size[used] == 1).all()),
        frames=frames,
        hashes=hashes.of(frames),
        truncated_symbols=truncated,
    )


def _lines(tables: SymbolTables, kept: Bools) -> tuple[Int64s, Int64s, Int64s, Bools]:
    """Give name, file and line number of each line, and which refer to nothing."""
    function, number = tables.line_function[kept], tables.line_numbers[kept]
    wrong = ~_inside(function, len(tables.names))
    function = np.where(wrong, 0, function)
    if not len(tables.names):
        nothing = np.zeros(len(function), dtype=np.int64)
        return nothing, nothing, nothing, wrong
    name, file = tables.names[function], tables.files[function]
    unnamed = _empty(name, tables.strings)
    if unnamed.any():
        name = np.where(unnamed, tables.system_names[function], name)
    number = np.where(number == 0, tables.start_lines[function], number)
    number = np.where((number < 0) | (number > _MAX_LINE), 0, number)
    known = _inside(name, len(tables.strings)) & _inside(file, len(tables.strings))
    return np.where(known, name, 0), np.where(known, file, 0), number, wrong | ~known


def _empty(numbers: Int64s, strings: list[str]) -> Bools:
    """Tell which of these strings are empty; 0 is even where the table is empty."""
    found: Bools = numbers == 0
    if strings[:1] == [""] and strings.count("") == 1:
        return found
    empty = np.fromiter(map(len, strings), np.int64, len(strings)) == 0
    inside = np.flatnonzero(_inside(numbers, len(strings)))
    found[inside] |= empty[numbers[inside]]
    return found


def _inside(numbers: Int64s, length: int) -> Bools:
    """Tell which numbers are in a table; signed: -1 must not mean the last row."""
    return (numbers >= 0) & (numbers < max(length, 1))


def _cut(strings: list[str], used: Int64s, limit: int) -> tuple[list[str], int]:
    """Cut long strings; gives all, and how many of the used ones were cut."""
    if not strings:
        return [""], 0
    # A character has at most four bytes: most tables hold no candidate.
    longest = max(map(len, strings))
    if longest * 4 <= limit:
        return strings, 0
    strings = list(strings)
    count = 0
    for number in np.unique(used).tolist():
        if len(strings[number]) * 4 > limit:
            encoded = strings[number].encode()
            if len(encoded) > limit:
                count += 1
                strings[number] = encoded[:limit].decode("utf-8", "ignore")
    return strings, count


def _addressed(
    tables: SymbolTables, bare: Int64s, bad: Bools, limit: int
) -> tuple[Int64s, list[Frame]]:
    """Name locations without lines by binary and address."""
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
    frames: list[Frame] = []
    columns = (bare, mapping, file, tables.addresses[bare], wrong)
    for at, which, number, address, broken in zip(
        *(each.tolist() for each in columns), strict=True
    ):
        if broken:
            frame: Frame = (_UNKNOWN, "", 0)
        elif which == NO_MAPPING and not address:
            if at == 0 and tables.zero_is_none:
                continue
            frame = (_UNKNOWN, "", 0)
        else:
            text = tables.strings[number] if which != NO_MAPPING and number else ""
            binary = text.encode()[:limit].decode("utf-8", "ignore")
            name = f"{binary.rpartition('/')[2]}+0x{address:x}".removeprefix("+")
            frame = (name, binary, 0)
        rows.append(at)
        frames.append(frame)
    return np.array(rows, dtype=np.int64), frames
