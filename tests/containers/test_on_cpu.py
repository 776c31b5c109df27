"""What burns inside a container is what is shown outside of it, for each CPython."""

from __future__ import annotations

import math
import threading
import time

import pytest
from agent.pyspy_windows import count_of, window
from containers.looking import INTERPRETERS, MUSL
from containers.runc import Limits

from flamewell_agent.cpu_clock import process_cpu_nanos
from flamewell_agent.model import Resource
from flamewell_agent.weighting import NATIVE_STACK, Evidence, add_evidence, cpu_profiles

pytestmark = [pytest.mark.containers]

SHARES = {"burn_sixty": 0.60, "burn_twenty_five": 0.25, "burn_ten": 0.10, "burn_five": 0.05}
BURNERS = {**INTERPRETERS, **({"3.11-musl": MUSL} if MUSL else {})}
RATE_HZ = 199
SECONDS = 16
"""3,184 looks."""
LIMITS = Limits(cores=0.5, period_micros=10_000)
"""Half a core, given and taken every 10 ms: two looks. While a target waits for its quota it still
holds the GIL, so all looks meanwhile see one stack: with the usual 100 ms ten of them would be
one draw, and shares would scatter 2.3 times as far."""
DEVIATIONS = 3.0
TORN_POINTS = 0.01
"""What reads without stopping the target may put in the wrong function."""


def chance_bound(share: float, samples: int) -> float:
    """Give how far a share may be off by chance, and by torn reads: 3.6 points of the 60 %."""
    return DEVIATIONS * math.sqrt(share * (1 - share) / samples) + TORN_POINTS


def settled(pid: int, seconds: float = 30) -> None:
    """Wait until an interpreter is past its start-up: it has used some CPU."""
    deadline = time.monotonic() + seconds
    while (process_cpu_nanos(pid) or 0) < 400_000_000:
        assert time.monotonic() < deadline, "the target in the container burns nothing"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.interpreters
@pytest.mark.parametrize("version", BURNERS)
def test_shares_in_a_container_are_right_beside_a_sleeping_thread(start, spy, version):
    running = start(BURNERS[version], "/work/burn_beside_sleeper.py", limits=LIMITS)
    settled(running.pid)
    before = running.cgroup_cpu_nanos()
    (result,) = spy.run([window(running.pid, rate_hz=RATE_HZ, seconds=SECONDS)], threading.Event())
    charged = running.cgroup_cpu_nanos() - before
    assert result.failure == "", result.detail
    # The kernel's own account of the container, read a little earlier and a little later.
    assert 0.9 * charged <= result.target_cpu_nanos <= charged * 1.01
    assert result.target_cpu_nanos <= running.limits.cores * 1.1e9 * result.wall_seconds

    inner = dict.fromkeys(SHARES, 0)
    for stack, count in result.samples:
        names = {frame.function for frame in stack}
        assert "sleep_for_ever" not in names
        for name in SHARES.keys() & names:
            inner[name] += count
    total = sum(inner.values())
    assert total >= 0.9 * count_of(result)
    for name, share in SHARES.items():
        assert inner[name] / total == pytest.approx(share, abs=chance_bound(share, total)), name


def test_native_time_without_the_gil_is_never_spread_over_python_frames(start, spy, interpreter):
    running = start(interpreter, "/work/native.py")
    settled(running.pid)
    (result,) = spy.run([window(running.pid, rate_hz=97, seconds=2)], threading.Event())
    assert result.failure == "", result.detail
    share = add_evidence(Evidence(), result).python_share
    profiles = cpu_profiles(
        result,
        Resource.of({"service.name": "native"}),
        cpu_nanos=result.target_cpu_nanos,
        python_share=share,
        start_unix_nanos=0,
    )
    shown = [
        (stack, value * profile.period) for profile in profiles for stack, value in profile.samples
    ]
    assert sum(value for _, value in shown) == result.target_cpu_nanos > 0
    native = sum(value for stack, value in shown if stack == NATIVE_STACK)
    assert native >= 0.9 * result.target_cpu_nanos
