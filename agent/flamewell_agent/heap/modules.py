"""Which module a class of Python code is of: the first thing that its namespace holds.

A class statement sets ``__module__`` before all else, so that only the first entries of a type's
dict are looked at. Names only: no other value is read.

Layouts, on 64-bit machines: ``PyTypeObject.tp_dict`` 264; ``PyDictObject.ma_keys`` 32;
``PyDictKeysObject`` of Objects/dict-common.h (3.8 to 3.10: dk_size 8, dk_indices 40, entries of
hash, key, value) and Include/internal/pycore_dict.h (3.11 to 3.14: dk_log2_index_bytes 9, dk_kind
10, dk_indices 32, entries of key and value where all keys are text); ``PyASCIIObject.length`` 16,
its characters behind 40 bytes from 3.12 on, 48 before.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence

from flamewell_agent.heap.remote_memory import RemoteMemory

TP_DICT = 264
_MA_KEYS, _DICT_BYTES, _KEYS_BYTES = 32, 48, 40
_ENTRIES = 4
_LENGTH, _TEXT_BYTES = 16, 48 + 160
_NAME = b"__module__"
_MODULE = re.compile(rb"[A-Za-z_][\w.]{0,159}")
_GENERAL = 0
_INDEX_BYTES = ((0xFF, 1), (0xFFFF, 2), (0xFFFFFFFF, 4))
_TABLE_AT_MOST = 1 << 20


class Modules:
    """Reads modules' names out of one process.

    Args:
        memory: Of the process.
        version: Of its CPython.
    """

    def __init__(self, memory: RemoteMemory, version: tuple[int, int]) -> None:
        self._memory = memory
        self._version = version
        self._text_at = 40 if version >= (3, 12) else 48

    def of_types(self, dicts: Mapping[int, int]) -> dict[int, str]:
        """Give the modules of types, as far as they are found.

        Args:
            dicts: Address of each type → what its ``tp_dict`` holds.
        """
        entries = self._first_entries(dicts)
        keys = sorted({key for pairs in entries.values() for key, _ in pairs})
        named = {key for key, text in zip(keys, self._texts(keys), strict=True) if text == _NAME}
        values = {
            address: value
            for address, pairs in entries.items()
            for key, value in pairs
            if key in named
        }
        texts = self._texts(list(values.values()))
        return {
            address: text.decode()
            for address, text in zip(values, texts, strict=True)
            if text is not None and _MODULE.fullmatch(text)
        }

    def _first_entries(self, dicts: Mapping[int, int]) -> dict[int, list[tuple[int, int]]]:
        """Give the addresses of the first keys and values of each dict."""
        tables: dict[int, int] = {}
        for address, content in self._read(dicts, _DICT_BYTES):
            tables[address] = struct.unpack_from("<Q", content, _MA_KEYS)[0]
        places: dict[int, int] = {}
        general: set[int] = set()
        for address, content in self._read(tables, _KEYS_BYTES):
            offset, is_general = self._entries_at(content)
            if offset:
                places[address] = tables[address] + offset
            if is_general:
                general.add(address)
        found = {}
        for address, content in self._read(places, 24 * _ENTRIES):
            words = struct.unpack(f"<{3 * _ENTRIES}Q", content)
            step, first = (3, 1) if address in general else (2, 0)
            found[address] = [
                (words[at + first], words[at + first + 1])
                for at in range(0, step * _ENTRIES, step)
                if words[at + first] and words[at + first + 1]
            ]
        return found

    def _entries_at(self, keys: bytes) -> tuple[int, bool]:
        """Give where a table's entries begin, 0 if it is none; and whether they have hashes."""
        if self._version >= (3, 11):
            log2_index_bytes, kind = keys[9], keys[10]
            bytes_of_indices = 1 << log2_index_bytes if log2_index_bytes < 32 else 0  # noqa: PLR2004 - any sane table
            offset = 32 + bytes_of_indices if 0 < bytes_of_indices <= _TABLE_AT_MOST else 0
            return offset, kind == _GENERAL
        size = struct.unpack_from("<q", keys, 8)[0]
        if not 0 < size <= _TABLE_AT_MOST:
            return 0, True
        each = next(width for most, width in _INDEX_BYTES if size <= most)
        return 40 + size * each, True

    def _texts(self, addresses: Sequence[int]) -> list[bytes | None]:
        """Read ASCII strings; None for what is none, or is long."""
        found: list[bytes | None] = []
        for content in self._memory.read_many(addresses, _TEXT_BYTES):
            text = None
            if content is not None:
                length = struct.unpack_from("<q", content, _LENGTH)[0]
                if 0 < length <= _TEXT_BYTES - self._text_at:
                    text = content[self._text_at : self._text_at + length]
            found.append(text)
        return found

    def _read(self, places: Mapping[int, int], size: int) -> list[tuple[int, bytes]]:
        """Read at each place; leaves out what is not there."""
        contents = self._memory.read_many(list(places.values()), size)
        return [
            (address, content)
            for address, content in zip(places, contents, strict=True)
            if content is not None
        ]
