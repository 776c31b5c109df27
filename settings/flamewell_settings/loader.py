"""Flags win over environment, environment over file, file over defaults.

``load`` is given the environment and the parsed flags; it reads nothing but the named file.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml

from flamewell_settings.option import OptionSpec, spec_of

T = TypeVar("T")
_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}
_BYTE_UNITS = {"TiB": 2**40, "GiB": 2**30, "MiB": 2**20, "KiB": 2**10}
_SIZE = re.compile(r"(\d+) ?([KMGT]i)B?")


class SettingsError(Exception):
    """A setting is unknown, has the wrong type, or is out of its range."""


@dataclass(frozen=True, slots=True)
class Loaded(Generic[T]):
    """Settings, and the source of each: ``default``, ``file``, ``environment`` or ``flag``."""

    settings: T
    sources: Mapping[str, str]


def add_flags(parser: argparse.ArgumentParser, kind: type[Any]) -> None:
    """Add ``--config``, ``--print-config`` and one flag an option to a parser."""
    parser.add_argument("--config", metavar="FILE", help="a YAML file with options")
    parser.add_argument(
        "--print-config",
        action="store_true",
        help="print each option with its value and where it came from, then stop",
    )
    for each in fields(kind):
        spec = spec_of(each)
        flag = "--" + each.name.replace("_", "-")
        text = f"{spec.help}{_range_text(spec)} [default: {_text(each.default, spec.unit)}]"
        text = text.replace("%", "%%")
        if isinstance(each.default, bool):
            parser.add_argument(
                flag, action=argparse.BooleanOptionalAction, default=None, help=text
            )
        elif spec.mappings:
            parser.add_argument(flag, default=None, metavar="YAML", help=text)
        elif isinstance(each.default, tuple):
            parser.add_argument(
                flag, action="append", default=None, metavar="VALUE", help=text + " (repeatable)"
            )
        else:
            metavar = (spec.unit or type(each.default).__name__).upper()
            parser.add_argument(flag, default=None, metavar=metavar, help=text)


def load(
    kind: type[T], *, flags: argparse.Namespace, environ: Mapping[str, str], prefix: str
) -> Loaded[T]:
    """Merge all sources into one frozen settings object.

    Args:
        kind: A frozen dataclass whose fields were declared with ``option``.
        flags: What a parser with ``add_flags`` gave.
        environ: The environment; variables are ``prefix`` + the upper-case option name. Lists are
            separated by commas.
        prefix: For example ``FLAMEWELL_AGENT_``.

    Raises:
        SettingsError: Names the key, what it was, and what it may be.
    """
    declared: dict[str, Any] = {each.name: each for each in fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    sources = dict.fromkeys(declared, "default")
    config_path = getattr(flags, "config", None) or environ.get(prefix + "CONFIG")
    for name, raw in _read_file(config_path).items():
        if name not in declared:
            raise SettingsError(
                f"{config_path}: there is no option {name!r}; `--help` lists them all"
            )
        values[name], sources[name] = raw, "file"
    for name in declared:
        variable = prefix + name.upper()
        if variable in environ:
            values[name], sources[name] = environ[variable], "environment"
        given = getattr(flags, name, None)
        if given is not None:
            values[name], sources[name] = given, "flag"
    parsed = {
        name: _parse(name, raw, declared[name].default, spec_of(declared[name]), sources[name])
        for name, raw in values.items()
    }
    return Loaded(kind(**parsed), sources)


def render(loaded: Loaded[Any]) -> str:
    """Show each option as ``name: value  # source``, secrets masked; the result is valid YAML."""
    lines = []
    for each in fields(loaded.settings):
        value = getattr(loaded.settings, each.name)
        shown: Any = list(value) if isinstance(value, tuple) else value
        if spec_of(each).mappings:
            shown = [dict(entry) for entry in value]
        if spec_of(each).secret and value:
            shown = "***"
        text = yaml.safe_dump(shown, default_flow_style=True, width=sys.maxsize)
        text = text.removesuffix("...\n").strip()
        lines.append(f"{each.name}: {text}  # {loaded.sources[each.name]}")
    return "\n".join(lines)


def _read_file(path: str | None) -> dict[str, Any]:
    if not path:
        return {}
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read the configuration file {path}: {error}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is not valid UTF-8 text: {error}") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is not valid YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"{path} must hold `option: value` lines at its top level")
    return {str(key).replace("-", "_"): value for key, value in content.items()}


def _parse(name: str, raw: Any, default: Any, spec: OptionSpec, source: str) -> Any:
    """Turn a raw value into the type of the option's default, and check its range."""
    where = f"{name} (from {source})"
    if spec.mappings:
        return _mappings(where, raw)
    try:
        value = _convert(_without_unit(raw) if spec.unit == "bytes" else raw, default)
    except (TypeError, ValueError) as error:
        kind = "list of strings" if isinstance(default, tuple) else type(default).__name__
        allowed = _range_text(spec)
        raise SettingsError(f"{where} is {raw!r}, a {kind} is expected{allowed}") from error
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    too_low = numeric and spec.low is not None and value < spec.low
    too_high = numeric and spec.high is not None and value > spec.high
    if too_low or too_high or (spec.choices and value not in spec.choices):
        raise SettingsError(f"{where} is {raw!r}, which is out of range{_range_text(spec)}")
    return value


def _mappings(where: str, raw: Any) -> tuple[dict[str, Any], ...]:
    """Take a list of mappings, or a YAML (or JSON) text of one."""
    try:
        value = yaml.safe_load(raw) if isinstance(raw, str) else raw
    except (yaml.YAMLError, ValueError) as error:  # the latter: a date that is none
        raise SettingsError(f"{where} is not valid YAML: {error}") from error
    value = [] if value is None else value
    if not isinstance(value, list):
        raise SettingsError(f"{where} is {value!r}, a list of mappings is expected")
    for at, entry in enumerate(value):
        if not isinstance(entry, dict) or not all(isinstance(key, str) for key in entry):
            raise SettingsError(
                f"{where}: entry {at} is {entry!r}, `key: value` lines are expected"
            )
    return tuple(value)


def _convert(raw: Any, default: Any) -> Any:
    if isinstance(default, bool):
        return raw if isinstance(raw, bool) else _parse_bool(str(raw))
    if isinstance(default, tuple):
        parts = raw.split(",") if isinstance(raw, str) else raw
        return tuple(str(part).strip() for part in parts if str(part).strip())
    if isinstance(default, int):
        if isinstance(raw, bool | float):
            raise TypeError
        return int(raw)
    if isinstance(default, float):
        if isinstance(raw, bool):
            raise TypeError
        return float(raw)
    if isinstance(raw, dict | list) or raw is None:
        raise TypeError
    return str(raw)


def _parse_bool(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in _TRUE:
        return True
    if lowered in _FALSE:
        return False
    raise ValueError


def _without_unit(raw: Any) -> Any:
    """Turn ``256MiB``, ``256Mi`` or ``256 MiB`` into a number of bytes; leave all else alone."""
    found = _SIZE.fullmatch(raw.strip()) if isinstance(raw, str) else None
    return int(found[1]) * _BYTE_UNITS[found[2] + "B"] if found else raw


def _range_text(spec: OptionSpec) -> str:
    # A size brings its unit along.
    unit = "" if spec.unit in {"", "bytes"} else f" {spec.unit}"
    if spec.choices:
        return f" (one of {', '.join(spec.choices)})"
    if spec.low is not None and spec.high is not None:
        return f" ({_text(spec.low, spec.unit)} to {_text(spec.high, spec.unit)}{unit})"
    if spec.low is not None:
        return f" (at least {_text(spec.low, spec.unit)}{unit})"
    return f" ({spec.unit})" if spec.unit else ""


def _text(value: Any, unit: str = "") -> str:
    """Show a value as people would write it."""
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    if isinstance(value, int | float) and not isinstance(value, bool):
        for name, size in _BYTE_UNITS.items() if unit == "bytes" else ():
            if value and value % size == 0:
                return f"{int(value // size)}{name}"
        return str(int(value)) if value == int(value) else str(value)
    return str(value) if value != "" else "none"
