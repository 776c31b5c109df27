"""From a leak to a webhook: our rules in a real Prometheus, told on by a real Alertmanager."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from collector.leaking_shop import Shop, served

from flamewell_collector.app import running_collector

RULES = Path(__file__).parents[2] / "alerts" / "flamewell.rules.yaml"
PROGRAMS = ("prometheus", "prometheus-alertmanager")
PROMETHEUS = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [{rules}]
alerting:
  alertmanagers: [{{static_configs: [{{targets: ["127.0.0.1:{alertmanager}"]}}]}}]
scrape_configs:
  - {{job_name: flamewell-collector, static_configs: [{{targets: ["{collector}"]}}]}}
"""
ALERTMANAGER = """
route: {{receiver: hook, group_by: ["..."], group_wait: 0s, group_interval: 1s}}
receivers:
  - name: hook
    webhook_configs: [{{url: "http://127.0.0.1:{hook}/"}}]
"""

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, PROGRAMS)), reason="needs Debian's prometheus and its alertmanager"
)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def running(*command: str, folder: Path) -> Iterator[None]:
    log = (folder / f"{command[0]}.log").open("w")
    server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        yield
    finally:
        server.terminate()
        server.wait()
        log.close()


@contextmanager
def webhook() -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Serve as a pager would; give the port and the alerts that came."""
    told: list[dict[str, Any]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            told.extend(json.loads(body)["alerts"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server.server_port, told
    server.shutdown()
    thread.join()
    server.server_close()


def until(found: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.1)


def test_a_leak_reaches_the_pager_with_all_that_is_needed(tmp_path: Path) -> None:
    port, alertmanager, prometheus = free_port(), free_port(), free_port()
    url = f"http://127.0.0.1:{port}"
    shop = Shop(tmp_path / "data", url)
    with (
        running_collector(shop.config) as collector,
        served(collector, port),
        webhook() as (hook, told),
    ):
        collector.leaks.refresh()
        (tmp_path / "alertmanager.yml").write_text(ALERTMANAGER.format(hook=hook))
        (tmp_path / "prometheus.yml").write_text(
            PROMETHEUS.format(rules=RULES, alertmanager=alertmanager, collector=f"127.0.0.1:{port}")
        )
        with (
            running(
                "prometheus-alertmanager",
                "--config.file=alertmanager.yml",
                "--storage.path=alerts",
                "--cluster.listen-address=",
                f"--web.listen-address=127.0.0.1:{alertmanager}",
                folder=tmp_path,
            ),
            running(
                "prometheus",
                "--config.file=prometheus.yml",
                "--storage.tsdb.path=series",
                f"--web.listen-address=127.0.0.1:{prometheus}",
                folder=tmp_path,
            ),
        ):
            until(lambda: bool(told))
        alert = told[0]
        assert alert["status"] == "firing"
        labels, text = alert["labels"], alert["annotations"]
        assert labels["alertname"] == "FlamewellMemoryLeakSuspected"
        assert labels["service_name"] == "payments"
        assert (labels["cluster"], labels["namespace"], labels["container"]) == (
            "eu",
            "shop",
            "app",
        )
        assert text["summary"] == "payments leaks memory (eu/shop/payments/app)"
        assert "Worst container: payments-1." in text["description"]
        assert "The limit is reached in " in text["description"]
        assert "B a second" in text["description"]
        assert text["url"].startswith(f"{url}/#service=payments&type=process_memory")
        with urllib.request.urlopen(text["url"]) as page:
            assert page.status == 200
        assert not [each for each in told if each["labels"].get("service_name") != "payments"]
