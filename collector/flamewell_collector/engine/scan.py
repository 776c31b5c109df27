"""The seam between questions and whatever engine answers them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Columns = Mapping[str, npt.NDArray[Any]]
"""A result: equally long arrays by column name."""


@dataclass(frozen=True, slots=True)
class Scan:
    """The rows that a statement sees.

    Attributes:
        blocks: Block folders.
        head_profiles: PROFILES rows that are in no block yet.
        head_samples: SAMPLES rows that are in no block yet.
        start_ms: First time that counts.
        end_ms: First time that does not count any more.
        type_ids: Profile types; empty for all.
        services: Service names, so that row groups of others are not read; None for all.
        series_ids: Series; None for all of these services.
    """

    blocks: tuple[Path, ...]
    head_profiles: pa.Table
    head_samples: pa.Table
    start_ms: int
    end_ms: int
    type_ids: tuple[str, ...] = ()
    services: tuple[str, ...] | None = None
    series_ids: npt.NDArray[np.uint64] | None = None


@dataclass(frozen=True, slots=True)
class Statement:
    """One question in SQL.

    Attributes:
        reads: ``profiles``, ``samples`` or both: relations that hold the scan's rows and no others.
        sql: The text; ``$name`` stands for a parameter.
    """

    reads: tuple[str, ...]
    sql: str


class Engine(Protocol):
    """Runs statements."""

    def run(self, statement: Statement, scan: Scan, **parameters: int) -> Columns:
        """Give the statement's result over the rows of the scan."""
        ...
