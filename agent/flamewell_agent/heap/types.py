"""Type objects of CPython, recognised by their address. Names only: no value is ever read.

Offsets of ``PyTypeObject`` (Include/cpython/object.h), the same from CPython 3.8 to 3.14 on 64-bit
machines without ``Py_TRACE_REFS``: ob_type 8, tp_name 24, tp_basicsize 32, tp_itemsize 40,
tp_flags 168.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from flamewell_agent.heap.modules import TP_DICT, Modules
from flamewell_agent.heap.pools import WORD
from flamewell_agent.heap.remote_memory import Mapping, RemoteMemory

REDACTED = "(redacted)"
_TYPE_BYTES = TP_DICT + 8
_OB_TYPE, _TP_NAME, _BASICSIZE, _ITEMSIZE, _FLAGS = 8, 24, 32, 40, 168
_HEAP_TYPE, _READY, _HAVE_GC = 1 << 9, 1 << 12, 1 << 14
_MANAGED_WEAKREF, _MANAGED_DICT = 1 << 3, 1 << 4
_TYPE_SUBCLASS = 1 << 31
_NAME_BYTES = 96
_NAME = re.compile(rb"[A-Za-z_\x80-\xff<][\w.<>\x80-\xff-]{0,94}\0")
_LARGEST_OBJECT = 1 << 20
_ADDRESS_AT_LEAST, _ADDRESS_AT_MOST = 1 << 12, 1 << 47


@dataclass(frozen=True, slots=True)
class TypeFound:
    """A type.

    Attributes:
        name: With its module, where that is known and not ``builtins``.
        lead_words: Words of a block before ``ob_refcnt``: the collector's head, managed dict.
    """

    name: str
    lead_words: int


class Types:
    """The types of one process, looked at once each.

    Args:
        memory: Of the process.
        version: Of its CPython.
        mappings: Of the process, by address.
        redact: Names like these (shell patterns) are told as ``REDACTED``.
    """

    def __init__(
        self,
        memory: RemoteMemory,
        version: tuple[int, int],
        mappings: Sequence[Mapping],
        redact: Sequence[str] = (),
    ) -> None:
        self._redact = tuple(redact)
        self._memory = memory
        writable = [each for each in mappings if each.writable]
        self._starts = [each.start for each in writable]
        self._ends = [each.end for each in writable]
        self._version = version
        self._modules = Modules(memory, version)
        self._known: dict[int, TypeFound | None] = {}

    def resolve(self, candidates: Iterable[int]) -> None:
        """Look at addresses that may be types."""
        new = [
            each
            for each in set(candidates)
            if each not in self._known and not each % WORD and self._is_there(each)
        ]
        contents = self._memory.read_many(new, _TYPE_BYTES)
        plausible = {
            address: content
            for address, content in zip(new, contents, strict=True)
            if content is not None and _is_plausible(content)
        }
        metas = self._metas({_word(each, _OB_TYPE) for each in plausible.values()})
        likely = {
            address: content
            for address, content in plausible.items()
            if _word(content, _OB_TYPE) in metas
        }
        names = self._memory.read_many(
            [_word(each, _TP_NAME) for each in likely.values()], _NAME_BYTES
        )
        self._known.update(dict.fromkeys(new))
        modules = self._modules.of_types(
            {
                address: _word(content, TP_DICT)
                for address, content in likely.items()
                if _word(content, _FLAGS) & _HEAP_TYPE
            }
        )
        for (address, content), raw in zip(likely.items(), names, strict=True):
            match = _NAME.match(raw) if raw is not None else None
            if match is not None:
                name = match.group()[:-1].decode("utf-8", "replace")
                module = modules.get(address, "")
                # Types of C code often have it in their name already.
                full = f"{module}.{name}" if module and "." not in name else name
                flags = _word(content, _FLAGS)
                if any(fnmatchcase(full, each) for each in self._redact):
                    full = REDACTED
                self._known[address] = TypeFound(full, _lead_words(flags, self._version))

    def by_lead(self) -> dict[int, dict[int, str]]:
        """Give the names of all types by address, for each number of leading words."""
        found: dict[int, dict[int, str]] = {}
        for address, each in self._known.items():
            if each is not None:
                found.setdefault(each.lead_words, {})[address] = each.name
        return found

    def _metas(self, addresses: set[int]) -> set[int]:
        """Tell which are metaclasses: their own type's type is itself, as only ``type``'s is."""
        ordered = [each for each in addresses if not each % WORD and self._is_there(each)]
        contents = self._memory.read_many(ordered, _TYPE_BYTES)
        metas = {}
        for address, content in zip(ordered, contents, strict=True):
            if content is None or not _is_plausible(content):
                continue
            if _word(content, _FLAGS) & _TYPE_SUBCLASS:
                metas[address] = _word(content, _OB_TYPE)
        roots = {each for each, above in metas.items() if each == above}
        if not roots:
            roots = {each for each in set(metas.values()) if self._is_root(each)}
        return {each for each, above in metas.items() if each in roots or above in roots}

    def _is_there(self, address: int) -> bool:
        """Tell whether a type could lie there: a place that is not costs a call of its own."""
        at = bisect_right(self._starts, address) - 1
        return at >= 0 and address + _TYPE_BYTES <= self._ends[at]

    def _is_root(self, address: int) -> bool:
        content = self._memory.read(address, _TYPE_BYTES)
        return content is not None and _word(content, _OB_TYPE) == address


def _word(content: bytes, offset: int) -> int:
    return int(struct.unpack_from("<Q", content, offset)[0])


def _is_plausible(content: bytes) -> bool:
    basic, items = struct.unpack_from("<qq", content, _BASICSIZE)
    flags = _word(content, _FLAGS)
    return bool(
        flags & _READY
        and 2 * WORD <= basic <= _LARGEST_OBJECT
        and 0 <= items <= _LARGEST_OBJECT
        and _word(content, _TP_NAME) >= _ADDRESS_AT_LEAST
        and _word(content, _TP_NAME) < _ADDRESS_AT_MOST
    )


def _lead_words(flags: int, version: tuple[int, int]) -> int:
    """Give the words before an object: Objects/object.c, ``_PyType_PreHeaderSize``."""
    words = 2 if flags & _HAVE_GC else 0
    if version >= (3, 12):
        words += 2 if flags & (_MANAGED_DICT | _MANAGED_WEAKREF) else 0
    elif version == (3, 11):
        # Values and dict in front of the collector's head.
        words += 2 if flags & _MANAGED_DICT else 0
    return words
