"""The rules by promtool, and each alert with a runbook whose commands run."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from collector.leaking_shop import Shop, served

from flamewell.cli import main as flamewell
from flamewell_agent.cli import main as flamewell_agent
from flamewell_collector.app import Collector, running_collector
from flamewell_collector.cli import main as flamewell_collector

ROOT = Path(__file__).parents[2]
RULES = ROOT / "alerts" / "flamewell.rules.yaml"
RUNBOOKS = ROOT / "docs" / "runbooks"
SECTIONS = ["Meaning", "Impact", "What to do", "Escalate to"]
promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="needs Debian's prometheus")


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


ALERTS = {each["alert"]: each for each in alerts()}
COMMANDS = sorted(
    {
        line.strip()
        for file in RUNBOOKS.glob("*.md")
        for block in re.findall(r"```sh\n(.*?)```", file.read_text(), re.DOTALL)
        for line in block.splitlines()
        if line.strip().startswith("flamewell")
    }
)


def check(*words: str, given: str | None = None) -> None:
    done = subprocess.run(
        ["promtool", *words], input=given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@promtool
def test_the_rules_are_sound_and_say_what_they_should() -> None:
    check("check", "rules", str(RULES))
    check("test", "rules", str(RULES.with_name("flamewell.rules.test.yaml")))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("alerts") / "data")


@pytest.fixture(scope="module")
def collector(shop: Shop) -> Iterator[Collector]:
    with running_collector(shop.config) as running:
        running.leaks.refresh()
        yield running


@promtool
def test_the_collectors_metrics_are_well_named(collector: Collector) -> None:
    text = collector.app.test_client().get("/metrics").text
    assert "flamewell_leak_info{" in text
    check("check", "metrics", given=text)


def test_the_rules_ask_for_metrics_that_there_are(collector: Collector) -> None:
    shown = collector.app.test_client().get("/metrics").text
    sources = [*(ROOT / "agent").rglob("metrics.py")]
    agent = "".join(each.read_text() for each in sources)
    asked = set(re.findall(r"\bflamewell_\w+", RULES.read_text()))
    assert len(asked) > 8
    for name in asked:
        own = name.removeprefix("flamewell_agent_").removesuffix("_total")
        assert f"# TYPE {name.removesuffix('_total')}" in shown or f'"{own}"' in agent, name


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_tells_what_a_person_needs(name: str) -> None:
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in {"warning", "critical"}
    told = alert["annotations"]
    assert "$labels" in told["summary"]
    assert told["runbook_url"].endswith(f"/docs/runbooks/{name}.md")
    if "Memory" in name:
        assert "flamewell_leak_info" in told["url"]


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_has_a_runbook(name: str) -> None:
    text = (RUNBOOKS / f"{name}.md").read_text()
    assert text.startswith(f"# {name}\n")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == SECTIONS
    assert "Expect" in text or "| `reason` |" in text


def test_a_runbook_has_an_alert() -> None:
    assert {each.stem for each in RUNBOOKS.glob("*.md")} == set(ALERTS)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_runbooks_run(
    command: str,
    collector: Collector,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They run as they stand; where a service is asked for, the one that leaks."""
    monkeypatch.chdir(tmp_path)
    program, *words = shlex.split(command)
    if program == "flamewell-agent":
        # What it finds depends on the machine; that it is no usage error does not.
        assert flamewell_agent(words) in {0, 1}
        return
    if program == "flamewell-collector":
        folder = Shop(tmp_path / "data").data
        assert flamewell_collector([each.replace("DIR", str(folder)) for each in words]) == 0
        return
    assert program == "flamewell"
    # No agent is there to carry an order out.
    words = [each for each in words if each != "--wait"]
    with served(collector) as url:
        monkeypatch.setenv("FLAMEWELL_URL", url)
        # The service that leaks here is no Go program: there is nothing to show.
        assert flamewell(words) == (1 if "inuse_space" in words else 0)
