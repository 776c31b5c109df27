"""The collector's options. The only module that reads the environment."""

from __future__ import annotations

import argparse
import ipaddress
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from flamewell_collector.errors import ConfigError
from flamewell_settings import Loaded, SettingsError, load, option
from flamewell_wire.attributes import INGEST_PATH

ENVIRONMENT_PREFIX: Final = "FLAMEWELL_COLLECTOR_"
_KIB, _MIB, _GIB, _TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
_DAY_SECONDS = 86_400
_YEARS_DAYS = 3_650
_INSTANCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,62}")


@dataclass(frozen=True, slots=True)
class CollectorConfig:
    """Every option with its default; units and ranges stand with the options."""

    listen: str = option(
        "127.0.0.1:4040", "host:port to serve on; port 0 takes a free one, see the first log line"
    )
    allow_anonymous: bool = option(
        False, "serve on other than loopback addresses, though nobody is asked for credentials"
    )
    allowed_hosts: tuple[str, ...] = option(
        (),
        "names by which clients may call a collector on a loopback address, besides localhost "
        "(a page of another site must not reach it through a name of its own)",
    )
    data_dir: str = option("./flamewell-data", "folder of the store; made if it is not there")
    store_url: str = option(
        "", "where the store is, if several collectors share it: s3://bucket/folder, gs://, az:// "
        "(needs the extra flamewell[object-storage]; credentials come from the environment, as "
        "AWS_ACCESS_KEY_ID) or file:///folder; data_dir then holds copies only",
    )  # fmt: skip
    store_endpoint: str = option(
        "", "URL of the server that store_url's bucket is on, if not the cloud's own: of MinIO, "
        "Ceph, SeaweedFS, R2",
    )  # fmt: skip
    instance: str = option(
        "", "name of this collector in a shared store, kept across restarts; empty for the host's"
    )
    read_only: bool = option(
        False, "answer questions to a shared store, take no profiles and change nothing in it"
    )
    cache_bytes: int = option(
        10 * _GIB, "copies of blocks of a shared store take this much of data_dir's disk",
        unit="bytes", low=64 * _MIB, high=1024 * _TIB,
    )  # fmt: skip
    store_gather_seconds: float = option(
        0.25, "batches that come within this time are written to a shared store by one request, "
        "which costs; senders wait for as long", unit="seconds", low=0, high=10,
    )  # fmt: skip
    store_follow_seconds: float = option(
        2.0, "how often it is looked what other collectors have taken in", unit="seconds",
        low=0.05, high=600,
    )  # fmt: skip
    store_lease_seconds: float = option(
        60.0, "a collector that was silent for so long is taken for dead, and others go on with "
        "what it had taken in", unit="seconds", low=1, high=3_600,
    )  # fmt: skip
    ingest_path: str = option(INGEST_PATH, "where OTLP profiles are posted")
    retention_days: float = option(
        15.0, "profiles as they came are removed when older than this; sums of them answer for "
        "longer; 0 keeps them", unit="days", low=0, high=_YEARS_DAYS,
    )  # fmt: skip
    retention_10m_days: float = option(
        60.0, "sums of ten minutes by service are removed when older than this; 0 keeps them",
        unit="days", low=0, high=_YEARS_DAYS,
    )  # fmt: skip
    retention_1h_days: float = option(
        400.0, "sums of an hour by service are removed when older than this; 0 keeps them",
        unit="days", low=0, high=_YEARS_DAYS,
    )  # fmt: skip
    retention_bytes: int = option(
        0, "the oldest go until the rest fits, profiles before sums; 0 for no limit", unit="bytes",
        low=0, high=1024 * _TIB,
    )  # fmt: skip
    min_free_bytes: int = option(
        64 * _MIB, "with less free disk nothing new is taken; reads go on", unit="bytes", low=0,
        high=_TIB,
    )  # fmt: skip
    flush_seconds: float = option(
        300.0, "what has arrived becomes Parquet when it is this old", unit="seconds", low=0.1,
        high=_DAY_SECONDS,
    )  # fmt: skip
    flush_rows: int = option(
        2_000_000, "... or when there are this many rows", unit="rows", low=1_000, high=10**9
    )
    stack_cache_bytes: int = option(
        512 * _MIB, "memory for stacks and symbols of stored profiles; those of services that were "
        "not asked for are read again", unit="bytes", low=_MIB, high=_TIB,
    )  # fmt: skip
    query_memory_bytes: int = option(
        512 * _MIB, "memory of all queries together", unit="bytes", low=64 * _MIB, high=_TIB
    )
    query_threads: int = option(2, "cores that queries may use", unit="cores", low=1, high=256)
    query_timeout_seconds: float = option(
        60.0, "a longer query is stopped", unit="seconds", low=0.1, high=3_600
    )
    engine: str = option(
        "duckdb", "what sums up stored profiles: duckdb for this process, or spark for any engine "
        "that speaks Spark Connect (needs the extra flamewell[spark])",
        choices=("duckdb", "spark"),
    )  # fmt: skip
    engine_url: str = option(
        "", "where the spark engine is: sc://host:port, further options as pyspark takes them "
        "(/;use_ssl=true;token=...); give a token by the environment, not as a flag",
    )  # fmt: skip
    engine_data_url: str = option(
        "", "data_dir as the spark engine sees it, such as s3a://bucket/flamewell or "
        "file:///mnt/flamewell; empty if it is the same path there",
    )  # fmt: skip
    engine_head_bytes: int = option(
        64 * _MIB, "profiles that are not in Parquet yet, sent to the spark engine with one query "
        "at most", unit="bytes", low=_MIB, high=_GIB,
    )  # fmt: skip
    http_threads: int = option(
        8, "requests that are worked on at once", unit="threads", low=2, high=256
    )
    max_connections: int = option(500, "open connections at most", low=10, high=100_000)
    max_body_bytes: int = option(
        64 * _MIB, "a request's body, decompressed", unit="bytes", low=_KIB, high=4 * _GIB
    )
    ingest_memory_bytes: int = option(
        1 * _GIB, "memory of all ingest requests under way together; others are told to wait",
        unit="bytes", low=8 * _MIB, high=_TIB,
    )  # fmt: skip
    max_head_rows: int = option(
        4_000_000, "with more rows waiting for a flush nothing new is taken", unit="rows",
        low=1_000, high=10**9,
    )  # fmt: skip
    tenant_samples_per_second: int = option(
        0, "samples that a tenant may send; 0 for no limit", unit="samples/s", low=0, high=10**9
    )
    tenant_bytes_per_second: int = option(
        0, "decompressed bytes that a tenant may send; 0 for no limit", unit="bytes/s", low=0,
        high=_TIB,
    )  # fmt: skip
    tenant_burst_seconds: float = option(
        10.0, "so much of a tenant's rates may come at once", unit="seconds", low=0.1, high=3_600
    )
    max_batch_samples: int = option(
        2_000_000, "samples of a request; further profiles are rejected", unit="samples", low=1,
        high=10**9,
    )  # fmt: skip
    max_profile_samples: int = option(
        16_000, "profiles with more samples are rejected", unit="samples", low=1, high=10**8
    )
    max_profile_bytes: int = option(
        4 * _MIB, "larger profiles are rejected", unit="bytes", low=_KIB, high=_GIB
    )
    max_stack_depth: int = option(
        1_000, "deeper stacks are cut", unit="frames", low=1, high=100_000
    )
    max_symbol_bytes: int = option(
        64 * _KIB, "longer function and file names are cut", unit="bytes", low=16, high=16 * _MIB
    )
    max_label_names: int = option(30, "labels of a series at most", low=1, high=1_000)
    max_label_name_bytes: int = option(
        1_024, "longest label name", unit="bytes", low=16, high=64 * _KIB
    )
    max_label_value_bytes: int = option(
        2_048, "longest label value", unit="bytes", low=16, high=64 * _KIB
    )
    max_series: int = option(100_000, "series of a tenant at most", low=1, high=10**8)
    max_age_seconds: int = option(
        3_600, "older profiles are rejected", unit="seconds", low=1, high=_YEARS_DAYS * _DAY_SECONDS
    )
    max_spooled_age_seconds: int = option(
        _DAY_SECONDS, "the same for batches that an agent has kept while it could not send",
        unit="seconds", low=1, high=_DAY_SECONDS,
    )  # fmt: skip
    max_ahead_seconds: int = option(
        600, "profiles further in the future are rejected", unit="seconds", low=1,
        high=_DAY_SECONDS,
    )  # fmt: skip
    agent_poll_seconds: int = option(
        10, "how often agents ask for on-demand captures", unit="seconds", low=1, high=300
    )
    allow_tracing_captures: bool = option(
        False,
        "let strace and gdb captures be asked for, which slow their target down 13 to 25 times or "
        "stop it for seconds; each agent must allow them as well",
    )
    external_url: str = option(
        "", "where people reach this collector, as https://flamewell.example.com: links of alerts "
        "begin with it; empty for http:// and listen",
    )  # fmt: skip
    investigate_leaks: bool = option(
        True, "have agents count the heap of each Python process that is suspected to leak memory, "
        "inside their overhead budget",
    )  # fmt: skip
    leak_order: float = option(
        0.79,
        "memory leaks if Kendall's tau of amount and time is at least this, ...",
        low=0,
        high=1,
    )
    leak_order_beside_cpu: float = option(
        0.59, "... and the same with CPU use held constant,", low=-1, high=1
    )
    leak_rise_over_noise: float = option(
        1.6, "... it rises by so many deviations from the line,", low=0, high=1_000
    )
    leak_rise_of_limit: float = option(
        0.03, "... and by this share of the limit,", unit="of the limit", low=0, high=1
    )
    leak_bend: float = option(
        0.885, "... does not slow down (1 is a straight line),", low=-10, high=2
    )
    leak_step: float = option(0.46, "... not by a single step,", unit="of the rise", low=0, high=1)
    leak_drop: float = option(
        0.49, "... does not fall back further than this,", unit="of the rise", low=0, high=10
    )
    leak_excess: float = option(
        0.665, "... goes so far above all that was there before,", unit="of the rise", low=-10,
        high=1,
    )  # fmt: skip
    leak_windows_to_limit: float = option(
        3.4, "... would be full within so many times as long as it has grown,", unit="windows",
        low=0, high=1_000,
    )  # fmt: skip
    leak_by_load: float = option(
        0.5, "... CPU use does not explain more than this,", unit="of the rise", low=0, high=10
    )
    leak_cpu_ratio: float = option(
        2.15, "... and CPU use is not so many times that of the day before", low=0, high=1_000
    )
    leak_held_bins: int = option(
        2, "all this in so many evaluations in a row, each a 24th of the window apart", unit="bins",
        low=1, high=24,
    )  # fmt: skip
    leak_young_windows_to_limit: float = option(
        1.57, "leak_windows_to_limit in a container's first day", unit="windows", low=0, high=1_000
    )
    leak_young_held_bins: int = option(
        6, "leak_held_bins in a container's first day", unit="bins", low=1, high=24
    )
    log_format: str = option("text", "how log lines look", choices=("text", "json"))
    log_level: str = option(
        "info", "least severe log lines shown", choices=("debug", "info", "warning", "error")
    )

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to listen on."""
        problem = f"listen is {self.listen!r}, host:port is expected, e.g. 127.0.0.1:4040"
        try:
            parts = urlsplit(f"//{self.listen}")
            host, port = parts.hostname, parts.port
        except ValueError as error:  # the port is no number, or too large
            raise ConfigError(problem) from error
        if not host or port is None or parts.path or parts.username is not None:
            raise ConfigError(problem)
        return host, port

    @property
    def url(self) -> str:
        """Where people reach the collector."""
        return self.external_url or f"http://{self.listen}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the collector."""
        host, _ = self.address
        if host == "localhost":
            return True
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    @property
    def instance_name(self) -> str:
        """The name of this collector in a shared store."""
        return self.instance or re.sub(r"[^A-Za-z0-9.-]+", "-", socket.gethostname())[:63] or "one"

    @property
    def data_path(self) -> Path:
        """The folder of the store, absolute."""
        return Path(self.data_dir).expanduser().absolute()


def load_config(flags: argparse.Namespace, environ: Mapping[str, str]) -> Loaded[CollectorConfig]:
    """Merge flags, environment, file and defaults; validate.

    Raises:
        ConfigError: Names the option and what it may be.
    """
    try:
        loaded = load(CollectorConfig, flags=flags, environ=environ, prefix=ENVIRONMENT_PREFIX)
    except SettingsError as error:
        raise ConfigError(str(error)) from error
    config = loaded.settings
    _check_listening(config)
    _check_places(config)
    return loaded


def _check_listening(config: CollectorConfig) -> None:
    if not config.is_loopback and not config.allow_anonymous:
        raise ConfigError(
            f"listen is {config.listen!r}: others can reach that address, and nobody is asked for "
            "credentials. Listen on 127.0.0.1, or allow it with --allow-anonymous"
        )
    if not config.is_loopback and config.allow_tracing_captures:
        raise ConfigError(
            f"allow_tracing_captures is on and listen is {config.listen!r}: whoever reaches that "
            "address could have any process traced by strace and gdb. Listen on 127.0.0.1, or "
            "switch it off"
        )


def _check_places(config: CollectorConfig) -> None:
    if config.external_url and urlsplit(config.external_url).scheme not in {"http", "https"}:
        raise ConfigError(
            f"external_url is {config.external_url!r}, an address as https://flamewell.example.com "
            "is expected"
        )
    if not config.data_dir:
        raise ConfigError("data_dir is empty; name the folder of the store")
    if config.store_endpoint and not config.store_endpoint.startswith(("http://", "https://")):
        raise ConfigError(f"store_endpoint is {config.store_endpoint!r}: give http(s)://host:port")
    if config.read_only and not config.store_url:
        raise ConfigError("read_only is for a shared store: give its store_url")
    if config.instance and not _INSTANCE.fullmatch(config.instance):
        raise ConfigError(
            f"instance is {config.instance!r}: give up to 63 letters, digits, dots and hyphens"
        )
    if config.engine == "spark" and not config.engine_url.startswith("sc://"):
        raise ConfigError("engine is spark, so engine_url must say where it is: sc://host:port")
    if not config.ingest_path.startswith("/") or "<" in config.ingest_path:
        raise ConfigError(f"ingest_path is {config.ingest_path!r}, it must start with /")
