"""What operators' tools ask: metrics, readiness, liveness."""

from __future__ import annotations

from collections.abc import Callable

from flask import Blueprint, Response, request
from prometheus_client.exposition import choose_encoder

from flamewell_collector.ingest import Ingest
from flamewell_collector.metrics import CollectorMetrics, Counts
from flamewell_collector.store.state import SharedState, StorageState


def ops_blueprint(metrics: CollectorMetrics, *, state: Callable[[], StorageState]) -> Blueprint:
    """Make these doors.

    Args:
        metrics: What is shown.
        state: Tells how the store is.
    """
    blueprint = Blueprint("ops", __name__)

    @blueprint.get("/metrics")
    def show_metrics() -> Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return Response(encode(metrics.registry), content_type=content_type)

    @blueprint.get("/ready")
    @blueprint.get("/-/ready")
    def ready() -> Response:
        now = state()
        well = now.writable or (now.read_only and not now.reason)
        text = "ready\n" if well else f"not ready: {now.reason}\n"
        return Response(text, 200 if well else 503, content_type="text/plain")

    @blueprint.get("/-/healthy")
    def healthy() -> Response:
        return Response("healthy\n", content_type="text/plain")

    return blueprint


def store_gauges(state: StorageState) -> dict[str, tuple[str, float]]:
    """Give the store's gauges: name, behind the collector's prefix, to help text and value."""
    gauges = _own_gauges(state)
    if state.shared is not None:
        gauges |= _shared_gauges(state.shared)
    return gauges


def store_counters(state: StorageState) -> Counts:
    """Give the store's counters: name to help text, name of a label, and counts by its values."""
    if state.shared is None:
        return {}
    return {
        "object_store_requests": (
            "Requests sent to the shared store", "operation", state.shared.requests,
        ),
        "object_store_failures": (
            "... that failed, after all tries", "operation", state.shared.failures,
        ),
        "object_store_fetched_bytes": (
            "Bytes of blocks copied from the shared store", "operation",
            {"get": state.shared.fetched_bytes},
        ),
    }  # fmt: skip


def _shared_gauges(shared: SharedState) -> dict[str, tuple[str, float]]:
    return {
        "store_position": (
            "Changes of the shared catalog that were seen; all collectors should agree",
            shared.position,
        ),
        "store_collectors": ("Collectors that write to the shared store", shared.collectors),
        "store_silent_collectors": (
            "... that have fallen silent; others go on with what they had taken in",
            shared.silent,
        ),
        "store_leads": ("1 where this collector merges and removes blocks", float(shared.leads)),
        "store_other_rows": (
            "Samples that other collectors have not in blocks yet", shared.other_rows,
        ),
        "store_cache_bytes": ("Size of the copies of blocks", shared.cache_bytes),
    }  # fmt: skip


def _own_gauges(state: StorageState) -> dict[str, tuple[str, float]]:
    return {
        "store_writable": ("1 where batches can be stored", float(state.writable)),
        "store_head_rows": ("Samples that are not in blocks yet", state.head_rows),
        "store_wal_bytes": ("Size of the write-ahead log", state.wal_bytes),
        "store_blocks": ("Registered blocks of profiles as they came", state.blocks),
        "store_block_bytes": ("Size of the registered blocks", state.block_bytes),
        "store_rollup_blocks": ("Registered blocks of sums", state.rollup_blocks),
        "store_rollup_bytes": ("Size of the blocks of sums", state.rollup_bytes),
        "store_stack_cache_bytes": ("Memory for stacks of blocks", state.stack_cache_bytes),
        "store_damaged_blocks": ("Blocks set aside as damaged", state.damaged_blocks),
        "store_disk_free_bytes": ("Free space of the data disk", state.disk_free_bytes),
        "store_wal_skipped_bytes": (
            "Bytes of the log that belonged to no whole frame at the last start",
            state.wal_skipped_bytes,
        ),
    }


def ingest_gauges(ingest: Ingest) -> dict[str, tuple[str, float]]:
    """Give the gauges of ingest, as ``store_gauges`` does."""
    return {
        "ingest_memory_bytes": (
            "What ingest requests under way have reserved; ingest_memory_bytes is the limit",
            float(ingest.memory_bytes),
        )
    }
