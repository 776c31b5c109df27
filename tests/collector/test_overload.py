"""More than a collector can take: it says so, keeps its memory, and goes on."""

from __future__ import annotations

import concurrent.futures
import contextlib
import gzip
import http.client
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from collector.otlp_requests import Request, simple

from flamewell_collector.admission import Admission, TenantRates
from flamewell_collector.errors import Overloaded, RateLimited, TooLarge

MIB = 1 << 20
PATH = "/v1development/profiles"
SENDERS = 12
BUDGET = 96 * MIB
HEAD_ROWS = 400_000


def test_a_request_waits_for_others_and_is_refused_where_it_never_fits() -> None:
    admission = Admission(100)
    with admission.reserve() as one, admission.reserve() as other:
        one.take(60)
        with pytest.raises(Overloaded) as caught:
            other.take(50)
        assert 1 < caught.value.retry_after_seconds <= 10
        with pytest.raises(TooLarge):
            other.take(101)
        with pytest.raises(TooLarge):
            one.take(50)
        other.take(40)
        assert admission.taken_bytes == 100
    assert admission.taken_bytes == 0
    with contextlib.suppress(ZeroDivisionError), admission.reserve() as failing:
        failing.take_body(10)
        raise ZeroDivisionError
    assert admission.taken_bytes == 0


def test_pauses_are_spread() -> None:
    admission = Admission(10)
    pauses = Counter[int]()
    with admission.reserve() as one, admission.reserve() as other:
        one.take(10)
        for _ in range(200):
            with pytest.raises(Overloaded) as caught:
                other.take(1)
            pauses[caught.value.retry_after_seconds] += 1
    assert len(pauses) > 4


def test_a_tenant_has_a_rate_with_a_burst() -> None:
    now = [0.0]
    rates = TenantRates(100, burst_seconds=10, what="samples", clock=lambda: now[0])
    rates.take("a", 900)
    rates.take("a", 5_000)  # what comes at once is taken whole, and paid for afterwards
    with pytest.raises(RateLimited, match="100 samples a second") as caught:
        rates.take("a", 1)
    assert 1 <= caught.value.retry_after_seconds <= 90
    rates.take("b", 1)
    now[0] = 48.0
    with pytest.raises(RateLimited):
        rates.take("a", 1)
    now[0] = 49.1
    rates.take("a", 1)
    unlimited = TenantRates(0, burst_seconds=10, what="bytes")
    for _ in range(3):
        unlimited.take("a", 10**18)


@contextlib.contextmanager
def collector(folder: Path, *flags: str) -> Iterator[tuple[psutil.Process, str]]:
    child = subprocess.Popen(
        [
            sys.executable, "-m", "flamewell_collector", "serve", "--listen", "127.0.0.1:0",
            "--data-dir", str(folder), *flags,
        ],
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert child.stderr is not None
    address = ""
    reader = threading.Thread(target=lambda: None)
    try:
        for line in child.stderr:
            if "http://" in line:
                address = urlsplit("http://" + line.split("http://")[1].split()[0]).netloc
                break
        reader = threading.Thread(target=child.stderr.read)
        reader.start()
        yield psutil.Process(child.pid), address.strip('",')
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(timeout=60)
        reader.join()
        child.stderr.close()


def post(address: str, body: bytes) -> tuple[int, str | None]:
    connection = http.client.HTTPConnection(address, timeout=60)
    headers = {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"}
    with contextlib.closing(connection):
        try:
            connection.request("POST", PATH, body, headers)
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            return 0, None
        return answer.status, answer.getheader("Retry-After")


def large() -> bytes:
    """150,000 samples on stacks of their own: 60 MiB of memory by the collector's reckoning."""
    request = Request()
    frames = [request.stack(f"f{at}") for at in range(40)]
    locations = [request.dictionary.stack_table[each].location_indices[0] for each in frames]
    first = len(request.dictionary.stack_table)
    for at in range(15_000):
        chosen = [locations[(at // 40**place) % 40] for place in range(3)]
        request.dictionary.stack_table.add(location_indices=chosen)
    for pod in range(10):
        request.resource(service__name="flood", k8s__pod__name=f"p{pod}").profile(
            [(first + at, at + 1) for at in range(15_000)], time_ms=time.time_ns() // 1_000_000
        )
    return gzip.compress(request.encoded(), 1)


@pytest.mark.slow
def test_a_flood_is_told_to_wait_and_memory_stays(tmp_path: Path) -> None:
    body = large()
    flags = (
        "--ingest-memory-bytes", str(BUDGET), "--max-head-rows", str(HEAD_ROWS),
        "--http-threads", "12", "--flush-seconds", "3",
    )  # fmt: skip
    with collector(tmp_path / "data", *flags) as (process, address):
        assert post(address, gzip.compress(simple("first")))[0] == 200
        before = process.memory_info().rss
        answers: Counter[int] = Counter()
        pauses: Counter[str | None] = Counter()
        stop = time.monotonic() + 8

        def send(_: int) -> None:
            while time.monotonic() < stop:
                status, pause = post(address, body)
                answers[status] += 1
                if status in {429, 503}:
                    pauses[pause] += 1

        peak = before
        with concurrent.futures.ThreadPoolExecutor(SENDERS) as pool:
            senders = [pool.submit(send, number) for number in range(SENDERS)]
            while not all(each.done() for each in senders):
                peak = max(peak, process.memory_info().rss)
                time.sleep(0.05)
            for each in senders:
                each.result()
        assert set(answers) <= {200, 429, 503}, answers
        assert answers[200]
        assert answers[429]
        assert None not in pauses
        assert len(pauses) > 2, "pauses are spread"
        # The budget, the head's rows with their Arrow overhead, and what the allocator keeps.
        assert peak - before < BUDGET + HEAD_ROWS * 300 + 200 * MIB, (peak - before) >> 20
        deadline = time.monotonic() + 60
        while post(address, gzip.compress(simple("last")))[0] != 200:
            assert time.monotonic() < deadline, "it does not recover"
            time.sleep(0.2)
        print(answers, pauses, before >> 20, peak >> 20)
