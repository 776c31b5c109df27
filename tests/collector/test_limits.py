"""The table of limits: each has its answer, its message and its counter. And late data."""

from __future__ import annotations

import gzip
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
import zstandard
from collector.otlp_requests import Request, simple
from collector.stored import by_function, totals
from collector.test_pprof_decode import Made
from flask import Flask
from opentelemetry.proto.collector.profiles.v1development import profiles_service_pb2

from flamewell_collector.errors import ProfileRejected
from flamewell_collector.ingest import Ingest
from flamewell_collector.limits import Limits
from flamewell_collector.metrics import CollectorMetrics
from flamewell_collector.store.storage import Storage
from flamewell_collector.web.otlp import otlp_blueprint

PATH = "/v1development/profiles"
HOUR_MS = 3_600_000


def now() -> int:
    return time.time_ns() // 1_000_000


class Door:
    """The OTLP door with some limits."""

    def __init__(self, storage: Storage, limits: Limits, *, ahead_ms: int = 0) -> None:
        self.storage = storage
        self.metrics = CollectorMetrics()
        self.ingest = Ingest(storage, self.metrics, limits=limits, now_ms=lambda: now() + ahead_ms)
        app = Flask("limits")
        app.register_blueprint(otlp_blueprint(self.ingest, self.metrics, limits=limits))
        self.client = app.test_client()

    def post(self, body: bytes, encoding: str = "") -> tuple[int, int, str, str | None]:
        """Give status, rejected profiles, message and Retry-After."""
        answer = self.client.post(
            PATH,
            data=body,
            content_type="application/x-protobuf",
            headers={"Content-Encoding": encoding} if encoding else {},
        )
        pause = answer.headers.get("Retry-After")
        if answer.status_code != 200:
            return answer.status_code, 0, answer.data[4:].decode(), pause
        part = profiles_service_pb2.ExportProfilesServiceResponse.FromString(
            answer.data
        ).partial_success
        return 200, part.rejected_profiles, part.error_message, pause

    def counted(self, name: str, **labels: str) -> float:
        full = f"flamewell_collector_{name}_total"
        return self.metrics.registry.get_sample_value(full, labels) or 0.0


def profile(change: Callable[[Request, Any], None] | None = None, **attributes: Any) -> bytes:
    """A good profile of 7, and one of 5 that ``change`` makes bad."""
    request = Request()
    good = request.resource(service__name="good")
    good.profile([(request.stack("g"), 7)], time_ms=now())
    bad = request.resource(service__name="bad", **attributes)
    message = bad.profile([(request.stack("f", "main"), 5)], time_ms=now())
    if change is not None:
        change(request, message)
    return request.encoded()


def long_payload(_request: Request, message: Any) -> None:
    message.original_payload = bytes(3_000)


def many_samples(_request: Request, message: Any) -> None:
    message.samples.extend([message.samples[0]] * 50)


def at(offset_ms: int) -> Callable[[Request, Any], None]:
    def change(_request: Request, message: Any) -> None:
        message.time_unix_nano = (now() + offset_ms) * 1_000_000

    return change


def deep(request: Request, message: Any) -> None:
    message.samples[0].stack_index = request.stack(*(f"d{each}" for each in range(30)))


def long_name(request: Request, message: Any) -> None:
    message.samples[0].stack_index = request.stack("n" * 300)


def twice(request: Request, message: Any) -> None:
    many_samples(request, message)


@dataclass(frozen=True)
class Row:
    """A limit.

    Attributes:
        limit: Its field in Limits.
        value: A small one.
        body: What is beyond it.
        reason: In the counters.
        status: Of the answer; 200 is a partial success.
        counter: What counts it.
        pause: Whether to come again.
    """

    limit: str
    value: float
    body: Callable[[], bytes]
    reason: str
    status: int = 200
    counter: str = "discarded_profiles"
    pause: bool = False


BYTES, SAMPLES = "discarded_bytes", "discarded_samples"
LONG_NAME = {"label." + "n" * 21: "x"}
LABELS = {f"label.l{each}": "x" for each in range(5)}
TABLE = (
    Row("body_bytes", 100, lambda: bytes(101), "body_too_large", 413, "discarded_bytes"),
    Row("profile_samples", 20, lambda: profile(many_samples), "too_many_samples"),
    Row("profile_bytes", 2_000, lambda: profile(long_payload), "profile_too_large"),
    Row("batch_samples", 30, lambda: profile(many_samples), "too_many_samples"),
    Row("batch_nodes", 2, lambda: profile(deep), "too_many_frames"),
    Row("batch_frames", 5, lambda: profile(deep), "too_many_frames"),
    Row("stack_depth", 10, lambda: profile(deep), "stack", counter="ingest_truncated"),
    Row("symbol_bytes", 64, lambda: profile(long_name), "symbol", counter="ingest_truncated"),
    Row("label_names", 4, lambda: profile(**LABELS), "too_many_labels"),
    Row("label_name_bytes", 20, lambda: profile(**LONG_NAME), "label_name_too_long"),
    Row("label_value_bytes", 20, lambda: profile(label__n="x" * 21), "label_value_too_long"),
    Row("series", 1, profile, "series_limit"),
    Row("max_age_ms", HOUR_MS, lambda: profile(at(-HOUR_MS - 5_000)), "too_old"),
    Row(
        "max_spooled_age_ms", 24 * HOUR_MS,
        lambda: profile(at(-24 * HOUR_MS - 5_000), flamewell__batch_id="late"), "too_old",
    ),
    Row("max_ahead_ms", 600_000, lambda: profile(at(605_000)), "too_new"),
    Row("memory_bytes", 5_000, lambda: profile(many_samples), "body_too_large", 413, BYTES),
    Row("tenant_bytes_per_second", 10, profile, "rate_limited", 429, BYTES, pause=True),
    Row("tenant_samples_per_second", 1, profile, "rate_limited", 429, SAMPLES, pause=True),
)  # fmt: skip


def test_the_table_is_whole() -> None:
    assert {row.limit for row in TABLE} | {"burst_seconds"} == {
        each.name for each in fields(Limits)
    }


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.limit)
def test_each_limit_has_its_answer_and_its_counter(
    row: Row, open_storage: Callable[..., Storage]
) -> None:
    limits = replace(Limits(), **{row.limit: row.value}, burst_seconds=1)  # type: ignore[arg-type]
    door = Door(open_storage(), limits)
    body = row.body()
    if row.pause:
        while door.post(body)[0] == 200:
            pass
    status, rejected, message, pause = door.post(body)
    assert status == row.status
    assert (pause is not None) == row.pause
    if row.counter == "ingest_truncated":
        assert door.counted(row.counter, tenant="default", what=row.reason) >= 1
        assert totals(door.storage) == {7: 1, 5: 1}
        return
    assert door.counted(row.counter, tenant="default", reason=row.reason) > 0
    if status != 200:
        assert message
        return
    assert rejected >= 1
    assert message.startswith(f"{row.reason}: ")
    for counter in ("discarded_samples", "discarded_bytes"):
        assert door.counted(counter, tenant="default", reason=row.reason) > 0
    assert sum(totals(door.storage)) in {0, 7}, "the other profile is kept where it can be"


def test_the_defaults_are_what_clients_rely_on() -> None:
    limits = Limits()
    assert limits.body_bytes == 64 << 20
    assert (limits.profile_samples, limits.profile_bytes) == (16_000, 4 << 20)
    assert (limits.stack_depth, limits.symbol_bytes) == (1_000, 64 << 10)
    assert (limits.label_names, limits.label_name_bytes, limits.label_value_bytes) == (
        30, 1_024, 2_048,
    )  # fmt: skip
    assert (limits.max_age_ms, limits.max_ahead_ms) == (HOUR_MS, 600_000)


def test_a_body_grows_while_it_unpacks_and_is_charged_then(
    open_storage: Callable[..., Storage],
) -> None:
    door = Door(open_storage(), replace(Limits(), memory_bytes=1 << 20))
    for encoding, body in (
        ("gzip", gzip.compress(bytes(10 << 20))),
        ("zstd", zstandard.compress(bytes(10 << 20))),
    ):
        assert door.post(body, encoding)[0] == 413
    assert door.ingest.memory_bytes == 0
    assert door.post(simple("x"))[0] == 200


def test_no_room_in_the_head_is_503_before_the_body_is_read(
    open_storage: Callable[..., Storage],
) -> None:
    storage = open_storage(max_head_rows=2)
    door = Door(storage, Limits())
    assert door.post(simple("a"))[0] == 200
    pauses = set()
    for number in range(40):
        status, _, message, pause = door.post(simple(f"b{number}"))
        assert status == 503
        assert "wait for a flush" in message
        pauses.add(pause)
    assert len(pauses) > 3, "senders are spread"
    storage.flush()
    assert door.post(simple("b"))[0] == 200


def test_late_and_unordered_profiles_are_all_there(open_storage: Callable[..., Storage]) -> None:
    storage = open_storage()
    door = Door(storage, Limits())
    offsets = [-HOUR_MS * hours for hours in (0, 23, 5, 1, 12, 2, 23, 0)]
    chance = random.Random(4)
    chance.shuffle(offsets)
    for number, offset in enumerate(offsets):
        body = simple(f"node-0a1b2c3d-{number}-0", 1 << number, time_ms=now() + offset)
        assert door.post(body)[:2] == (200, 0)
        if number % 3 == 2:
            storage.flush()
    wanted = {3 << number: 1 for number in range(len(offsets))}
    assert totals(storage) == wanted
    storage.flush()
    storage.maintain(now())
    assert totals(storage) == wanted


def test_a_clock_that_is_wrong_is_told_apart(open_storage: Callable[..., Storage]) -> None:
    """A node some minutes ahead is served; one that is hours off is told so, and counted."""
    storage = open_storage()
    assert Door(storage, Limits(), ahead_ms=-9 * 60_000).post(simple("a", 1))[:2] == (200, 0)
    far = Door(storage, Limits(), ahead_ms=-3 * HOUR_MS)
    status, rejected, message, _ = far.post(simple("b", 2))
    assert (status, rejected) == (200, 1)
    assert message.startswith("too_new: begins 1")
    assert far.counted("discarded_profiles", reason="too_new", tenant="default") == 1
    behind = Door(storage, Limits(), ahead_ms=25 * HOUR_MS)
    assert behind.post(simple("c", 4))[2].startswith("too_old: ")
    assert totals(storage) == {3: 1}
    # The id of a batch of which nothing was taken is remembered: it would not be taken later.
    assert storage.seen("default", "b")


def test_stacks_that_the_log_knows_are_left_out_until_it_ends(
    open_storage: Callable[..., Storage],
) -> None:
    storage = open_storage()
    door = Door(storage, Limits())
    written: list[Any] = []
    append = storage.append

    def watched(batch: Any) -> bool:
        written.append(batch)
        return append(batch)

    storage.append = watched  # type: ignore[method-assign]
    for number in range(3):
        assert door.post(simple(f"x{number}"))[0] == 200
    storage.flush()
    assert door.post(simple("x3"))[0] == 200
    assert [each.stacks.num_rows for each in written] == [4, 0, 0, 4]
    assert by_function(storage) == {"f": 20, "g": 40}


def test_a_flush_between_decoding_and_writing_loses_no_stack(
    open_storage: Callable[..., Storage],
) -> None:
    storage = open_storage()
    door = Door(storage, Limits())
    assert door.post(simple("a"))[0] == 200
    append = storage.append
    epochs: list[int | None] = []

    def late(batch: Any) -> bool:
        epochs.append(batch.epoch)
        if len(epochs) == 1:
            storage.flush()
        return append(batch)

    storage.append = late  # type: ignore[method-assign]
    assert door.post(simple("b"))[0] == 200
    assert len(epochs) == 2, "decoded again"
    assert epochs[0] != epochs[1]
    assert by_function(storage) == {"f": 10, "g": 20}


def test_pprof_goes_the_same_way(open_storage: Callable[..., Storage]) -> None:
    storage = open_storage()
    door = Door(storage, Limits())
    made = Made(("samples", "count"), ("cpu", "nanoseconds"))
    made.message.time_nanos = 0
    made.sample("f main", 3, 30)
    made.sample("g main", 1, 10, pod="p1")
    labels = {"service_name": "payments"}
    result = door.ingest.accept_pprof("default", labels, made.body, batch_id="u1")
    assert (result.accepted_profiles, result.rejected_profiles) == (4, 0)
    assert door.ingest.accept_pprof("default", labels, made.body, batch_id="u1").duplicates == 1
    assert totals(storage) == {3: 1, 30: 1, 1: 1, 10: 1}
    assert by_function(storage) == {"f": 33, "g": 11}
    assert door.counted("ingest_profiles", tenant="default") == 4
    assert door.counted("ingest_samples", tenant="default") == 4
    old = door.ingest.accept_pprof("default", labels, made.body, time_ms=now() - HOUR_MS // 2)
    assert old.accepted_profiles == 4
    with pytest.raises(ProfileRejected):
        door.ingest.accept_pprof("default", labels, made.body, time_ms=now() - 2 * HOUR_MS)
    assert door.counted("discarded_profiles", reason="too_old", tenant="default") == 1
    assert door.counted("discarded_bytes", reason="too_old", tenant="default") == len(made.body)
    storage.flush()
    assert by_function(storage) == {"f": 66, "g": 22}
