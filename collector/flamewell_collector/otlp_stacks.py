"""Turns the dictionary of an OTLP request into a prefix tree, each stack once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flamewell_collector.errors import ProfileRejected
from flamewell_collector.limits import Limits
from flamewell_collector.store.hashing import ROOT_HASH, frame_key, hash_of_child
from flamewell_collector.store.schema import FRAMES, STACKS

Frame = tuple[str, str, int]
_MAX_LINE = 2**31 - 1


class DictionaryStacks:
    """Stack number of the request → tree node; collects nodes and frames that were used.

    Attributes:
        truncated_stacks: Stacks that lost frames.
        truncated_symbols: Names that were cut.
    """

    def __init__(self, dictionary: Any, limits: Limits) -> None:
        self._dictionary = dictionary
        self._limits = limits
        self._symbols: dict[int, str] = {}
        self._frames_of_location: dict[int, tuple[int, ...]] = {}
        self._frame_number: dict[Frame, int] = {}
        self._frame_keys: list[bytes] = []
        self._child: dict[int, int] = {}
        self._node_of_stack: dict[int, int] = {}
        self._parent = [-1]
        self._frame = [-1]
        self._hash = [ROOT_HASH]
        self.truncated_stacks = 0
        self.truncated_symbols = 0

    def node(self, number: int) -> int:
        """Give the tree node of a stack.

        Raises:
            ProfileRejected: It, or something that it refers to, is not in the dictionary; or the
                tree of all stacks gets too large.
        """
        known = self._node_of_stack.get(number)
        if known is not None:
            return known
        node = 0
        children = self._child
        for frame in self._frames_of(number):
            key = node << 32 | frame
            child = children.get(key)
            if child is None:
                child = children[key] = self._add_node(node, frame)
            node = child
        self._node_of_stack[number] = node
        return node

    def stack_ids(self) -> npt.NDArray[np.uint64]:
        """Give the content hash of each node's stack, shape (nodes,)."""
        return np.array(self._hash, dtype=np.uint64)

    def tables(self, used: npt.NDArray[np.int64]) -> tuple[pa.Table, pa.Table]:
        """Give STACKS and FRAMES; the nodes in ``used`` carry their stack id."""
        unmarked = np.ones(len(self._parent), dtype=bool)
        unmarked[used] = False
        unmarked[0] = False
        stacks = pa.table(
            {
                "node": np.arange(len(self._parent), dtype=np.int32),
                "parent": np.array(self._parent, dtype=np.int32),
                "frame": np.array(self._frame, dtype=np.int32),
                "stack_id": pa.array(self.stack_ids(), pa.uint64(), mask=unmarked),
            },
            schema=STACKS,
        )
        frames = list(self._frame_number)
        frame_rows = pa.table(
            {
                "frame": np.arange(len(frames), dtype=np.int32),
                "function": pa.array([each[0] for each in frames], pa.string()),
                "file": pa.array([each[1] for each in frames], pa.string()),
                "line": pa.array([each[2] for each in frames], pa.int32()),
            },
            schema=FRAMES,
        )
        return stacks, frame_rows

    def _frames_of(self, number: int) -> list[int]:
        """Give a stack's frame numbers, outermost first."""
        if number == 0 and not self._dictionary.stack_table:
            return []
        depth = self._limits.stack_depth
        leaf_first = at(self._dictionary.stack_table, number, "stack").location_indices
        # The outermost frames are kept: they give the place in the tree. Runaway recursion, the
        # usual cause, repeats the innermost ones anyway.
        kept = leaf_first[-depth:]
        known = self._frames_of_location
        for location in set(kept).difference(known):
            known[location] = self._location(location)
        frames = [frame for location in reversed(kept) for frame in known[location]]
        if len(leaf_first) > depth or len(frames) > depth:
            self.truncated_stacks += 1
            del frames[depth:]
        return frames

    def _location(self, number: int) -> tuple[int, ...]:
        """Give the frame numbers of a location, outermost first (its lines: innermost first)."""
        location = at(self._dictionary.location_table, number, "location")
        if location.lines:
            return tuple(self._number(self._line(line)) for line in reversed(location.lines))
        if not location.address and not location.mapping_index:
            return (self._number(("[unknown]", "", 0)),) if number else ()
        binary = ""
        if location.mapping_index:
            mapping = at(self._dictionary.mapping_table, location.mapping_index, "mapping")
            binary = self._symbol(mapping.filename_strindex)
        name = f"{binary.rpartition('/')[2]}+0x{location.address:x}".removeprefix("+")
        return (self._number((name, binary, 0)),)

    def _number(self, frame: Frame) -> int:
        number = self._frame_number.get(frame)
        if number is None:
            number = self._frame_number[frame] = len(self._frame_keys)
            self._frame_keys.append(frame_key(*frame))
        return number

    def _line(self, line: Any) -> Frame:
        function = at(self._dictionary.function_table, line.function_index, "function")
        name = self._symbol(function.name_strindex) or self._symbol(function.system_name_strindex)
        number = line.line or function.start_line
        file = self._symbol(function.filename_strindex)
        return name or "[unknown]", file, number if 0 <= number <= _MAX_LINE else 0

    def _symbol(self, number: int) -> str:
        """Give a function or file name, cut to its limit."""
        text = self._symbols.get(number)
        if text is None:
            text = string(self._dictionary, number)
            limit = self._limits.symbol_bytes
            encoded = text.encode()
            if len(encoded) > limit:
                self.truncated_symbols += 1
                text = encoded[:limit].decode("utf-8", "ignore")
            self._symbols[number] = text
        return text

    def _add_node(self, parent: int, frame: int) -> int:
        node = len(self._parent)
        if node >= self._limits.batch_nodes:
            raise ProfileRejected(
                "too_many_frames", f"the stacks of the request have more than {node} nodes"
            )
        self._parent.append(parent)
        self._frame.append(frame)
        self._hash.append(hash_of_child(self._hash[parent], self._frame_keys[frame]))
        return node


def string(dictionary: Any, number: int) -> str:
    """Give a string of the dictionary; 0 is the empty one even where the table is empty."""
    return str(at(dictionary.string_table, number, "string")) if number else ""


def at(table: Sequence[Any], number: int, what: str) -> Any:
    """Give an entry; numbers are signed on the wire, and -1 must not mean the last one.

    Raises:
        ProfileRejected: It is outside the table.
    """
    if not 0 <= number < len(table):
        raise ProfileRejected("bad_index", f"{what} {number} is outside its table of {len(table)}")
    return table[number]
