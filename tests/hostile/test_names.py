"""Names that a target chooses reach labels, tables and logs; none of them may stop what is there.

A file's name and an argument may hold any byte but NUL, also such that are no UTF-8.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from agent.conftest import TARGETS
from hostile.agent_cycles import FamilyScans, Setting
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flamewell_agent.identity.facts import parse_facts
from flamewell_agent.identity.resolver import Identity
from flamewell_agent.model import Batch, Frame, Process, ProcessKey, Profile
from flamewell_agent.otlp import encode
from flamewell_agent.procfs import parse_cmdline
from flamewell_agent.relabel import parse_rules
from flamewell_agent.trace_guard import look
from flamewell_wire.profile_types import CPU

HOSTILE = b"a\xff\xed\xa0\x80\x1b[31m;b\n\xe2\x80\xaec"
EVERYWHERE = [
    {"source_labels": ["__meta_process_cmdline"], "target_label": "arguments"},
    {"source_labels": ["__meta_process_executable"], "target_label": "program"},
    {"source_labels": ["__meta_cgroup"], "target_label": "service_name"},
    {
        "source_labels": ["__meta_process_cmdline"],
        "target_label": "shard",
        "modulus": 4,
        "action": "hashmod",
    },
]


def named_by_rules(process: Process, proc_root: Path) -> dict[str, str]:
    identity = Identity("node", proc_root, {}, rules=parse_rules(EVERYWHERE))
    subject = identity.subject(process)
    stack = ((Frame("f", "f.py", 1),), 1)
    assert encode(Batch(1, (Profile(subject.resource, CPU.id, 1, 1, 1, (stack,)),)), agent_id="a")
    return dict(subject.resource.attributes)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60), st.binary(max_size=30))
@example(HOSTILE, HOSTILE)
def test_rules_that_copy_what_a_target_chose_spoil_no_batch(arguments, executable):
    process = Process(
        ProcessKey(1, 1),
        "cpython",
        "3.11",
        executable.decode("utf-8", "surrogateescape"),
        parse_cmdline(b"python\0" + arguments),
        cgroup=arguments.decode("utf-8", "replace"),
    )
    attributes = named_by_rules(process, Path("/nowhere"))
    assert any(name.endswith("arguments") for name in attributes)
    for value in attributes.values():
        value.encode()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
@example(b"OTEL_RESOURCE_ATTRIBUTES=" + b"service.name=%ff," * 50_000)
@example(b"OTEL_RESOURCE_ATTRIBUTES=service.name=" + b"%" * 500_000)
@example(b"OTEL_SERVICE_NAME=" + b"x" * (1 << 20))
@example(b"NOMAD_TASK_NAME=\x1b[31m" + HOSTILE)
@example(b"=" * 500_000)
@example(b"\0" * (1 << 20))
def test_any_environment_gives_names_that_are_fit_for_labels(environ):
    for form in (environ, b"OTEL_SERVICE_NAME=" + environ, b"OTEL_RESOURCE_ATTRIBUTES=" + environ):
        facts = parse_facts(form)
        for value in (*facts.service.values(), *facts.nomad.values()):
            assert len(value) <= 120
            assert value.isprintable()
            value.encode()


@pytest.fixture
def hostile_target(spawn, tmp_path, until):
    """Run a program of a hostile name with hostile arguments, its service named as badly."""
    program = tmp_path / HOSTILE.decode("utf-8", "surrogateescape")
    shutil.copy(Path(sys.executable).resolve(), program)
    process = spawn(
        str(program),
        str(TARGETS / "shares.py"),
        HOSTILE.decode("utf-8", "surrogateescape"),
        env={
            "PYTHONHOME": sys.base_prefix,
            "LD_LIBRARY_PATH": f"{sys.base_prefix}/lib",
            "OTEL_SERVICE_NAME": HOSTILE.decode("utf-8", "surrogateescape"),
        },
    )
    until(lambda: b"shares.py" in Path(f"/proc/{process.pid}/cmdline").read_bytes())
    return process.pid


def test_a_cycle_with_a_target_of_a_hostile_name(spy, hostile_target):
    setting = Setting(spy, FamilyScans(hostile_target))
    for _ in range(2):
        (coverage,) = setting.agent.run_cycle(1, threading.Event())
    assert coverage.service_name.isprintable()
    assert setting.stage_failures() == 0
    assert setting.outbox.payloads
    assert look(hostile_target)[:2] in {("R", 0), ("S", 0)}


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_the_table_of_targets_with_a_hostile_name(hostile_target, form):
    done = subprocess.run(
        [sys.executable, "-m", "flamewell_agent", "targets", *form],
        capture_output=True,
        timeout=100,
        check=False,
        env={"PATH": "/usr/bin", "LC_ALL": "C.UTF-8"},
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert b"\x1b" not in done.stdout
    assert str(hostile_target).encode() in done.stdout
    if form:
        rows = [json.loads(line) for line in done.stdout.split(b"\n") if line]
        assert hostile_target in {each["pid"] for each in rows}


NAMES_ITSELF = """
import ctypes, sys, time
ctypes.CDLL(None).prctl(15, sys.argv[1].encode(), 0, 0, 0)
print(flush=True)
time.sleep(99)
"""


@pytest.mark.parametrize(
    "name", ["\rTracerPid:\t1", "\x1cTracerPid:\tx", "\x0bTracerPid:", "a) S 1"]
)
def test_a_name_that_looks_like_a_line_of_status_is_no_tracer(name):
    """The kernel escapes line feeds in a name, and no other character that ends a line."""
    with subprocess.Popen(
        [sys.executable, "-c", NAMES_ITSELF, name], stdout=subprocess.PIPE
    ) as target:
        try:
            assert target.stdout is not None
            target.stdout.readline()
            state, tracer, ticks = look(target.pid)
        finally:
            target.kill()
    assert state in "RSD"
    assert tracer == 0
    assert ticks > 0
