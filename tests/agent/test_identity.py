"""Who a process is: container from cgroup paths as real nodes have them, service from its words."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from agent.conftest import TARGETS
from hypothesis import given
from hypothesis import strategies as st

from flamewell_agent.identity.container import Placement, parse_placement
from flamewell_agent.identity.host import Identity
from flamewell_agent.identity.service import python_service, tidy
from flamewell_agent.model import Process, ProcessKey

C = "0123456789abcdef" * 4
D = "fedcba9876543210" * 4
POD = "7f0c1a2b-3d4e-5f60-7182-93a4b5c6d7e8"
POD_ = POD.replace("-", "_")
HASH = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
ALLOC = "a1b2c3d4-e5f6-0718-293a-4b5c6d7e8f90"
IN_POD = Placement(container_id=C, pod_uid=POD)
BARE = Placement(container_id=C)

CGROUPS: list[tuple[str, Placement]] = [
    (f"/kubepods/burstable/pod{POD}/{C}", IN_POD),
    (f"/kubepods/besteffort/pod{POD}/{C}", IN_POD),
    (f"/kubepods/pod{POD}/{C}", IN_POD),
    (f"/kubepods/burstable/pod{HASH}/{C}", Placement(container_id=C, pod_uid=HASH)),
    (
        (
            f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{POD_}.slice/"
            f"cri-containerd-{C}.scope"
        ),
        IN_POD,
    ),
    (f"/kubepods.slice/kubepods-pod{POD_}.slice/cri-containerd-{C}.scope", IN_POD),
    (f"/kubepods.slice/kubepods-pod{POD_}.slice/crio-{C}.scope", IN_POD),
    (f"/kubepods.slice/kubepods-pod{POD_}.slice/crio-{C}.scope/container", IN_POD),
    (f"/kubepods.slice/kubepods-pod{POD_}.slice/docker-{C}.scope", IN_POD),
    (f"/system.slice/containerd.service/kubepods-pod{POD_}.slice:cri-containerd:{C}", IN_POD),
    (
        (
            f"/docker/{D}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{POD_}.slice/"
            f"cri-containerd-{C}.scope"
        ),
        IN_POD,
    ),
    (f"/docker/{D}/kubelet/kubepods/burstable/pod{POD}/{C}", IN_POD),
    (f"/../../pod{POD}/{C}", IN_POD),
    (f"/../cri-containerd-{C}.scope", BARE),
    (f"/docker/{C}", BARE),
    (f"/system.slice/docker-{C}.scope", BARE),
    (f"/machine.slice/libpod-{C}.scope", BARE),
    (f"/machine.slice/libpod-{C}.scope/container", BARE),
    (f"/libpod_parent/libpod-{C}", BARE),
    (f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{C}.scope", BARE),
    (f"/ecs/{HASH}/{C}", BARE),
    (f"/ecs/my-cluster/{HASH}/{C}", BARE),
    (f"/ecs/{HASH}-3012345678", Placement(container_id=f"{HASH}-3012345678")),
    (f"/nomad.slice/docker-{C}.scope", BARE),
    (
        f"/nomad.slice/share.slice/{ALLOC}.web.scope",
        Placement(nomad_alloc_id=ALLOC, nomad_task="web"),
    ),
    (
        f"/nomad.slice/reserve.slice/{ALLOC}.web.scope",
        Placement(nomad_alloc_id=ALLOC, nomad_task="web"),
    ),
    (
        f"/nomad.slice/{ALLOC}.my.task.scope",
        Placement(nomad_alloc_id=ALLOC, nomad_task="my.task"),
    ),
    (f"/nomad/{ALLOC}.web", Placement(nomad_alloc_id=ALLOC, nomad_task="web")),
    ("/system.slice/x.service", Placement(unit="x")),
    ("/system.slice/system-getty.slice/getty@tty1.service", Placement(unit="getty@tty1")),
    ("/user.slice/user-1000.slice/user@1000.service/app.slice", Placement(unit="user@1000")),
    (f"/machine.slice/libpod-conmon-{C}.scope", Placement()),
    (f"/kubepods.slice/kubepods-pod{POD_}.slice/crio-conmon-{C}.scope", Placement()),
    ("/", Placement()),
    ("", Placement()),
    ("/user.slice/user-0.slice/session-1.scope", Placement()),
    (f"/x/{C}0", Placement()),
    (f"/x/{C[:-1]}", Placement()),
]


@pytest.mark.parametrize(("cgroup", "placement"), CGROUPS)
def test_where_a_process_runs(cgroup, placement):
    assert parse_placement(cgroup) == placement


@given(st.text())
def test_any_cgroup_path_is_survived(cgroup):
    parse_placement(cgroup)
    parse_placement(f"/kubepods/pod{cgroup}/{C}")


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
        ("python3.11", "/venv/bin/python /venv/bin/gunicorn shop:app", "gunicorn"),
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
    return dict(Identity("node-1", root, {"label.team": "shop"}).resource(of).attributes)


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
    own = process(target.pid, cgroup=f"/docker/{C}")
    assert attributes(own)["service.name"] == "my_shop"


def test_workers_of_one_container_are_one_resource(tmp_path):
    identity = Identity("n", tmp_path, {})
    one, two = process(10, cgroup=f"/docker/{C}"), process(11, cgroup=f"/docker/{C}")
    assert identity.resource(one) == identity.resource(two)
    assert identity.service_name(one) == "app"


def test_a_process_is_looked_at_once_until_it_is_forgotten(tmp_path):
    folder = tmp_path / str(os.getpid())
    folder.mkdir()
    environ = folder / "environ"
    environ.write_bytes(b"OTEL_SERVICE_NAME=one\0")
    identity = Identity("n", tmp_path, {})
    own = process(os.getpid())
    assert identity.service_name(own) == "one"
    environ.write_bytes(b"OTEL_SERVICE_NAME=two\0")
    identity.keep_only([own])
    assert identity.service_name(own) == "one"
    identity.keep_only([])
    assert identity.service_name(own) == "two"
