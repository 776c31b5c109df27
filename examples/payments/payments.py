"""A payment service with a leak that is found in many real ones.

``POST /pay`` parses its body by ``json.loads`` and remembers the result under its idempotency
key, so that a payment sent twice is charged once. Nothing ever leaves that cache: memory climbs
for as long as the service takes payments. ``remember`` is the line to find.

    python payments.py --port 8081
    curl -d '{"idempotency_key": "a", "amount": 1200, "currency": "EUR", "items": []}' \
        http://127.0.0.1:8081/pay

Standard library only; any CPython from 3.8 on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CURRENCIES = {"EUR": 1.0, "GBP": 1.17, "SEK": 0.088, "USD": 0.92}
MAX_BODY_BYTES = 1 << 20
OUT_OF_MEMORY_STATUS = 137  # what Kubernetes shows for a container that was OOM-killed

# The leak: one entry for each payment, each with the whole parsed request, and none is ever
# removed. A real service would keep the key and the answer, and forget both after a day.
IDEMPOTENCY_CACHE: dict[str, dict[str, Any]] = {}

_lock = threading.Lock()
_keep = True
_counted = {"payments": 0, "repeated": 0, "refused": 0}


class PaymentError(Exception):
    """The request is not a payment; its text is sent to the client."""


def parse_payment(body: bytes) -> dict[str, Any]:
    """Turn a request body into a payment."""
    try:
        payment = json.loads(body)
    except ValueError as error:
        raise PaymentError(f"the body is not JSON: {error}") from error
    if not isinstance(payment, dict):
        raise PaymentError("the body must be a JSON object")
    return payment


def validate(payment: dict[str, Any]) -> None:
    """Refuse what could not be charged."""
    if not isinstance(payment.get("idempotency_key"), str):
        raise PaymentError("idempotency_key must be a string")
    currency = payment.get("currency")
    if not isinstance(currency, str) or currency not in CURRENCIES:
        raise PaymentError(f"currency must be one of {', '.join(sorted(CURRENCIES))}")
    amount = payment.get("amount")
    if not isinstance(amount, int) or amount <= 0:
        raise PaymentError("amount must be a positive number of cents")
    items = payment.setdefault("items", [])
    if not isinstance(items, list) or not all(has_quantity(item) for item in items):
        raise PaymentError("items must be a list, each with a quantity of at least 1")


def has_quantity(item: Any) -> bool:
    """Tell whether this is a line of an order."""
    quantity = item.get("quantity") if isinstance(item, dict) else None
    return isinstance(quantity, int) and quantity >= 1


def score_risk(payment: dict[str, Any]) -> float:
    """Rate a payment from 0 (harmless) to 1."""
    euros = payment["amount"] * CURRENCIES[payment["currency"]] / 100
    units = sum(item["quantity"] for item in payment["items"])
    return min(1.0, euros / 50_000 + units / 10_000)


def authorize(payment: dict[str, Any]) -> str:
    """Ask the bank; here a few rounds of hashing stand for its signature."""
    if score_risk(payment) >= 1.0:
        raise PaymentError("the payment was refused by risk control")
    signature = payment["idempotency_key"].encode()
    for _ in range(1_500):
        signature = hashlib.sha256(signature).digest()
    return signature.hex()[:24]


def remember(payment: dict[str, Any], authorization: str) -> None:
    """Keep a payment, so that the same one sent again is not charged twice."""
    if _keep:
        IDEMPOTENCY_CACHE[payment["idempotency_key"]] = {
            "request": payment,  # all that json.loads built stays alive from here on
            "authorization": authorization,
            "time": time.time(),
        }


def pay(body: bytes) -> dict[str, Any]:
    """Take one payment."""
    payment = parse_payment(body)
    validate(payment)
    with _lock:
        known = IDEMPOTENCY_CACHE.get(payment["idempotency_key"])
        if known is not None:
            _counted["repeated"] += 1
            return {"authorization": known["authorization"], "repeated": True}
        authorization = authorize(payment)
        remember(payment, authorization)
        _counted["payments"] += 1
    return {"authorization": authorization, "repeated": False}


def resident_bytes() -> int:
    """Read this process's resident memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Handler(BaseHTTPRequestHandler):
    """``POST /pay``, ``GET /healthz``, ``GET /stats``."""

    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds that a silent client may hold its thread
    disable_nagle_algorithm = True  # status line, headers and body are small separate writes

    def do_POST(self) -> None:
        if self.path != "/pay":
            self.answer(404, {"error": "there is only POST /pay"})
            return
        self.handle_payment()

    def do_GET(self) -> None:
        if self.path == "/healthz":
            self.answer(200, {"status": "ok"})
        elif self.path == "/stats":
            stats = {"remembered": len(IDEMPOTENCY_CACHE), "resident_bytes": resident_bytes()}
            self.answer(200, {**_counted, **stats})
        else:
            self.answer(404, {"error": "there are /healthz and /stats"})

    def handle_payment(self) -> None:
        """Read a body within bounds, take the payment, answer."""
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > MAX_BODY_BYTES:
            self.close_connection = True  # the unread body would be taken for the next request
            self.answer(413, {"error": f"Content-Length up to {MAX_BODY_BYTES} is needed"})
            return
        try:
            self.answer(200, pay(self.rfile.read(int(length))))
        except PaymentError as error:
            _counted["refused"] += 1
            self.answer(422, {"error": str(error)})

    def answer(self, status: int, content: dict[str, Any]) -> None:
        """Send one JSON object."""
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent: an access log would drown the demo."""


def watch_memory(limit_bytes: int) -> None:
    """End the process at its limit, as the kernel would end a container's."""
    while True:
        if resident_bytes() > limit_bytes:
            print(
                f"payments: out of memory at the limit of {limit_bytes >> 20} MiB with "
                f"{len(IDEMPOTENCY_CACHE)} payments remembered",
                file=sys.stderr,
                flush=True,
            )
            os._exit(OUT_OF_MEMORY_STATUS)
        time.sleep(1)


def main() -> int:
    """Serve until told to stop."""
    global _keep
    parser = argparse.ArgumentParser(description="A payment service that leaks memory.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8081)
    parser.add_argument(
        "--keep",
        choices=("on", "off"),
        default="on",
        help="off: nothing is remembered, and memory stays flat [default: on]",
    )
    parser.add_argument(
        "--memory-limit-mb",
        type=int,
        default=0,
        metavar="MIB",
        help=f"end with status {OUT_OF_MEMORY_STATUS} at this much resident memory [default: none]",
    )
    options = parser.parse_args()
    _keep = options.keep == "on"
    server = ThreadingHTTPServer((options.host, options.port), Handler)
    server.daemon_threads = True

    def stop(_signal: int, _frame: object) -> None:
        # shutdown() waits for the serving loop, which runs in this very thread.
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    if options.memory_limit_mb:
        limit = options.memory_limit_mb << 20
        threading.Thread(target=watch_memory, args=(limit,), daemon=True).start()
    print(f"payments: serving on http://{options.host}:{server.server_port}", flush=True)
    server.serve_forever()
    server.server_close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
