"""Profiles that come in while queries run: OTLP batches, posted at a steady rate."""

from __future__ import annotations

import http.client
import random
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ingest import Shape, agent_batch, made_stacks

from flamewell_wire.attributes import INGEST_PATH

_FIRST, _BODIES, _SENDERS, _STACKS = 1_000_000, 8, 8, 2_000
_SHAPE = Shape(services=10, pods=1, types=5, stacks=150, universe=_STACKS)


@dataclass(slots=True)
class Sent:
    """What came of it.

    Attributes:
        samples: Taken.
        refused: Batches that were told to come again later.
        began: ``time.monotonic()``.
        ended: The same, 0 while it goes on.
        lock: Guards the counts.
    """

    samples: int = 0
    refused: int = 0
    began: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def rate(self) -> float:
        """Give the samples taken in a second."""
        return self.samples / ((self.ended or time.monotonic()) - self.began)


@contextmanager
def sending(port: int, samples_a_second: int) -> Iterator[Sent]:
    """Post batches from several senders until the context is closed; none where the rate is 0."""
    sent = Sent()
    if not samples_a_second:
        yield sent
        return
    bodies = _bodies()
    stop = threading.Event()
    sent.began = time.monotonic()
    threads = [
        threading.Thread(
            target=_send, args=(port, samples_a_second / _SENDERS, number, bodies, stop, sent)
        )
        for number in range(_SENDERS)
    ]
    for each in threads:
        each.start()
    try:
        yield sent
    finally:
        stop.set()
        for each in threads:
            each.join()
        sent.ended = time.monotonic()


def _bodies() -> list[tuple[bytes, int]]:
    """Encode batches of now, with how many samples each has."""
    chance = random.Random(1)
    stacks = [made_stacks(chance, _STACKS, f"sent{at}") for at in range(_SHAPE.services)]
    return [agent_batch(_SHAPE, _FIRST + at, stacks) for at in range(_BODIES)]


def _send(
    port: int,
    rate: float,
    number: int,
    bodies: list[tuple[bytes, int]],
    stop: threading.Event,
    sent: Sent,
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    due, turn = time.monotonic(), number
    while not stop.is_set():
        body, samples = bodies[turn % len(bodies)]
        # An id of its own for each batch, as long as the old one so that no length changes.
        old = f"bench-1-1-{_FIRST + turn % len(bodies)}-".encode()
        body = body.replace(old, f"{secrets.token_hex(8)}--".encode())
        connection.request("POST", INGEST_PATH, body, {"Content-Type": "application/x-protobuf"})
        answer = connection.getresponse()
        answer.read()
        with sent.lock:
            if answer.status == http.client.OK:
                sent.samples += samples
            else:
                sent.refused += 1
        turn += _SENDERS
        due += samples / rate
        stop.wait(max(0.0, due - time.monotonic()))
    connection.close()
