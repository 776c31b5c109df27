"""Which batches came already: a watermark an agent, hashes of ids for everybody else.

An agent numbers its batches (``AGENT-SEQUENCE-INDEX``, one index a resource of the batch), so that
what came from it is a few numbers, however long it runs. Sets of ids cost 157 bytes each.
"""

from __future__ import annotations

import bisect
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable
from hashlib import blake2b
from typing import Self

import numpy as np
import numpy.typing as npt

REMEMBER_MS = 25 * 3_600_000
"""Older batches are refused for their time: a spooled profile may be a day old, or 10 minutes in
the future when it first comes."""

_AGENT_ID = re.compile(r"(.+-[0-9a-f]{8})-([0-9]{1,15})-([0-9]{1,4})")
_PARTIAL = 16
"""So many sequence numbers of an agent are told apart by resource: a gateway that regroups batches
may bring their parts one after the other. Older ones count as whole."""
_SPANS = 64
"""So many gaps of an agent are known: numbers that were dropped, or are still on their way. Where
there are more the oldest ones are taken for dropped."""
_MAX_AGENTS = 20_000
_RECENT_IDS = 1 << 14
_MAX_IDS = 4_000_000


def parse_agent_id(batch_id: str) -> tuple[str, int, int] | None:
    """Take a batch id of an agent apart: agent, sequence number, resource."""
    found = _AGENT_ID.fullmatch(batch_id)
    return (found[1], int(found[2]), int(found[3])) if found else None


def key_of(tenant: str, batch_id: str) -> int:
    """Hash an id, signed as SQLite has it; two of 4 million are equal by a chance of 10⁻⁶."""
    data = f"{tenant}\0{batch_id}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little", signed=True)


class AgentSequence:
    """What came from one run of an agent.

    Attributes:
        last_ms: When something last came.
    """

    __slots__ = ("_floor", "_partial", "_spans", "last_ms")

    def __init__(self) -> None:
        self._floor = -1
        # Whole sequence numbers above the floor: [first, last], ascending, never touching.
        self._spans: list[tuple[int, int]] = []
        self._partial: dict[int, int] = {}  # sequence → bits of its resources
        self.last_ms = 0

    def seen(self, sequence: int, index: int) -> bool:
        """Tell whether a resource of a batch came."""
        bits = self._partial.get(sequence)
        if bits is not None:
            return bool(bits >> index & 1)
        if sequence <= self._floor:
            return True
        at = bisect.bisect_right(self._spans, (sequence, 1 << 62)) - 1
        return at >= 0 and sequence <= self._spans[at][1]

    def add(self, sequence: int, index: int, received_ms: int) -> None:
        """Note a resource of a batch."""
        self.last_ms = max(self.last_ms, received_ms)
        if self.seen(sequence, index):
            return
        # To the end: what was not touched for longest is closed first.
        self._partial[sequence] = self._partial.pop(sequence, 0) | 1 << index
        while len(self._partial) > _PARTIAL:
            oldest = next(iter(self._partial))
            self._close(oldest)
            del self._partial[oldest]

    def _close(self, sequence: int) -> None:
        """Take a sequence number as whole."""
        spans = self._spans
        at = bisect.bisect_left(spans, (sequence, sequence))
        first = last = sequence
        if at < len(spans) and spans[at][0] == sequence + 1:
            last = spans.pop(at)[1]
        if at and spans[at - 1][1] == sequence - 1:
            first = spans.pop(at - 1)[0]
            at -= 1
        spans.insert(at, (first, last))
        while len(spans) > _SPANS:
            self._floor = spans.pop(0)[1]

    def to_json(self) -> str:
        """Write it down."""
        partial = {str(sequence): f"{bits:x}" for sequence, bits in self._partial.items()}
        return json.dumps([self._floor, self._spans, partial], separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, last_ms: int) -> Self:
        """Read what ``to_json`` wrote."""
        made = cls()
        made._floor, spans, partial = json.loads(text)
        made._spans = [(first, last) for first, last in spans]
        made._partial = {int(sequence): int(bits, 16) for sequence, bits in partial.items()}
        made.last_ms = last_ms
        return made


class SeenBatches:
    """All that came in the last day; safe to use from several threads.

    Attributes:
        dropped: Agents and ids that were forgotten early, because there were too many.
    """

    def __init__(self, *, max_agents: int = _MAX_AGENTS, max_ids: int = _MAX_IDS) -> None:
        self._lock = threading.Lock()
        self._max_agents = max_agents
        self._max_ids = max_ids
        self._agents: OrderedDict[tuple[str, str], AgentSequence] = OrderedDict()
        self._recent: dict[int, int] = {}
        self._packs: list[_Pack] = []
        self.dropped = 0

    def __len__(self) -> int:
        """Give how many agents and ids are remembered."""
        return len(self._agents) + len(self._recent) + sum(len(each.keys) for each in self._packs)

    def seen(self, tenant: str, batch_id: str) -> bool:
        """Tell whether a batch came already."""
        parsed = parse_agent_id(batch_id)
        with self._lock:
            if parsed is not None:
                agent = self._agents.get((tenant, parsed[0]))
                return agent is not None and agent.seen(parsed[1], parsed[2])
            key = key_of(tenant, batch_id)
            return key in self._recent or any(key in each for each in self._packs)

    def add(self, tenant: str, batch_id: str, received_ms: int) -> None:
        """Note a batch."""
        parsed = parse_agent_id(batch_id)
        with self._lock:
            if parsed is None:
                self._add_key(key_of(tenant, batch_id), received_ms)
                return
            name = (tenant, parsed[0])
            agent = self._agents.get(name)
            if agent is None:
                agent = self._agents[name] = AgentSequence()
            agent.add(parsed[1], parsed[2], received_ms)
            self._agents.move_to_end(name)
            self._drop_agents()

    def restore(
        self,
        agents: Iterable[tuple[str, str, AgentSequence]],
        keys: Iterable[tuple[int, int]],
    ) -> None:
        """Take over what was written down: (tenant, agent, state) and (key, when received)."""
        with self._lock:
            for tenant, agent, state in sorted(agents, key=lambda each: each[2].last_ms):
                self._agents[tenant, agent] = state
            self._drop_agents()
            for key, received_ms in sorted(keys, key=lambda each: each[1]):
                self._add_key(key, received_ms)

    def forget(self, before_ms: int) -> bool:
        """Drop what is too old to come again; gives whether there was any."""
        with self._lock:
            count = len(self._agents), len(self._packs), len(self._recent)
            while self._agents and next(iter(self._agents.values())).last_ms < before_ms:
                self._agents.popitem(last=False)
            self._packs = [each for each in self._packs if each.newest_ms >= before_ms]
            self._recent = {k: ms for k, ms in self._recent.items() if ms >= before_ms}
            return count != (len(self._agents), len(self._packs), len(self._recent))

    def _drop_agents(self) -> None:
        while len(self._agents) > self._max_agents:
            self._agents.popitem(last=False)
            self.dropped += 1

    def _add_key(self, key: int, received_ms: int) -> None:
        self._recent[key] = received_ms
        if len(self._recent) < min(_RECENT_IDS, self._max_ids):
            return
        self._packs.append(_Pack.of(self._recent))
        self._recent = {}
        # As in a binary counter: few packs, each id is copied a few times only.
        while len(self._packs) > 1 and len(self._packs[-1].keys) >= len(self._packs[-2].keys):
            if len(self._packs[-2].keys) >= self._max_ids // 4:
                break
            self._packs[-2:] = [_Pack.merged(self._packs[-2], self._packs[-1])]
        while sum(len(each.keys) for each in self._packs) > self._max_ids:
            self.dropped += len(self._packs.pop(0).keys)


class _Pack:
    """Keys that came in one stretch of time, sorted: 8 bytes each."""

    __slots__ = ("keys", "newest_ms")

    def __init__(self, keys: npt.NDArray[np.int64], newest_ms: int) -> None:
        self.keys = keys
        self.newest_ms = newest_ms

    @classmethod
    def of(cls, received: dict[int, int]) -> Self:
        keys = np.fromiter(received, np.int64, len(received))
        return cls(np.sort(keys), max(received.values()))

    @classmethod
    def merged(cls, one: _Pack, other: _Pack) -> Self:
        keys = np.sort(np.concatenate((one.keys, other.keys)))
        return cls(keys, max(one.newest_ms, other.newest_ms))

    def __contains__(self, key: int) -> bool:
        at = int(np.searchsorted(self.keys, key))
        return at < len(self.keys) and int(self.keys[at]) == key
