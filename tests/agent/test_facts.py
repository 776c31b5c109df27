"""What a process says of itself: its environment, cut, and never another process's."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flamewell_agent.identity.facts import Facts, parse_facts, parse_resource_attributes, read_facts
from flamewell_agent.identity.service import VALUE_BYTES_AT_MOST, clean, python_service, tidy
from flamewell_agent.model import ProcessKey

STAT = "{pid} (x) S 1 1 1 0 -1 0 0 0 0 0 5 6 0 0 20 0 1 0 {start} 0 0 1 1 1 1 9"


def environ(**variables: str) -> bytes:
    return b"".join(f"{name}={value}\0".encode() for name, value in variables.items())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("service.name=shop", {"service.name": "shop"}),
        (
            "a=b, service.name = shop%20one ,service.version=1.2",
            {"service.name": "shop_one", "service.version": "1.2"},
        ),
        ("service.name=a,service.name=b", {"service.name": "b"}),
        ("service%2Ename=a%3Db", {"service.name": "a_b"}),
        ("service.name=%ff%zz", {"service.name": "zz"}),
        ("service.name=,service.version=%20", {}),
        ("service.name", {}),
        ("", {}),
        ("host.name=elsewhere,k8s.pod.name=other", {}),
    ],
)
def test_resource_attributes_of_the_environment(text, found):
    assert parse_resource_attributes(text) == found


def test_who_wins():
    attributes = "service.name=third,service.version=3"
    context = {"service.name": "second", "service.version": "2", "host.name": "no"}
    first = environ(OTEL_SERVICE_NAME="first", OTEL_RESOURCE_ATTRIBUTES=attributes)
    assert parse_facts(first, context) == Facts(
        {"service.name": "first", "service.version": "2"}, {}, published=True
    )
    assert parse_facts(environ(OTEL_SERVICE_NAME=" "), context).service["service.name"] == "second"
    assert parse_facts(environ(OTEL_RESOURCE_ATTRIBUTES=attributes)).service == {
        "service.name": "third",
        "service.version": "3",
    }


def test_nomad_s_variables():
    found = parse_facts(
        environ(
            NOMAD_ALLOC_ID="a1",
            NOMAD_JOB_NAME="shop/periodic-1",
            NOMAD_TASK_NAME="web",
            NOMAD_DC="",
        )
    )
    assert found.nomad == {
        "nomad.alloc.id": "a1",
        "nomad.job": "shop/periodic-1",
        "nomad.task": "web",
    }


def test_only_whole_names_count_and_the_first_of_two():
    content = environ(XOTEL_SERVICE_NAME="no", OTEL_SERVICE_NAMES="no") + environ(
        A="OTEL_SERVICE_NAME=no"
    )
    assert parse_facts(content) == Facts()
    twice = environ(OTEL_SERVICE_NAME="one") + environ(OTEL_SERVICE_NAME="two")
    assert parse_facts(twice).service == {"service.name": "one"}
    assert parse_facts(b"A=B\0OTEL_SERVICE_NAME=end").service == {"service.name": "end"}


@given(st.binary(max_size=300), st.binary(max_size=100))
def test_any_environment_is_survived(content, value):
    for each in (content, content + b"\0OTEL_RESOURCE_ATTRIBUTES=service.name=" + value):
        for found in parse_facts(each).service.values():
            assert found.isprintable()
            assert 0 < len(found) <= 120


@pytest.mark.parametrize(
    "content",
    [
        b"a\0" * (1 << 19),
        b"OTEL_SERVICE_NAME=" + b"x " * (1 << 19),
        b"OTEL_RESOURCE_ATTRIBUTES=" + b"service.name=a," * (1 << 16),
        b"\0OTEL_SERVICE_NAME" * (1 << 16),
    ],
)
def test_a_megabyte_of_environment_takes_no_more_than_that(content):
    tracemalloc.start()
    try:
        parse_facts(content)
        assert tracemalloc.get_traced_memory()[1] < 3 << 20
    finally:
        tracemalloc.stop()


def test_the_environment_of_another_process_with_the_same_pid_does_not_count(tmp_path):
    folder = tmp_path / "77"
    folder.mkdir()
    (folder / "environ").write_bytes(environ(OTEL_SERVICE_NAME="shop"))
    (folder / "stat").write_text(STAT.format(pid=77, start=5))
    assert read_facts(tmp_path, ProcessKey(77, 5)).service == {"service.name": "shop"}
    # The pid was given to another process between environ and stat.
    (folder / "stat").write_text(STAT.format(pid=77, start=6))
    assert read_facts(tmp_path, ProcessKey(77, 5)) == Facts()
    (folder / "stat").unlink()
    assert read_facts(tmp_path, ProcessKey(77, 5)) == Facts()
    assert read_facts(tmp_path, ProcessKey(78, 5)) == Facts()


def test_an_environment_that_may_not_be_read_is_none(tmp_path):
    folder = tmp_path / "77"
    folder.mkdir()
    (folder / "stat").write_text(STAT.format(pid=77, start=5))
    (folder / "environ").symlink_to("/etc/hostname")
    assert read_facts(tmp_path, ProcessKey(77, 5)) == Facts()


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["python", "-um", "shop.web"], "shop.web"),
        (["python", "-mshop"], "shop"),
        (["python", "-Wignore", "-bb", "-W", "error", "app/run.py"], "run"),
        (["python", "-Xdev", "-OO", "--check-hash-based-pycs", "always", "x.py"], "x"),
        (["python", "-Xm", "x.py"], "x"),
        (["python", "-uc", "print()"], "python3.11"),
        (["python", "-m"], "python3.11"),
        (["python", "-c", "from multiprocessing.spawn import spawn_main", "--multiprocessing-fork"],
         "python3.11"),
        (["a title of its own: job 7", "", "", ""], "python3.11"),
        (["gunicorn: master [shop.wsgi:app]", "", ""], "shop.wsgi"),
        (["gunicorn: worker [shop.wsgi:app]"], "shop.wsgi"),
        (["[celeryd: w1@host:ForkPoolWorker-3]", ""], "celery"),
        (["python", "/usr/bin/gunicorn", "-b", "0.0.0.0:80", "shop.wsgi:app", "x:y"], "shop.wsgi"),
        (["python", "-m", "uvicorn", "shop:make()", "--factory"], "shop"),
        (["python", "-m", "uvicorn", "--port", "80", "shop:app"], "shop"),
        (["python", "/usr/bin/gunicorn", "-c", "conf.py"], "gunicorn"),
        (["python", "/usr/bin/celery", "-A", "shop", "worker"], "celery"),
        (["python", *["-u"] * 5000, "x.py"], "python3.11"),
        (["python", "../main.py"], "main"),
    ],
)  # fmt: skip
def test_the_interpreter_s_own_options_are_no_program(arguments, name):
    assert python_service("python3.11", arguments) == name


@given(st.text())
def test_what_is_cleaned_can_be_sent(value):
    found = clean(value)
    assert found.isprintable()
    assert len(found.encode()) <= VALUE_BYTES_AT_MOST
    assert clean(found) == found


def test_cleaning_cuts_at_bytes_and_between_letters():
    assert clean("é" * 5000) == "é" * (VALUE_BYTES_AT_MOST // 2)
    assert clean("a\x00b\u202ec\udc80d e") == "a_b_c_d e"
    assert tidy("x" * 10_000_000) == "x" * 120
