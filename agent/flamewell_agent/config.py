"""The agent's options. The only module that reads the environment and the host's name."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flamewell_agent.errors import ConfigError
from flamewell_agent.relabel import RelabelRule, parse_rules
from flamewell_settings import Loaded, SettingsError, load, option
from flamewell_wire.attributes import INGEST_PATH, LABEL_ATTRIBUTE_PREFIX

ENVIRONMENT_PREFIX = "FLAMEWELL_AGENT_"
_SYSTEM_STATE_DIR = Path("/var/lib/flamewell-agent")
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """Every option with its default; units and ranges stand with the options."""

    collector_url: tuple[str, ...] = option(
        ("http://127.0.0.1:4040",),
        "where batches are sent; with several, the next is tried when one fails",
    )
    ingest_path: str = option(INGEST_PATH, "path of the OTLP profiles endpoint below collector_url")
    token_file: str = option("", "file with a bearer token; read again when it changes")
    tls_ca_file: str = option("", "PEM file with the authorities that sign the collector's name")
    tls_insecure: bool = option(False, "do not verify the collector's certificate (tests only)")
    tls_cert_file: str = option(
        "", "PEM file with the agent's own certificate, for collectors that ask for one"
    )
    tls_key_file: str = option(
        "", "PEM file with its key; empty: tls_cert_file holds it too; both are read again"
    )
    proxy_url: str = option(
        "",
        "HTTP proxy to send through, http://user:password@host:port; HTTPS_PROXY is not looked at",
        secret=True,
    )
    compression: str = option("zstd", "how batches are compressed", choices=("zstd", "gzip"))
    state_dir: str = option(
        "", "where unsent batches wait; empty: /var/lib/flamewell-agent, or ~/.local/state"
    )
    spool_max_bytes: int = option(
        256 * _MIB,
        "disk that unsent batches may take; the oldest are dropped first",
        unit="bytes",
        low=_MIB,
        high=1024**4,
    )
    spool_max_age_seconds: int = option(
        86_400,
        "unsent batches that are older are dropped: no collector would take them",
        unit="seconds",
        low=60,
        high=30 * 86_400,
    )
    node_name: str = option("", "label `node`; empty: the host's name")
    cluster: str = option("", "label `cluster`")
    kubernetes: str = option(
        "auto",
        "ask the Kubernetes API for the pods of this node; auto: where the agent runs in a cluster "
        "or kubeconfig is set",
        choices=("auto", "on", "off"),
    )
    kubeconfig: str = option(
        "", "kubeconfig file for the Kubernetes API; empty: the pod's service account"
    )
    labels: tuple[str, ...] = option((), "further labels on every series, as name=value")
    pod_labels: tuple[str, ...] = option(
        (), "Kubernetes labels of pods that become series labels, e.g. app.kubernetes.io/team"
    )
    relabel_configs: tuple[Mapping[str, Any], ...] = option(
        (),
        "Prometheus's relabel_configs: which processes are profiled, by __meta_* labels, and how "
        "they are named; __rate_hz__, __wall__, __native__ and __threads__ tune",
        mappings=True,
    )
    overhead_budget: float = option(
        0.01,
        "share of the node's CPU that the agent and its children may use",
        unit="ratio",
        low=0.0005,
        high=0.5,
    )
    memory_ceiling_bytes: int = option(
        160 * _MIB,
        "memory that the agent and its children may take; above it windows are given up",
        unit="bytes",
        low=48 * _MIB,
        high=1024**4,
    )
    target_pause_budget: float = option(
        0.001,
        "share of its time for which a target may be stopped to be read (native frames only: all "
        "else stops nobody)",
        unit="ratio",
        low=0.0,
        high=0.1,
    )
    cycle_seconds: int = option(
        15, "how often targets are chosen anew and a batch is made", unit="seconds", low=1, high=300
    )
    max_rate_hz: int = option(
        97,
        "samples a second of one Python process at most (a capture on demand may have up to 997)",
        unit="Hz",
        low=1,
        high=1000,
    )
    service_samples_per_second: int = option(
        # 20,000 samples tell shares to one point (n = 1.97 / d²): at 60 a second in 5 to 6 minutes.
        60,
        "samples with a stack that are enough for one service, however many processes it has",
        unit="1/s",
        low=1,
        high=10_000,
    )
    py_spy: str = option("", "path of the py-spy program; empty: the one installed with the agent")
    go_endpoints: tuple[str, ...] = option(
        (), "Go programs to profile, as name=url or url, e.g. orders=http://127.0.0.1:6060"
    )
    go_detect: bool = option(
        False, "find Go programs that serve /debug/pprof on loopback (asks their open ports)"
    )
    go_cycle_seconds: int = option(
        15, "length of one CPU profile of a Go program", unit="seconds", low=1, high=300
    )
    go_cpu_share: float = option(
        1.0,
        # bench/go_cost.py: with it a full target did 0.987 of its work per CPU second (median of
        # 10 pairs, 0.94 to 1.06).
        "for how much of the time the CPU profiler of a Go program may run, which interrupts it "
        "100 times a CPU second and costs about 1 % of its CPU (docs/overhead.md); values are "
        "scaled to all the time",
        unit="ratio",
        low=0.01,
        high=1.0,
    )
    go_tls_ca_file: str = option(
        "", "PEM file with the authorities that sign the certificates of https Go endpoints"
    )
    go_tls_insecure: bool = option(
        False, "do not verify the certificates of https Go endpoints, which seldom name a pod's IP"
    )
    on_demand: bool = option(
        True, "ask the collector for captures that somebody wants of processes of this node"
    )
    heap_redact: tuple[str, ...] = option(
        (), "names of types that a census of a heap does not tell, as shell patterns: acme.secret.*"
    )
    tracing_captures: bool = option(
        False,
        "let those be strace and gdb as well, which slow their target down 13 to 25 times or stop "
        "it, for up to 10 s; the collector must allow them too",
    )
    metrics_listen: str = option(
        "127.0.0.1:4041", "host:port of the agent's own metrics and health; empty: none"
    )
    log_format: str = option("text", "how log lines look", choices=("text", "json"))
    log_level: str = option(
        "info", "least severe log lines shown", choices=("debug", "info", "warning", "error")
    )
    proc_root: str = option("/proc", "where the node's /proc is mounted")
    cgroup_root: str = option("/sys/fs/cgroup", "where the node's cgroups are mounted")

    @property
    def extra_attributes(self) -> dict[str, str]:
        """Resource attributes that every series of this agent carries, from cluster and labels."""
        attributes = {"k8s.cluster.name": self.cluster} if self.cluster else {}
        for text in self.labels:
            name, value = _split_pair("labels", text)
            attributes[LABEL_ATTRIBUTE_PREFIX + name] = value
        return attributes

    @property
    def relabel_rules(self) -> tuple[RelabelRule, ...]:
        """The rules of relabel_configs."""
        return parse_rules(self.relabel_configs)

    @property
    def metrics_address(self) -> tuple[str, int] | None:
        """Host and port to listen on, or None for no listener."""
        if not self.metrics_listen:
            return None
        try:
            parts = urlsplit(f"//{self.metrics_listen}")
            host, port = parts.hostname, parts.port
        except ValueError:  # the port is no number, or too large
            host, port = None, None
        if not host or port is None:
            raise ConfigError(
                f"metrics_listen is {self.metrics_listen!r}, host:port is expected, "
                "e.g. 127.0.0.1:4041"
            )
        return host, port


def load_config(flags: argparse.Namespace, environ: Mapping[str, str]) -> Loaded[AgentConfig]:
    """Merge flags, environment, file and defaults; fill in what depends on the host; validate.

    Raises:
        ConfigError: Names the option and what it may be.
    """
    try:
        loaded = load(AgentConfig, flags=flags, environ=environ, prefix=ENVIRONMENT_PREFIX)
    except SettingsError as error:
        raise ConfigError(str(error)) from error
    config = loaded.settings
    config = replace(
        config,
        node_name=config.node_name or socket.gethostname(),
        state_dir=config.state_dir or str(_default_state_dir(environ)),
        kubernetes=_kubernetes(config, environ),
    )
    _validate(config)
    return Loaded(config, loaded.sources)


def parse_go_endpoint(text: str) -> tuple[str, str]:
    """Split ``name=url`` or ``url`` into a service name (may be empty) and a base URL.

    Raises:
        ConfigError: The URL is not http or https, or carries credentials.
    """
    name, separator, url = text.partition("=")
    if not separator or "://" in name:
        name, url = "", text
    return name.strip(), _check_url("go_endpoints", url.strip())


def _kubernetes(config: AgentConfig, environ: Mapping[str, str]) -> str:
    """Decide what ``auto`` is here; Kubernetes sets the variable in every container."""
    if config.kubernetes != "auto":
        return config.kubernetes
    return "on" if config.kubeconfig or environ.get("KUBERNETES_SERVICE_HOST") else "off"


def _default_state_dir(environ: Mapping[str, str]) -> Path:
    """Take the system's directory for root where it is writable, the user's own otherwise."""
    existing = _SYSTEM_STATE_DIR if _SYSTEM_STATE_DIR.exists() else _SYSTEM_STATE_DIR.parent
    if os.geteuid() == 0 and os.access(existing, os.W_OK):
        return _SYSTEM_STATE_DIR
    home = environ.get("XDG_STATE_HOME") or str(Path(environ.get("HOME", "/")) / ".local/state")
    return Path(home) / "flamewell-agent"


def _validate(config: AgentConfig) -> None:
    if not config.collector_url:
        raise ConfigError("collector_url is empty; give at least one URL")
    for url in config.collector_url:
        _check_url("collector_url", url)
    for text in config.go_endpoints:
        parse_go_endpoint(text)
    if config.tls_key_file and not config.tls_cert_file:
        raise ConfigError("tls_key_file is set without tls_cert_file; give both")
    if config.proxy_url:
        _check_proxy(config.proxy_url)
    if not config.ingest_path.startswith("/"):
        raise ConfigError(f"ingest_path is {config.ingest_path!r}, it must start with /")
    # These derive from options that only turn out wrong when they are read.
    _ = config.metrics_address, config.extra_attributes, config.relabel_rules


def _check_url(option_name: str, url: str) -> str:
    problem = f"{option_name} has {url!r}, a URL such as http://127.0.0.1:4040 is expected"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError as error:  # a port that is not a number, an unclosed [
        raise ConfigError(problem) from error
    if parts.username or parts.password:
        raise ConfigError(f"{option_name} holds credentials; use token_file for those")
    if not usable:
        raise ConfigError(problem)
    return url.rstrip("/")


def _check_proxy(url: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:  # the value is not repeated: it may hold a password
        raise ConfigError("proxy_url is no URL such as http://proxy:3128")


def _split_pair(option_name: str, text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name.isidentifier():
        raise ConfigError(
            f"{option_name} has {text!r}, name=value is expected with letters, digits and _ "
            "in the name"
        )
    return name, value
