"""What real Go programs answer, damaged byte by byte: read, or refused with a reason."""

from __future__ import annotations

import gzip
import random
import time
import tracemalloc
from collections.abc import Iterator

import pytest
from agent.go_sampling import TARGET, built, running
from agent.pprof_bytes import Builder

from flamewell_agent.errors import ProfileFormatError
from flamewell_agent.model import Batch, Resource
from flamewell_agent.otlp import encode
from flamewell_agent.samplers.go_fetch import PprofClient
from flamewell_agent.samplers.go_pulls import PULLS, Converter, Span
from flamewell_agent.samplers.pprof_parse import parse

PATHS = {
    "profile": "profile?seconds=1",
    "heap": "heap",
    "mutex": "mutex",
    "goroutine": "goroutine",
}
MUTATIONS = 600
"""Of each kind, as plain bytes; a quarter as many of compressed ones, which mostly fail early."""
WATCHED = 50
"""Of those, the number whose memory is traced, which takes its time."""
PEAK_BYTES = 64 << 20
NOW_NANOS = 1_800_000_000 * 10**9
INTERESTING = (0x00, 0x01, 0x7F, 0x80, 0xFF)


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> dict[str, bytes]:
    """One answer of each kind."""
    with running(built(tmp_path_factory, TARGET)) as (_, address):
        client = PprofClient(f"http://{address}")
        return {
            name: client.get(path, timeout_seconds=30, max_bytes=1 << 24)
            for name, path in PATHS.items()
        }


def damaged(good: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Change, insert, remove and repeat bytes, or cut the end off."""
    dice = random.Random(seed)
    for _ in range(count):
        data = bytearray(good)
        for _ in range(dice.choice((1, 1, 2, 8))):
            at = dice.randrange(len(data))
            match dice.randrange(6):
                case 0:
                    data[at] = dice.randrange(256)
                case 1:
                    data[at] = dice.choice(INTERESTING)
                case 2:
                    data[at] ^= 1 << dice.randrange(8)
                case 3:
                    data[at:at] = dice.randbytes(dice.randrange(1, 12))
                case 4:
                    del data[at : at + dice.randrange(1, 12)]
                case 5:
                    data[at:at] = data[at : at + dice.randrange(1, 2_000)]
        yield bytes(data[: dice.randrange(len(data))] if dice.random() < 0.1 else data)


def read(data: bytes, name: str) -> str:
    """Read an answer as the sampler does, and make of it what would be sent.

    Gives the reason of its refusal, empty where it is read; anything but a refusal is raised.
    """
    pull = next(each for each in PULLS if each.path == name)
    converter = Converter()
    try:
        for at in (1, 2):
            span = Span(NOW_NANOS + at * 10**9, 1, at * 10**9)
            profiles = converter.convert(parse(data), pull, resource=Resource(()), span=span)
            encode(Batch(NOW_NANOS, tuple(profiles)), agent_id="a")
    except ProfileFormatError as error:
        return error.reason if len(str(error)) < 2_000 else "long-winded"
    return ""


@pytest.mark.go
@pytest.mark.parametrize("name", PATHS)
def test_no_damage_does_more_than_be_refused(answers, name):
    plain = gzip.decompress(answers[name])
    assert read(plain, name) == ""
    forms = [*damaged(plain, MUTATIONS, 1), *damaged(answers[name], MUTATIONS // 4, 2)]
    reasons = set()
    slowest = 0.0
    for data in forms:
        began = time.thread_time()
        reasons.add(read(data, name))
        slowest = max(slowest, time.thread_time() - began)
    assert {"", "malformed"} <= reasons
    assert "long-winded" not in reasons
    assert slowest < 5  # CPU seconds; an answer that is whole takes milliseconds
    tracemalloc.start()
    try:
        for data in forms[:WATCHED]:
            read(data, name)
        assert tracemalloc.get_traced_memory()[1] < PEAK_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("value", [2**62, -(2**62), -(2**63)])
@pytest.mark.parametrize("name", ["profile", "heap", "mutex"])
def test_amounts_beyond_the_wire_format_are_refused_or_left_out(name, value):
    pull = next(each for each in PULLS if each.path == name)
    build = Builder(*((kind.sample_type, kind.sample_unit) for kind in pull.types))
    build.simple({(f"f{at}",): (value,) * len(pull.types) for at in range(3)})
    assert read(build.encode(), name) == ("malformed" if value > 0 and name != "mutex" else "")


def test_a_window_that_claims_to_be_short_is_not_stretched_beyond_the_wire_format():
    build = Builder(("samples", "count"), ("cpu", "nanoseconds")).simple({("f",): (1, 2**60)})
    build.message.duration_nanos = 1
    assert read(build.encode(), "profile") == "malformed"
