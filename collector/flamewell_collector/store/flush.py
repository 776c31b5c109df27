"""Writes a tenant's unflushed rows as blocks, one an hour."""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack

import numpy as np
import pyarrow as pa

from flamewell_collector.store.changes import Block
from flamewell_collector.store.head import TenantHead, by_service
from flamewell_collector.store.prefix_tree import PrefixTree, nodes_of_ids
from flamewell_collector.store.sample_rows import SampleRows, by_hour_and_kind, int64s
from flamewell_collector.store.series import SeriesIndex, series_table
from flamewell_collector.store.stack_numbers import StackNumbers, StackRows
from flamewell_collector.store.tiers import HOUR_MS
from flamewell_collector.store.writer import BlockDraft, BlockWriter, Origin

_PROFILE_ORDER = [
    (name, "ascending") for name in ("service_name", "profile_type", "time", "series_id")
]


def write_head(
    tenant: str,
    head: TenantHead,
    writer: BlockWriter,
    *,
    series: SeriesIndex,
    origin: Origin,
    written: list[Block],
) -> None:
    """Write blocks and make them durable; the caller registers them.

    Args:
        tenant: Whose.
        head: The rows.
        writer: Writes.
        series: Knows at least the series of the profiles.
        origin: Where the rows come from.
        written: Takes each block as it is done, also before an error.

    Raises:
        StorageUnavailable: The disk is full or read-only.
    """
    profiles = head.profiles.table().combine_chunks().sort_by(_PROFILE_ORDER)
    hours = int64s(profiles, "time") // HOUR_MS
    with ExitStack() as held:
        drafts = {
            hour: held.enter_context(writer.draft(tenant, hour * HOUR_MS, origin=origin))
            for hour in np.unique(hours).tolist()
        }
        of_hour = {
            hour: dict(by_service(profiles.filter(pa.array(hours == hour)))) for hour in drafts
        }
        for service, _ in by_service(profiles):
            _write_service(service, head, drafts, of_hour, series)
        written.extend(each.finish() for each in drafts.values())


def _write_service(
    service: str,
    head: TenantHead,
    drafts: dict[int, BlockDraft],
    profiles: dict[int, dict[str, pa.Table]],
    series: SeriesIndex,
) -> None:
    tree = head.stacks.tree(service) or PrefixTree.empty()
    samples: dict[int, list[tuple[str, SampleRows]]] = defaultdict(list)
    if service in head.samples:
        table = head.samples[service].table()
        nodes = nodes_of_ids(tree, table.column("stack_id"))
        for hour, kind, rows in by_hour_and_kind(table, nodes, HOUR_MS):
            samples[hour].append((kind, rows))
    for hour, draft in drafts.items():
        mine = profiles[hour].get(service)
        if mine is None:
            continue
        numbers = StackNumbers(tree)
        for kind, rows in samples[hour]:
            draft.add_samples(service, kind, rows.with_stack(numbers.of(rows.stack)).by_stack())
        used = np.unique(int64s(mine, "series_id")).tolist()
        found = (series.get(each) for each in used)
        rows_of_series = series_table(each for each in found if each is not None)
        draft.end_service(mine, rows_of_series, StackRows.of(service, numbers))
