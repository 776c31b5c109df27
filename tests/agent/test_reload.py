"""The options read anew."""

from __future__ import annotations

import argparse
import logging
from dataclasses import fields

import pytest

from flamewell_agent import cli
from flamewell_agent.config import AgentConfig, load_config
from flamewell_agent.metrics import AgentMetrics
from flamewell_agent.reload import NEEDS_RESTART, reloaded
from flamewell_settings import add_flags


@pytest.fixture
def flags(tmp_path):
    parser = argparse.ArgumentParser()
    add_flags(parser, AgentConfig)
    (tmp_path / "agent.yaml").write_text("cycle_seconds: 20\n")
    return parser.parse_args(["--config", str(tmp_path / "agent.yaml"), "--cluster", "blue"])


TAKEN = frozenset(
    {
        "collector_url",
        "ingest_path",
        "token_file",
        "tls_ca_file",
        "tls_insecure",
        "tls_cert_file",
        "tls_key_file",
        "proxy_url",
        "cluster",
        "labels",
        "pod_labels",
        "relabel_configs",
        "overhead_budget",
        "memory_ceiling_bytes",
        "target_pause_budget",
        "cycle_seconds",
        "max_rate_hz",
        "service_samples_per_second",
        "go_endpoints",
        "go_detect",
        "go_cycle_seconds",
        "go_cpu_share",
        "go_tls_ca_file",
        "go_tls_insecure",
        "on_demand",
        "heap_redact",
        "tracing_captures",
        "log_level",
    }
)
"""Options that a reload brings into force; a new option goes here or into NEEDS_RESTART."""


def test_each_option_is_in_one_class():
    known = {each.name for each in fields(AgentConfig)}
    assert known - NEEDS_RESTART == TAKEN
    assert known >= NEEDS_RESTART


def test_the_level_of_the_log_changes_with_a_reload(flags, tmp_path, monkeypatch):
    levels = []

    def run_agent(config, reread):
        logger = logging.getLogger("flamewell_agent")
        for text in (
            "log_level: debug\n",
            "log_level: nonsense\n",
            "log_level: error\ngo_tls_ca_file: /nonexistent\n",
            "log_level: warning\n",
        ):
            (tmp_path / "agent.yaml").write_text(text)
            config = reread(config).config
            levels.append(logger.level)

    monkeypatch.setattr(cli, "run_agent", run_agent)
    root, own = logging.getLogger(), logging.getLogger("flamewell_agent")
    before = root.handlers[:], root.level, own.level
    try:
        cli.main(["run", "--config", str(tmp_path / "agent.yaml")])
    finally:
        root.handlers[:] = before[0]
        root.setLevel(before[1])
        own.setLevel(before[2])
    assert levels == [logging.DEBUG, logging.DEBUG, logging.DEBUG, logging.WARNING]


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
