"""``flamewell top|flame|diff|export`` against a server that plays recorded answers."""

from __future__ import annotations

import json
import os
import pty
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from command.recorded_collector import (
    CPU,
    DIFF,
    EMPTY_GRAPH,
    GRAPH,
    INUSE,
    TOP,
    Answer,
    RecordedCollector,
    serve,
)

from flamewell.cli import main

HOSTILE = "\x1b]0;owned\x07\x1b[2Jboo\r\x9b31m\u202e"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[RecordedCollector]:
    for name in ("FLAMEWELL_TOKEN", "COLUMNS", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    with serve() as recorded:
        monkeypatch.setenv("FLAMEWELL_URL", recorded.url)
        yield recorded


def table(text: str) -> list[list[str]]:
    """Split a printed table at its gaps."""
    return [
        [cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines()
    ]


def test_top_without_a_service_lists_the_services(collector, capsys) -> None:
    assert main(["top"]) == 0
    head, payments, orders = table(capsys.readouterr().out)
    assert head == ["SERVICE", "RUNTIME", "CPU", "MEMORY", "LIMIT", "LAST SEEN"]
    assert payments[:5] == ["payments", "cpython", "0.250 cores", "150 MiB", "512 MiB"]
    assert orders[:5] == ["orders", "go", "0.0123 cores", "-", "-"]


def test_top_lists_functions_in_human_units(collector, capsys) -> None:
    assert main(["top", "payments", "--since", "1h"]) == 0
    headline, total, _, *rows = capsys.readouterr().out.splitlines()
    assert headline.startswith("payments  process_cpu:cpu  from ")
    assert headline.endswith("(1 h)")
    assert total == "total: 15.0 min of CPU, 0.250 cores on average"
    assert table("\n".join(rows)) == [
        ["SELF %", "SELF", "TOTAL %", "TOTAL", "FUNCTION", "FILE"],
        ["66.7 %", "10.0 min", "66.7 %", "10.0 min", "burn", "/srv/app/burn.py:12"],
        ["0.0 %", "0 ns", "100.0 %", "15.0 min", "main", "/srv/app/main.py:3"],
    ]


def test_top_asks_for_what_was_given(collector) -> None:
    what = ["--type", "inuse_space", "--selector", '{namespace="prod",}', "--limit", "7"]
    when = ["--from", "1700000000", "--until", "1700000600000"]
    assert main(["top", 'a"b\\c', *what, *when]) == 0
    assert collector.asked("/api/v1/top").parameters == {
        "type": INUSE,
        "query": '{namespace="prod", service_name="a\\"b\\\\c"}',
        "from": "1700000000000",
        "until": "1700000600000",
        "limit": "7",
    }


def test_top_as_json_keeps_raw_values(collector, capsys) -> None:
    assert main(["top", "payments", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["type"], shown["unit"], shown["total"]) == (CPU, "nanoseconds", TOP["total"])
    assert shown["rows"] == TOP["rows"]
    assert main(["top", "--json"]) == 0
    services = json.loads(capsys.readouterr().out)["services"]
    assert [each["service_name"] for each in services] == ["payments", "orders"]


def test_an_unknown_service_says_which_exist(collector, capsys) -> None:
    collector.answers["/api/v1/top"] = Answer({"unit": "nanoseconds", "total": 0, "rows": []})
    assert main(["top", "paymets"]) == 1
    error = capsys.readouterr().err
    assert "there is no service paymets" in error
    assert "Did you mean payments?" in error
    assert "There are: payments, orders" in error


def test_a_service_without_that_type_says_which_it_has(collector, capsys) -> None:
    collector.answers["/api/v1/flamegraph"] = Answer(EMPTY_GRAPH)
    assert main(["flame", "orders", "--type", "goroutine"]) == 1
    error = capsys.readouterr().err
    assert "orders has no goroutine:goroutine profiles" in error
    assert "process_cpu:cpu, memory:inuse_space" in error


def test_nothing_at_all_says_to_look_at_the_agent(collector, capsys) -> None:
    collector.answers["/api/v1/services"] = Answer({"services": []})
    assert main(["top"]) == 1
    assert "flamewell-agent check" in capsys.readouterr().err


def test_flame_draws_a_tree(collector, capsys) -> None:
    assert main(["flame", "payments"]) == 0
    _, _, _, *lines = capsys.readouterr().out.splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        "100.0 % 15.0 min ██████████ total",
        "100.0 % 15.0 min ██████████ main /srv/app/main.py:3",
        "66.7 % 10.0 min ██████▋ ├─ burn /srv/app/burn.py:12 self 55.6 %",
        "11.1 % 1.67 min █▏ │ burn /srv/app/burn.py:12 self 11.1 %",
        "33.3 % 5.00 min ███▍ └─ sleepy self 33.3 %",
    ]


def test_flame_leaves_out_and_says_so(collector, capsys) -> None:
    assert main(["flame", "payments", "--min-percent", "20", "--depth", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("burn" in line for line in lines) == 1
    assert main(["flame", "payments", "--min-percent", "5", "--depth", "1"]) == 0
    assert "[+2 not shown: 100.0 %]" in capsys.readouterr().out


def test_flame_as_an_icicle_fits_the_width(collector, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "45")
    assert main(["flame", "payments", "--icicle"]) == 0
    _, _, _, *lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "|total",
        "|main",
        "|burn                         |sleepy",
        "|burn",
    ]


def test_colour_is_for_terminals_or_on_demand(collector, capsys) -> None:
    assert main(["flame", "payments"]) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert main(["flame", "payments", "--colour", "always"]) == 0
    assert "\x1b[38;5;" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [["top"], ["top", "x"], ["flame", "x"], ["flame", "x", "--icicle"], ["diff", "x"]],
    ids=" ".join,
)
def test_hostile_names_reach_no_terminal(collector, capsys, arguments) -> None:
    row = {"function": HOSTILE, "file": HOSTILE, "line": 1, "self": 5, "total": 5}
    names = {"functions": ["total", HOSTILE], "files": ["", HOSTILE], "lines": [0, 1]}
    rows = {"name": [0, 1], "depth": [0, 1], "self": [0, 900], "base_self": [0, 1]}
    service = {"service_name": HOSTILE, "runtime": HOSTILE, "types": [HOSTILE]}
    collector.answers = {
        "/api/v1/services": Answer({"services": [service]}),
        "/api/v1/top": Answer({"unit": "nanoseconds", "total": 5, "rows": [row]}),
        "/api/v1/flamegraph": Answer({**GRAPH, **names, **rows}),
        "/api/v1/diff": Answer({**DIFF, **names, **rows}),
    }
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert all(line.isprintable() for line in printed.split("\n"))
    assert "\\x1b]0;" in printed


def test_hostile_error_messages_reach_no_terminal(collector, capsys) -> None:
    body = {"error": {"code": "bad", "message": f"no {HOSTILE}"}}
    collector.answers["/api/v1/top"] = Answer(body, 400)
    assert main(["top", "x"]) == 2
    assert capsys.readouterr().err.removesuffix("\n").isprintable()


def test_diff_ranks_by_change_per_second(collector, capsys) -> None:
    assert main(["diff", "payments", "--since", "10m", "--base", "40m..20m"]) == 0
    _, base, now, _, *rows = capsys.readouterr().out.splitlines()
    assert base.endswith("(20 min): 0.167")
    assert now.endswith("(10 min): 1.50")
    assert table("\n".join(rows)) == [
        ["SELF CHANGE", "%", "BASE", "NOW", "TOTAL CHANGE", "FUNCTION", "FILE"],
        ["+0.875", "+700.0 %", "0.125", "1.00", "+0.875", "burn", "/srv/app/burn.py:12"],
        ["+0.500", "new", "0", "0.500", "+0.500", "sleepy"],
        ["-0.0417", "-100.0 %", "0.0417", "0", "+1.33", "main", "/srv/app/main.py:3"],
    ]
    asked = collector.asked("/api/v1/diff").parameters
    assert int(asked["base_until"]) - int(asked["base_from"]) == 20 * 60_000
    assert int(asked["from"]) - int(asked["base_until"]) == 10 * 60_000
    assert asked["base_query"] == asked["query"] == '{service_name="payments"}'


def test_diff_marks_what_is_gone_and_ranks_by_total_on_demand(collector, capsys) -> None:
    collector.answers["/api/v1/diff"] = Answer(
        {**DIFF, "self": [0, 9, 0, 0, 0], "base_self": [0, 0, 2 * 10**9, 0, 10**9]}
    )
    assert main(["diff", "payments", "--by", "total", "--limit", "2"]) == 0
    rows = table(capsys.readouterr().out)[5:]
    assert [row[5] for row in rows] == ["main", "burn"]
    assert rows[1][1] == "gone"


def test_diff_compares_with_the_time_right_before_by_default(collector) -> None:
    assert main(["diff", "payments", "--since", "30m", "--json"]) == 0
    asked = collector.asked("/api/v1/diff").parameters
    assert asked["base_until"] == asked["from"]
    assert int(asked["base_until"]) - int(asked["base_from"]) == 30 * 60_000


def test_diff_takes_the_base_in_two_parts(collector) -> None:
    arguments = ["--base-from", "1700000000", "--base-until", "1700000060"]
    assert main(["diff", "payments", *arguments]) == 0
    asked = collector.asked("/api/v1/diff").parameters
    assert (asked["base_from"], asked["base_until"]) == ("1700000000000", "1700000060000")


def test_diff_of_a_gauge_compares_averages(collector, capsys) -> None:
    collector.answers["/api/v1/diff"] = Answer(
        {**DIFF, "unit": "bytes", "self": [0, 3 << 20, 0, 0, 0], "base_self": [0, 1 << 20, 0, 0, 0]}
    )
    assert main(["diff", "orders", "--type", "inuse_space", "--base", "3h..1h"]) == 0
    assert table(capsys.readouterr().out)[5][:4] == [
        "+2.00 MiB",
        "+200.0 %",
        "1.00 MiB",
        "3.00 MiB",
    ]


def test_export_writes_a_file_whole(collector, tmp_path: Path, capsys) -> None:
    target = tmp_path / "payments.pb.gz"
    assert main(["export", "payments", "--format", "pprof", "-o", str(target)]) == 0
    assert target.read_bytes() == b"\x1f\x8b exported"
    assert list(tmp_path.iterdir()) == [target]
    assert "payments.pb.gz" in capsys.readouterr().err
    assert collector.asked("/api/v1/export").parameters["format"] == "pprof"


def test_export_to_standard_output_is_the_bytes(collector, capfdbinary) -> None:
    assert main(["export", "payments", "--format", "folded"]) == 0
    assert capfdbinary.readouterr().out == b"\x1f\x8b exported"


def test_export_of_an_unknown_service_leaves_the_file_alone(collector, tmp_path: Path) -> None:
    target = tmp_path / "old.svg"
    target.write_text("old")
    assert main(["export", "nobody", "--format", "svg", "-o", str(target)]) == 1
    assert target.read_text() == "old"


def test_a_broken_transfer_leaves_no_file(collector, tmp_path: Path, capsys) -> None:
    collector.answers["/api/v1/export"] = Answer(b"half", headers={"Content-Length": "4000"})
    assert main(["export", "payments", "-o", str(tmp_path / "x.pb.gz")]) == 1
    assert not list(tmp_path.iterdir())
    assert "broke its answer off" in capsys.readouterr().err


def test_export_into_a_folder_that_is_not_there(collector, tmp_path: Path, capsys) -> None:
    assert main(["export", "payments", "-o", str(tmp_path / "no" / "x.pb.gz")]) == 1
    assert "cannot write" in capsys.readouterr().err


def test_packed_answers_are_unpacked(collector, capsys) -> None:
    collector.answers["/api/v1/top"] = Answer(TOP, headers={"Content-Encoding": "gzip"})
    assert main(["top", "payments"]) == 0
    assert "burn" in capsys.readouterr().out
    assert collector.asked("/api/v1/top").headers["Accept-Encoding"] == "gzip"


def test_a_token_comes_from_the_environment_or_a_file(
    collector, monkeypatch, tmp_path: Path, capsys
) -> None:
    monkeypatch.setenv("FLAMEWELL_TOKEN", "from-environment")
    assert main(["top"]) == 0
    file = tmp_path / "token"
    file.write_text("from-file\n")
    assert main(["top", "--token-file", str(file)]) == 0
    assert [each.headers["Authorization"] for each in collector.requests] == [
        "Bearer from-environment",
        "Bearer from-file",
    ]
    file.write_text("two\nlines")
    assert main(["top", "--token-file", str(file)]) == 2
    assert main(["top", "--token-file", str(tmp_path / "none")]) == 2
    assert "two" not in capsys.readouterr().err


def test_a_redirect_is_not_followed_with_the_token(collector, monkeypatch, capsys) -> None:
    monkeypatch.setenv("FLAMEWELL_TOKEN", "secret")
    with serve() as elsewhere:
        collector.answers["/api/v1/services"] = Answer(
            b"", 302, {"Location": f"{elsewhere.url}/api/v1/services"}
        )
        assert main(["top"]) == 1
        assert not elsewhere.requests
    error = capsys.readouterr().err
    assert "redirects to" in error
    assert "secret" not in error


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (Answer({"error": {"code": "x", "message": "bad matcher"}}, 400), 2, "bad matcher"),
        (Answer({"error": {"code": "x", "message": "no"}}, 401), 1, "FLAMEWELL_TOKEN"),
        (Answer(b"<html>", 403), 1, "a token is needed"),
        (Answer(b"nothing", 404), 1, "not a flamewell collector"),
        (Answer({"error": {"code": "x", "message": "disk full"}}, 503), 1, "disk full"),
        (Answer(b"<html>hello"), 1, "is that a flamewell collector"),
        (Answer({"services": 5}), 1, "different versions"),
        (Answer([]), 1, "different versions"),
        (Answer(b"xx", headers={"Content-Length": "10"}), 1, "broke its answer off"),
    ],
)
def test_errors_are_told_in_words(collector, capsys, answer, status, words) -> None:
    collector.answers["/api/v1/services"] = answer
    assert main(["top"]) == status
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.startswith("flamewell: ")
    assert captured.out == ""


@pytest.mark.parametrize(
    "damage",
    [
        {"name": [0, 2, 1, 1]},
        {"name": [0, 2, 1, 1, 9]},
        {"depth": [0, 1, 3, 3, 2]},
        {"depth": [1, 1, 2, 3, 2]},
        {"depth": [0, 1, 2, 0, 1]},
        {"files": []},
        {"self": None},
        {"name": [], "depth": [], "self": []},
    ],
)
def test_columns_that_do_not_fit_are_refused(collector, capsys, damage) -> None:
    collector.answers["/api/v1/flamegraph"] = Answer({**GRAPH, **damage})
    assert main(["flame", "payments"]) == 1
    assert "different versions" in capsys.readouterr().err


def test_no_collector_says_how_to_start_one(monkeypatch, capsys) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert main(["top", "--url", url]) == 1
    error = capsys.readouterr().err
    assert f"cannot connect to {url}" in error
    assert "`flamewell up` starts one" in error


def test_a_silent_collector_is_given_up(capsys) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert main(["top", "--url", url, "--timeout", "0.2"]) == 1
    assert "did not answer within 0.2 s" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["top", "--url", "file:///etc/passwd"],
        ["top", "--url", "http://user:secret@host"],
        ["top", "--url", "http://host:99999"],
        ["top", "x", "--type", "contentions"],
        ["top", "x", "--type", "nonsense"],
        ["top", "x", "--since", "soon"],
        ["top", "x", "--since", "1h", "--from", "now-1h"],
        ["top", "x", "--from", "now", "--until", "now-1h"],
        ["top", "x", "--selector", "{a=1"],
        ["flame"],
        ["export"],
        ["diff", "x", "--base", "yesterday"],
        ["diff", "x", "--base", "2h..1h", "--base-from", "2h"],
        ["diff", "x", "--base-until", "2h"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_status_two(collector, capsys, arguments) -> None:
    assert main(arguments) == 2
    assert not collector.requests
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["top", "x", "--limit", "0"],
        ["flame", "x", "--min-percent", "nan"],
        ["export", "x", "--format", "gif"],
        ["flame", "x", "--depth", "-1"],
    ],
    ids=" ".join,
)
def test_wrong_options_are_status_two(arguments) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2


@pytest.mark.parametrize("command", ["top", "flame", "diff", "export"])
def test_help_has_examples(command: str, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert f"flamewell {command} payments" in text
    assert "exit status" in text


def test_it_imports_the_standard_library_alone(collector) -> None:
    program = (
        "import sys; from flamewell.cli import main; main(['top', 'payments'])\n"
        "roots = {name.partition('.')[0] for name in sys.modules}\n"
        "own = {'flamewell', 'flamewell_wire', '__main__', '__mp_main__'}\n"
        "foreign = roots - set(sys.stdlib_module_names) - own\n"
        "print(sorted(name for name in foreign if name in ("
        "'numpy', 'flask', 'google', 'pyarrow', 'psutil', 'urllib3', 'yaml', 'orjson')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_closed_pipe_is_no_error(collector) -> None:
    rows = [{**TOP["rows"][0], "function": f"f{n}" * 50} for n in range(5_000)]
    collector.answers["/api/v1/top"] = Answer({**TOP, "rows": rows})
    done = subprocess.run(
        f"{sys.executable} -m flamewell top payments --limit 5000 | head -n 1",
        shell=True,
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("payments")
    assert done.stderr == ""


def test_an_output_that_holds_no_block_characters_gets_ascii(collector) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flamewell", "flame", "payments"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=True,
    )
    assert b"######" in done.stdout
    assert b"`- sleepy" in done.stdout


def on_a_terminal(arguments: list[str], **environ: str) -> str:
    """Run the command on a terminal of its own; give what it wrote there, errors included."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "flamewell", *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, "TERM": "xterm-256color", **environ},
    )
    os.close(slave)
    parts = []
    try:
        while part := os.read(master, 4096):
            parts.append(part)
    except OSError:  # EIO: the other side is closed
        pass
    finally:
        os.close(master)
        process.wait()
    return b"".join(parts).decode()


def test_lines_fit_a_terminal_and_are_coloured(collector) -> None:
    deep = list(range(60))
    collector.answers["/api/v1/flamegraph"] = Answer(
        {
            **GRAPH,
            "functions": ["total", *(f"function_with_a_long_name_{n}" for n in deep)],
            "files": ["", *(f"/a/long/path/to/some/file_{n}.py" for n in deep)],
            "lines": [0, *deep],
            "name": [0, *(n + 1 for n in deep), 1],
            "depth": [0, *(n + 1 for n in deep), 60],
            "self": [0, *(10 for _ in deep), 300],
        }
    )
    shown = on_a_terminal(["flame", "payments"], COLUMNS="60")
    assert "\x1b[38;5;" in shown
    for line in shown.splitlines()[3:]:
        plain = "".join(part.partition("m")[2] for part in f"m{line}".split("\x1b["))
        assert len(plain) <= 60, plain


def test_no_color_is_honoured(collector) -> None:
    assert "\x1b[" not in on_a_terminal(["top", "payments"], NO_COLOR="1")


def test_a_slow_answer_shows_progress_on_a_terminal(collector) -> None:
    release = threading.Event()

    def slow(_request) -> Answer:
        release.wait(2.0)
        return Answer(TOP)

    collector.answers["/api/v1/top"] = slow
    shown = on_a_terminal(["top", "payments"], NO_COLOR="1")
    assert "reading top: waiting, 1 s" in shown
    assert shown.rpartition("\x1b[K")[2].startswith("payments")


def test_binary_is_not_written_to_a_terminal(collector) -> None:
    assert "give -o FILE" in on_a_terminal(["export", "payments", "--format", "pprof"])
