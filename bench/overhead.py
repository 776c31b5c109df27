"""What the agent costs: targets' throughput with and without it, its CPU and its memory.

Periods without and with the agent alternate on the same running targets (A B A B ...); each pair
gives one ratio, the median is quoted. Targets never sleep, so whatever the agent takes from a full
machine shows in their throughput. The agent ships to a sink on loopback, since a collector runs
elsewhere.

Usage: python bench/overhead.py [--targets 1 10 50] [--pairs 4] [--seconds 30]
"""

from __future__ import annotations

import argparse
import http.server
import json
import os
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from machine import describe

HERE = Path(__file__).parent
TICKS = os.sysconf("SC_CLK_TCK")
SETTLE_SECONDS = 12.0
"""After a start of the agent, before a period counts: imports are not the steady state."""


class Sink(http.server.BaseHTTPRequestHandler):
    """Takes whatever is posted."""

    received = 0

    def do_POST(self) -> None:
        Sink.received += len(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@dataclass(frozen=True)
class Period:
    """One measured period."""

    units_per_second: float
    agent_cpu_ratio: float
    agent_rss_bytes: int


class Targets:
    """N worker processes and their counters."""

    def __init__(self, count: int, folder: Path) -> None:
        self.count = count
        self.path = folder / "counters"
        self.path.write_bytes(bytes(8 * count))
        self.processes = [
            subprocess.Popen([sys.executable, str(HERE / "worker.py"), str(self.path), str(index)])
            for index in range(count)
        ]

    def units(self) -> int:
        return sum(struct.unpack(f"<{self.count}q", self.path.read_bytes()))

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()


def agent_cpu_seconds(pid: int) -> float:
    """CPU of the agent and of its children, reaped and living."""
    own = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = sum(int(own[at]) for at in (11, 12, 13, 14))
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS


def agent_rss_bytes(pid: int) -> int:
    """RSS of the agent and its living children."""
    pids = [str(pid), *Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    total = 0
    for each in pids:
        try:
            total += int(Path(f"/proc/{each}/statm").read_text().split()[1]) * 4096
        except OSError:
            continue
    return total


def measure(targets: Targets, seconds: float, agent: subprocess.Popen[bytes] | None) -> Period:
    """Count work, and what the agent used, over one period."""
    rss = 0
    cpu = agent_cpu_seconds(agent.pid) if agent else 0.0
    began, units = time.monotonic(), targets.units()
    while time.monotonic() < began + seconds:
        time.sleep(0.5)
        if agent:
            rss = max(rss, agent_rss_bytes(agent.pid))
    wall = time.monotonic() - began
    done = targets.units() - units
    used = agent_cpu_seconds(agent.pid) - cpu if agent else 0.0
    return Period(done / wall, used / wall / (os.cpu_count() or 1), rss)


def start_agent(folder: Path, url: str, budget: float) -> tuple[subprocess.Popen[bytes], str]:
    """Start an agent that ships to the sink."""
    metrics = "127.0.0.1:14041"
    command = [
        sys.executable, "-m", "flamewell_agent", "run", "--collector-url", url,
        "--state-dir", str(folder / "agent"), "--metrics-listen", metrics,
        "--overhead-budget", str(budget),
    ]  # fmt: skip
    log = (folder / "agent.log").open("ab")
    process = subprocess.Popen(command, stdout=log, stderr=log)
    log.close()
    return process, f"http://{metrics}/metrics"


def samples_taken(metrics_url: str) -> float:
    """Sum of flamewell_agent_samples_total of Python."""
    with urllib.request.urlopen(metrics_url, timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in lines
        if line.startswith("flamewell_agent_samples_total{") and 'runtime="cpython"' in line
    )


def wait_for_start(metrics_url: str) -> None:
    """Wait for the agent's metrics: among 50 busy processes its imports take a while."""
    for _ in range(240):
        try:
            samples_taken(metrics_url)
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise SystemExit("the agent did not start; see its log")


def run(count: int, options: argparse.Namespace, url: str) -> dict[str, object]:
    """Measure all pairs for one number of targets."""
    ratios, cpu, rss, rates = [], [], [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        targets = Targets(count, folder)
        try:
            time.sleep(2)
            for _ in range(options.pairs):
                without = measure(targets, options.seconds, None)
                agent, metrics = start_agent(folder, url, options.budget)
                try:
                    wait_for_start(metrics)
                    time.sleep(SETTLE_SECONDS)
                    before = samples_taken(metrics)
                    having = measure(targets, options.seconds, agent)
                    rates.append((samples_taken(metrics) - before) / options.seconds)
                finally:
                    agent.send_signal(signal.SIGTERM)
                    agent.wait(60)
                ratios.append(having.units_per_second / without.units_per_second)
                cpu.append(having.agent_cpu_ratio)
                rss.append(having.agent_rss_bytes)
        finally:
            targets.stop()
    return {
        "targets": count,
        "throughput_with_over_without": [round(each, 4) for each in ratios],
        "median_throughput_ratio": round(statistics.median(ratios), 4),
        "median_agent_cpu_of_node_percent": round(100 * statistics.median(cpu), 3),
        "max_agent_cpu_of_node_percent": round(100 * max(cpu), 3),
        "max_rss_mib_agent_and_children": round(max(rss) / 2**20, 1),
        "median_python_samples_per_second": round(statistics.median(rates), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--targets", type=int, nargs="+", default=[1, 10, 50])
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--budget", type=float, default=0.01, help="share of the node's CPU")
    options = parser.parse_args()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Sink)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(json.dumps({"machine": describe(), "budget": options.budget}))
    for count in options.targets:
        print(json.dumps(run(count, options, f"http://127.0.0.1:{server.server_port}")), flush=True)
    server.shutdown()


if __name__ == "__main__":
    main()
