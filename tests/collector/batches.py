"""Builds decoded batches from plain Python, and a plain reference for what queries answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from flamewell_collector.hashing import frame_hash, label_set_hash, stack_hash
from flamewell_collector.model import DecodedBatch, StackTree
from flamewell_collector.store.head_stacks import HeadStacks
from flamewell_collector.store.prefix_tree import PrefixTree
from flamewell_collector.store.schema import (
    BATCH_FRAMES,
    BATCH_SAMPLES,
    BATCH_STACKS,
    PROFILES,
    SERIES,
)
from flamewell_wire.profile_types import CPU

Stack = tuple[str, ...]
"""Function names, root first; file and line follow from the name."""

TENANT = "default"


@dataclass(frozen=True)
class P:
    """A profile: whose, when, and what each stack (root first, joined by spaces) amounts to."""

    labels: Mapping[str, str]
    time_ms: int
    stacks: Mapping[str, int]
    type_id: str = CPU.id
    duration_ms: int = 0


@dataclass
class _Symbols:
    stacks: dict[str, dict[Stack, int]] = field(default_factory=dict)
    frames: dict[str, int] = field(default_factory=dict)
    ends: set[tuple[str, Stack]] = field(default_factory=set)

    def add(self, service: str, stack: Stack) -> None:
        mine = self.stacks.setdefault(service, {(): 0})
        for depth in range(len(stack) + 1):
            mine.setdefault(stack[:depth], len(mine))
        for function in stack:
            self.frames.setdefault(function, len(self.frames))
        self.ends.add((service, stack))

    def tables(self) -> tuple[pa.Table, pa.Table]:
        rows: list[dict] = []
        for service, mine in self.stacks.items():
            first = len(rows)
            rows += [
                {
                    "service_name": service,
                    "node": first + node,
                    "parent": first + mine[stack[:-1]] if stack else -1,
                    "frame": self.frames[stack[-1]] if stack else -1,
                    "stack_id": stack_id(stack)
                    if (service, stack) in self.ends or not stack
                    else None,
                }
                for stack, node in mine.items()
            ]
        return pa.Table.from_pylist(rows, schema=BATCH_STACKS), frame_rows(self.frames)


def frame_rows(names: Iterable[str]) -> pa.Table:
    """Number frames in their order."""
    rows = [
        {
            "frame": number,
            "frame_id": int(np.uint64(frame_hash(name, f"{name}.py", 1)).astype(np.int64)),
            "function": name,
            "file": f"{name}.py",
            "line": 1,
        }
        for number, name in enumerate(names)
    ]
    return pa.Table.from_pylist(rows, schema=BATCH_FRAMES)


def stack_id(stack: Stack) -> int:
    return stack_hash((function, f"{function}.py", 1) for function in stack)


def batch(profiles: Iterable[P], *, batch_id: str, tenant: str = TENANT) -> DecodedBatch:
    series: dict[int, dict] = {}
    profile_rows, sample_rows, symbols = [], [], _Symbols()
    for each in profiles:
        labels = dict(each.labels)
        series_id = label_set_hash(labels.items())
        series[series_id] = {
            "series_id": series_id,
            "service_name": labels["service_name"],
            "labels": sorted(labels.items()),
        }
        row = {
            "service_name": labels["service_name"],
            "profile_type": each.type_id,
            "time": each.time_ms,
            "series_id": series_id,
        }
        profile_rows.append(
            {
                **row,
                "duration_ms": each.duration_ms,
                "total": sum(each.stacks.values()),
                "sample_count": 0,
            }
        )
        for text, value in each.stacks.items():
            stack = tuple(text.split())
            symbols.add(labels["service_name"], stack)
            sample_rows.append({**row, "stack_id": stack_id(stack), "value": value})
    stacks, frames = symbols.tables()
    return DecodedBatch(
        tenant=tenant,
        batch_ids=(batch_id,),
        series=pa.Table.from_pylist(list(series.values()), schema=SERIES),
        profiles=pa.Table.from_pylist(profile_rows, schema=PROFILES),
        samples=pa.Table.from_pylist(sample_rows, schema=BATCH_SAMPLES),
        stacks=stacks,
        frames=frames,
    )


def as_stacks(tree: StackTree) -> dict[str, int]:
    """Give a tree's own values by stack, root first, joined by spaces; zeros left out."""
    names: list[str] = []
    found: dict[str, int] = {}
    for parent, frame, value in zip(
        tree.parent.tolist(), tree.frame.tolist(), tree.value.tolist(), strict=True
    ):
        name = "" if frame < 0 else f"{names[parent]} {tree.frames.function[frame]}".strip()
        names.append(name)
        if value:
            found[name] = value
    return found


def trees_of(stacks: pa.Table, frames: pa.Table) -> PrefixTree:
    """Give all stacks of a batch as one tree."""
    head = HeadStacks()
    head.add(stacks, frames)
    found = [head.tree(each) for each in stacks.column("service_name").unique().to_pylist()]
    return PrefixTree.merged([each for each in found if each is not None])
