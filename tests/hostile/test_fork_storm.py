"""A target that forks and dies as fast as it can: scans keep their bound, cycles go on."""

from __future__ import annotations

import sys
import threading
import time

import psutil
import pytest
from agent.conftest import TARGETS
from agent.pyspy_windows import held
from hostile.agent_cycles import FamilyScans, Setting

from flamewell_agent.discovery import NOT_LOOKED_AT, Discovery

STORM = str(TARGETS / "hostile_fork_storm.py")


def cost_of(discovery: Discovery, look_cpu_seconds: float) -> float:
    began = time.thread_time()
    discovery.scan(look_cpu_seconds)
    return time.thread_time() - began


def test_scans_amid_a_storm_keep_their_bound(spawn, tmp_path):
    discovery = Discovery()
    discovery.scan()
    # What a scan costs that looks at nobody closely: one read a process.
    calm = max(cost_of(discovery, 0.0) for _ in range(3))
    storm = spawn(sys.executable, STORM, "3000", "200", str(tmp_path / "over"))
    costs, found = [], 0
    for _ in range(15):
        began = time.thread_time()
        seen = discovery.scan(0.01)
        costs.append(time.thread_time() - began)
        found += sum(each.parent_pid == storm.pid for each in seen)
    print(f"calm {calm:.3f} s, storm {[round(each, 3) for each in costs]}, {found} children seen")
    # Generous: up to 200 processes more to read, one look beyond the limit, a loaded machine.
    assert sum(costs) < len(costs) * (20 * calm + 20 * 0.01 + 0.5)
    assert storm.poll() is None
    assert found > 0


def test_what_a_scan_has_no_time_for_is_named_and_forgotten_when_it_is_gone(spawn, until, tmp_path):
    storm = spawn(sys.executable, STORM, "1000", "100", str(tmp_path / "over"))
    discovery = Discovery()
    until(lambda: psutil.Process(storm.pid).children())
    seen = [each for each in discovery.scan(-1.0) if each.parent_pid == storm.pid]
    assert {each.unreadable for each in seen} <= {NOT_LOOKED_AT}
    until((tmp_path / "over").exists, seconds=60, what="the end of the storm")
    assert [each for each in discovery.scan() if each.parent_pid == storm.pid] == []


@pytest.mark.timeout(120)
def test_cycles_go_on_amid_a_storm(spy, spawn, until, tmp_path):
    storm = spawn(sys.executable, STORM, "3000", "50", str(tmp_path / "over"))
    setting = Setting(spy, FamilyScans(storm.pid))
    for _ in range(4):
        coverage = setting.agent.run_cycle(1, threading.Event())
        assert any(each.process.key.pid == storm.pid for each in coverage)
    assert setting.stage_failures() == 0
    assert setting.outbox.payloads
    until((tmp_path / "over").exists, seconds=60, what="the end of the storm")
    coverage = setting.agent.run_cycle(1, threading.Event())
    assert [each.process.key.pid for each in coverage] == [storm.pid]
    assert held(storm.pid) == []
