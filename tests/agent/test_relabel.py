"""relabel_configs do what Prometheus documents; no labels and no rules break anything."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flamewell_agent.errors import ConfigError
from flamewell_agent.relabel import (
    ACTIONS,
    KEYS,
    LABELS_AT_MOST,
    NAME_LENGTH_AT_MOST,
    VALUE_LENGTH_AT_MOST,
    RelabelRule,
    parse_rules,
    relabel,
)

ABC = {"a": "foo", "b": "bar", "c": "baz"}
MD5 = int.from_bytes(hashlib.md5(b"foo;bar").digest()[8:], "big")


def rule(**fields: object) -> dict[str, object]:
    return fields


# Labels, one rule, and what becomes of them; None: dropped.
TABLE: list[tuple[dict[str, str], dict[str, object], dict[str, str] | None]] = [
    # replace
    (ABC, rule(source_labels=["a"], regex="f(.*)", target_label="d", replacement="ch${1}-ch${1}"),
     ABC | {"d": "choo-choo"}),
    (ABC, rule(source_labels=["a", "b"], regex="f(.*);(.*)r", target_label="a",
               replacement="b${1}${2}m"), ABC | {"a": "boobam"}),
    (ABC, rule(source_labels=["a", "b"], separator="-", target_label="d"), ABC | {"d": "foo-bar"}),
    (ABC, rule(source_labels=["a"], regex="o", target_label="d", replacement="x"), ABC),
    (ABC, rule(source_labels=["a"], regex="o|foo", target_label="d", replacement="x"),
     ABC | {"d": "x"}),
    (ABC, rule(target_label="d", replacement="fixed"), ABC | {"d": "fixed"}),
    (ABC, rule(source_labels=["a"], target_label="a", replacement=""), {"b": "bar", "c": "baz"}),
    (ABC, rule(source_labels=["none"], target_label="a"), {"b": "bar", "c": "baz"}),
    (ABC, rule(source_labels=["a"], regex="(f).*", target_label="${1}_x", replacement="v"),
     ABC | {"f_x": "v"}),
    (ABC, rule(source_labels=["a"], regex="f(.*)x?", target_label="d", replacement="$1x"), ABC),
    (ABC, rule(source_labels=["a"], regex="(?P<r>.*)", target_label="d", replacement="$r$$$5${9}"),
     ABC | {"d": "foo$"}),
    ({"a": "1-2"}, rule(source_labels=["a"], target_label="${1}", replacement="v"), {"a": "1-2"}),
    ({"a": "x\ny"}, rule(source_labels=["a"], target_label="d"), {"a": "x\ny", "d": "x\ny"}),
    ({"a": "x$2"}, rule(source_labels=["a"], target_label="d"), {"a": "x$2", "d": "x$2"}),
    # keep and drop
    (ABC, rule(action="keep", source_labels=["a"], regex="foo"), ABC),
    (ABC, rule(action="keep", source_labels=["a"], regex="fo"), None),
    (ABC, rule(action="keep", source_labels=["a", "b"], regex="foo;bar"), ABC),
    (ABC, rule(action="Keep", source_labels=["none"], regex=".+"), None),
    (ABC, rule(action="drop", source_labels=["a"], regex=".*o.*"), None),
    (ABC, rule(action="drop", source_labels=["a"], regex="f"), ABC),
    (ABC, rule(action="drop", source_labels=["none"], regex=".+"), ABC),
    (ABC, rule(action="drop"), None),
    # keepequal and dropequal
    (ABC | {"d": "foo"}, rule(action="keepequal", source_labels=["a"], target_label="d"),
     ABC | {"d": "foo"}),
    (ABC, rule(action="keepequal", source_labels=["a"], target_label="b"), None),
    (ABC, rule(action="dropequal", source_labels=["a"], target_label="b"), ABC),
    (ABC | {"d": "foo"}, rule(action="dropequal", source_labels=["a"], target_label="d"), None),
    (ABC, rule(action="dropequal", source_labels=["x"], target_label="y"), None),
    # hashmod
    (ABC, rule(action="hashmod", source_labels=["a", "b"], target_label="d", modulus=1000),
     ABC | {"d": str(MD5 % 1000)}),
    # labelmap, labeldrop, labelkeep
    ({"__meta_x": "1", "b": "2"}, rule(action="labelmap", regex="__meta_(.+)"),
     {"__meta_x": "1", "b": "2", "x": "1"}),
    ({"b1": "1"}, rule(action="labelmap", regex="b(.)", replacement="bar_${1}"),
     {"b1": "1", "bar_1": "1"}),
    ({"a_1": "1"}, rule(action="labelmap", regex="a_(.)", replacement="$1"), {"a_1": "1"}),
    (ABC, rule(action="labeldrop", regex="a|b"), {"c": "baz"}),
    (ABC, rule(action="labeldrop", regex=""), ABC),
    (ABC, rule(action="labelkeep", regex="[ab]"), {"a": "foo", "b": "bar"}),
    # lowercase and uppercase
    ({"a": "FoÉ"}, rule(action="lowercase", source_labels=["a"], target_label="l"),
     {"a": "FoÉ", "l": "foé"}),
    (ABC, rule(action="uppercase", source_labels=["a", "b"], target_label="a"),
     ABC | {"a": "FOO;BAR"}),
]  # fmt: skip


@pytest.mark.parametrize(("labels", "entry", "expected"), TABLE)
def test_what_one_rule_does(labels, entry, expected):
    before = dict(labels)
    assert relabel(labels, parse_rules([entry])) == expected
    assert labels == before, "what is given stays as it is"


def test_every_action_is_in_the_table():
    used = {str(entry.get("action", "replace")).lower() for _, entry, _ in TABLE}
    assert used == set(ACTIONS)


def test_the_hash_is_prometheus_s():
    """From relabel_test.go of Prometheus: MD5, its last 8 bytes, big endian."""
    labels = {"a": "foo", "b": "bar", "c": "baz"}
    entry = rule(action="hashmod", source_labels=["c"], target_label="d", modulus=1000)
    assert relabel(labels, parse_rules([entry])) == labels | {"d": "976"}


def test_rules_run_in_order_and_end_with_a_drop():
    rules = parse_rules(
        [
            rule(source_labels=["a"], target_label="b"),
            rule(action="drop", source_labels=["b"], regex="x"),
            rule(target_label="c", replacement="never for x"),
        ]
    )
    assert relabel({"a": "x"}, rules) is None
    assert relabel({"a": "y"}, rules) == {"a": "y", "b": "y", "c": "never for x"}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (rule(action="delete"), r"relabel_configs\[1\].action is 'delete', one of replace, keep"),
        (rule(source_label=["a"]), r"relabel_configs\[1\] has 'source_label'; there are action"),
        (rule(source_labels="a", target_label="b"), r"\[1\].source_labels is 'a', a list"),
        (rule(source_labels=[1], target_label="b"), r"\[1\].source_labels is \[1\]"),
        (rule(source_labels=["a-b"], target_label="b"), r"source_labels has 'a-b'"),
        (rule(source_labels=["a"]), r"\[1\].target_label is '', a label name"),
        (rule(target_label="0a"), r"\[1\].target_label is '0a'"),
        (rule(target_label="$1-x"), r"\[1\].target_label is '\$1-x'"),
        (rule(target_label="a", regex="("), r"\[1\].regex is '\('"),
        (rule(target_label="a", regex=True), r"\[1\].regex is True.*quotes"),
        (rule(target_label="a", replacement=1.10), r"\[1\].replacement is 1.1.*quotes"),
        (rule(target_label="a", separator=None), r"\[1\].separator is None"),
        (rule(action="hashmod", target_label="a"), r"\[1\].modulus is 0, a positive number"),
        (rule(action="hashmod", target_label="a", modulus="5"), r"\[1\].modulus is '5'"),
        (rule(action="hashmod", target_label="a", modulus=True), r"\[1\].modulus is True"),
        (rule(action="keepequal", source_labels=["a"]), r"\[1\].target_label is ''"),
        (rule(action="uppercase", target_label="$1"), r"\[1\].target_label is '\$1'"),
        (rule(action="labeldrop", source_labels=["a"]), r"\[1\].source_labels means nothing"),
        (rule(action="labelkeep", target_label="a"), r"\[1\].target_label means nothing"),
        (rule(action="dropequal", target_label="a", regex="x"), r"\[1\].regex means nothing"),
        (rule(action="labelmap", replacement="a-b"), r"\[1\].replacement is 'a-b'"),
    ],
)
def test_a_wrong_rule_is_named_with_its_key(entry, message):
    with pytest.raises(ConfigError, match=message):
        parse_rules([rule(target_label="fine"), entry])


def test_numbers_may_stand_without_quotes():
    (parsed,) = parse_rules([rule(source_labels=["a"], target_label="b", regex=8080)])
    assert parsed.regex.pattern == "8080"


def test_a_long_target_template_is_checked_in_no_time():
    with pytest.raises(ConfigError, match="target_label"):
        parse_rules([rule(target_label="$a" * 5000 + "-")])


names = st.from_regex(r"[a-z_][a-z0-9_]{0,3}", fullmatch=True)
templates = st.text(st.sampled_from("$ab1{}_"), max_size=8) | st.text(max_size=5)
patterns = ["(.*)", "a", "(a)(b)?.*", "(?P<n>.)+", "", "__meta_(.+)", "([a-z_])(.*)"]
rules = st.builds(
    RelabelRule,
    action=st.sampled_from(ACTIONS),
    source_labels=st.lists(names, max_size=3).map(tuple),
    separator=st.text(max_size=2),
    target_label=names | templates,
    regex=st.sampled_from([re.compile(each, re.DOTALL) for each in patterns]),
    modulus=st.integers(1, 2**70),
    replacement=templates,
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@given(
    st.dictionaries(names | st.text(max_size=5), st.text(), max_size=8), st.lists(rules, max_size=8)
)
def test_nothing_that_is_given_breaks_it(labels, some_rules):
    found = relabel(labels, some_rules)
    if found is not None:
        assert len(found) <= max(LABELS_AT_MOST, len(labels))
        assert all(0 < len(value) <= VALUE_LENGTH_AT_MOST for value in found.values())


@given(anything, st.sampled_from(sorted(KEYS)))
def test_any_configuration_is_taken_or_refused_with_a_reason(value, key):
    try:
        parse_rules([{"action": "replace", "target_label": "a"} | {key: value}])
    except ConfigError as error:
        assert f"relabel_configs[0].{key}" in str(error)  # noqa: PT017 - it may also be taken


def test_what_rules_make_is_bounded():
    labels = {f"l{at}": "x" * 5000 for at in range(300)}
    double = [rule(action="labelmap", regex="(.+)", replacement=f"${{1}}_{at}") for at in range(30)]
    grow = rule(source_labels=["l1"], target_label="l1", replacement="$1" * 1000)
    name = rule(source_labels=["l1"], target_label="l$1", replacement="v")
    found = relabel(labels, parse_rules([*double, grow, name]))
    assert found is not None
    assert len(found) == LABELS_AT_MOST
    assert {len(value) for value in found.values()} == {VALUE_LENGTH_AT_MOST}
    assert max(map(len, found)) <= NAME_LENGTH_AT_MOST


def test_arguments_that_are_no_text_can_be_hashed():
    entry = rule(action="hashmod", source_labels=["a"], target_label="d", modulus=7)
    assert relabel({"a": "\udcff"}, parse_rules([entry]))
