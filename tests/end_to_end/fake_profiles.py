"""Profiles that the fake API serves: a small shop, hostile names, and a very large graph."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flamewell_wire import profile_types

CPU = profile_types.CPU.id
HEAP = profile_types.INUSE_SPACE.id
RSS = profile_types.PROCESS_RSS.id
START = profile_types.PROCESS_START.id
"""Not offered to people: a time of start is no amount."""

Frame = tuple[str, str, int]
"""Function, file, line."""
Stack = tuple[Frame, ...]
"""Root first."""
Rates = Mapping[Stack, float]
"""Amount a second (deltas) or average amount (gauges) of each stack."""

SITE = "/usr/lib/python3/site-packages"


@dataclass(frozen=True)
class Service:
    """What a service has sent.

    Attributes:
        rates: By profile type.
        rates_before: The same up to the moment of the change; those of ``rates`` where missing.
        columns: A flame graph as it is answered, instead of one made from stacks.
    """

    name: str
    runtime: str = "cpython"
    labels: Mapping[str, str] = field(default_factory=dict)
    cpu_cores: float | None = None
    memory_bytes: float | None = None
    memory_limit_bytes: float | None = None
    rates: Mapping[str, Rates] = field(default_factory=dict)
    rates_before: Mapping[str, Rates] = field(default_factory=dict)
    columns: Mapping[str, Any] | None = None

    @property
    def all_labels(self) -> dict[str, str]:
        return {**self.labels, "service_name": self.name, "runtime": self.runtime}


def stacks(listed: Iterable[tuple[str, float]], files: Mapping[str, str]) -> dict[Stack, float]:
    """Read ``a;b;c`` with values; files by function name."""
    made: dict[Stack, float] = {}
    for text, value in listed:
        frames = text.split(";")
        made[tuple((name, files.get(name, ""), 10 + len(name)) for name in frames)] = value
    return made


_SHOP_FILES = {
    "<module>": "/srv/shop/main.py",
    "serve_forever": "/usr/lib/python3.12/socketserver.py",
    "handle": f"{SITE}/werkzeug/serving.py",
    "dispatch_request": f"{SITE}/flask/app.py",
    "checkout": "/srv/shop/orders.py",
    "price_cart": "/srv/shop/pricing.py",
    "apply_discounts": "/srv/shop/pricing.py",
    "render_invoice": "/srv/shop/invoices.py",
    "loads": "/usr/lib/python3.12/json/__init__.py",
    "raw_decode": "/usr/lib/python3.12/json/decoder.py",
    "execute": f"{SITE}/psycopg/cursor.py",
    "walk": "/srv/shop/categories.py",
}
_WEB = "<module>;serve_forever;handle;dispatch_request"
_SHOP = [
    (f"{_WEB};checkout;price_cart", 120e6),
    (f"{_WEB};checkout;price_cart;apply_discounts", 240e6),
    (f"{_WEB};checkout;execute", 40e6),
    (f"{_WEB};checkout;execute;[native]", 160e6),
    (f"{_WEB};render_invoice", 90e6),
    (f"{_WEB};render_invoice;loads;raw_decode", 150e6),
    (f"{_WEB};walk;walk;walk", 60e6),
    (f"{_WEB};walk;walk;walk;apply_discounts", 40e6),
    ("<module>;serve_forever", 20e6),
    ("[no GIL / native]", 80e6),
]
"""CPU nanoseconds a second: one core, so that shares are easy to read."""
SHOP_TOTAL = sum(value for _, value in _SHOP)


def shop() -> list[Service]:
    """Make services as a small system has them."""
    now = stacks(_SHOP, _SHOP_FILES)
    before = {
        stack: value * (0.25 if stack[-1][0] == "raw_decode" else 1)
        for stack, value in now.items()
        if stack[-2:][0][0] != "execute"
    }
    heap = stacks(
        [("<module>;serve_forever;loads;raw_decode", 300 * 2**20), ("<module>", 20 * 2**20)],
        _SHOP_FILES,
    )
    orders = stacks(
        [
            ("net/http.(*conn).serve;main.(*priceList).linePrice;sync.(*Mutex).Lock", 210e6),
            ("net/http.(*conn).serve;main.(*priceList).linePrice", 180e6),
            ("runtime.gcBgMarkWorker;runtime.scanobject", 70e6),
        ],
        {"main.(*priceList).linePrice": "/srv/orders/main.go"},
    )
    return [
        Service(
            "shop", labels={"node": "n1", "region": "eu"}, cpu_cores=1.0,
            memory_bytes=412 * 2**20, memory_limit_bytes=512 * 2**20,
            rates={CPU: now, HEAP: heap, RSS: {(): 412 * 2**20}, START: {(): 1.7e9}},
            rates_before={CPU: before},
        ),
        Service(
            "orders", "go", labels={"node": "n1"}, cpu_cores=0.46, memory_bytes=64 * 2**20,
            rates={CPU: orders, RSS: {(): 64 * 2**20}},
        ),
        Service(
            "idle", labels={"node": "n2"}, cpu_cores=0.002, memory_bytes=30 * 2**20,
            rates={CPU: stacks([("main;wait", 2e6)], {})},
        ),
        *(
            Service(name, "", memory_bytes=size * 2**20, rates={RSS: {(): size * 2**20}})
            for name, size in (("postgres", 900), ("sshd", 8), ("cron", 3))
        ),
    ]  # fmt: skip


EVIL_NAMES = (
    "<img src=x onerror=document.title='owned'>",
    "</script><script>document.title='owned'</script>",
    "\u202egnp.exe",
    "a\nb\tc\x00d",
    "__proto__",
    "constructor",
    "{{ 7 * 7 }}",
    "x" * 65_000,
)


def hostile() -> list[Service]:
    """Make a service whose every name is made to do harm."""
    rates = {
        (("main", "", 0), (name, f"{name[:80]}.py", at)): 1e6 * (at + 1)
        for at, name in enumerate(EVIL_NAMES)
    }
    evil = EVIL_NAMES[0]
    return [
        Service(
            evil, runtime=evil, labels={"node": evil}, cpu_cores=0.5, memory_bytes=1e6,
            rates={CPU: rates, evil + ":a:bytes:b:c": rates},
        ),
        Service("__proto__", cpu_cores=0.1, rates={CPU: rates}),
    ]  # fmt: skip


def deep(levels: int) -> Service:
    """Make a service with one very deep stack."""
    frames = [(f"level_{at}", "deep.py", at) for at in range(levels)]
    return Service("deep", cpu_cores=1.0, rates={CPU: {tuple(frames): 1e9}})


def large(nodes: int, *, functions: int = 8_000, seed: int = 1) -> Service:
    """Make a service whose flame graph has this many nodes, at depths up to about 60."""
    chance = random.Random(seed)
    name, depth, own = [0], [0], [0]
    level = 0
    for _ in range(nodes - 1):
        # Real graphs go down in long chains and come back in jumps.
        level = min(level + 1, 60) if chance.random() < 0.72 else chance.randint(1, level or 1)
        depth.append(level)
        name.append(chance.randint(1, functions - 1))
        own.append(int(chance.paretovariate(1.1) * 1e6))
    listed = [f"package_{at % 97}.module_{at % 531}.function_{at}" for at in range(functions)]
    files = [f"{SITE}/package_{at % 97}/module_{at % 531}.py" for at in range(functions)]
    columns = {
        "functions": ["total", *listed[1:]], "files": ["", *files[1:]],
        "lines": [at % 900 for at in range(functions)],
        "name": name, "depth": depth, "self": own, "nodes": nodes, "pruned": False,
        "total": sum(own),
    }  # fmt: skip
    return Service("large", cpu_cores=2.0, rates={CPU: {}}, columns=columns)
