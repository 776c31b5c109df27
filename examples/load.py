"""Drives the demo services at a bounded, steady rate until it is stopped.

    python load.py --payments http://127.0.0.1:8081 --orders http://127.0.0.1:8082

Payments come evenly, one after the other. Orders come in bursts, all of a burst at the same
moment, since that is how they meet at the lock. Nothing but loopback addresses is called, and a
slow or stopped service is never asked to catch up.

Standard library only.
"""

from __future__ import annotations

import argparse
import http.client
import ipaddress
import itertools
import json
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

MAX_RATE = 1_000.0  # requests a second, of one service
PAYMENT_WORKERS = 2
TIMEOUT_SECONDS = 10
PAUSE_AFTER_FAILURE_SECONDS = 0.5
MAX_ANSWER_BYTES = 1 << 16

ARTICLES = ("espresso machine", "grinder", "scale", "kettle", "filter papers", "beans, 1 kg")
STREETS = ("Harbour Road", "Mill Lane", "Station Street", "Orchard Way")

Request = tuple[str, str, bytes]  # method, path, body


@dataclass
class Tally:
    """What became of one service's requests."""

    name: str
    done: int = 0
    failed: int = 0
    last_failure: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, failure: str = "") -> None:
        """Count one request; ``failure`` says what went wrong with it."""
        with self.lock:
            if failure:
                self.failed += 1
                self.last_failure = failure
            else:
                self.done += 1


def make_payment(number: int, chance: random.Random, items: int) -> bytes:
    """Give the body of one payment; each has its own idempotency key."""
    payment = {
        "idempotency_key": f"{chance.getrandbits(96):024x}-{number}",
        "amount": chance.randrange(500, 50_000),
        "currency": chance.choice(("EUR", "GBP", "SEK", "USD")),
        "customer": {
            "name": f"Customer {chance.randrange(100_000)}",
            "address": f"{chance.choice(STREETS)} {chance.randrange(1, 200)}",
            "card": f"**** **** **** {chance.randrange(10_000):04}",
        },
        "items": [
            {
                "article": f"{chance.choice(ARTICLES)} #{chance.randrange(10_000)}",
                "quantity": chance.randrange(1, 5),
                "cents": chance.randrange(100, 40_000),
            }
            for _ in range(items)
        ],
    }
    return json.dumps(payment).encode()


def payment_requests(items: int, seed: int) -> Iterator[Request]:
    """Give payments without end."""
    chance = random.Random(seed)
    for number in itertools.count():
        yield "POST", "/pay", make_payment(number, chance, items)


def order_requests(lines: int) -> Iterator[Request]:
    """Give orders without end."""
    return itertools.repeat(("GET", f"/order?lines={lines}", b""))


def loopback(url: str) -> tuple[str, int]:
    """Give host and port of a URL on this machine.

    Raises:
        argparse.ArgumentTypeError: It is no http URL with a loopback address and a port.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        local = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host).is_loopback
    except ValueError:
        local, host, port = False, "", None
    if parts.scheme != "http" or not local or not port:
        raise argparse.ArgumentTypeError(f"{url!r} is not like http://127.0.0.1:8081")
    return host, port


def rate(text: str) -> float:
    """Read a number of requests a second."""
    value = float(text)
    if not 0 < value <= MAX_RATE:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most {MAX_RATE:g}")
    return value


def send(connection: http.client.HTTPConnection, request: Request) -> str:
    """Send one request over a kept connection.

    Returns:
        What went wrong, empty if nothing did.
    """
    method, path, body = request
    try:
        connection.request(method, path, body or None, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read(MAX_ANSWER_BYTES)
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        return f"{type(error).__name__}: {error}"
    return "" if answer.status == 200 else f"status {answer.status}"


def next_due(due: float, interval: float, now: float) -> float:
    """Give the next beat after ``now``: beats that were missed are left out."""
    missed = int(max(0.0, now - due) / interval)
    return due + interval * (missed + 1)


def drive(
    address: tuple[str, int],
    requests: Iterator[Request],
    tally: Tally,
    *,
    first: float,
    interval: float,
    stop: threading.Event,
) -> None:
    """Send one request a beat until told to stop."""
    connection = http.client.HTTPConnection(*address, timeout=TIMEOUT_SECONDS)
    due = first
    while not stop.wait(max(0.0, due - time.monotonic())):
        failure = send(connection, next(requests))
        tally.count(failure)
        if failure and stop.wait(PAUSE_AFTER_FAILURE_SECONDS):
            break
        due = next_due(due, interval, time.monotonic())
    connection.close()


def report(tallies: list[Tally], stop: threading.Event, every: float) -> None:
    """Print what was reached, every so many seconds."""
    before = {tally.name: (0, 0) for tally in tallies}
    while not stop.wait(every):
        parts = []
        for tally in tallies:
            done, failed = before[tally.name]
            part = f"{tally.name} {(tally.done - done) / every:.0f}/s"
            if tally.failed > failed:
                part += f" ({tally.failed - failed} failed: {tally.last_failure})"
            parts.append(part)
            before[tally.name] = tally.done, tally.failed
        print("load: " + ", ".join(parts), flush=True)


def plan(options: argparse.Namespace, stop: threading.Event) -> tuple[list[Tally], list[Callable]]:
    """Lay out one worker a connection: payments spread evenly, orders all on the same beat."""
    begin = time.monotonic() + 0.2
    tallies: list[Tally] = []
    workers: list[Callable] = []

    def add(tally: Tally, address: tuple[str, int], requests: Iterator[Request], **beat: float):
        workers.append(lambda: drive(address, requests, tally, stop=stop, **beat))

    if options.payments:
        tally = Tally("payments")
        tallies.append(tally)
        interval = PAYMENT_WORKERS / options.payment_rate
        for worker in range(PAYMENT_WORKERS):
            first = begin + worker / options.payment_rate
            requests = payment_requests(options.payment_items, random.getrandbits(32))
            add(tally, options.payments, requests, first=first, interval=interval)
    if options.orders:
        tally = Tally("orders")
        tallies.append(tally)
        interval = options.order_burst / options.order_rate
        for _ in range(options.order_burst):
            requests = order_requests(options.order_lines)
            add(tally, options.orders, requests, first=begin, interval=interval)
    return tallies, workers


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Drives the demo services.")
    per_second = "requests a second [default: %(default)g]"
    parser.add_argument("--payments", type=loopback, metavar="URL", help="of the payment service")
    parser.add_argument("--payment-rate", type=rate, default=50.0, help=per_second)
    parser.add_argument(
        "--payment-items",
        type=int,
        default=10,
        choices=range(1, 1001),
        metavar="1-1000",
        help="items a payment: how much each leaks [default: %(default)s]",
    )
    parser.add_argument("--orders", type=loopback, metavar="URL", help="of the order service")
    parser.add_argument("--order-rate", type=rate, default=72.0, help=per_second)
    parser.add_argument(
        "--order-burst",
        type=int,
        default=6,
        choices=range(1, 65),
        metavar="1-64",
        help="orders at the same moment [default: %(default)s]",
    )
    parser.add_argument(
        "--order-lines",
        type=int,
        default=40,
        choices=range(1, 201),
        metavar="1-200",
        help="lines an order: how long each holds the lock [default: %(default)s]",
    )
    parser.add_argument("--report", type=float, default=10.0, help="seconds between two lines")
    options = parser.parse_args()
    if not options.payments and not options.orders:
        parser.error("give --payments, --orders or both")
    return options


def main() -> int:
    """Drive until told to stop."""
    options = parse_options()
    stop = threading.Event()

    def on_signal(_signal: int, _frame: object) -> None:
        # Not here: set() takes a lock that the interrupted wait() may hold.
        threading.Thread(target=stop.set).start()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    tallies, workers = plan(options, stop)
    threads = [threading.Thread(target=worker) for worker in workers]
    for thread in threads:
        thread.start()
    report(tallies, stop, options.report)
    for thread in threads:
        thread.join()
    totals = ", ".join(f"{each.done} {each.name}, {each.failed} failed" for each in tallies)
    print(f"load: stopped after {totals}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
