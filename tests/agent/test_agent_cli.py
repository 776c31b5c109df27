"""The command as people run it: real processes, a real collector on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self
from xml.etree import ElementTree as ET

import pytest
import zstandard
from opentelemetry.proto.collector.profiles.v1development.profiles_service_pb2 import (
    ExportProfilesServiceRequest,
)

from flamewell_agent import check_node, check_sending, checks, cli, once, targets
from flamewell_agent.errors import AgentError
from flamewell_agent.flame_formats import fold, speedscope
from flamewell_agent.flame_svg import draw
from flamewell_agent.model import Coverage, Frame, Process, ProcessKey
from flamewell_agent.once import find_python
from flamewell_agent.spool import Segment, Spool

BURN = """
def spin(n):
    while n:
        n -= 1
def burn():
    while True:
        spin(100_000)
print(flush=True)
burn()
"""


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "flamewell_agent", *arguments]


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **environ},
    )


@pytest.fixture
def burning() -> Iterator[int]:
    # A name of its own: another `python -c` of this machine would be a sibling, drawn instead.
    program = subprocess.Popen(
        [sys.executable, "-c", BURN],
        stdout=subprocess.PIPE,
        env={**os.environ, "OTEL_SERVICE_NAME": f"burning-{os.getpid()}"},
    )
    try:
        program.stdout.readline()
        yield program.pid
    finally:
        program.kill()
        program.communicate()


class Collector:
    """Acknowledges every batch, or none while it is down."""

    def __init__(self) -> None:
        self.requests: list[ExportProfilesServiceRequest] = []
        self.down = False
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                profiles = self.path == "/v1development/profiles"
                if profiles and body and not collector.down:
                    plain = zstandard.decompress(body)
                    collector.requests.append(ExportProfilesServiceRequest.FromString(plain))
                self.send_response(503 if collector.down else 200)
                self.end_headers()
                if not profiles:  # a poll for orders: there are none
                    self.wfile.write(b"{}")

            def log_message(self, *_args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def batch_ids(self) -> list[str]:
        return self.ids_of(self.requests)

    @staticmethod
    def ids_of(requests: Iterable[ExportProfilesServiceRequest]) -> list[str]:
        return [
            attribute.value.string_value
            for request in requests
            for resource in request.resource_profiles
            for attribute in resource.resource.attributes
            if attribute.key == "flamewell.batch_id"
        ]

    @property
    def functions(self) -> set[str]:
        return {
            request.dictionary.string_table[function.name_strindex]
            for request in self.requests
            for function in request.dictionary.function_table
        }


@contextlib.contextmanager
def agent(state: Path, url: str, *flags: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command(
            *("run", "--collector-url", url, "--state-dir", str(state), "--cycle-seconds", "1"),
            *("--metrics-listen", "127.0.0.1:0", "--overhead-budget", "0.3"),
            *("--log-format", "json", *flags),
        ),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def until(condition) -> None:
    deadline = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


def test_run_profiles_and_ships_until_sigterm(tmp_path, burning):
    with Collector() as collector, agent(tmp_path, collector.url) as process:
        until(lambda: "spin" in collector.functions)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=20)
    assert process.returncode == 0
    lines = [json.loads(line) for line in log.splitlines()]
    assert lines[0]["msg"].startswith("flamewell-agent")
    assert not [line for line in lines if line["level"] in {"warning", "error"}]
    assert len(collector.batch_ids) == len(set(collector.batch_ids))
    assert not list((tmp_path / "spool").glob("*.batch"))


def spooled_ids(state: Path) -> set[str]:
    """Give the batch ids that wait on disk, under an agent that is not running."""
    found = Collector.ids_of(
        ExportProfilesServiceRequest.FromString(zstandard.decompress(segment.payload))
        for segment in take_all(state / "spool")
    )
    assert found
    return set(found)


def take_all(directory: Path) -> list[Segment]:
    """Read a copy of the spool, so that the agent finds its own as it was."""
    copy = directory.with_name("copy")
    shutil.copytree(directory, copy)
    spool = Spool(copy, 1 << 30)
    segments = []
    while (segment := spool.claim()) is not None:
        segments.append(segment)
        spool.remove(segment.sequence)
    spool.close()
    return segments


@pytest.mark.slow
def test_what_was_spooled_before_kill_nine_arrives_under_its_own_ids(tmp_path, burning):
    with Collector() as collector:
        collector.down = True
        with agent(tmp_path, collector.url) as process:
            until(lambda: list((tmp_path / "spool").glob("*.batch")))
            process.kill()
            process.wait()
        waiting = spooled_ids(tmp_path)
        collector.down = False
        with agent(tmp_path, collector.url) as process:
            # All of the former run's, and one of the new run, whose ids are other ones.
            until(lambda: waiting < set(collector.batch_ids))
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=20)
    assert process.returncode == 0
    assert len({each.rsplit("-", 2)[0] for each in collector.batch_ids}) == 2


def test_a_second_agent_on_the_same_state_is_refused(tmp_path):
    with Collector() as collector, agent(tmp_path, collector.url):
        until((tmp_path / "spool" / "lock").exists)
        time.sleep(0.2)
        result = run("run", "--state-dir", str(tmp_path), "--metrics-listen", "")
    assert result.returncode == 1
    assert "another agent uses" in result.stderr


def test_metrics_and_coverage_are_served_while_it_runs(tmp_path, burning):
    port = free_port()
    flags = ("--metrics-listen", f"127.0.0.1:{port}")
    with Collector() as collector, agent(tmp_path, collector.url, *flags):

        def coverage() -> list[dict]:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/coverage") as answer:
                    return json.load(answer)["processes"]
            except OSError:
                return []

        until(lambda: any(row["pid"] == burning for row in coverage()))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            text = answer.read().decode()
    for name in ("cpu_seconds_total", "targets", "overhead_ratio", "spool_bytes"):
        assert re.search(rf"^flamewell_agent_{name}[{{ ]", text, re.MULTILINE), name


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_once_writes_folded_stacks(tmp_path, burning):
    file = tmp_path / "out.folded"
    result = run("once", str(burning), "--seconds", "1", "-o", str(file), "--format", "folded")
    assert result.returncode == 0, result.stderr
    assert "samples in" in result.stderr
    rows = dict(line.rsplit(" ", 1) for line in file.read_text().splitlines())
    assert sum(map(int, rows.values())) >= 10
    assert any(re.search(r"burn .*;spin ", stack) for stack in rows)


def test_once_says_what_is_wrong():
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        result = run("once", str(sleeper.pid))
        assert (result.returncode, result.stdout) == (1, "")
        assert "does not run CPython" in result.stderr
    finally:
        sleeper.kill()
        sleeper.wait()


def test_an_idle_process_shows_nothing(tmp_path):
    idle = subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        idle.stdout.readline()
        result = run("once", str(idle.pid), "--seconds", "1")
        assert result.returncode == 1
        assert "no Python code" in result.stderr
    finally:
        idle.communicate(b"\n")


def test_targets_gives_a_decision_for_every_process(burning):
    result = run("targets", "--json", "--overhead-budget", "0.3")
    assert result.returncode == 0, result.stderr
    rows = {row["pid"]: row for row in map(json.loads, result.stdout.splitlines())}
    assert rows[burning]["state"] == "sampled", rows[burning]
    assert rows[burning]["reason"].endswith("hz")
    assert {1, os.getpid()} <= set(rows)
    assert all(row["reason"] for row in rows.values())


def test_check_tells_what_works_and_what_does_not(tmp_path):
    with Collector() as collector:
        good = run("check", "--collector-url", collector.url, "--state-dir", str(tmp_path))
    if os.geteuid() == 0:
        assert good.returncode == 0, good.stdout
    assert re.search(r"^ok +collector: ", good.stdout, re.MULTILINE)
    assert re.search(r"^ok +py-spy: ", good.stdout, re.MULTILINE)
    (tmp_path / "file").write_text("")
    bad = run(
        *("check", "--json", "--collector-url", collector.url),
        *("--state-dir", str(tmp_path / "file")),
        *("--token-file", "/nonexistent", "--go-endpoints", "http://127.0.0.1:9"),
    )
    found = {row["name"]: row for row in map(json.loads, bad.stdout.splitlines())}
    assert bad.returncode == 1
    for name in ("collector", "state directory", "credentials"):
        assert found[name]["status"] == "fail", name
        assert found[name]["mend"]
    assert found["go endpoint"]["status"] == "warn"


def called(*arguments: str) -> int:
    """Call main in this process; argparse leaves by SystemExit."""
    try:
        return cli.main(arguments)
    except SystemExit as leaving:
        return int(leaving.code or 0)


def test_help_names_commands_and_options(capsys):
    assert called("--help") == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("run", "targets", "once", "check", "Examples"))
    assert called("run", "--help") == 0
    assert "--overhead-budget" in capsys.readouterr().out
    assert called("--version") == 0
    assert capsys.readouterr().out.startswith("flamewell-agent ")


def test_wrong_usage_and_wrong_configuration_are_2(capsys):
    assert called("run", "--cycle-seconds", "0") == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "cycle_seconds" in told.err
    assert "1 to 300 seconds" in told.err
    for arguments in ((), ("fly",), ("once", "zero"), ("once", "0"), ("once", "1", "--rate", "0")):
        assert called(*arguments) == 2


@pytest.mark.parametrize("command", ["run", "check", "targets"])
def test_a_wrong_relabel_rule_is_told_by_each_command(command, capsys, tmp_path):
    file = tmp_path / "agent.yaml"
    file.write_text("relabel_configs: [{source_labels: [a], action: fling}]\n")
    assert called(command, "--config", str(file)) == 2
    told = capsys.readouterr().err
    assert "relabel_configs[0].action is 'fling'" in told
    assert "keep, drop" in told


def test_wrong_numbers_are_told_in_words(capsys):
    for number in ("x", "0", "-1", "1.5", "²"):
        assert called("once", "1", f"--seconds={number}") == 2
        assert f"{number} is not a positive whole number" in capsys.readouterr().err


def test_usage_is_short(capsys):
    assert called("once", "--fly", "1") == 2
    assert len(capsys.readouterr().err.splitlines()) <= 4


def test_an_unknown_service_names_those_there_are(capsys, monkeypatch):
    rows = [
        Coverage(python_process(1), "init", "skipped", "memory_only"),
        Coverage(python_process(22), "payments", "sampled", "47hz"),
    ]
    monkeypatch.setattr(cli, "preview", lambda _config: rows)
    monkeypatch.setattr(cli.logs, "set_up", lambda *_, **__: None)
    assert called("once", "--service", "payment") == 1
    assert "there are: payments" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_told_before_the_sampling(capsys, monkeypatch):
    monkeypatch.setattr(cli.logs, "set_up", lambda *_, **__: None)
    assert called("once", "1", "-o", "/nonexistent/graph.svg") == 1
    assert "/nonexistent is no directory" in capsys.readouterr().err


def test_print_config_shows_the_source_of_each_value(capsys, monkeypatch):
    monkeypatch.setenv("FLAMEWELL_AGENT_MAX_RATE_HZ", "20")
    assert called("run", "--print-config", "--cluster", "blue") == 0
    text = capsys.readouterr().out
    assert "cluster: blue  # flag" in text
    assert "max_rate_hz: 20  # environment" in text
    assert "cycle_seconds: 15  # default" in text


def test_the_table_of_targets_has_a_line_for_each(capsys, monkeypatch):
    rows = [
        Coverage(python_process(1), "init", "skipped", "memory_only", "no profiler for it"),
        Coverage(python_process(22), "payments", "sampled", "47hz"),
    ]
    monkeypatch.setattr(cli, "preview", lambda _config: rows)
    monkeypatch.setattr(cli.logs, "set_up", lambda *_, **__: None)
    monkeypatch.setattr(cli, "_CPU_SECONDS", 0.0)
    assert called("targets") == 0
    told = capsys.readouterr()
    heading, first, second = told.out.splitlines()
    assert heading.split() == [
        *("PID", "RUNTIME", "CPU", "%", "DECISION", "REASON", "CONTAINER", "SERVICE")
    ]
    assert first.split()[:3] == ["22", "cpython", "3.11"]
    assert first.split()[4:] == ["sampled", "47hz", "-", "payments"]
    assert second.endswith("init  (no profiler for it)")
    assert told.err == "2 processes: 1 sampled, 1 skipped, 0 failed (1 memory_only)\n"
    assert called("targets", "--service", "pay*", "--runtime", "cpython", "--explain") == 0
    told = capsys.readouterr()
    assert "init" not in told.out
    assert told.err.startswith("1 of 2: 1 sampled")
    assert called("targets", "--state", "skipped", "--explain") == 0
    assert "no profiler reads it" in capsys.readouterr().out


def python_process(pid: int = 7, **fields: str) -> Process:
    settings = {"runtime": "cpython", "runtime_version": "3.11", "executable": "python"} | fields
    return Process(ProcessKey(pid, 1), cmdline=(), **settings)


def test_the_reason_against_a_process_is_told():
    with pytest.raises(AgentError, match=r"Go program.*go_detect"):
        find_python([python_process(runtime="go")], 7)
    with pytest.raises(AgentError, match="there is no process 9"):
        find_python([python_process()], 9)
    with pytest.raises(AgentError, match="SYS_PTRACE"):
        find_python([python_process(unreadable="not_permitted: hidepid")], 7)
    with pytest.raises(AgentError, match="free-threaded"):
        find_python([python_process(unreadable="free_threaded")], 7)
    assert find_python([python_process(8), python_process(7)], 7).key.pid == 7


CONTAINER = "0123456789ab" + "c" * 52


def test_a_container_is_found_by_the_beginning_of_its_id():
    inside = f"/docker/{CONTAINER}"
    first, second = python_process(7, cgroup=inside), python_process(8, cgroup=inside)
    shell = python_process(9, cgroup=inside, runtime="other", executable="sh")
    known = [first, second, shell, python_process(10)]
    assert once.select(known, CONTAINER[:12]) == ("container 0123456789ab", [first, second])
    assert once.select(known, "10") == ("python (pid 10)", [known[3]])
    with pytest.raises(AgentError, match="no process runs in a container"):
        once.select(known, "f" * 12)
    with pytest.raises(AgentError, match=r"no Python process to sample, but: sh \(other\)"):
        once.select([shell], CONTAINER)
    other = python_process(11, cgroup="/docker/0123456789ab" + "d" * 52)
    with pytest.raises(AgentError, match="2 containers begin with"):
        once.select([*known, other], CONTAINER[:12])


def test_a_hostile_name_cannot_move_the_cursor():
    row = Coverage(python_process(7), "evil\x1b[2J\nname", "skipped", "idle")
    text = targets.table(targets.measure([row], 0.0, read=lambda _pid: None))
    assert "\x1b" not in text
    assert len(text.splitlines()) == 2


EVIL = Frame("</text><script>alert(1)</script>&\ud800\x00\u202e", '"/x\ny', 3)


def test_the_picture_is_xml_whatever_the_names_are():
    svg = draw([((EVIL, Frame("main")), 3), ((Frame("main"),), 1)], title="<t>", subtitle="a&b")
    root = ET.fromstring(svg)
    assert not root.findall(".//{http://www.w3.org/2000/svg}script")
    assert "alert(1)" in svg
    assert svg.count('class="bar"') == 3
    assert draw([], title="").count('class="bar"') == 1
    deep = tuple(Frame(f"f{at}") for at in range(5_000))
    assert "are not drawn" in draw([(deep, 1)], title="deep")


def test_speedscope_counts_every_sample():
    samples = [((EVIL, Frame("main")), 3), ((Frame("main"),), 1)]
    document = json.loads(speedscope(samples, title="t"))
    (profile,) = document["profiles"]
    assert (profile["samples"], profile["weights"]) == ([[0, 1], [0]], [3, 1])
    assert profile["endValue"] == 4
    assert [each["name"] for each in document["shared"]["frames"]] == ["main", EVIL.function]


@pytest.mark.parametrize("form", ["svg", "speedscope"])
def test_once_in_other_forms(tmp_path, burning, form):
    file = tmp_path / "out"
    flags = ("--wall", "--threads", "--rate", "50")
    result = run("once", str(burning), "--seconds", "1", "-o", str(file), "--format", form, *flags)
    assert result.returncode == 0, result.stderr
    text = file.read_text()
    assert "spin" in text
    assert "thread" in text


def test_folded_lines_cannot_be_broken_by_names():
    evil = Frame("a;b\nc 5", "/x;y.py", 3)
    text = fold([((evil, Frame("main")), 2), ((evil, Frame("main")), 3), ((Frame(""),), 1)])
    assert text == "[unknown] 1\nmain;a:b c 5 (/x:y.py:3) 5\n"


NO_CAPABILITY, PTRACE = 0, 1 << 19


@pytest.mark.parametrize(
    ("capabilities", "scope", "status"),
    [
        (PTRACE, 0, "ok"),
        (PTRACE, 2, "ok"),
        (PTRACE, 3, "fail"),
        (NO_CAPABILITY, 0, "warn"),
        (NO_CAPABILITY, 1, "warn"),
        (NO_CAPABILITY, 2, "fail"),
    ],
)
def test_who_may_be_read(capabilities, scope, status):
    found = checks.check_ptrace(capabilities, scope, own_uid=1000)
    assert found.status == status
    assert bool(found.mend) == (status != "ok")


@pytest.mark.parametrize(
    ("options", "capabilities", "status"),
    [
        ("rw,nosuid", NO_CAPABILITY, "ok"),
        ("rw,hidepid=0", NO_CAPABILITY, "ok"),
        ("rw,hidepid=invisible", NO_CAPABILITY, "fail"),
        ("rw,hidepid=2,gid=5", PTRACE, "ok"),
    ],
)
def test_hidden_processes(options, capabilities, status):
    mounts = f"sysfs /sys sysfs rw 0 0\nproc /proc proc {options} 0 0\n"
    assert checks.check_hidepid(mounts, "/proc", capabilities).status == status


def test_capabilities_are_read():
    assert checks.parse_capabilities("Name:\tx\nCapEff:\t0000000000080004\n") == 1 << 19 | 1 << 2
    assert checks.parse_capabilities("") == 0


def test_other_systems_are_refused():
    assert checks.check_kernel("Darwin", "25").status == "fail"


@pytest.mark.parametrize(
    ("release", "status"),
    [("5.3.0-1", "ok"), ("6.8.0", "ok"), ("4.18.0-553.el8", "fail"), ("weird", "ok")],
)
def test_old_kernels_are_refused(release, status):
    assert checks.check_kernel("Linux", release).status == status


def test_seccomp_is_named_when_reading_fails():
    refused = "Operation not permitted"
    found = check_node.check_seccomp("Seccomp:\t2\n", refused)
    assert (found.status, "process_vm_readv" in found.mend) == ("fail", True)
    found = check_node.check_seccomp("Seccomp:\t0\n", refused)
    assert (found.status, "AppArmor" in found.mend) == ("fail", True)
    assert check_node.check_seccomp("Seccomp:\t2\n", "").status == "ok"
    assert check_node.try_reading_a_child() == ""


def test_capabilities_have_names():
    assert "SYS_PTRACE" in check_node.check_user(0, PTRACE).detail
    assert "none that matter" in check_node.check_user(1000, 0).detail


def test_cgroups(tmp_path):
    assert check_node.check_cgroups(tmp_path).status == "warn"
    (tmp_path / "memory").mkdir()
    assert "v1" in check_node.check_cgroups(tmp_path).detail
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    assert check_node.check_cgroups(tmp_path).status == "ok"
    (tmp_path / "cgroup.controllers").write_text("cpu\n")
    assert check_node.check_cgroups(tmp_path).status == "warn"


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        *((status, "ok") for status in (200, 202, 400)),
        *((status, "fail") for status in (301, 302, 307, 401, 403, 404, 405, 407, 413, 415, 421)),
        *((status, "warn") for status in (408, 425, 429, 500, 502, 503)),
    ],
)
def test_the_right_to_write(status, expected):
    headers = {"Location": "https://c/login"}
    found = check_sending.judge_write("http://c", status, headers, with_token=True)
    assert found.status == expected
    assert bool(found.mend) == (expected != "ok")
    if status in {301, 302, 307}:
        assert "https://c/login" in found.mend


@pytest.mark.parametrize(("skew", "status"), [(2, "ok"), (-90, "warn"), (3600, "fail")])
def test_clocks_that_differ(skew, status):
    date = "Sun, 01 Mar 2026 12:00:00 GMT"
    found = check_sending.check_clock("http://c", date, 1772366400 + skew)
    assert found.status == status
    for other in ("soon", "Thu, 01 Jan 99999999999999999999 00:00:00 GMT"):
        assert check_sending.check_clock("http://c", other, 0).status == "ok"


def test_a_full_disk_is_told_in_advance(tmp_path):
    assert checks.check_state_dir(tmp_path, 1 << 60).status == "warn"


def test_a_look_at_the_state_directory_makes_nothing(tmp_path):
    assert checks.check_state_dir(tmp_path / "a" / "b", 1).status == "ok"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "spool").write_text("no directory")
    assert checks.check_state_dir(tmp_path, 1).status == "fail"
