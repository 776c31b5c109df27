"""Records this machine's processes as a node for the simulation: no names, no arguments.

    python tests/agent/nodes/record.py > tests/agent/nodes/NAME.json

CPU use and threads are measured; how deep stacks are can't be seen from outside, and is drawn.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter

import psutil

SECONDS = 10.0


def cpu_seconds() -> dict[tuple[int, float], tuple[float, int, str]]:
    """CPU time, threads and name of each process, by pid and start."""
    found = {}
    for process in psutil.process_iter():
        try:
            times = process.cpu_times()
            used = times.user + times.system
            key = (process.pid, process.create_time())
            found[key] = (used, process.num_threads(), process.name())
        except psutil.Error:
            continue
    return found


def main() -> None:
    before = cpu_seconds()
    time.sleep(SECONDS)
    after = {key: seen for key, seen in cpu_seconds().items() if key in before}
    many = Counter(name for _, _, name in after.values())
    services: dict[str, int] = {}
    dice = random.Random(1)
    rows = []
    for key, (used, threads, name) in after.items():
        service = services.setdefault(name, len(services) + 1) if many[name] > 1 else 0
        rows.append(
            {
                "cores": round((used - before[key][0]) / SECONDS, 4),
                "threads": threads,
                "depth": dice.choice([10, 20, 40, 80]),
                "service": service,
            }
        )
    rows.sort(key=lambda row: -row["cores"])
    lines = ",\n ".join(json.dumps(row) for row in rows)
    print(f'{{"cores": {psutil.cpu_count()}, "processes": [\n {lines}]}}')


if __name__ == "__main__":
    main()
