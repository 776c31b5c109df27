"""The loop: every process accounted for, every nanosecond told, no stage can stop the others."""

from __future__ import annotations

import itertools
import logging
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from agent.conftest import TARGETS
from opentelemetry.proto.collector.profiles.v1development import profiles_service_pb2

from flamewell_agent import daemon, governor, procfs
from flamewell_agent.capture_windows import NoOrders
from flamewell_agent.cpu_clock import process_cpu_nanos
from flamewell_agent.daemon import Agent
from flamewell_agent.discovery import Discovery
from flamewell_agent.heap.census import Census
from flamewell_agent.heap.estimates import Sample, TypeCount
from flamewell_agent.heap.report import Growth
from flamewell_agent.heap_captures import NoHeap, Taken
from flamewell_agent.metrics import AgentMetrics
from flamewell_agent.model import (
    NOT_LOOKED_AT,
    Coverage,
    Frame,
    Process,
    Profile,
    Resource,
    Subject,
    Window,
    WindowResult,
)
from flamewell_agent.procfs import read_stat
from flamewell_agent.samplers.memory import MemoryReader
from flamewell_agent.samplers.pyspy import PySpy, find_py_spy
from flamewell_agent.sampling import Rules
from flamewell_agent.stages import Policy, Stages
from flamewell_wire.attributes import UNSAMPLED_FRAME
from flamewell_wire.profile_types import CPU, GROWTH, LIVE_BYTES, LIVE_OBJECTS, PROCESS_ANON

PROC = Path("/proc")
STACK = (Frame("work", "w.py", 1),)


class NoGo:
    def __init__(self) -> None:
        self.waiting: list[Profile] = []
        self.running = True

    def observe(self, processes: Sequence[Process]) -> None:
        pass

    def allow(self, cpu_seconds_per_second: float) -> None:
        pass

    def cpu_seconds(self) -> float:
        return 0.0

    def stop(self) -> None:
        self.running = False

    def drain(self) -> list[Profile]:
        drained, self.waiting = self.waiting, []
        return drained

    def coverage(self) -> list[Coverage]:
        return []


class Names:
    """Names a process by OTEL_SERVICE_NAME; refuses those it is told to refuse."""

    def __init__(self) -> None:
        self.known: dict[Process, Subject] = {}
        self.refused: dict[int, str] = {}
        self.broken: set[int] = set()

    def subject(self, process: Process) -> Subject:
        if process.key.pid in self.broken:
            raise RuntimeError("no name")
        if process not in self.known:
            environ = procfs.read_bytes(PROC, process.key.pid, "environ").decode().split("\0")
            given = dict(each.partition("=")[::2] for each in environ)
            name = given.get("OTEL_SERVICE_NAME") or process.executable
            refused = self.refused.get(process.key.pid, "")
            resource = Resource.of({"service.name": name})
            self.known[process] = Subject(resource, name, refused=refused)
        return self.known[process]

    def meet(self, processes: Sequence[Process]) -> None:
        pass

    def keep_only(self, processes: Sequence[Process]) -> None:
        self.known = {each: self.known[each] for each in processes if each in self.known}


class Outbox:
    def __init__(self) -> None:
        self.payloads: list[bytes] = []

    def put(self, payload: bytes) -> bool:
        self.payloads.append(payload)
        return True


class Windows:
    """Gives each window one sample, or the failure that is set; takes some CPU of the target."""

    def __init__(self) -> None:
        self.failure = ""
        self.orders: list[list[int]] = []

    def run(self, windows: Sequence[Window], stop: threading.Event) -> list[WindowResult]:
        self.orders.append([each.process.key.pid for each in windows])
        clocks = {each: process_cpu_nanos(each.process.key.pid) or 0 for each in windows}
        stop.wait(0.2)
        results = []
        for each, before in clocks.items():
            after = process_cpu_nanos(each.process.key.pid) or before
            results.append(
                WindowResult(
                    each,
                    samples=() if self.failure else ((STACK, 5),),
                    intervals=each.rate_hz * each.seconds,
                    wall_seconds=0.2,
                    target_cpu_nanos=after - before,
                    target_clock_nanos=after,
                    failure=self.failure,
                )
            )
        return results


class Scans(Discovery):
    """Sees only the processes it is told to see."""

    def __init__(self) -> None:
        super().__init__(PROC)
        self.only: set[int] = set()
        self.broken = False

    def scan(self, look_cpu_seconds: float = math.inf) -> list[Process]:
        if self.broken:
            raise RuntimeError("no scan today")
        return [each for each in super().scan() if each.key.pid in self.only]


class Setting:
    """An agent whose windows are on paper."""

    def __init__(self, *, python=None, discovery=None, heap=None) -> None:
        self.discovery = discovery or Scans()
        self.python = python or Windows()
        self.outbox = Outbox()
        self.metrics = AgentMetrics()
        self.identity = Names()
        stages = Stages(
            self.discovery,
            self.identity,
            MemoryReader(PROC, Path("/sys/fs/cgroup")),
            self.python,
            NoGo(),
            NoOrders(),
            self.outbox,
            self.metrics,
            heap or NoHeap(),
        )
        self.policy = Policy(
            "agent-1", 1, 0.5, os.cpu_count() or 1, 1 << 40, Rules(97, 60.0, 0.001)
        )
        used = itertools.count(0.001, 0.001)
        self.agent = Agent(
            stages,
            self.policy,
            own_pid=os.getpid(),
            cpu_seconds=lambda: next(used),
            uniform=lambda: 0.5,
        )
        self.told: list[Profile] = []
        spool = self.agent._spool

        def spy(profiles: Sequence[Profile]) -> None:
            self.told += profiles
            spool(profiles)

        self.agent._spool = spy

    def cycle(self, stop: threading.Event | None = None) -> dict[int, Coverage]:
        found = self.agent.run_cycle(1, stop or threading.Event())
        return {each.process.key.pid: each for each in found}

    def cpu(self) -> dict[tuple[str, str], int]:
        """Give ns by service and leaf."""
        found: dict[tuple[str, str], int] = {}
        for profile in self.told:
            if profile.type_id == CPU.id:
                service = dict(profile.resource.attributes)["service.name"]
                for stack, value in profile.samples:
                    key = (service, stack[0].function)
                    found[key] = found.get(key, 0) + value * profile.period
        return found


@pytest.fixture
def burner(spawn, until):
    """Start a process that burns."""

    def start(service: str = "burner") -> int:
        target = spawn(
            sys.executable, str(TARGETS / "shares.py"), env={"OTEL_SERVICE_NAME": service}
        )
        until(lambda: (process_cpu_nanos(target.pid) or 0) > 10**8)
        return int(target.pid)

    return start


def test_a_cycle_with_real_windows_names_the_functions(tmp_path, burner, spawn, until):
    sleeper = spawn(sys.executable, str(TARGETS / "sleeper.py"))
    python = PySpy(find_py_spy(), tmp_path / "windows")
    setting = Setting(python=python)
    pid = burner()
    setting.discovery.only = {pid, sleeper.pid, os.getpid()}
    setting.agent._prime()
    time.sleep(0.5)
    coverage = setting.agent.run_cycle(2, threading.Event())
    lines = {each.process.key.pid: (each.state, each.reason) for each in coverage}
    assert lines[pid][0] == "sampled"
    # It is new, and used some CPU to start: a first window is worth a look.
    assert lines[sleeper.pid] in {("skipped", "idle"), ("sampled", "no_python_on_cpu")}
    assert lines[os.getpid()] == ("skipped", "agent_itself")
    cpu = {leaf: nanos for (service, leaf), nanos in setting.cpu().items() if service == "burner"}
    assert cpu["work"] > 0.5 * sum(cpu.values())
    assert 0.5 * process_cpu_nanos(pid) < sum(cpu.values()) <= process_cpu_nanos(pid)
    assert {each.type_id for each in setting.told} >= {CPU.id, PROCESS_ANON.id}
    assert list((tmp_path / "windows").iterdir()) == []


def test_all_cpu_time_is_told_once_over_many_cycles(burner):
    setting = Setting()
    pid = burner()
    setting.discovery.only = {pid}
    setting.agent._prime()
    for _ in range(4):
        setting.cycle()
    (account,) = setting.agent._sampling._accounts._accounts.values()
    # It began under the agent's eyes: all that it ever used is ours to tell.
    assert account.told_nanos == sum(setting.cpu().values()) > 10**8


def test_a_process_that_ends_is_told_under_its_own_name(burner, until):
    setting = Setting()
    setting.python.failure = "not_permitted"
    pid = burner("shop")
    setting.discovery.only = {pid}
    setting.agent._prime()
    setting.cycle()
    os.kill(pid, 9)
    until(lambda: read_stat(PROC, pid).state == "Z")
    setting.discovery.only = set()
    setting.cycle()
    assert list(setting.cpu()) == [("shop", UNSAMPLED_FRAME)]


def test_batches_are_numbered_and_named(burner):
    setting = Setting()
    setting.discovery.only = {burner()}
    setting.cycle()
    setting.cycle()
    ids = []
    for payload in setting.outbox.payloads:
        request = profiles_service_pb2.ExportProfilesServiceRequest.FromString(payload)
        for each in request.resource_profiles:
            named = {a.key: a.value.string_value for a in each.resource.attributes}
            ids.append(named["flamewell.batch_id"])
    assert ids == ["agent-1-1-0", "agent-1-2-0"]


def test_a_scan_that_fails_costs_only_itself(burner, caplog):
    setting = Setting()
    pid = burner()
    setting.discovery.only = {pid}
    setting.agent._prime()
    setting.cycle()
    setting.discovery.broken = True
    with caplog.at_level(logging.CRITICAL):
        lines = setting.cycle()
    assert lines[pid].state == "sampled"
    assert b'stage_failures_total{stage="discovery"} 1.0' in setting.metrics.render()
    setting.discovery.broken = False
    setting.cycle()
    assert sum(setting.cpu().values()) < 10 * 10**9


@pytest.mark.parametrize("stage", ["identity", "memory", "python", "outbox", "go"])
def test_a_stage_that_fails_does_not_stop_the_loop(burner, stage, monkeypatch):
    setting = Setting()
    setting.discovery.only = {burner()}

    def fail(*_: object) -> None:
        raise RuntimeError("broken")

    method = {"identity": "keep_only", "memory": "read", "python": "run", "outbox": "put"}
    part = getattr(setting.agent._stages, stage)
    monkeypatch.setattr(part, method.get(stage, "drain"), fail)
    setting.cycle()
    assert setting.metrics.seconds_since_cycle is not None
    assert b"stage_failures_total{" in setting.metrics.render()


def test_a_target_that_fails_is_left_alone_ever_longer(burner):
    setting = Setting()
    setting.python.failure = "not_python"
    pid = burner()
    setting.discovery.only = {pid}
    setting.agent._prime()
    time.sleep(0.2)
    lines = [setting.cycle()[pid] for _ in range(5)]
    assert [each.reason for each in lines] == [
        "not_python",
        "backing_off",
        "backing_off",
        "not_python",
        "backing_off",
    ]
    assert lines[1].detail == "not_python"


def test_stop_ends_a_cycle_at_once_and_spools_what_there_is(burner):
    setting = Setting()
    setting.discovery.only = {burner()}
    setting.agent._prime()
    time.sleep(0.2)
    stop = threading.Event()
    stop.set()
    began = time.monotonic()
    setting.agent.run_cycle(300, stop)
    assert time.monotonic() - began < 60
    assert setting.outbox.payloads


def test_the_loop_begins_with_a_short_cycle_and_ends_on_stop(burner, monkeypatch):
    monkeypatch.setattr(daemon, "PRIMING_SECONDS", 0.1)
    setting = Setting()
    setting.discovery.only = {burner()}
    stop = threading.Event()
    lengths: list[int] = []
    run_cycle = setting.agent.run_cycle

    def record(seconds: int, stop: threading.Event) -> list[Coverage]:
        lengths.append(seconds)
        if len(lengths) == 2:
            stop.set()
        return run_cycle(seconds, stop)

    monkeypatch.setattr(setting.agent, "run_cycle", record)
    monkeypatch.setattr(daemon, "FIRST_CYCLE_SECONDS", 0)
    setting.agent.run(stop)
    assert lengths == [0, 1]


def test_the_overhead_is_published(burner):
    setting = Setting()
    setting.discovery.only = {burner()}
    setting.agent._budget.record(time.monotonic(), 0.0)
    setting.cycle()
    text = setting.metrics.render().decode()
    assert "flamewell_agent_overhead_budget_ratio 0.5" in text
    assert "flamewell_agent_overhead_ratio 0.0\n" not in text


def test_what_nobody_wants_sampled_is_left_alone_and_named(burner):
    setting = Setting()
    pid, other = burner(), burner("other")
    setting.discovery.only = {pid, other}
    setting.identity.refused[pid] = "opted_out"
    setting.agent._prime()
    time.sleep(0.2)
    lines = setting.cycle()
    assert (lines[pid].state, lines[pid].reason) == ("skipped", "opted_out")
    assert lines[other].state == "sampled"
    services = {dict(each.resource.attributes)["service.name"] for each in setting.told}
    assert services == {"other"}


def test_one_process_that_cannot_be_named_costs_nobody_else(burner):
    setting = Setting()
    pid, other = burner(), burner("other")
    setting.discovery.only = {pid, other}
    setting.identity.broken = {pid}
    setting.agent._prime()
    time.sleep(0.2)
    lines = setting.cycle()
    assert lines[pid].reason == "identity_failed"
    assert lines[other].state == "sampled"


def test_a_new_configuration_keeps_what_was_learned_and_not_told(burner):
    setting = Setting()
    setting.python.failure = "not_permitted"
    pid = burner()
    setting.discovery.only = {pid}
    setting.agent._prime()
    setting.cycle()
    setting.agent.reconfigure(setting.agent._stages, replace(setting.policy, overhead_budget=0.25))
    setting.python.failure = ""
    for _ in range(3):
        setting.cycle()
    (account,) = setting.agent._sampling._accounts._accounts.values()
    assert account.told_nanos == sum(setting.cpu().values()) > 10**8
    assert "flamewell_agent_overhead_budget_ratio 0.25" in setting.metrics.render().decode()


@pytest.mark.parametrize(
    ("factor", "own_share", "expected"),
    [(1, 0.6, 2), (2, 0.9, 4), (4, 0.9, 4), (4, 0.3, 4), (4, 0.1, 2), (2, 0.1, 1), (1, 0.1, 1)],
)
def test_cycles_get_longer_where_the_agent_itself_takes_the_budget(factor, own_share, expected):
    assert governor.stretch(factor, own_share) == expected


def test_at_the_end_all_cpu_time_and_what_go_has_brought_is_told(burner):
    setting = Setting()
    setting.python.failure = "never_attached"
    pid = burner()
    setting.discovery.only = {pid}
    setting.agent._prime()
    setting.cycle()
    setting.cycle()
    assert setting.cpu() == {}
    profile = Profile(Resource.of({"service.name": "orders"}), CPU.id, 7, 0, 1, ((STACK, 5),))
    setting.agent._stages.go.waiting.append(profile)
    before = list(setting.told)
    setting.agent.finish(last=False)
    assert setting.told == [*before, profile]
    assert not setting.agent._stages.go.running
    setting.agent.finish(last=True)
    told = {service: nanos for (service, _), nanos in setting.cpu().items()}
    assert told["burner"] > 10**7


def test_a_process_that_nobody_has_looked_at_yet_is_not_named(burner):
    setting = Setting()
    pid = burner()
    setting.discovery.only = {pid}
    (process,) = setting.discovery.scan()
    waiting = replace(process, unreadable=NOT_LOOKED_AT)
    setting.discovery.scan = lambda _looks=0.0: [waiting]
    line = setting.cycle()[pid]
    assert (line.state, line.reason) == ("skipped", NOT_LOOKED_AT)
    assert setting.identity.known == {}


class Counted(NoHeap):
    """Has counted one heap, and asks for CPU."""

    def __init__(self, process: Process) -> None:
        types = (TypeCount("shop.Cart", 30, 3_000, 2), TypeCount("dict", 9, 900, 0))
        sample = Sample(frozenset(), {}, 1)
        census = Census(types, 4, 4, 4 << 14, 3_900, 0.5, 1 << 20, sample)
        self.taken = [Taken(process, census, (Growth("shop.Cart", 5, 500, 1),), 2.0)]
        self.allowed: list[tuple[float, float]] = []

    def grant(self, allowance_seconds: float, *, at_once_seconds: float = math.inf) -> float:
        self.allowed.append((allowance_seconds, at_once_seconds))
        return allowance_seconds

    def cpu_seconds(self) -> float:
        return 0.01

    def drain(self) -> list[Taken]:
        taken, self.taken = self.taken, []
        return taken


def test_a_census_becomes_profiles_and_windows_wait_for_it():
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            process = next(each for each in Discovery(PROC).scan() if each.key.pid == busy.pid)
            heap = Counted(process)
            setting = Setting(heap=heap)
            setting.discovery.only = {busy.pid}
            setting.cycle()
            setting.cycle()
        finally:
            busy.kill()
    told = {
        each.type_id: (each, {stack[0].function: value for stack, value in each.samples})
        for each in setting.told
        if each.type_id in {LIVE_OBJECTS.id, LIVE_BYTES.id, GROWTH.id}
    }
    assert told[LIVE_OBJECTS.id][1] == {"shop.Cart": 30, "dict": 9}
    assert told[LIVE_BYTES.id][1] == {"shop.Cart": 3_000, "dict": 900}
    assert told[GROWTH.id][1] == {"shop.Cart": 500}
    assert told[GROWTH.id][0].duration_nanos == 2_000_000_000
    # All that there was has been saved up for the census: nobody was sampled.
    assert all(0 < each <= at_once for each, at_once in heap.allowed[1:])
    assert setting.python.orders == [[], []]
