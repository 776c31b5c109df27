"""What operators' tools ask: metrics, readiness, liveness."""

from __future__ import annotations

from collections.abc import Callable

from flask import Blueprint, Response, request
from prometheus_client.exposition import choose_encoder

from flamewell_collector.ingest import Ingest
from flamewell_collector.metrics import CollectorMetrics
from flamewell_collector.store.storage import StorageState


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
        text = "ready\n" if now.writable else f"not ready: {now.reason}\n"
        return Response(text, 200 if now.writable else 503, content_type="text/plain")

    @blueprint.get("/-/healthy")
    def healthy() -> Response:
        return Response("healthy\n", content_type="text/plain")

    return blueprint


def store_gauges(state: StorageState) -> dict[str, tuple[str, float]]:
    """Give the store's gauges: name, behind the collector's prefix, to help text and value."""
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
