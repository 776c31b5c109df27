"""What the collector's parts hand each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class DecodedBatch:
    """One ingest request, decoded and validated, as columns. Schemas: store/schema.py.

    Attributes:
        tenant: From the credential, never from a label.
        batch_ids: What deduplication remembers once the batch is durable.
        series: SERIES: series_id, service_name, labels.
        profiles: PROFILES: one row a profile (its total), for time lines without stacks.
        samples: BATCH_SAMPLES: one row a (profile, stack).
        stacks: BATCH_STACKS: a prefix tree with node numbers local to this batch.
        frames: BATCH_FRAMES: frame numbers local to this batch.
        epoch: Stacks that the log file of this number has already are left out; None where all
            are there.
    """

    tenant: str
    batch_ids: tuple[str, ...]
    series: pa.Table
    profiles: pa.Table
    samples: pa.Table
    stacks: pa.Table
    frames: pa.Table
    epoch: int | None = None


@dataclass(frozen=True, slots=True)
class Matcher:
    """One PromQL label matcher. ``operator`` is ``=``, ``!=``, ``=~`` or ``!~``."""

    name: str
    operator: str
    value: str


@dataclass(frozen=True, slots=True)
class Selection:
    """What a query reads. Times in ms since the epoch, half open [start_ms, end_ms)."""

    tenant: str
    type_id: str
    matchers: tuple[Matcher, ...]
    start_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class Series:
    """A series and its labels (service_name is one of them)."""

    series_id: int
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Frames:
    """A frame table: three columns of equal length n; row number is the frame id."""

    function: list[str]
    file: list[str]
    line: npt.NDArray[np.int32]


class Shape:
    """What was worked out of a tree's shape, whatever its values: kept with the tree.

    Attributes:
        found: Whoever works it out says what it is; None before.
        paths: Likewise, of the ids of paths (analysis/joining.py).
        outermost: Likewise, of functions that call themselves (analysis/top.py).
    """

    __slots__ = ("found", "outermost", "paths")

    def __init__(self) -> None:
        self.found: object = None
        self.paths: object = None
        self.outermost: object = None


@dataclass(frozen=True, slots=True)
class StackTree:
    """Merged values on a prefix tree of stacks: the input of all analysis.

    Node 0 is the root (no frame). ``parent[i] < i`` for every i > 0. Some nodes may lead to
    no value.

    Attributes:
        parent: int32, shape (n,); parent[0] == -1.
        frame: int32, shape (n,); row in ``frames``; frame[0] == -1.
        value: int64, shape (n,); the node's own (self) value, in the profile type's unit.
        frames: The frame table.
        shape: One object for all trees that have these very ``parent``, ``frame`` and ``frames``.
    """

    parent: npt.NDArray[np.int32]
    frame: npt.NDArray[np.int32]
    value: npt.NDArray[np.int64]
    frames: Frames
    shape: Shape = field(default_factory=Shape)


@dataclass(frozen=True, slots=True)
class Timeline:
    """Values on a regular grid: point i covers [start_ms + i·step_ms, start_ms + (i+1)·step_ms).

    ``values`` is float64 with NaN where there was no data; for a delta type an amount per second,
    for a gauge the average.
    """

    start_ms: int
    step_ms: int
    values: npt.NDArray[np.float64]
