"""A collector's write path alone: storage, ingest, its door, and upkeep all the time.

Usage: ingest_server.py DATA_FOLDER PORT. Flushes and compacts as often as it can, to be killed at
any moment of it.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import waitress
from flask import Flask

from flamewell_collector.ingest import Ingest
from flamewell_collector.limits import Limits
from flamewell_collector.metrics import CollectorMetrics
from flamewell_collector.store.storage import Storage, StorageOptions
from flamewell_collector.web.otlp import otlp_blueprint


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def keep_up(storage: Storage) -> None:
    while True:
        storage.maintain(now_ms())
        time.sleep(0.005)


def main() -> None:
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    storage = Storage.open(folder, StorageOptions(flush_rows=40))
    metrics = CollectorMetrics()
    ingest = Ingest(storage, metrics, limits=Limits(), now_ms=now_ms)
    app = Flask("ingest_server")
    app.register_blueprint(otlp_blueprint(ingest, metrics, limits=Limits()))
    threading.Thread(target=keep_up, args=(storage,), daemon=True).start()
    waitress.serve(app, host="127.0.0.1", port=port, threads=8)


main()
