"""The wheel installs into an empty environment, each extra alone too, and works from there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from end_to_end.system import free_port, wait_until

ROOT = Path(__file__).parent.parent.parent

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(ROOT))
    (built,) = folder.glob("flamewell-*.whl")
    return built


def run(*command: str) -> str:
    # No Node, no compiler, no repository on the path: what a user's machine has.
    environ = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    result = subprocess.run(
        command, capture_output=True, text=True, env=environ, cwd="/", check=False
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def fresh(folder: Path, requirement: str) -> Path:
    venv.create(folder, with_pip=True)
    run(str(folder / "bin" / "python"), "-m", "pip", "install", "-q", requirement)
    return folder / "bin"


def test_it_holds_pages_and_examples_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "flamewell_collector/templates/index.html" in names
    assert any(name.startswith("flamewell_collector/static/") for name in names)
    assert "flamewell/examples/payments/payments.py" in names
    assert not [name for name in names if "test" in Path(name).parts[0] or "node_modules" in name]


def test_without_extras_the_command_needs_nothing(wheel: Path, tmp_path: Path) -> None:
    bin_folder = fresh(tmp_path / "plain", str(wheel))
    assert "flame" in run(str(bin_folder / "flamewell"), "--help")
    listed = json.loads(run(str(bin_folder / "python"), "-m", "pip", "list", "--format=json"))
    assert {each["name"] for each in listed} - {"pip", "setuptools"} == {"flamewell"}


def test_the_agent_alone(wheel: Path, tmp_path: Path) -> None:
    bin_folder = fresh(tmp_path / "agent", f"{wheel}[agent]")
    assert "targets" in run(str(bin_folder / "flamewell-agent"), "--help")
    assert "overhead_budget" in run(str(bin_folder / "flamewell-agent"), "run", "--print-config")
    listed = run(str(bin_folder / "flamewell-agent"), "targets")
    assert str(os.getpid()) in listed
    installed = run(str(bin_folder / "python"), "-m", "pip", "list").lower()
    assert "flask" not in installed
    assert "pyarrow" not in installed


def test_the_collector_alone_serves_the_page(wheel: Path, tmp_path: Path, browser_page) -> None:
    bin_folder = fresh(tmp_path / "collector", f"{wheel}[collector]")
    installed = run(str(bin_folder / "python"), "-m", "pip", "list").lower()
    assert "py-spy" not in installed
    port = free_port()
    server = subprocess.Popen(
        [
            str(bin_folder / "flamewell-collector"), "serve", "--listen", f"127.0.0.1:{port}",
            "--data-dir", str(tmp_path / "data"),
        ],
        cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_until(lambda: answers(port), what="the collector from the wheel")
        browser_page.goto(f"http://127.0.0.1:{port}/")
        browser_page.get_by_text("flamewell").first.wait_for()
        assert browser_page.locator("canvas").count() >= 1
    finally:
        server.terminate()
        assert server.wait(30) == 0


def answers(port: int) -> bool:
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False
