"""Flags win over environment, environment over file, file over defaults; errors name the key."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from flamewell_settings import SettingsError, add_flags, load, option, render


@dataclass(frozen=True)
class Sample:
    listen: str = option("127.0.0.1:1", "where to listen")
    budget: float = option(0.01, "share of the node's CPU", unit="ratio", low=0.001, high=0.5)
    workers: int = option(4, "threads", low=1)
    detect: bool = option(False, "look for endpoints")
    targets: tuple[str, ...] = option((), "static list")
    mode: str = option("text", "log format", choices=("text", "json"))
    token: str = option("", "a secret", secret=True)
    room: int = option(64 << 20, "memory", unit="bytes", low=1 << 20, high=1 << 40)
    rules: tuple[Mapping[str, Any], ...] = option((), "what to do", mappings=True)


def loaded(*argv: str, environ: dict[str, str] | None = None):
    parser = argparse.ArgumentParser()
    add_flags(parser, Sample)
    return load(Sample, flags=parser.parse_args(argv), environ=environ or {}, prefix="T_")


def test_defaults_come_without_any_source():
    result = loaded()
    assert result.settings == Sample()
    assert set(result.sources.values()) == {"default"}


def test_precedence_is_flag_then_environment_then_file(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("listen: file\nworkers: 2\nbudget: 0.1\ntargets: [a, b]\n")
    result = loaded(
        "--config", str(path), "--listen", "flag", environ={"T_LISTEN": "env", "T_WORKERS": "3"}
    )
    assert result.settings.listen == "flag"
    assert result.settings.workers == 3
    assert result.settings.budget == 0.1
    assert result.settings.targets == ("a", "b")
    assert result.sources["listen"] == "flag"
    assert result.sources["workers"] == "environment"
    assert result.sources["budget"] == "file"


def test_the_file_may_be_named_by_the_environment(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("log: 1\n")
    with pytest.raises(SettingsError, match="no option 'log'"):
        loaded(environ={"T_CONFIG": str(path)})


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--budget", "2"], r"budget \(from flag\) is '2'.*0.001 to 0.5 ratio"),
        (["--workers", "0"], "workers .*at least 1"),
        (["--workers", "many"], "workers .*int is expected"),
        (["--mode", "xml"], "mode .*one of text, json"),
        (["--room", "3Ki"], r"room .*1MiB to 1TiB\)"),
        (["--room", "lots"], r"room .*int is expected \(1MiB to 1TiB\)"),
        (["--config", "/nonexistent/x.yaml"], "cannot read the configuration file"),
    ],
)
def test_an_error_names_the_key_and_what_it_may_be(argv, message):
    with pytest.raises(SettingsError, match=message):
        loaded(*argv)


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "just words"])
def test_a_broken_file_is_a_clear_error(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=str(path)):
        loaded("--config", str(path))


def test_a_file_that_is_no_text_is_a_clear_error(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_bytes(b"workers: \xff\xfe\n")
    with pytest.raises(SettingsError, match="not valid UTF-8"):
        loaded("--config", str(path))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("5242880", 5 << 20), ("64MiB", 64 << 20), ("64Mi", 64 << 20), ("2 GiB", 2 << 30)],
)
def test_a_size_may_have_a_unit(text, expected):
    assert loaded("--room", text).settings.room == expected


def test_the_help_shows_numbers_as_people_write_them():
    parser = argparse.ArgumentParser(prog="x")
    add_flags(parser, Sample)
    text = " ".join(parser.format_help().split())
    assert "memory (1MiB to 1TiB) [default: 64MiB]" in text
    assert "(0.001 to 0.5 ratio) [default: 0.01]" in text


def test_booleans_and_lists_from_every_source():
    assert loaded("--detect").settings.detect is True
    assert loaded("--no-detect", environ={"T_DETECT": "yes"}).settings.detect is False
    assert loaded(environ={"T_DETECT": "on"}).settings.detect is True
    assert loaded("--targets", "x", "--targets", "y").settings.targets == ("x", "y")
    assert loaded(environ={"T_TARGETS": "x, y,"}).settings.targets == ("x", "y")
    with pytest.raises(SettingsError, match="bool is expected"):
        loaded(environ={"T_DETECT": "maybe"})


def test_rendered_settings_are_yaml_with_sources_and_no_secret():
    text = render(loaded("--token", "hunter2", "--targets", "x"))
    assert "hunter2" not in text
    assert "# flag" in text
    values = yaml.safe_load(text)
    assert values["token"] == "***"
    assert values["targets"] == ["x"]
    assert values["budget"] == 0.01
    assert values["listen"] == "127.0.0.1:1"


RULES = [
    {"action": "drop", "source_labels": ["a", "b"], "regex": "x#y: {z}|'\"\\n"},
    {"modulus": 8, "nested": {"yes": True, "none": None}},
]


def test_lists_of_mappings_from_every_source(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("rules:\n  - action: drop\n    source_labels: [a]\n  - {regex: '1.10'}\n")
    from_file = loaded("--config", str(path))
    assert from_file.settings.rules == (
        {"action": "drop", "source_labels": ["a"]},
        {"regex": "1.10"},
    )
    assert from_file.sources["rules"] == "file"
    as_yaml = yaml.safe_dump(RULES)
    assert loaded("--rules", as_yaml).settings.rules == tuple(RULES)
    environ = {"T_RULES": json.dumps(RULES)}
    assert loaded("--config", str(path), environ=environ).settings.rules == tuple(RULES)
    assert loaded("--rules", "[{a: 1}]", environ=environ).settings.rules == ({"a": 1},)
    for nothing in ("", "[]", "null"):
        assert loaded("--rules", nothing, environ=environ).settings.rules == ()
    path.write_text("rules:\n")
    assert loaded("--config", str(path)).settings.rules == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: b", r"rules \(from flag\) is {'a': 'b'}, a list of mappings is expected"),
        ("words", "rules .*list of mappings"),
        ("[{a: 1}, b]", "rules .*entry 1 is 'b', `key: value`"),
        ("[{1: a}]", "rules .*entry 0 is {1: 'a'}"),
        ("[{a: ", r"rules \(from flag\) is not valid YAML"),
        ("[{a: 2020-99-99}]", r"rules \(from flag\) is not valid YAML"),
        ("[{a: !!python/name:os.system }]", r"rules \(from flag\) is not valid YAML"),
    ],
)
def test_a_wrong_list_of_mappings_is_named(text, message):
    with pytest.raises(SettingsError, match=message):
        loaded("--rules", text)


def test_a_wrong_list_of_mappings_in_a_file_is_named(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("rules: {a: b}\n")
    with pytest.raises(SettingsError, match=r"rules \(from file\) is {'a': 'b'}"):
        loaded("--config", str(path))


def test_rendered_mappings_load_again(tmp_path):
    many = [{"regex": "x" * 300, "replacement": f"{at}: # {{}}\n"} for at in range(100)]
    first = loaded("--rules", json.dumps([*RULES, *many]))
    path = tmp_path / "c.yaml"
    path.write_text(render(first))
    again = loaded("--config", str(path))
    assert again.settings == first.settings
    assert again.settings.rules == (*RULES, *many)
    assert "rules: []  # default" in render(loaded())


def test_mappings_are_in_the_help():
    parser = argparse.ArgumentParser()
    add_flags(parser, Sample)
    assert "--rules YAML" in parser.format_help()
    assert "what to do [default: none]" in " ".join(parser.format_help().split())
