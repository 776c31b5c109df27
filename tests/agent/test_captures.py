"""strace and gdb on real processes, and that no tracer ever stays behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from agent.conftest import Spawn

from flamewell_agent import procfs, trace_guard, trace_record
from flamewell_agent.captures import Tracers, judge, make_command, parse_said, printable
from flamewell_agent.model import ProcessKey
from flamewell_agent.trace_guard import Kept, Outcome

needs_strace = pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
needs_gdb = pytest.mark.skipif(not shutil.which("gdb"), reason="gdb is not installed")
BUSY = "import os\nwhile True: os.stat('/')"
THREADS = """
import threading, time
for _ in range(3): threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
time.sleep(1000)
"""


def key_of(pid: int) -> ProcessKey:
    return ProcessKey(pid, procfs.read_stat(Path("/proc"), pid).start_ticks)


def started(spawn: Spawn, program: str = BUSY) -> ProcessKey:
    child = spawn(sys.executable, "-S", "-c", program)
    wait_for(lambda: b"-c" in Path(f"/proc/{child.pid}/cmdline").read_bytes())
    return key_of(child.pid)


def wait_for(condition: Any, seconds: float = 20) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)
    return found


def is_free(pid: int) -> bool:
    """Whether a process is neither stopped nor traced."""
    state, tracer, _ = trace_guard.look(pid)
    return bool(state) and state not in {"T", "t"} and not tracer


def run(kind: Any, key: ProcessKey, seconds: int = 10, stop: threading.Event | None = None) -> Any:
    return Tracers().run(kind, key, seconds, stop or threading.Event())


@needs_strace
def test_strace_counts_system_calls(spawn: Spawn, caplog: pytest.LogCaptureFixture) -> None:
    key = started(spawn)
    result = run("strace", key, 1)
    assert (result.state, "13 to 25 times" in result.detail) == ("done", True), result
    assert "stat" in result.text
    assert "calls" in result.text
    assert is_free(key.pid)
    assert "13 to 25 times slower" in caplog.text
    assert {record.levelname for record in caplog.records} == {"WARNING"}


@needs_gdb
def test_gdb_shows_every_thread(spawn: Spawn) -> None:
    key = started(spawn, THREADS)
    wait_for(lambda: len(list(Path(f"/proc/{key.pid}/task").iterdir())) == 4)
    result = run("gdb", key)
    assert result.state == "done", result
    for number in (1, 2, 3, 4):
        assert f"Thread {number} " in result.text
    assert is_free(key.pid)


@needs_gdb
def test_gdb_shows_no_line_of_any_file_and_no_values(spawn: Spawn) -> None:
    key = started(spawn, THREADS)
    text = run("gdb", key).text
    assert "No such file" not in text, "it looked for a source"
    assert "=0x" not in text
    assert '="' not in text


@needs_gdb
def test_gdb_takes_no_orders_from_files_of_the_target(spawn: Spawn, tmp_path: Path) -> None:
    witness, program = tmp_path / "witness", tmp_path / "program"
    shutil.copy("/bin/sleep", program)
    for name in (".gdbinit", "program-gdb.gdb"):
        (tmp_path / name).write_text(f"shell touch {witness}\n")
    (tmp_path / "program-gdb.py").write_text(f"open({str(witness)!r}, 'w')\n")
    child = subprocess.Popen([program, "1000"], cwd=tmp_path)
    try:
        assert run("gdb", key_of(child.pid)).state == "done"
    finally:
        child.kill()
        child.wait()
    assert not witness.exists()


@pytest.mark.parametrize("kind", ["strace", "gdb"])
def test_a_program_that_is_missing_is_named(spawn: Spawn, kind: Any, tmp_path: Path) -> None:
    result = Tracers(str(tmp_path)).run(kind, key_of(os.getpid()), 1, threading.Event())
    assert (result.state, f"apt-get install {kind}" in result.detail) == ("refused", True)


@needs_strace
def test_another_process_under_the_same_pid_is_left_alone(spawn: Spawn) -> None:
    key = started(spawn)
    result = run("strace", ProcessKey(key.pid, key.start_ticks - 1), 5)
    assert (result.state, result.detail) == ("failed", "the process has ended")
    assert not result.text


@needs_strace
def test_a_stopped_process_stays_stopped_and_untraced(spawn: Spawn) -> None:
    key = started(spawn)
    os.kill(key.pid, signal.SIGSTOP)
    wait_for(lambda: trace_guard.look(key.pid)[0] == "T")
    result = run("strace", key, 1)
    assert (result.state, result.detail) == ("refused", "the process is stopped")
    assert trace_guard.look(key.pid)[0] == "T"


@needs_strace
def test_one_at_a_time_and_not_what_another_program_traces(spawn: Spawn) -> None:
    key = started(spawn)
    tracers, stop, results = Tracers(), threading.Event(), []
    thread = threading.Thread(target=lambda: results.append(tracers.run("strace", key, 10, stop)))
    thread.start()
    try:
        wait_for(lambda: trace_guard.look(key.pid)[1])
        guard, tracer = tracers.children()
        assert trace_guard.look(key.pid)[1] == tracer
        assert guard != tracer
        again = tracers.run("strace", key, 1, threading.Event())
        assert (again.state, "another tracing capture" in again.detail) == ("refused", True)
        other = run("strace", key, 1)
        assert (other.state, "traced by another" in other.detail) == ("refused", True)
    finally:
        stop.set()
        thread.join()
    assert results[0].state == "failed"
    assert "called off" in results[0].detail
    assert tracers.children() == ()
    assert is_free(key.pid)


@needs_strace
def test_a_target_that_ends_is_told_as_far_as_it_went(spawn: Spawn) -> None:
    child = spawn(sys.executable, "-S", "-c", "import time; time.sleep(1.5)")
    time.sleep(0.2)
    result = run("strace", key_of(child.pid), 10)
    assert result.state == "done", result
    assert "total" in result.text


AGENT = """
import sys, threading
sys.path[:0] = {path!r}
from flamewell_agent.captures import Tracers
from flamewell_agent.model import ProcessKey
print(Tracers().run({kind!r}, ProcessKey({pid}, {ticks}), 10, threading.Event()), flush=True)
"""


def agent_tracing(spawn: Spawn, kind: str, key: ProcessKey) -> subprocess.Popen[bytes]:
    text = AGENT.format(path=sys.path, kind=kind, pid=key.pid, ticks=key.start_ticks)
    return spawn(sys.executable, "-c", text)


def descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


@needs_strace
@pytest.mark.parametrize("victims", ["agent", "guard", "agent and guard", "tracer"])
def test_whoever_is_killed_the_target_goes_on(spawn: Spawn, victims: str) -> None:
    key = started(spawn)
    agent = agent_tracing(spawn, "strace", key)
    wait_for(lambda: trace_guard.look(key.pid)[1])
    guard, tracer = descendants(agent.pid)
    for name, pid in (("agent", agent.pid), ("guard", guard), ("tracer", tracer)):
        if name in victims:
            os.kill(pid, signal.SIGKILL)
    agent.wait(20)
    wait_for(lambda: not any(trace_guard.look(pid)[0] for pid in (guard, tracer)))
    wait_for(lambda: is_free(key.pid))
    before = procfs.read_stat(Path("/proc"), key.pid).cpu_ticks
    wait_for(lambda: procfs.read_stat(Path("/proc"), key.pid).cpu_ticks > before)


@needs_gdb
@pytest.mark.parametrize("victim", ["agent", "guard", "tracer"])
def test_gdb_that_is_cut_off_leaves_nothing_stopped(spawn: Spawn, victim: str) -> None:
    key = started(spawn)
    agent = agent_tracing(spawn, "gdb", key)
    wait_for(lambda: trace_guard.look(key.pid)[1])
    family = descendants(agent.pid)
    pid = {"agent": agent.pid, "guard": family[0], "tracer": family[-1]}[victim]
    os.kill(pid, signal.SIGKILL)
    agent.wait(20)
    wait_for(lambda: not any(trace_guard.look(each)[0] for each in family))
    wait_for(lambda: is_free(key.pid))


def test_children_of_a_tracer_end_with_it(spawn: Spawn, tmp_path: Path) -> None:
    """As strace's own, when strace is killed at its start."""
    orphan = tmp_path / "orphan"
    program = tmp_path / "strace"
    program.write_text(f"#!/bin/sh\nsleep 1000 >/dev/null &\necho $! >{orphan}\nkill -9 $$\n")
    program.chmod(0o755)
    assert (
        Tracers(str(tmp_path)).run("strace", started(spawn), 5, threading.Event()).state == "failed"
    )
    pid = int(orphan.read_text())
    wait_for(lambda: not trace_guard.look(pid)[0])


def test_a_tracer_that_hangs_is_killed(spawn: Spawn, tmp_path: Path) -> None:
    """One that neither attaches nor hears the polite signal."""
    stubborn = tmp_path / "strace"
    stubborn.write_text("#!/bin/sh\ntrap '' INT TERM\necho on\nwhile :; do sleep 1; done\n")
    stubborn.chmod(0o755)
    key = started(spawn)
    result = Tracers(str(tmp_path)).run("strace", key, 1, threading.Event())
    assert "had to be killed" in result.detail
    assert is_free(key.pid)


def test_a_process_left_stopped_is_set_going_again(spawn: Spawn) -> None:
    key = started(spawn)
    os.kill(key.pid, signal.SIGSTOP)
    wait_for(lambda: trace_guard.look(key.pid)[0] == "T")
    target = os.pidfd_open(key.pid)
    try:
        assert trace_guard.release(key.pid, target) == "continued"
        assert is_free(key.pid)
        os.kill(key.pid, signal.SIGKILL)
        assert wait_for(lambda: trace_guard.release(key.pid, target) == "gone")
    finally:
        os.close(target)


def test_a_process_left_stopped_by_a_killed_container_is_set_going_at_the_start(
    spawn: Spawn, tmp_path: Path
) -> None:
    key, other = started(spawn), started(spawn)
    record = tmp_path / "traced.json"
    trace_record.write(record, key)
    for each in (key, other):
        os.kill(each.pid, signal.SIGSTOP)
        wait_for(lambda pid=each.pid: trace_guard.look(pid)[0] == "T")
    Tracers(record=record).rescue()
    assert is_free(key.pid)
    assert not is_free(other.pid)
    assert not record.exists()
    # Another process by now, or another boot: nobody's business.
    trace_record.write(record, ProcessKey(other.pid, other.start_ticks + 1))
    Tracers(record=record).rescue()
    assert not is_free(other.pid)
    for content in (b"", b"[]", b"{", json.dumps({"boot": "x", **other._asdict()}).encode()):
        record.write_bytes(content)
        Tracers(record=record).rescue()
        assert not is_free(other.pid)


@needs_strace
def test_whom_is_traced_is_on_record_meanwhile(spawn: Spawn, tmp_path: Path) -> None:
    key, stop, record = started(spawn), threading.Event(), tmp_path / "traced.json"
    tracers = Tracers(record=record)
    thread = threading.Thread(target=tracers.run, args=("strace", key, 10, stop))
    thread.start()
    wait_for(lambda: trace_guard.look(key.pid)[1])
    assert trace_record.read(record) == key
    stop.set()
    thread.join()
    assert trace_record.read(record) is None


def test_a_flood_of_output_is_bounded() -> None:
    kept = Kept(half_bytes=10)
    for part in (b"0123456", b"789abcdef", b"x" * 100, b"the end"):
        kept.add(part)
    assert kept.content() == b"0123456789\n... 103 bytes left out ...\nxxxthe end"
    short = Kept(half_bytes=10)
    short.add(b"0123456789ab")
    assert short.content() == b"0123456789ab"


def test_nothing_of_the_target_stands_in_a_command_line() -> None:
    assert make_command("strace", "/s", 5) == ["/s", "-c", "-f", "-q", "-p", "5"]
    command = make_command("gdb", "/g", os.getpid())
    assert command[0] == "/g"
    assert "set auto-load off" in command
    assert "set sysroot /" in command
    assert command[-4:-2] == [str(os.getpid()), f"/proc/{os.getpid()}/exe"]
    assert "set sysroot /nonexistent" in make_command("gdb", "/g", 2**22 + 1)


@pytest.mark.parametrize(
    ("outcome", "text", "state", "words"),
    [
        (Outcome("time_up", attached=True, seconds=5.0), "", "done", "5.0 s"),
        (Outcome(exit_code=1), "ptrace: Operation not permitted.", "failed", "CAP_SYS_PTRACE"),
        (Outcome(exit_code=1), "bad\nworse", "failed", "worse"),
        (Outcome("time_up", attached=True, target="held"), "", "failed", "SIGCONT"),
        (Outcome("time_up", attached=True, target="continued"), "", "done", "set going again"),
        (Outcome("no_start", detail="exec"), "", "failed", "exec"),
    ],
)
def test_judge(outcome: Outcome, text: str, state: str, words: str) -> None:
    result = judge("gdb", outcome, text)
    assert (result.state, words in result.detail) == (state, True), result


def test_what_the_guard_says_is_taken_with_care() -> None:
    assert parse_said(b"") == (None, b"")
    assert parse_said(b'{"more": 1}\n') == (None, b"")
    said = json.dumps({"ended": "done"}).encode() + b"\nout\nput"
    assert parse_said(said) == (Outcome("done"), b"out\nput")
    assert printable(b"a\x1b[2J\xff\tb\n") == "a\ufffd[2J\ufffd\tb\n"
    assert len(printable(b"\xe2\x82\xac" * 400_000).encode()) <= 1_000_000
