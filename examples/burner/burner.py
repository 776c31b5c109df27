"""A well-behaved service that burns CPU in known shares, to check a profiler against.

It takes carts from a queue and works on each of them: 60 % of the CPU in ``price_cart``, 25 % in
``render_invoice``, 10 % in ``check_fraud``, 5 % in ``write_audit``. The shares hold on every
machine and interpreter, since each function works until it has used its part of the cart's CPU
time. Memory stays flat.

    python burner.py --cores 0.3

Standard library only; any CPython from 3.8 on.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from typing import Any

SHARES = {"price_cart": 0.60, "render_invoice": 0.25, "check_fraud": 0.10, "write_audit": 0.05}
CART_CPU_SECONDS = 0.04

CART = [
    {"article": f"article-{number}", "quantity": number % 4 + 1, "cents": 199 + 10 * number}
    for number in range(40)
]

_stopping = False


def price_cart(cart: list[dict[str, Any]], until: float) -> int:
    """Sum up a cart with its discounts until the thread's CPU clock shows ``until``."""
    total = 0
    while time.thread_time() < until:
        total = 0
        for item in cart:
            price = item["quantity"] * item["cents"]
            if item["quantity"] > 2:
                price -= price * 5 // 100
            total += price
    return total


def render_invoice(cart: list[dict[str, Any]], until: float) -> str:
    """Write a cart's lines as text until the thread's CPU clock shows ``until``."""
    text = ""
    while time.thread_time() < until:
        lines = []
        for item in cart:
            lines.append(f"{item['article']:<20}{item['quantity']:>4}{item['cents'] / 100:>10.2f}")
        text = "\n".join(lines)
    return text


def check_fraud(cart: list[dict[str, Any]], until: float) -> float:
    """Compare a cart's prices with each other until the thread's CPU clock shows ``until``."""
    score = 0.0
    while time.thread_time() < until:
        for item in cart:
            score = score * 0.9 + abs(item["cents"] - 500) / 500
    return score


def write_audit(cart: list[dict[str, Any]], until: float) -> int:
    """Checksum a cart until the thread's CPU clock shows ``until``."""
    checksum = 0
    while time.thread_time() < until:
        for item in cart:
            checksum = (checksum * 31 + item["cents"]) & 0xFFFFFFFF
    return checksum


def process_cart(cart: list[dict[str, Any]], cpu_seconds: float) -> None:
    """Work on one cart, each step for its share of the CPU time."""
    start = time.thread_time()
    for step, end_share in STEPS:
        step(cart, start + cpu_seconds * end_share)


def _steps() -> list[tuple[Any, float]]:
    """Give each step with the part of a cart's CPU time at which it ends."""
    end, steps = 0.0, []
    for step in (price_cart, render_invoice, check_fraud, write_audit):
        end += SHARES[step.__name__]
        steps.append((step, end))
    return steps


STEPS = _steps()


def wait_for_cart(due: float) -> float:
    """Sleep until a cart is due; after a long stall start afresh instead of catching up."""
    now = time.monotonic()
    if due > now:
        time.sleep(due - now)
        return due
    return due if now - due < 1 else now


def run(cores: float, seconds: float) -> int:
    """Work on carts at a steady pace.

    Args:
        cores: How much of one core to use, 0 to 1.
        seconds: When to end by itself; 0 for never.
    """
    begin = time.monotonic()
    due, carts = begin, 0
    while not _stopping and not (seconds and time.monotonic() - begin >= seconds):
        process_cart(CART, CART_CPU_SECONDS)
        carts += 1
        due = wait_for_cart(due + CART_CPU_SECONDS / cores)
    return carts


def _stop(_signal: int, _frame: object) -> None:
    global _stopping
    _stopping = True


def main() -> int:
    """Burn until told to stop."""
    parser = argparse.ArgumentParser(description="Burns CPU in functions of known shares.")
    parser.add_argument(
        "--cores", type=float, default=0.3, help="of one core, above 0 up to 1 [default: 0.3]"
    )
    parser.add_argument(
        "--seconds", type=float, default=0, help="end after so long [default: never]"
    )
    options = parser.parse_args()
    if not 0 < options.cores <= 1:
        parser.error("--cores must be above 0 and at most 1")
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    shares = ", ".join(f"{name} {share:.0%}" for name, share in SHARES.items())
    print(f"burner: {options.cores:g} of a core in {shares}", flush=True)
    carts = run(options.cores, options.seconds)
    print(f"burner: worked on {carts} carts, {time.process_time():.1f} s of CPU", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
