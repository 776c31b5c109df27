"""Options, their sources and their limits; log lines."""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import socket
from pathlib import Path

import pytest
import yaml

from flamewell_agent import config as agent_config
from flamewell_agent.config import AgentConfig, load_config, parse_go_endpoint
from flamewell_agent.errors import ConfigError
from flamewell_settings import add_flags, logs, render


def loaded(*arguments: str, environ: dict[str, str] | None = None):
    parser = argparse.ArgumentParser()
    add_flags(parser, AgentConfig)
    return load_config(parser.parse_args(arguments), {"HOME": "/home/ann", **(environ or {})})


def test_defaults():
    config = loaded().settings
    assert config.collector_url == ("http://127.0.0.1:4040",)
    assert config.node_name == socket.gethostname()
    assert (config.overhead_budget, config.cycle_seconds, config.max_rate_hz) == (0.01, 15, 97)
    assert config.spool_max_bytes == 256 * 1024 * 1024
    assert config.metrics_address == ("127.0.0.1", 4041)
    assert config.extra_attributes == {}


def test_flags_win_over_environment_over_file(tmp_path):
    file = tmp_path / "agent.yaml"
    file.write_text("cycle_seconds: 20\nmax_rate_hz: 20\ncluster: file\ngo-endpoints: [http://a]\n")
    result = loaded(
        "--config",
        str(file),
        "--cluster",
        "flag",
        environ={"FLAMEWELL_AGENT_MAX_RATE_HZ": "30", "FLAMEWELL_AGENT_CLUSTER": "environment"},
    )
    config = result.settings
    assert (config.cycle_seconds, config.max_rate_hz, config.cluster) == (20, 30, "flag")
    assert config.go_endpoints == ("http://a",)
    assert result.sources["cycle_seconds"] == "file"
    assert result.sources["max_rate_hz"] == "environment"
    assert result.sources["cluster"] == "flag"


def test_several_collectors_are_a_failover_list():
    config = loaded("--collector-url", "http://a:1", "--collector-url", "https://b").settings
    assert config.collector_url == ("http://a:1", "https://b")
    config = loaded(environ={"FLAMEWELL_AGENT_COLLECTOR_URL": "http://a:1,https://b"}).settings
    assert config.collector_url == ("http://a:1", "https://b")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--overhead-budget", "0.6"), "overhead_budget.*0.0005 to 0.5 ratio"),
        (("--overhead-budget", "one"), "overhead_budget.*float is expected"),
        (("--cycle-seconds", "0"), "cycle_seconds.*1 to 300 seconds"),
        (("--max-rate-hz", "2.5"), "max_rate_hz.*int is expected"),
        (("--compression", "brotli"), "compression.*zstd, gzip"),
        (("--log-format", "xml"), "log_format"),
        (("--collector-url", "127.0.0.1:4040"), "collector_url"),
        (("--collector-url", "http://host:port"), "collector_url"),
        (("--collector-url", "http://user:secret@host"), "token_file"),
        (("--collector-url", ""), "collector_url is empty"),
        (("--go-endpoints", "orders=6060"), "go_endpoints"),
        (("--metrics-listen", "4041"), "metrics_listen"),
        (("--metrics-listen", "localhost:99999"), "metrics_listen"),
        (("--labels", "team"), "labels"),
        (("--labels", "a-b=c"), "labels"),
        (("--ingest-path", "v1"), "ingest_path"),
        (("--config", "/nonexistent.yaml"), "/nonexistent.yaml"),
        (("--tls-key-file", "key.pem"), "tls_key_file is set without tls_cert_file"),
        (("--proxy-url", "socks5://h"), "proxy_url"),
        (("--spool-max-age-seconds", "5"), "spool_max_age_seconds.*60 to"),
    ],
)
def test_what_is_wrong_is_named_with_what_it_may_be(arguments, named):
    with pytest.raises(ConfigError, match=named):
        loaded(*arguments)


def test_credentials_in_a_url_are_not_repeated():
    with pytest.raises(ConfigError) as caught:
        loaded("--collector-url", "http://user:secret@host")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://127.0.0.1:6060", ("", "http://127.0.0.1:6060")),
        ("orders=http://127.0.0.1:6060/", ("orders", "http://127.0.0.1:6060")),
        ("orders = https://h/debug?a=b", ("orders", "https://h/debug?a=b")),
        ("http://h/debug?a=b", ("", "http://h/debug?a=b")),
    ],
)
def test_go_endpoints(text, expected):
    assert parse_go_endpoint(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", None), ("0.0.0.0:80", ("0.0.0.0", 80)), ("[::1]:4041", ("::1", 4041))],
)
def test_metrics_address(text, expected):
    assert loaded("--metrics-listen", text).settings.metrics_address == expected


def test_extra_attributes():
    config = loaded("--cluster", "blue", "--labels", "team=pay", "--labels", "tier=").settings
    assert config.extra_attributes == {
        "k8s.cluster.name": "blue",
        "label.team": "pay",
        "label.tier": "",
    }


def test_the_state_directory_is_the_systems_for_root_only(monkeypatch, tmp_path):
    monkeypatch.setattr(agent_config, "_SYSTEM_STATE_DIR", tmp_path / "flamewell-agent")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert loaded().settings.state_dir == str(tmp_path / "flamewell-agent")
    assert not (tmp_path / "flamewell-agent").exists()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert loaded().settings.state_dir == "/home/ann/.local/state/flamewell-agent"
    environ = {"XDG_STATE_HOME": "/state"}
    assert loaded(environ=environ).settings.state_dir == "/state/flamewell-agent"
    assert loaded("--state-dir", "/mine").settings.state_dir == "/mine"


def test_printed_configuration_can_be_read_back(tmp_path):
    text = render(loaded("--labels", "team=pay", "--cycle-seconds", "5"))
    assert "cycle_seconds: 5  # flag" in text
    file = tmp_path / "again.yaml"
    file.write_text(text)
    assert yaml.safe_load(text)["labels"] == ["team=pay"]
    assert loaded("--config", str(file)).settings.cycle_seconds == 5


@pytest.fixture
def stream():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("flamewell_agent").setLevel(logging.NOTSET)


def test_json_log_lines(stream):
    logs.set_up("flamewell_agent", "json", "info", stream, fields={"node": "n1"})
    log = logging.getLogger("flamewell_agent.daemon")
    log.debug("not shown")
    log.info("cycle of %d", 3, extra={"pod": "payments-1", "where": Path("/x")})
    try:
        int("surprise\nof two lines")
    except ValueError:
        log.exception("failed")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first.pop("ts").endswith("+00:00")
    assert first == {
        "level": "info",
        "msg": "cycle of 3",
        "logger": "flamewell_agent.daemon",
        "node": "n1",
        "pod": "payments-1",
        "where": "/x",
    }
    assert second["level"] == "error"
    assert "surprise" in second["error"]


def test_text_log_lines(stream):
    logs.set_up("flamewell_agent", "text", "warning", stream)
    logging.getLogger("flamewell_agent").info("not shown")
    logging.getLogger("urllib3").info("not shown")
    logging.getLogger("flamewell_agent").warning("disk is full", extra={"free": 0})
    (line,) = stream.getvalue().splitlines()
    assert line.endswith("WARNING disk is full free=0")


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_hostile_name_cannot_write_a_line_of_its_own(stream, form):
    logs.set_up("flamewell_agent", form, "info", stream)
    evil = "a\nERROR forged\r\x1b[2J\u2028b"
    logging.getLogger("flamewell_agent").info("process %s", evil, extra={"name_of": evil})
    text = stream.getvalue()
    assert len(text.splitlines()) == 1
    assert "\x1b" not in text


def test_a_proxys_password_is_not_shown():
    text = render(loaded("--proxy-url", "http://ann:hunter2@proxy:3128"))
    assert "hunter2" not in text
    with pytest.raises(ConfigError) as caught:
        loaded("--proxy-url", "http://ann:hunter2@:x")
    assert "hunter2" not in str(caught.value)
