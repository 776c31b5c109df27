"""Who a process on a plain host is: its container, and its service from its own words."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from agent.conftest import TARGETS
from hypothesis import given
from hypothesis import strategies as st

from flamewell_agent import procfs
from flamewell_agent.identity.resolver import Identity
from flamewell_agent.identity.service import python_service, tidy
from flamewell_agent.model import Process, ProcessKey

C = "0123456789abcdef" * 4
ALLOC = "a1b2c3d4-e5f6-0718-293a-4b5c6d7e8f90"


@pytest.mark.parametrize(
    ("executable", "arguments", "name"),
    [
        ("python3.11", "python app.py", "app"),
        ("python3.11", "python3 -u ./server.py --port 80", "server"),
        ("python3.11", "python -m pkg.mod -v", "pkg.mod"),
        ("python3.11", "python -X dev -W error -m http.server", "http.server"),
        ("python3.11", "python -c print(1)", "python3.11"),
        ("python3.11", "python", "python3.11"),
        ("python3.11", "python -", "python3.11"),
        ("python3.11", "/venv/bin/python /venv/bin/gunicorn shop:app", "shop"),
        ("python3.11", "/usr/bin/python3 /usr/bin/celery worker", "celery"),
        ("python3.11", "python /srv/shop/manage.py runserver", "shop"),
        ("python3.11", "python /srv/payments/main.py", "payments"),
        ("python3.11", "python /app/main.py", "main"),
        ("python3.11", "python /srv/pkg/__main__.py", "pkg"),
        ("uwsgi", "uwsgi --ini x.ini", "uwsgi"),
        ("myservice", "myservice --serve", "myservice"),
    ],
)
def test_a_python_process_is_named_for_its_program(executable, arguments, name):
    assert python_service(executable, tuple(arguments.split())) == name


def test_a_process_without_arguments_has_a_name_too():
    assert python_service("python3.11", ()) == "python3.11"


@given(st.text(), st.lists(st.text(), max_size=5))
def test_a_name_is_always_fit_for_a_label(executable, cmdline):
    name = python_service(executable, cmdline)
    assert name
    assert len(name) <= 120
    assert name.isprintable()


def test_tidy_keeps_what_is_fit():
    assert tidy("shop-é.v1:x/y@z+1") == "shop-é.v1:x/y@z+1"
    assert tidy("a\n\x00b c") == "a_b_c"
    assert tidy("") == "unknown"


def process(pid: int = 0, **changed: object) -> Process:
    fields = {
        "key": ProcessKey(pid, 1),
        "runtime": "cpython",
        "runtime_version": "3.11",
        "executable": "python3.11",
        "cmdline": ("python", "app.py"),
        **changed,
    }
    return Process(**fields)


def attributes(of: Process, root: Path = Path("/proc")) -> dict[str, str]:
    return dict(Identity("node-1", root, {"label.team": "shop"}).subject(of).resource.attributes)


def test_the_attributes_of_a_python_process(tmp_path):
    assert attributes(process(), tmp_path) == {
        "host.name": "node-1",
        "label.team": "shop",
        "process.executable.name": "python3.11",
        "process.runtime.name": "cpython",
        "process.runtime.version": "3.11",
        "service.name": "app",
    }


def test_a_container_is_told_by_its_id(tmp_path):
    found = attributes(process(cgroup=f"/docker/{C}"), tmp_path)
    assert found["container.id"] == C
    assert found["container.name"] == C[:12]


def test_names_of_others(tmp_path):
    go = process(runtime="go", executable="orders", cmdline=("./orders",), cgroup="/")
    assert attributes(go, tmp_path)["service.name"] == "orders"
    unit = process(runtime="other", executable="nginx", cgroup="/system.slice/web.service")
    assert attributes(unit, tmp_path)["service.name"] == "web"
    user = process(runtime="other", executable="vim", cgroup="/user.slice/user@1.service/a.slice")
    assert attributes(user, tmp_path)["service.name"] == "vim"
    nomad = process(cgroup=f"/nomad/{ALLOC}.web")
    assert attributes(nomad, tmp_path)["service.name"] == "web"


def test_what_the_process_calls_itself_comes_first(spawn):
    target = spawn(
        sys.executable, str(TARGETS / "sleeper.py"), env={"OTEL_SERVICE_NAME": "my shop"}
    )
    started = procfs.read_stat(Path("/proc"), target.pid).start_ticks
    own = process(key=ProcessKey(target.pid, started), cgroup=f"/docker/{C}")
    assert attributes(own)["service.name"] == "my_shop"


def test_the_words_of_another_process_with_the_same_pid_do_not_count(spawn):
    target = spawn(
        sys.executable, str(TARGETS / "sleeper.py"), env={"OTEL_SERVICE_NAME": "my shop"}
    )
    before = procfs.read_stat(Path("/proc"), target.pid).start_ticks - 1
    assert attributes(process(key=ProcessKey(target.pid, before)))["service.name"] == "app"


def test_workers_of_one_container_are_one_resource(tmp_path):
    identity = Identity("n", tmp_path, {})
    one, two = process(10, cgroup=f"/docker/{C}"), process(11, cgroup=f"/docker/{C}")
    assert identity.subject(one).resource == identity.subject(two).resource
    assert identity.subject(one).service_name == "app"


def test_a_process_is_looked_at_once_until_it_is_forgotten(tmp_path):
    folder = tmp_path / "7"
    folder.mkdir()
    (folder / "stat").write_text("7 (x) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 1 0 0")
    environ = folder / "environ"
    environ.write_bytes(b"OTEL_SERVICE_NAME=one\0")
    identity = Identity("n", tmp_path, {})
    own = process(7)
    assert identity.subject(own).service_name == "one"
    environ.write_bytes(b"OTEL_SERVICE_NAME=two\0")
    identity.keep_only([own])
    assert identity.subject(own).service_name == "one"
    identity.keep_only([])
    assert identity.subject(own).service_name == "two"
