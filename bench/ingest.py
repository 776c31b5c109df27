"""Measures ingest on one core, from a request's body to a synced log frame, stage by stage.

Usage: python bench/ingest.py [--runs 9] [--folder DIR]

CPU time of the calling thread, medians; the log's fdatasync waits, which is no CPU. OTLP batches
are made by the agent's own encoder. pprof profiles are real: gofmt over the Go distribution's own
sources, the Go test target's heap, goroutines and locks, and this process's Python stacks while it
parses the standard library.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import gzip
import json
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.error
import urllib.request
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import machine
import numpy as np

from flamewell_agent import otlp as agent_otlp
from flamewell_agent.model import Batch, Frame, Profile, Resource
from flamewell_collector.allocator import keep_freed_memory
from flamewell_collector.batch_builder import Known
from flamewell_collector.gzipping import ENGINE, gunzip_parts
from flamewell_collector.limits import Limits
from flamewell_collector.otlp import Decoder
from flamewell_collector.otlp_wire import parse_request
from flamewell_collector.pprof import PprofDecoder, Upload
from flamewell_collector.store import batch_codec
from flamewell_collector.store.wal import LogFiles, Wal
from flamewell_wire import pprof, profile_types

ROOT = Path(__file__).parent.parent
TYPES = (
    profile_types.CPU,
    profile_types.INUSE_SPACE,
    profile_types.ALLOC_SPACE,
    profile_types.GOROUTINE,
    profile_types.MUTEX_DELAY,
)


@dataclass(frozen=True)
class Shape:
    """A batch as an agent sends it: findings.md's model of a node.

    Attributes:
        services: On the node.
        pods: Of each service.
        types: Profile types.
        stacks: Samples of a profile.
        universe: Stacks that a service has altogether; drawn by Zipf.
    """

    services: int
    pods: int
    types: int
    stacks: int
    universe: int


def made_stacks(chance: random.Random, count: int, service: str) -> list[tuple[Frame, ...]]:
    """Give stacks of a service, leaf first: depth 23, 43 and 66 in the 10th, 50th and 90th."""
    functions = [
        Frame(f"{service}.module_{at % 300}.function_{at}", f"/srv/{service}/{at % 300}.py", at)
        for at in range(4_000)
    ]
    stacks: list[tuple[Frame, ...]] = [()]
    while len(stacks) <= count:
        # A stack shares a prefix with another one, as calls do.
        base = stacks[chance.randrange(len(stacks))]
        depth = max(3, round(chance.gauss(44, 16)))
        kept = base[-chance.randrange(len(base) + 1) :] if base else ()
        kept = kept[-depth:]
        fresh = tuple(
            functions[min(int(chance.paretovariate(0.7)), 3_999)] for _ in range(depth - len(kept))
        )
        stacks.append(fresh + kept)
    return stacks[1:]


def agent_batch(
    shape: Shape, seed: int, stacks: list[list[tuple[Frame, ...]]]
) -> tuple[bytes, int]:
    """Encode a batch; gives it and its number of samples."""
    chance = np.random.default_rng(seed)
    profiles = []
    samples = 0
    now = time.time_ns()
    for service in range(shape.services):
        for pod in range(shape.pods):
            resource = Resource.of(
                {
                    "service.name": f"service-{service}",
                    "k8s.pod.name": f"service-{service}-{pod}",
                    "k8s.namespace.name": "production",
                    "k8s.node.name": "node-17",
                    "k8s.cluster.name": "europe-1",
                    "k8s.container.name": "app",
                    "process.runtime.name": "cpython",
                }
            )
            for kind in TYPES[: shape.types]:
                drawn = np.minimum(chance.zipf(1.15, shape.stacks * 2), shape.universe) - 1
                chosen = list(dict.fromkeys(drawn.tolist()))[: shape.stacks]
                amounts = chance.integers(1, 200, len(chosen)).tolist()
                pairs = tuple(
                    (stacks[service][at], amount)
                    for at, amount in zip(chosen, amounts, strict=True)
                )
                samples += len(pairs)
                period = 20_408_163 if kind is profile_types.CPU else 1
                profiles.append(Profile(resource, kind.id, now, 15 * 10**9, period, pairs))
    return agent_otlp.encode(Batch(seed, tuple(profiles)), agent_id="bench-1-1"), samples


class AllKnown:
    """The log has every stack."""

    epoch = 1

    def unknown(self, _service: str, stack_ids: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        """Tell that none is new."""
        return np.zeros(len(stack_ids), dtype=bool)


def timed(action: Callable[..., Any], *arguments: Any, **named: Any) -> tuple[float, Any]:
    """Give CPU seconds of this thread, and what came out."""
    began = time.thread_time()
    result = action(*arguments, **named)
    return time.thread_time() - began, result


def stages(samples: int, **seconds: float) -> Iterator[tuple[str, float]]:
    """Give (stage, ns a sample), with the sum."""
    for stage, each in seconds.items():
        yield stage, each / samples * 1e9
    yield "together", sum(seconds.values()) / samples * 1e9


def otlp_rows(
    bodies: list[tuple[bytes, int]], known: Known | None, folder: Path
) -> Iterator[tuple[str, float]]:
    """Give (stage, ns a sample) of each batch; the first one warms the cache of names."""
    wal = Wal(LogFiles(folder), number=1)
    for number, (body, samples) in enumerate(bodies):
        decoder = Decoder(
            replace(Limits(), series=10**6),
            seen=lambda _tenant, _id: False,
            room_for_series=lambda _tenant, _series: True,
            known=known,
        )
        now_ms = time.time_ns() // 1_000_000
        parse, request = timed(parse_request, body, as_json=False)
        decode, decoded = timed(decoder.decode, request, "bench", now_ms)
        assert not decoded.rejected, decoded.message
        encode, frame = timed(batch_codec.encode, decoded.batch)
        write, _ = timed(wal.append, frame, lambda: None)
        if number:
            yield from stages(samples, parse=parse, decode=decode, encode=encode, log=write)
    wal.close()


def pprof_rows(
    body: bytes, runs: int, known: Known | None, folder: Path, engine: Any
) -> Iterator[tuple[str, float]]:
    """The same of a profile, over and over; a sample is one (stack, type)."""
    wal = Wal(LogFiles(folder), number=2)
    plain = gzip.decompress(body)
    message = pprof.Profile.FromString(plain)
    samples = len(message.sample) * len(message.sample_type)
    upload = Upload({"service_name": "bench"})
    limits = replace(Limits(), max_age_ms=1 << 60, profile_samples=10**6)
    for number in range(runs + 1):
        decoder = PprofDecoder(limits, room_for_series=lambda _tenant, _series: True, known=known)
        unpack, whole = timed(lambda: b"".join(gunzip_parts(body, engine=engine)))
        decode, decoded = timed(decoder.decode, whole, upload, "bench", time.time_ns() // 10**6)
        encode, frame = timed(batch_codec.encode, decoded.batch)
        write, _ = timed(wal.append, frame, lambda: None)
        if number:
            yield from stages(samples, gunzip=unpack, decode=decode, encode=encode, log=write)
    wal.close()


def gofmt_profile(folder: Path) -> bytes:
    """Profile a real Go program over its own distribution."""
    go = Path(sys.executable).parent / "go"
    root = subprocess.run([go, "env", "GOROOT"], capture_output=True, text=True, check=True)
    source = Path(root.stdout.strip())
    subprocess.run(
        [source / "bin" / "gofmt", "-cpuprofile", folder / "cpu", "-l", source / "src" / "cmd"],
        capture_output=True,
        check=False,  # files that are wrong on purpose are among the sources
    )
    return (folder / "cpu").read_bytes()


def go_profiles(folder: Path) -> dict[str, bytes]:
    """Fetch the profiles of the Go test target."""
    sys.path.insert(0, str(ROOT / "tests"))
    from end_to_end.go_toolchain import build  # noqa: PLC0415 - tests are beside, not installed

    binary = build(ROOT / "tests" / "targets" / "go", folder / "target")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    child = subprocess.Popen([binary, "-listen", f"127.0.0.1:{port}"])
    found: dict[str, bytes] = {}
    try:
        time.sleep(3)
        for kind in ("heap", "goroutine", "mutex"):
            url = f"http://127.0.0.1:{port}/debug/pprof/{kind}"
            with contextlib.suppress(urllib.error.URLError), urllib.request.urlopen(url) as answer:
                found[f"Go target, {kind}"] = answer.read()
    finally:
        child.kill()
        child.wait()
    return found


def python_profile(seconds: float) -> bytes:
    """Sample this process's own stacks while it parses and dumps the standard library."""
    stop = threading.Event()

    def work() -> None:
        files = sorted(Path(ast.__file__).parent.glob("*.py"))
        while not stop.is_set():
            for path in files:
                json.dumps(ast.dump(ast.parse(path.read_text(errors="replace"))))
                if stop.is_set():
                    return

    worker = threading.Thread(target=work)
    worker.start()
    stacks: Counter[tuple[tuple[str, str, int], ...]] = Counter()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.001)
        frame = sys._current_frames().get(worker.ident or 0)  # noqa: SLF001 - the one way to it
        lines = traceback.walk_stack(frame)
        stacks[tuple((f.f_code.co_qualname, f.f_code.co_filename, at) for f, at in lines)] += 1
    stop.set()
    worker.join()
    return encoded(stacks)


def encoded(stacks: Counter[tuple[tuple[str, str, int], ...]]) -> bytes:
    """Make a pprof profile of stacks, leaf first."""
    message = pprof.Profile(time_nanos=time.time_ns(), duration_nanos=10**9)
    strings: dict[str, int] = {"": 0}
    locations: dict[tuple[str, str, int], int] = {}

    def text(value: str) -> int:
        return strings.setdefault(value, len(strings))

    for name, unit in (("samples", "count"), ("cpu", "nanoseconds")):
        message.sample_type.add(type=text(name), unit=text(unit))
    for stack, count in stacks.items():
        for frame in stack:
            if frame not in locations:
                number = locations[frame] = len(locations) + 1
                message.function.add(id=number, name=text(frame[0]), filename=text(frame[1]))
                message.location.add(id=number).line.add(function_id=number, line=frame[2])
        ids = [locations[frame] for frame in stack]
        message.sample.add(location_id=ids, value=[count, count * 10**6])
    message.string_table.extend(strings)
    return gzip.compress(message.SerializeToString())


def table(title: str, rows: Iterator[tuple[str, float]]) -> None:
    """Print medians by stage, and the best: on a shared machine that is nearest to the truth."""
    by_stage: dict[str, list[float]] = {}
    for stage, nanos in rows:
        by_stage.setdefault(stage, []).append(nanos)
    print(f"\n{title}")
    for stage, found in by_stage.items():
        middle, best = statistics.median(found), min(found)
        print(f"  {stage:<10}{middle:>9.0f} ns a sample, best {best:>7.0f}")
    middle, best = statistics.median(by_stage["together"]), min(by_stage["together"])
    print(f"  {'':<10}{1e9 / middle:>9,.0f} samples/s/core, best {1e9 / best:,.0f}")


def shown(body: bytes) -> str:
    """Say what is in a profile."""
    message = pprof.Profile.FromString(gzip.decompress(body))
    frames = sum(len(each.location_id) for each in message.sample)
    count = len(message.sample)
    return (
        f"{count} samples of {len(message.sample_type)} types, "
        f"{frames / max(count, 1):.0f} locations a stack, {len(body)} bytes"
    )


def main() -> None:
    """Run all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--folder", type=Path, default=None)
    arguments = parser.parse_args()
    kept = keep_freed_memory()
    print(machine.describe())
    print(f"gunzip by {ENGINE.__name__}; freed memory is {'kept' if kept else 'given back'}")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        for title, shape in (
            ("a node: 10 services of 1 pod, 5 types, 150 stacks", Shape(10, 1, 5, 150, 20_000)),
            ("a node of one service: 10 pods, 5 types", Shape(1, 10, 5, 150, 20_000)),
            ("4 nodes in one batch: 10 services of 4 pods", Shape(10, 4, 5, 150, 20_000)),
        ):
            chance = random.Random(1)
            stacks = [
                made_stacks(chance, shape.universe, f"service{at}") for at in range(shape.services)
            ]
            bodies = [agent_batch(shape, seed, stacks) for seed in range(arguments.runs + 1)]
            size, samples = len(bodies[0][0]), bodies[0][1]
            print(f"\n{title}: {samples} samples, {size / samples:.0f} bytes a sample")
            table("OTLP, known stacks", otlp_rows(bodies, AllKnown(), folder))
            table("OTLP, unknown stacks", otlp_rows(bodies, None, folder))
        profiles = {"gofmt, CPU": gofmt_profile(folder), **go_profiles(folder)}
        profiles["Python, CPU"] = python_profile(20)
        for title, body in profiles.items():
            print(f"\npprof, {title}: {shown(body)}")
            for how, known, engine in (
                ("known stacks", AllKnown(), ENGINE),
                ("unknown stacks", None, ENGINE),
                ("known stacks, gunzip by zlib", AllKnown(), zlib),
            ):
                rows = pprof_rows(body, arguments.runs, known, folder, engine)
                table(f"{title}, {how}", rows)


if __name__ == "__main__":
    main()
