"""Prometheus's relabelling, as rules over the labels of a process. Pure.

Source of the actions and of what is refused: the relabel_config section of Prometheus's
configuration reference, and its tests. Labels that begin with ``__`` are inputs (``__meta_*``) and
controls (``__rate_hz__``); they are never sent. Regular expressions are Python's, not RE2's: one
that takes exponential time is its writer's own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flamewell_agent.errors import ConfigError

ACTIONS = (
    "replace",
    "keep",
    "drop",
    "keepequal",
    "dropequal",
    "hashmod",
    "labelmap",
    "labeldrop",
    "labelkeep",
    "lowercase",
    "uppercase",
)
KEYS = frozenset(
    {
        "source_labels",
        "separator",
        "target_label",
        "regex",
        "modulus",
        "replacement",
        "action",
    }
)
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_REFERENCE = re.compile(r"\$(?:\$|(\w+)|\{(\w+)\})")
_NEEDS_TARGET = frozenset(
    {"replace", "hashmod", "lowercase", "uppercase", "keepequal", "dropequal"}
)
_TARGET_TEMPLATE = re.compile(r"(?![0-9])(?:\$\{\w+\}|\$?\w)+", re.ASCII)
"""What may stand for a label name where it is filled in: ``${1}_total``."""
_ONLY_KEYS: dict[str, frozenset[str]] = {
    "labeldrop": frozenset({"action", "regex"}),
    "labelkeep": frozenset({"action", "regex"}),
    "keepequal": frozenset({"action", "source_labels", "target_label"}),
    "dropequal": frozenset({"action", "source_labels", "target_label"}),
}
"""Actions for which Prometheus refuses all other keys."""
VALUE_LENGTH_AT_MOST = 1_024
"""What is matched is cut here: names of processes are their owners' to choose, and Python's regular
expressions may take long on long texts."""
NAME_LENGTH_AT_MOST = 200
LABELS_AT_MOST = 400
"""Of one process while rules run: each labelmap could double them."""


@dataclass(frozen=True, slots=True)
class RelabelRule:
    """One entry of ``relabel_configs``; the fields are Prometheus's."""

    action: str = "replace"
    source_labels: tuple[str, ...] = ()
    separator: str = ";"
    target_label: str = ""
    regex: re.Pattern[str] = re.compile("(.*)", re.DOTALL)
    modulus: int = 0
    replacement: str = "$1"


def parse_rules(entries: Sequence[Mapping[str, Any]]) -> tuple[RelabelRule, ...]:
    """Read ``relabel_configs``.

    Raises:
        ConfigError: Names the entry, the key, and what may stand there.
    """
    return tuple(_parse_rule(f"relabel_configs[{at}]", entry) for at, entry in enumerate(entries))


def relabel(labels: Mapping[str, str], rules: Sequence[RelabelRule]) -> dict[str, str] | None:
    """Apply rules one after the other; None where one of them drops the process."""
    found: dict[str, str] | None = {
        name: value[:VALUE_LENGTH_AT_MOST] for name, value in labels.items() if value
    }
    for rule in rules:
        if found is None:
            break
        found = _ACTIONS[rule.action](found, rule)
    return found


def _source(labels: Mapping[str, str], rule: RelabelRule) -> str:
    joined = rule.separator.join(labels.get(name, "") for name in rule.source_labels)
    return joined[:VALUE_LENGTH_AT_MOST]


def _put(labels: dict[str, str], name: str, value: str) -> dict[str, str]:
    """Set a label; an empty value removes it, as in Prometheus."""
    if not value:
        labels.pop(name, None)
    elif len(name) > NAME_LENGTH_AT_MOST:
        pass
    elif len(labels) < LABELS_AT_MOST or name in labels:
        labels[name] = value[:VALUE_LENGTH_AT_MOST]
    return labels


def _replace(labels: dict[str, str], rule: RelabelRule) -> dict[str, str]:
    match = rule.regex.fullmatch(_source(labels, rule))
    if match is None:
        return labels
    target = expand(rule.target_label, match)
    if not _LABEL.fullmatch(target):
        return labels
    return _put(labels, target, expand(rule.replacement, match))


def _keep(labels: dict[str, str], rule: RelabelRule) -> dict[str, str] | None:
    return labels if rule.regex.fullmatch(_source(labels, rule)) else None


def _drop(labels: dict[str, str], rule: RelabelRule) -> dict[str, str] | None:
    return None if rule.regex.fullmatch(_source(labels, rule)) else labels


def _keep_equal(labels: dict[str, str], rule: RelabelRule) -> dict[str, str] | None:
    return labels if _source(labels, rule) == labels.get(rule.target_label, "") else None


def _drop_equal(labels: dict[str, str], rule: RelabelRule) -> dict[str, str] | None:
    return None if _source(labels, rule) == labels.get(rule.target_label, "") else labels


def _hash_mod(labels: dict[str, str], rule: RelabelRule) -> dict[str, str]:
    # Prometheus: the last 8 of the 16 bytes of an MD5, big endian.
    digest = hashlib.md5(
        _source(labels, rule).encode("utf-8", "surrogatepass"), usedforsecurity=False
    ).digest()
    return _put(labels, rule.target_label, str(int.from_bytes(digest[8:], "big") % rule.modulus))


def _label_map(labels: dict[str, str], rule: RelabelRule) -> dict[str, str]:
    for name, value in list(labels.items()):
        match = rule.regex.fullmatch(name)
        target = expand(rule.replacement, match) if match else ""
        if _LABEL.fullmatch(target):
            _put(labels, target, value)
    return labels


def _label_drop(labels: dict[str, str], rule: RelabelRule) -> dict[str, str]:
    return {name: value for name, value in labels.items() if not rule.regex.fullmatch(name)}


def _label_keep(labels: dict[str, str], rule: RelabelRule) -> dict[str, str]:
    return {name: value for name, value in labels.items() if rule.regex.fullmatch(name)}


def _lower(labels: dict[str, str], rule: RelabelRule) -> dict[str, str]:
    return _put(labels, rule.target_label, _source(labels, rule).lower())


def _upper(labels: dict[str, str], rule: RelabelRule) -> dict[str, str]:
    return _put(labels, rule.target_label, _source(labels, rule).upper())


_Action = Callable[[dict[str, str], RelabelRule], dict[str, str] | None]
_ACTIONS: dict[str, _Action] = dict(
    zip(
        ACTIONS,
        (
            _replace,
            _keep,
            _drop,
            _keep_equal,
            _drop_equal,
            _hash_mod,
            _label_map,
            _label_drop,
            _label_keep,
            _lower,
            _upper,
        ),
        strict=True,
    )
)


def expand(template: str, match: re.Match[str]) -> str:
    """Fill ``$1``, ``${1}`` and ``${name}`` in; a group that is not there is empty, as in Go."""

    def group(reference: re.Match[str]) -> str:
        name = reference.group(1) or reference.group(2)
        if name is None:
            return "$"
        try:
            return match.group(int(name) if name.isdecimal() else name) or ""
        except (IndexError, ValueError):  # a number of thousands of digits is the latter
            return ""

    return _REFERENCE.sub(group, template)


def _parse_rule(where: str, entry: Mapping[str, Any]) -> RelabelRule:
    unknown = sorted(set(entry) - KEYS)
    if unknown:
        raise ConfigError(f"{where} has {unknown[0]!r}; there are {', '.join(sorted(KEYS))}")
    action = str(entry.get("action", "replace")).lower()
    if action not in ACTIONS:
        raise ConfigError(f"{where}.action is {action!r}, one of {', '.join(ACTIONS)} is expected")
    surplus = sorted(set(entry) - _ONLY_KEYS.get(action, KEYS))
    if surplus:
        raise ConfigError(f"{where}.{surplus[0]} means nothing with action {action}; leave it out")
    rule = RelabelRule(
        action,
        _names(where, entry),
        _text(where, entry, "separator", ";"),
        _text(where, entry, "target_label", ""),
        _pattern(where, entry),
        _modulus(where, entry, action),
        _text(where, entry, "replacement", "$1"),
    )
    _check_target(where, rule)
    return rule


def _names(where: str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    names = entry.get("source_labels", [])
    if not isinstance(names, list | tuple) or not all(isinstance(each, str) for each in names):
        raise ConfigError(f"{where}.source_labels is {names!r}, a list of names is expected")
    for name in names:
        if not _LABEL.fullmatch(name):
            raise ConfigError(f"{where}.source_labels has {name!r}, which is no label name")
    return tuple(names)


def _check_target(where: str, rule: RelabelRule) -> None:
    if rule.action in _NEEDS_TARGET:
        templated = rule.action == "replace" and "$" in rule.target_label
        pattern = _TARGET_TEMPLATE if templated else _LABEL
        if not pattern.fullmatch(rule.target_label):
            raise ConfigError(
                f"{where}.target_label is {rule.target_label!r}, a label name is expected"
            )
    if rule.action == "labelmap" and not _TARGET_TEMPLATE.fullmatch(rule.replacement):
        raise ConfigError(
            f"{where}.replacement is {rule.replacement!r}, a label name or one such as $1 is "
            "expected with action labelmap"
        )


def _pattern(where: str, entry: Mapping[str, Any]) -> re.Pattern[str]:
    text = _text(where, entry, "regex", "(.*)")
    try:
        return re.compile(text, re.DOTALL)
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigError(f"{where}.regex is {text!r}: {error}") from error


def _modulus(where: str, entry: Mapping[str, Any], action: str) -> int:
    value = entry.get("modulus", 0)
    if not isinstance(value, int) or isinstance(value, bool) or (action == "hashmod" and value < 1):
        raise ConfigError(f"{where}.modulus is {value!r}, a positive number is expected")
    return value


def _text(where: str, entry: Mapping[str, Any], key: str, default: str) -> str:
    value = entry.get(key, default)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        # YAML made yes, true and True the same, and of 1.10 1.1: what was written is lost.
        raise ConfigError(f"{where}.{key} is {value!r}, a text is expected; put it in quotes")
    return value
