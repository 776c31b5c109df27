"""The options read anew."""

from __future__ import annotations

import argparse

import pytest

from flamewell_agent.config import AgentConfig, load_config
from flamewell_agent.metrics import AgentMetrics
from flamewell_agent.reload import reloaded
from flamewell_settings import add_flags


@pytest.fixture
def flags(tmp_path):
    parser = argparse.ArgumentParser()
    add_flags(parser, AgentConfig)
    (tmp_path / "agent.yaml").write_text("cycle_seconds: 20\n")
    return parser.parse_args(["--config", str(tmp_path / "agent.yaml"), "--cluster", "blue"])


def load(flags):
    return load_config(flags, {"HOME": "/home/ann"}).settings


def again(flags, tmp_path, text):
    old = load(flags)
    (tmp_path / "agent.yaml").write_text(text)
    return old, reloaded(old, flags, {"HOME": "/home/ann"})


def test_what_can_change_is_taken_and_the_rest_is_named(flags, tmp_path, caplog):
    text = "cycle_seconds: 30\noverhead_budget: 0.02\nproc_root: /host/proc\ncluster: red\n"
    _, reload = again(flags, tmp_path, text)
    assert (reload.config.cycle_seconds, reload.config.overhead_budget) == (30, 0.02)
    assert reload.config.proc_root == "/proc"
    assert reload.config.cluster == "blue"  # the flag wins, as at the start
    assert set(reload.changed) == {"cycle_seconds", "overhead_budget"}
    assert (reload.ignored, reload.error) == (("proc_root",), "")
    assert "need a restart: proc_root" in caplog.text


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("cycle_seconds: 0\n", "cycle_seconds"),
        ("cycle_second: 1\n", "cycle_second"),
        ("{", "not valid YAML"),
        ("- 1\n", "option: value"),
        ("collector_url: []\n", "collector_url"),
    ],
)
def test_a_wrong_file_leaves_everything_as_it_is(flags, tmp_path, caplog, text, named):
    old, reload = again(flags, tmp_path, text)
    assert reload.config == old
    assert named in reload.error
    assert named in caplog.text


def test_a_file_that_is_gone_leaves_everything_as_it_is(flags, tmp_path):
    old = load(flags)
    (tmp_path / "agent.yaml").unlink()
    assert reloaded(old, flags, {"HOME": "/home/ann"}).config == old


def test_reloads_are_counted():
    metrics = AgentMetrics()
    value = metrics.registry.get_sample_value
    assert value("flamewell_agent_config_last_reload_successful") == 1
    metrics.add_config_reload(successful=False)
    metrics.add_clock_jump("suspended")
    assert value("flamewell_agent_config_last_reload_successful") == 0
    assert value("flamewell_agent_config_reloads_total", {"result": "error"}) == 1
    assert value("flamewell_agent_clock_jumps_total", {"kind": "suspended"}) == 1
