"""What burns is what is shown: known CPU shares, at the default budget, for every CPython here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from end_to_end.system import system, wait_until

TARGETS = Path(__file__).parent.parent / "targets"
EXPECTED = {"burn_sixty": 60, "burn_twenty_five": 25, "burn_ten": 10, "burn_five": 5}
TOLERANCE_POINTS = 3.0
SECONDS_PROFILED = 120.0


def interpreters() -> dict[str, str]:
    """Version to path of every CPython 3.8 to 3.13 on this machine, ours included."""
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = {ours: sys.executable}
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [*pyenv.glob("3.*/bin/python3.*"), *Path("/usr/bin").glob("python3.*")]
    for path in candidates:
        match = re.fullmatch(r"python(3\.(?:[89]|1[0-3]))", path.name)
        if match:
            found.setdefault(match.group(1), str(path))
    return dict(sorted(found.items(), key=lambda item: int(item[0].split(".")[1])))


@contextmanager
def target(
    script: str, service: str, *, python: str, wrapper: tuple[str, ...] = ()
) -> Iterator[None]:
    process = subprocess.Popen(
        [*wrapper, python, str(TARGETS / script)],
        env={"PATH": os.environ["PATH"], "OTEL_SERVICE_NAME": service},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def check_shares(shown: dict[str, tuple[int, int]], label: str) -> None:
    """Compare each function's self time with its known share of the four."""
    burnt = {name: shown.get(name, (0, 0))[1] for name in EXPECTED}
    total = sum(burnt.values())
    assert total > 0, f"{label}: none of the four functions is shown: {shown}"
    for name, share in EXPECTED.items():
        points = 100 * burnt[name] / total
        assert abs(points - share) <= TOLERANCE_POINTS, f"{label}: {name} {points:.1f} for {share}"
    everything = sum(self_value for self_value, _ in shown.values())
    assert total >= 0.9 * everything, (
        f"{label}: only {total} of {everything} ns in the four: {shown}"
    )


def pairs() -> list[list[str]]:
    versions = list(interpreters())
    return [versions[at : at + 2] for at in range(0, len(versions), 2)]


@pytest.mark.slow
@pytest.mark.interpreters
@pytest.mark.timeout(480)
@pytest.mark.parametrize("versions", pairs(), ids="+".join)
def test_shares_are_within_three_points_beside_a_sleeper(
    tmp_path: Path, versions: list[str]
) -> None:
    with ExitStack() as stack:
        running = stack.enter_context(system(tmp_path))
        running.start_collector()
        for version in versions:
            python = interpreters()[version]
            stack.enter_context(target("shares.py", f"burn-{version}", python=python))
            stack.enter_context(target("sleeper.py", f"sleep-{version}", python=python))
        running.start_agent()
        wait_for_cpu(running, [f"burn-{version}" for version in versions])
        for version in versions:
            burner = running.top(f"burn-{version}")
            check_shares(burner, version)
            sleeper = sum(value for value, _ in running.top(f"sleep-{version}").values())
            assert sleeper <= 0.01 * sum(value for value, _ in burner.values()), version


@pytest.mark.slow
@pytest.mark.timeout(480)
def test_shares_inside_a_pid_and_mount_namespace(tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    assert unshare, "unshare is missing: apt-get install util-linux"
    wrapper = (unshare, "--pid", "--mount", "--fork", "--mount-proc", "--kill-child")
    with ExitStack() as stack:
        running = stack.enter_context(system(tmp_path))
        running.start_collector()
        stack.enter_context(target("shares.py", "burn", python=sys.executable, wrapper=wrapper))
        stack.enter_context(target("sleeper.py", "sleep", python=sys.executable, wrapper=wrapper))
        running.start_agent()
        wait_for_cpu(running, ["burn"])
        burner = running.top("burn")
        check_shares(burner, "in a namespace")
        sleeper = sum(value for value, _ in running.top("sleep").values())
        assert sleeper <= 0.01 * sum(value for value, _ in burner.values())


def wait_for_cpu(running, services: list[str]) -> None:
    """Wait until profiles that span the wanted time have arrived for each service."""

    def arrived() -> bool:
        assert running.agent.process.poll() is None, running.agent.tail()
        return all(profiled_seconds(running, service) >= SECONDS_PROFILED for service in services)

    wait_until(
        arrived, seconds=SECONDS_PROFILED + 180, what=f"two minutes of profiles of {services}"
    )


def profiled_seconds(running, service: str) -> float:
    timeline = running.get(
        "/api/v1/timeline",
        query=f'{{service_name="{service}"}}',
        step=1,
        **{"from": "now-10m", "until": "now"},
    )
    covered = [at for at, value in enumerate(timeline["values"]) if value]
    return covered[-1] - covered[0] + 1 if covered else 0
