"""Options, and how the command line fails."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import yaml

from flamewell_collector import cli
from flamewell_collector.config import CollectorConfig, load_config
from flamewell_collector.errors import ConfigError
from flamewell_settings import add_flags


def load(*arguments: str, **environ: str) -> CollectorConfig:
    parser = argparse.ArgumentParser()
    add_flags(parser, CollectorConfig)
    return load_config(parser.parse_args(arguments), environ).settings


def test_defaults() -> None:
    config = load()
    assert config.address == ("127.0.0.1", 4040)
    assert config.is_loopback
    assert config.data_path == Path.cwd() / "flamewell-data"


def test_sources_by_rank(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("flush-seconds: 7\nquery_threads: 3\nlisten: 127.0.0.1:1\n")
    config = load(
        "--config", str(file), "--listen", "127.0.0.1:3",
        FLAMEWELL_COLLECTOR_LISTEN="127.0.0.1:2", FLAMEWELL_COLLECTOR_QUERY_THREADS="4",
    )  # fmt: skip
    assert (config.flush_seconds, config.query_threads) == (7.0, 4)
    assert config.address == ("127.0.0.1", 3)


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "localhost:80", "[::1]:4040", "127.9.9.9:1"])
def test_loopback_needs_no_permission(listen: str) -> None:
    assert load("--listen", listen).is_loopback


@pytest.mark.parametrize("listen", ["0.0.0.0:4040", "[::]:4040", "10.1.2.3:80", "myhost:4040"])
def test_other_addresses_need_permission(listen: str) -> None:
    with pytest.raises(ConfigError, match="--allow-anonymous"):
        load("--listen", listen)
    assert not load("--listen", listen, "--allow-anonymous").is_loopback
    with pytest.raises(ConfigError, match="allow_tracing_captures is on"):
        load("--listen", listen, "--allow-anonymous", "--allow-tracing-captures")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--listen", "4040"], "host:port"),
        (["--listen", "127.0.0.1"], "host:port"),
        (["--listen", "127.0.0.1:99999"], "host:port"),
        (["--listen", "u:p@127.0.0.1:1"], "host:port"),
        (["--listen", "127.0.0.1:1/x"], "host:port"),
        (["--query-threads", "0"], "out of range"),
        (["--flush-seconds", "soon"], "float"),
        (["--log-format", "xml"], "one of text, json"),
        (["--ingest-path", "x"], "start with /"),
        (["--data-dir", ""], "data_dir"),
        (["--config", "/no/such/file"], "configuration file"),
    ],
)
def test_wrong_options_exit_with_2_and_say_what_to_do(
    flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["serve", *flags]) == 2
    assert words in capsys.readouterr().err


def test_print_config_is_yaml_with_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "--print-config", "--query-threads", "5"]) == 0
    shown = capsys.readouterr().out
    assert yaml.safe_load(shown)["query_threads"] == 5
    assert "query_threads: 5  # flag" in shown
    assert "listen: 127.0.0.1:4040  # default" in shown


def test_wrong_usage_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["fly"], ["serve", "--no-such-option"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        assert caught.value.code == 2
    capsys.readouterr()


def test_a_data_folder_that_cannot_be_made_exits_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    flags = ["--listen", "127.0.0.1:0", "--data-dir", str(tmp_path / "file" / "data")]
    assert cli.main(["serve", *flags]) == 1
    assert "data folder" in capsys.readouterr().err


def test_compact_keeps_what_is_stored(tmp_path: Path) -> None:
    from collector.batches import P, batch

    from flamewell_collector.store.storage import Storage, StorageOptions

    folder = tmp_path / "data"
    storage = Storage.open(folder, StorageOptions())
    storage.append(batch([P({"service_name": "a"}, 1_795_384_800_000, {"f": 1})], batch_id="b"))
    storage.close()
    assert cli.main(["compact", "--data-dir", str(folder), "--retention-days", "0"]) == 0
    assert len(list(folder.rglob("samples.parquet"))) == 1
