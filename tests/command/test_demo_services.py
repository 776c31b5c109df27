"""The demo services do what they are there to show."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from flamewell.preflight import free_port

Run = Callable[..., Any]
PAYMENT = {"idempotency_key": "a", "amount": 1200, "currency": "EUR", "items": []}


def load_module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def post(url: str, body: bytes) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.fixture
def payments(run_python: Run, examples: Path) -> Callable[..., tuple[Any, str]]:
    def start(*options: object) -> tuple[Any, str]:
        port = free_port()
        service = run_python(examples / "payments/payments.py", "--port", port, *options)
        service.wait_for(lambda: "serving on" in service.text)
        return service, f"http://127.0.0.1:{port}"

    return start


def test_a_payment_is_charged_once(payments: Run, get_json: Run) -> None:
    service, url = payments()
    assert get_json(f"{url}/healthz") == {"status": "ok"}
    status, first = post(f"{url}/pay", json.dumps(PAYMENT).encode())
    assert (status, first["repeated"]) == (200, False)
    status, again = post(f"{url}/pay", json.dumps(PAYMENT).encode())
    assert (again["repeated"], again["authorization"]) == (True, first["authorization"])
    assert get_json(f"{url}/stats")["remembered"] == 1
    assert service.stop() == 0


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"\xff",
        b"{}",
        json.dumps({**PAYMENT, "currency": "XXX"}).encode(),
        json.dumps({**PAYMENT, "amount": 0}).encode(),
        json.dumps({**PAYMENT, "items": [{"quantity": 0}]}).encode(),
        json.dumps({**PAYMENT, "items": 3}).encode(),
        json.dumps({**PAYMENT, "items": [{"quantity": "1"}]}).encode(),
        json.dumps({**PAYMENT, "currency": []}).encode(),
    ],
)
def test_what_is_no_payment_is_refused(payments: Run, get_json: Run, body: bytes) -> None:
    service, url = payments()
    status, answer = post(f"{url}/pay", body)
    assert status == 422
    assert answer["error"]
    assert get_json(f"{url}/stats")["refused"] == 1
    assert "Traceback" not in service.text


def drive_payments(run_python: Run, examples: Path, url: str, get_json: Run) -> list[int]:
    """Give the service's resident bytes after 200 and after 1,700 payments."""
    load = run_python(
        *(examples / "load.py", "--payments", url, "--payment-rate", 600, "--payment-items", 20)
    )
    resident = []
    for count in (200, 1700):
        load.wait_for(lambda wanted=count: get_json(f"{url}/stats")["payments"] >= wanted)
        resident.append(get_json(f"{url}/stats")["resident_bytes"])
    assert load.stop() == 0
    assert ", 0 failed" in load.text
    return resident


def test_memory_climbs_while_payments_come_in(
    payments: Run, run_python: Run, get_json: Run, examples: Path
) -> None:
    _, url = payments()
    early, late = drive_payments(run_python, examples, url, get_json)
    assert late - early > 1500 * 5_000


def test_memory_stays_flat_when_nothing_is_kept(
    payments: Run, run_python: Run, get_json: Run, examples: Path
) -> None:
    _, url = payments("--keep", "off")
    early, late = drive_payments(run_python, examples, url, get_json)
    assert late - early < 1500 * 1_000
    assert get_json(f"{url}/stats")["remembered"] == 0


def test_a_memory_limit_ends_the_service(run_python: Run, examples: Path) -> None:
    service = run_python(
        *(examples / "payments/payments.py", "--port", free_port(), "--memory-limit-mb", 1)
    )
    assert service.process.wait(60) == 137
    assert "out of memory at the limit of 1 MiB" in service.text


def test_the_burner_spends_its_cpu_in_the_shares_that_it_tells(
    examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    burner = load_module(examples / "burner/burner.py")
    spent: dict[str, float] = {}

    def measured(step: Callable[..., Any]) -> Callable[..., None]:
        def call(cart: Any, until: float) -> None:
            before = time.thread_time()
            step(cart, until)
            spent[step.__name__] = time.thread_time() - before

        return call

    monkeypatch.setattr(burner, "STEPS", [(measured(step), end) for step, end in burner.STEPS])
    burner.process_cart(burner.CART, 1.0)
    assert sum(burner.SHARES.values()) == pytest.approx(1)
    assert spent == pytest.approx(burner.SHARES, abs=0.02)


def test_the_burner_keeps_its_pace_and_stops(run_python: Run, examples: Path) -> None:
    service = run_python(examples / "burner/burner.py", "--cores", 0.5)
    service.wait_for(lambda: "0.5 of a core" in service.text)
    assert service.stop(signal.SIGINT) == 0
    assert "s of CPU" in service.text


def test_missed_beats_are_left_out(examples: Path) -> None:
    load = load_module(examples / "load.py")
    assert load.next_due(10.0, 2.0, 10.5) == 12.0
    assert load.next_due(10.0, 2.0, 15.0) == 16.0
    burner = load_module(examples / "burner/burner.py")
    assert burner.wait_for_cart(time.monotonic() - 60) == pytest.approx(time.monotonic(), abs=30)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--payments", "http://example.com:80"),
        ("--payments", "http://192.168.1.1:80"),
        ("--orders", "https://127.0.0.1:80"),
        ("--orders", "http://127.0.0.1"),
        ("--orders", "http://127.0.0.1:http"),
        ("--orders", "http://127.0.0.1:1", "--order-rate", "0"),
        ("--orders", "http://127.0.0.1:1", "--order-burst", "1000"),
    ],
)
def test_the_load_refuses_what_is_not_on_this_machine_or_unbounded(
    examples: Path, arguments: tuple[str, ...]
) -> None:
    command = [sys.executable, str(examples / "load.py"), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


def test_the_load_outlives_a_stopped_service(run_python: Run, examples: Path) -> None:
    load = run_python(
        *(examples / "load.py", "--payments", f"http://127.0.0.1:{free_port()}", "--report", 0.2)
    )
    load.wait_for(lambda: "failed: ConnectionRefusedError" in load.text)
    assert load.stop() == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.go
def test_orders_queue_up_for_the_price_list(
    run: Run, run_python: Run, get: Run, examples: Path, order_service: Path
) -> None:
    port, profiles = free_port(), free_port()
    orders = run(
        *(order_service, "-listen", f"127.0.0.1:{port}", "-pprof", f"127.0.0.1:{profiles}")
    )
    url = f"http://127.0.0.1:{port}"
    assert orders.wait_for(lambda: get(f"{url}/healthz")) == b"ok\n"
    for wrong in ("0", "201", "x"):
        with pytest.raises(urllib.error.HTTPError, match="400") as refused:
            get(f"{url}/order?lines={wrong}")
        refused.value.close()
    load = run_python(examples / "load.py", "--orders", url, "--order-rate", 200)
    mutex = f"http://127.0.0.1:{profiles}/debug/pprof/mutex?debug=1"
    load.wait_for(lambda: b"main.(*priceList).priceOrder" in get(mutex))
    assert load.stop() == 0
    assert orders.stop() == 0
    wide = run(order_service, "-listen", f"0.0.0.0:{port}", "-pprof", f"127.0.0.1:{profiles}")
    assert wide.process.wait(30) == 1
    assert "loopback addresses only" in wide.text
