"""Turns the dictionary of an OTLP request into a prefix tree, each stack once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from flamewell_collector.limits import Limits
from flamewell_collector.store.hashing import ROOT_HASH, child_hash
from flamewell_collector.store.schema import FRAMES, STACKS

Frame = tuple[str, str, int]


class BadIndex(Exception):
    """A stack, location, function or string number is outside its table."""


class DictionaryStacks:
    """Stack number of the request → stack id; collects nodes and frames that were used."""

    def __init__(self, dictionary: Any, limits: Limits) -> None:
        self._dictionary = dictionary
        self._strings = dictionary.string_table
        self._limits = limits
        self._frames_of_location: dict[int, tuple[int, ...]] = {}
        self._frame_number: dict[Frame, int] = {}
        self._frames: list[Frame] = []
        self._child: dict[tuple[int, int], int] = {}
        self._id_of_stack: dict[int, int] = {}
        self._parent = [-1]
        self._frame = [-1]
        self._hash = [ROOT_HASH]
        self._marked: set[int] = set()
        self.truncated_stacks = 0
        self.truncated_symbols = 0

    def stack_id(self, number: int) -> int:
        """Give the content hash of a stack.

        Raises:
            BadIndex: It, or something that it refers to, is not in the dictionary.
        """
        known = self._id_of_stack.get(number)
        if known is not None:
            return known
        stack = _at(self._dictionary.stack_table, number, "stack")
        frames: list[int] = []
        for location in stack.location_indices:
            frames.extend(self._location(location))
        if len(frames) > self._limits.stack_depth:
            self.truncated_stacks += 1
            del frames[self._limits.stack_depth :]
        node = 0
        for frame in reversed(frames):
            node = self._child_node(node, frame)
        self._marked.add(node)
        self._id_of_stack[number] = self._hash[node]
        return self._hash[node]

    def tables(self) -> tuple[pa.Table, pa.Table]:
        """Give STACKS and FRAMES of all stacks that were asked for."""
        ids = [
            stack_hash if node in self._marked else None
            for node, stack_hash in enumerate(self._hash)
        ]
        stacks = pa.table(
            {
                "node": np.arange(len(self._parent), dtype=np.int32),
                "parent": np.array(self._parent, dtype=np.int32),
                "frame": np.array(self._frame, dtype=np.int32),
                "stack_id": pa.array(ids, pa.uint64()),
            },
            schema=STACKS,
        )
        keys = self._frames
        frames = pa.table(
            {
                "frame": np.arange(len(keys), dtype=np.int32),
                "function": pa.array([key[0] for key in keys], pa.string()),
                "file": pa.array([key[1] for key in keys], pa.string()),
                "line": pa.array([key[2] for key in keys], pa.int32()),
            },
            schema=FRAMES,
        )
        return stacks, frames

    def _location(self, number: int) -> tuple[int, ...]:
        """Give the frame numbers of a location, innermost inlined call first."""
        known = self._frames_of_location.get(number)
        if known is None:
            location = _at(self._dictionary.location_table, number, "location")
            frames = [self._line(line) for line in location.lines]
            if not frames:
                frames = [(f"0x{location.address:x}" if location.address else "[unknown]", "", 0)]
            known = tuple(self._number(frame) for frame in frames)
            self._frames_of_location[number] = known
        return known

    def _number(self, frame: Frame) -> int:
        number = self._frame_number.get(frame)
        if number is None:
            number = self._frame_number[frame] = len(self._frames)
            self._frames.append(frame)
        return number

    def _line(self, line: Any) -> Frame:
        function = _at(self._dictionary.function_table, line.function_index, "function")
        name = self._symbol(function.name_strindex) or self._symbol(function.system_name_strindex)
        number = line.line or function.start_line
        file = self._symbol(function.filename_strindex)
        return name or "[unknown]", file, number if 0 <= number < 1 << 31 else 0

    def _symbol(self, number: int) -> str:
        text: str = _at(self._strings, number, "string")
        # A character has one byte at least and four at most: only long texts need a closer look.
        if len(text) * 4 > self._limits.symbol_bytes:
            encoded = text.encode()
            if len(encoded) > self._limits.symbol_bytes:
                self.truncated_symbols += 1
                return encoded[: self._limits.symbol_bytes].decode("utf-8", "ignore")
        return text

    def _child_node(self, parent: int, frame: int) -> int:
        node = self._child.get((parent, frame))
        if node is None:
            node = self._child[parent, frame] = len(self._parent)
            self._parent.append(parent)
            self._frame.append(frame)
            function, file, line = self._frames[frame]
            self._hash.append(child_hash(self._hash[parent], function, file, line))
        return node


def _at(table: Any, number: int, what: str) -> Any:
    if not 0 <= number < len(table):
        raise BadIndex(f"{what} {number} is outside its table of {len(table)}")
    return table[number]
