"""Real Go programs through the whole sampler: TLS, IPv6, annotations, budgets, restarts."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent.go_sampling import (
    ORDERS,
    TARGET,
    Seen,
    built,
    collect,
    covered,
    discovered,
    running,
    sampling,
    subject_of,
    totals,
    until,
)
from agent.pprof_server import PprofServer
from agent.test_gopprof import mutex
from end_to_end.system import free_port

from flamewell_agent.cpu_clock import process_cpu_nanos
from flamewell_agent.errors import EndpointError
from flamewell_agent.model import Process, Profile, Scrape
from flamewell_agent.samplers.go_fetch import PprofClient
from flamewell_agent.samplers.go_pulls import PULLS
from flamewell_agent.samplers.gopprof import GoSampler
from flamewell_agent.samplers.pprof_parse import parse
from flamewell_wire import profile_types

CONTENTIONS, DELAY = profile_types.MUTEX_CONTENTIONS.id, profile_types.MUTEX_DELAY.id
LOCK = "main.(*priceList).priceOrder"
CLIENTS = 4

pytestmark = pytest.mark.go


@pytest.fixture(scope="session")
def target(tmp_path_factory) -> str:
    """A Go program with known functions."""
    return built(tmp_path_factory, TARGET)


@pytest.fixture(scope="session")
def orders(tmp_path_factory) -> str:
    """The order service whose requests queue up for a lock."""
    return built(tmp_path_factory, ORDERS)


@contextlib.contextmanager
def served_orders(program: str, port: int, pprof_port: int) -> Iterator[Process]:
    """Run the order service under load from a few clients until the ``with`` ends."""
    service = subprocess.Popen(
        [program, "-listen", f"127.0.0.1:{port}", "-pprof", f"127.0.0.1:{pprof_port}"],
        stderr=subprocess.DEVNULL,
    )
    stop = threading.Event()
    clients = [threading.Thread(target=order, args=(port, stop)) for _ in range(CLIENTS)]
    try:
        for each in clients:
            each.start()
        url = f"http://127.0.0.1:{pprof_port}"
        until(lambda: waited_for_lock(url) >= 100)
        yield discovered(service.pid)
    finally:
        stop.set()
        for each in clients:
            each.join()
        service.kill()
        service.wait()


def order(port: int, stop: threading.Event) -> None:
    while not stop.is_set():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            while not stop.is_set():
                connection.request("GET", "/order?lines=50")
                connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            stop.wait(0.05)  # it does not listen yet
        finally:
            connection.close()


def waited_for_lock(url: str) -> int:
    """Give how often somebody has waited for the lock since the service's start."""
    try:
        data = PprofClient(url).get("mutex", timeout_seconds=10, max_bytes=1 << 24)
    except EndpointError:
        return 0
    return sum(
        each.values[0]
        for each in parse(data).samples
        if any(frame.function == LOCK for frame in each.stack)
    )


def deltas(sampler: GoSampler, process: Process, url: str) -> list[Profile]:
    """Observe an order service until three deltas of its lock have come; check their sum."""
    got: list[Profile] = []

    def enough() -> bool:
        sampler.observe((process,))
        got.extend(sampler.drain())
        return len([each for each in totals(got, CONTENTIONS, LOCK) if each]) >= 3

    before = waited_for_lock(url)
    until(enough)
    # The first reading, of at least 100, is in none of them.
    assert 0 < sum(totals(got, CONTENTIONS, LOCK)) <= waited_for_lock(url) - before
    return got


def test_the_contended_lock_of_an_order_service_is_shown_as_deltas_through_a_restart(orders):
    ports = free_port(), free_port()
    url = f"http://127.0.0.1:{ports[1]}"
    with sampling(detect=True) as sampler:
        profiles = []
        for _ in range(2):
            with served_orders(orders, *ports) as process:
                profiles += deltas(sampler, process, url)
                assert sampler.coverage()[0].reason == "pprof"
    contended = [each for each in profiles if each.type_id in {CONTENTIONS, DELAY}]
    assert all(value > 0 for each in contended for _, value in each.samples)
    assert all(each.duration_nanos > 0 for each in contended)
    for type_id in (CONTENTIONS, DELAY):
        assert sum(totals(contended, type_id, LOCK)) > 0.9 * sum(totals(contended, type_id))
    leaves = {stack[:2] for each in contended for stack, _ in each.samples}
    assert ("sync.(*Mutex).Unlock", LOCK) in {(a.function, b.function) for a, b in leaves}


def test_counters_start_anew_after_a_lost_connection():
    """A program that was restarted and counted further than the one before it."""
    seen = Seen()
    with (
        PprofServer({"mutex": mutex({("lock",): (3, 300)})}) as server,
        sampling(("orders", server.url), seen=seen) as sampler,
    ):
        sampler.observe(())
        until(lambda: "/debug/pprof/mutex" in server.requests)
        server.answers["profile"] = lambda _handler: None  # it closes without a word
        until(lambda: seen["connection_lost"] >= 1)
        assert sampler.drain() == []
        server.answers = {"mutex": mutex({("lock",): (500, 90_000)})}
        server.requests.clear()
        until(lambda: server.requests.count("/debug/pprof/mutex") >= 2)
        server.answers = {"mutex": mutex({("lock",): (502, 90_060)})}
        got: list[Profile] = []

        def grown() -> bool:
            got.extend(sampler.drain())
            return bool(totals(got, DELAY))

        until(grown)
    assert totals(got, CONTENTIONS) == [2]
    assert totals(got, DELAY) == [60]


def test_a_program_that_is_started_again_at_a_configured_port_begins_anew(target):
    listen = ("-listen", f"127.0.0.1:{free_port()}", "-busy=false")
    url = f"http://{listen[1]}"
    seen = Seen()
    with sampling(("orders", url), seen=seen) as sampler:
        with running(target, *listen):
            collect(sampler, {CONTENTIONS})
        until(lambda: seen["unreachable"] + seen["connection_lost"] >= 1)
        sampler.drain()
        began = time.time_ns()
        with running(target, *listen):
            got = collect(sampler, {CONTENTIONS})
    assert got[CONTENTIONS].start_unix_nanos >= began
    assert sum(totals([got[CONTENTIONS]], CONTENTIONS)) > 0


def test_a_pods_annotations_say_where_and_what_is_pulled(target):
    with running(target) as (process, address):
        scrapes = [Scrape(("mutex", "goroutine"), f"http://{address}")]
        with sampling(subject_of=lambda each: subject_of(each, tuple(scrapes))) as sampler:
            types: set[str] = set()

            def pulled(wanted: set[str]) -> bool:
                sampler.observe((process,))
                types.update(each.type_id for each in sampler.drain())
                return wanted <= types

            until(lambda: pulled({CONTENTIONS, DELAY, profile_types.GOROUTINE.id}))
            assert covered(sampler, process, "pprof") == ""
            assert types == {CONTENTIONS, DELAY, profile_types.GOROUTINE.id}
            scrapes[:] = [Scrape(("cpu",), f"http://{address}")]
            until(lambda: pulled({profile_types.CPU.id}))
            assert types == {CONTENTIONS, DELAY, profile_types.GOROUTINE.id, profile_types.CPU.id}


@pytest.fixture
def secure(target, tmp_path) -> Iterator[tuple[Process, str, Path]]:
    """A program that serves https by a certificate that it signed itself; its URL, and that."""
    certificate = tmp_path / "certificate.pem"
    with running(target, "-tls", str(certificate)) as (process, address):
        yield process, f"https://{address}", certificate


@pytest.mark.parametrize("detect", [True, False])
def test_https_by_an_unknown_authority_is_refused_and_says_what_to_set(secure, detect):
    process, url, _ = secure
    endpoints = () if detect else (("", url),)
    seen = Seen()
    with sampling(*endpoints, detect=detect, seen=seen) as sampler:
        detail = covered(sampler, process, "certificate_not_trusted")
        assert sampler.drain() == []
    assert "go_tls_ca_file" in detail
    assert "go_tls_insecure" in detail
    assert "self" in detail.lower()  # "self-signed certificate", in the words of OpenSSL
    assert detect or seen["certificate_not_trusted"] >= 1
    assert "heap" not in detail  # the rest of the round is not tried


@pytest.mark.parametrize("trusted", ["by its authority", "without a look"])
def test_https_of_a_go_program_is_found_and_pulled(secure, trusted):
    process, url, certificate = secure
    options = (
        {"tls_ca_file": certificate} if trusted == "by its authority" else {"tls_insecure": True}
    )
    wanted = {kind.id for pull in PULLS for kind in pull.types}
    with sampling(detect=True, **options) as sampler:
        collect(sampler, wanted, (process,))
        assert [each.endpoint.url for each in sampler._workers.values()] == [url]


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 on loopback")
def test_a_program_on_ipv6_only_is_found_beside_another_ones_ipv4_port(target):
    quiet = "-busy=false"
    with (
        running(target, "-network", "tcp6", "-listen", "[::]:0", quiet) as (first, address),
        running(target, "-listen", f"127.0.0.1:{address.rpartition(':')[2]}", quiet) as (second, _),
        sampling(detect=True) as sampler,
    ):

        def both() -> bool:
            sampler.observe((first, second))
            return {each.reason for each in sampler.coverage()} == {"pprof"}

        until(both)
        urls = {each.endpoint.process: each.endpoint.url for each in sampler._workers.values()}
    port = address.rpartition(":")[2]
    assert urls == {first: f"http://[::1]:{port}", second: f"http://127.0.0.1:{port}"}


def test_a_program_with_more_arguments_than_the_agent_keeps_is_found(target):
    with running(target, "-busy=false", *map(str, range(400))) as (process, _):
        assert len(process.cmdline) < 400
        with sampling(detect=True) as sampler:
            covered(sampler, process, "pprof")


def test_what_does_not_fit_in_the_budget_waits_and_goes_on_when_it_is_raised(target):
    with (
        running(target, "-busy=false") as (process, _),
        sampling(detect=True, allow=0.0) as sampler,
    ):
        detail = covered(sampler, process, "waits_for_budget")
        assert detail.count("waits for budget") == len(PULLS)
        assert sampler.drain() == []
        sampler.allow(1e-9)  # nothing can be saved up for within this test
        covered(sampler, process, "waits_for_budget")
        sampler.allow(1.0)
        covered(sampler, process, "pprof")
        collect(sampler, {profile_types.INUSE_SPACE.id}, (process,))
        assert 0 < sampler.cpu_seconds() < 10


def cpu_used_between(readings: list[tuple[int, int]], begin: int, end: int) -> float:
    """Give CPU nanoseconds between two moments, out of (unix nanoseconds, CPU so far)."""
    at = [min(readings, key=lambda each: abs(each[0] - moment)) for moment in (begin, end)]
    return at[1][1] - at[0][1]


@pytest.mark.slow
def test_windows_that_cover_a_fifth_of_the_time_tell_all_of_the_cpu(target):
    with (
        running(target) as (process, address),
        sampling(("", f"http://{address}"), cycle_seconds=5, cpu_share=0.2) as sampler,
    ):
        readings: list[tuple[int, int]] = []
        windows: list[Profile] = []
        deadline = time.monotonic() + 60
        while len(windows) < 4:
            assert time.monotonic() < deadline
            sampler.observe((process,))
            readings.append((time.time_ns(), process_cpu_nanos(process.key.pid)))
            drained = sampler.drain()
            windows += [each for each in drained if each.type_id == profile_types.CPU.id]
            time.sleep(0.02)
    first, *stretched = windows
    begin = first.start_unix_nanos + first.duration_nanos
    end = stretched[-1].start_unix_nanos + stretched[-1].duration_nanos
    # They follow each other without a gap, and cover about a fifth.
    assert sum(each.duration_nanos for each in stretched) == pytest.approx(end - begin, abs=1e8)
    assert end - begin > 2 * len(stretched) * 10**9
    told = sum(totals(stretched, profile_types.CPU.id))
    # Without stretching it were a fifth. The band is wide, since three windows of a second tell
    # of fifteen, on a machine that does other things as well.
    assert 0.5 < told / cpu_used_between(readings, begin, end) < 1.8


@pytest.mark.skipif(not shutil.which("prometheus"), reason="Debian's prometheus is not installed")
def test_prometheus_is_found_and_profiled_as_it_is(tmp_path):
    port = free_port()
    configuration = tmp_path / "prometheus.yml"
    configuration.write_text("global: {}\n")
    command = [
        "prometheus",
        f"--config.file={configuration}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    server = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        until(lambda: answers(port))
        process = discovered(server.pid)
        with sampling(detect=True) as sampler:
            got = collect(
                sampler, {profile_types.INUSE_SPACE.id, profile_types.GOROUTINE.id}, (process,)
            )
            covered(sampler, process, "pprof")
    finally:
        server.terminate()
        server.wait()
    goroutines = got[profile_types.GOROUTINE.id]
    assert totals([goroutines], goroutines.type_id, "main.main") == [1]


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
