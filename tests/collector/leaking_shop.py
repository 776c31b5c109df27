"""A collector's folder with six hours of readings: one container leaks, two do not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from collector.batches import P, batch
from werkzeug.serving import WSGIRequestHandler, make_server

from flamewell_collector.app import Collector, now_ms, running_collector
from flamewell_collector.config import CollectorConfig
from flamewell_wire.profile_types import CPU, PROCESS_ANON, PROCESS_LIMIT, PROCESS_START

MIB = 1 << 20
MINUTE = 60_000
HOURS = 6
LIMIT = 1_200 * MIB
LEAKY = {
    "service_name": "payments", "namespace": "shop", "pod": "payments-1", "container": "app",
    "workload": "payments", "cluster": "eu", "node": "n1", "runtime": "cpython",
}  # fmt: skip
HEALTHY = {**LEAKY, "pod": "payments-2"}
OTHER = {"service_name": "other<b>", "node": "n1"}


def readings(labels: dict[str, str], anon: np.ndarray, begin_ms: int) -> list[P]:
    """Give what an agent tells of a process, a reading a minute."""
    found = []
    for at, value in enumerate(anon):
        time_ms = begin_ms + at * MINUTE
        found += [
            P(labels, time_ms, {"": round(value * MIB)}, PROCESS_ANON.id),
            P(labels, time_ms, {"": LIMIT}, PROCESS_LIMIT.id),
            P(labels, time_ms, {"": begin_ms // 1_000 - 60}, PROCESS_START.id),
            P(labels, time_ms, {"main handle": 6 * 10**9}, CPU.id, duration_ms=MINUTE - 1_000),
        ]
    return found


class Shop:
    """A folder with six hours of readings, the last of this minute."""

    def __init__(self, data: Path, url: str = "https://flame.example/x/") -> None:
        self.data = data
        self.config = CollectorConfig(data_dir=str(data), external_url=url)
        rng = np.random.default_rng(1)
        count = HOURS * 60
        self.begin_ms = now_ms() // MINUTE * MINUTE - count * MINUTE
        leak = 400 + np.arange(count) * (700 / count) + rng.normal(0, 1, count)
        flat = 400 + rng.normal(0, 1, count)
        with running_collector(self.config) as running:
            for number, (labels, anon) in enumerate(
                [(LEAKY, leak), (HEALTHY, flat), (OTHER, flat)]
            ):
                profiles = readings(labels, anon, self.begin_ms)
                running.storage.append(batch(profiles, batch_id=str(number)))


@contextmanager
def served(collector: Collector, port: int = 0) -> Iterator[str]:
    """Serve a collector on loopback; give its URL."""

    class Quiet(WSGIRequestHandler):
        def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 - werkzeug's
            pass

    server = make_server("127.0.0.1", port, collector.app, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
