"""All sources joined: rules, limits of what is sent, threads, what is published late."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from agent.conftest import TARGETS
from agent.test_process_context import publish  # noqa: F401 - a fixture
from hypothesis import given
from hypothesis import strategies as st

from flamewell_agent.identity.pods import Pod, PodContainer
from flamewell_agent.identity.resolver import Identity
from flamewell_agent.identity.service import VALUE_BYTES_AT_MOST
from flamewell_agent.model import Process, ProcessKey, SamplingOptions
from flamewell_agent.procfs import read_stat
from flamewell_agent.relabel import parse_rules
from flamewell_wire.attributes import LABEL_ATTRIBUTE_PREFIX, LABEL_OF_ATTRIBUTE

C = "0123456789abcdef" * 4
UID = "7f0c1a2b-3d4e-5f60-7182-93a4b5c6d7e8"
STAT = "{pid} (x) S 1 1 1 0 -1 0 0 0 0 0 5 6 0 0 20 0 1 0 1 0 0 1 1 1 1 9"
PROC = Path("/proc")


class FixedPods:
    """Knows one pod; it can be changed."""

    def __init__(self, pod: Pod | None) -> None:
        self.revision = 1
        self.asked = 0
        self.pod = pod

    def change(self, pod: Pod | None) -> None:
        self.pod = pod
        self.revision += 1

    def find(self, container_id: str, pod_uid: str) -> tuple[Pod, PodContainer | None] | None:
        self.asked += 1
        if self.pod is None:
            return None
        mine = (each for each in self.pod.containers if each.id == container_id)
        return self.pod, next(mine, None)


def process(pid: int = 0, **changed: object) -> Process:
    fields = {
        "key": ProcessKey(pid, 1),
        "runtime": "cpython",
        "runtime_version": "3.11",
        "executable": "python3.11",
        "cmdline": ("python", "app.py"),
        "cgroup": f"/kubepods/pod{UID}/{C}",
        **changed,
    }
    return Process(**fields)


def pod(**changed: object) -> Pod:
    fields = {
        "uid": UID,
        "namespace": "shop",
        "name": "pay-1",
        "workload_kind": "Deployment",
        "workload_name": "pay",
        "containers": (PodContainer("web", C, "pay:1"),),
        **changed,
    }
    return Pod(**fields)


def named(root: Path, of: Process, pods: FixedPods | None = None, **options: Any):
    if "rules" in options:
        options["rules"] = parse_rules(options["rules"])
    return Identity("n1", root, {}, pods=pods, **options).subject(of)


def attributes(root: Path, of: Process, pods: FixedPods | None = None, **options: Any):
    return dict(named(root, of, pods, **options).resource.attributes)


def labels(found: dict[str, str]) -> set[str]:
    free = {each[len(LABEL_ATTRIBUTE_PREFIX) :] for each in found if each.startswith("label.")}
    return free | {LABEL_OF_ATTRIBUTE[each] for each in found if each in LABEL_OF_ATTRIBUTE}


def write(root: Path, pid: int, environ: bytes) -> None:
    (root / str(pid)).mkdir()
    (root / str(pid) / "environ").write_bytes(environ)
    (root / str(pid) / "stat").write_text(STAT.format(pid=pid))


def test_a_process_in_a_pod(tmp_path):
    assert attributes(tmp_path, process(), FixedPods(pod())) == {
        "container.id": C,
        "flamewell.workload.kind": "Deployment",
        "flamewell.workload.name": "pay",
        "host.name": "n1",
        "k8s.container.name": "web",
        "k8s.namespace.name": "shop",
        "k8s.pod.name": "pay-1",
        "process.executable.name": "python3.11",
        "process.runtime.name": "cpython",
        "process.runtime.version": "3.11",
        "service.name": "pay",
    }


ANNOTATED = pod(annotations={"flamewell.dev/service_name": "asked for"})
CALLED = b"OTEL_SERVICE_NAME=called\0NOMAD_TASK_NAME=task\0"


@pytest.mark.parametrize(
    ("where", "environ", "changed", "name"),
    [
        (ANNOTATED, CALLED, {}, "asked_for"),
        (pod(), CALLED, {}, "called"),
        (pod(), b"OTEL_RESOURCE_ATTRIBUTES=service.name=listed\0", {}, "listed"),
        (pod(), b"NOMAD_TASK_NAME=task\0", {}, "pay"),
        (pod(workload_name=""), b"NOMAD_TASK_NAME=task\0", {}, "shop/web"),
        (pod(workload_name="", containers=()), b"NOMAD_TASK_NAME=task\0", {}, "task"),
        (None, b"NOMAD_TASK_NAME=task\0", {}, "task"),
        (None, b"", {}, "app"),
        (None, b"", {"cgroup": "/system.slice/web.service"}, "app"),
        (None, b"", {"cgroup": "/system.slice/web.service", "runtime": "other",
                     "executable": "nginx"}, "web"),
        (None, b"", {"runtime": "go", "executable": "orders"}, "orders"),
    ],
)  # fmt: skip
def test_which_name_wins(tmp_path, where, environ, changed, name):
    write(tmp_path, 5, environ)
    assert named(tmp_path, process(5, **changed), FixedPods(where)).service_name == name


def test_a_version_of_the_process_wins_over_that_of_its_pod(tmp_path):
    labelled = FixedPods(pod(labels={"app.kubernetes.io/version": "1"}))
    write(tmp_path, 5, b"OTEL_RESOURCE_ATTRIBUTES=service.version=2\0")
    assert attributes(tmp_path, process(5), labelled)["service.version"] == "2"
    assert attributes(tmp_path, process(6), labelled)["service.version"] == "1"


def test_rules_drop_name_and_tune(tmp_path):
    rules = [
        {"source_labels": ["__meta_process_executable"], "regex": "bash", "action": "drop"},
        {"source_labels": ["namespace", "service_name"], "separator": "/",
         "target_label": "service_name"},
        {"regex": "__meta_kubernetes_pod_label_(team)", "action": "labelmap"},
        {"regex": "node|pod", "action": "labeldrop"},
        {"target_label": "__rate_hz__", "replacement": "20"},
        {"target_label": "__wall__", "replacement": "true"},
    ]  # fmt: skip
    pods = FixedPods(pod(labels={"team": "blue"}))
    subject = named(tmp_path, process(), pods, rules=rules)
    found = dict(subject.resource.attributes)
    assert subject.service_name == found["service.name"] == "shop/pay"
    assert found["label.team"] == "blue"
    assert not {"host.name", "k8s.pod.name"} & set(found)
    assert not [each for each in found if "__" in each]
    assert found["container.id"] == C
    assert subject.options == SamplingOptions(rate_hz=20, wall=True)
    shell = process(executable="bash", runtime="other")
    assert named(tmp_path, shell, pods, rules=rules).refused == "dropped_by_relabelling"


def test_rules_see_annotations_and_may_take_them_back(tmp_path):
    pods = FixedPods(
        pod(annotations={"flamewell.dev/native": "true", "flamewell.dev/rate_hz": "9"})
    )
    rules = [{"target_label": "__native__", "replacement": ""}]
    assert named(tmp_path, process(), pods, rules=rules).options == SamplingOptions(rate_hz=9)
    nonsense = [{"target_label": "__rate_hz__", "replacement": "many"}]
    assert named(tmp_path, process(), pods, rules=nonsense).options == SamplingOptions(native=True)


def test_the_service_s_name_can_not_be_removed(tmp_path):
    rules = [{"regex": "service_name|executable", "action": "labeldrop"}]
    assert named(tmp_path, process(), rules=rules).service_name == "python3.11"


def test_an_owner_s_refusal_stands_whatever_rules_say(tmp_path):
    pods = FixedPods(
        pod(
            ip="10.0.0.1",
            annotations={
                "flamewell.dev/profile": "false",
                "profiles.grafana.com/cpu.scrape": "true",
                "profiles.grafana.com/cpu.port": "80",
            },
        )
    )
    subject = named(tmp_path, process(), pods, rules=[{"target_label": "x", "replacement": "y"}])
    assert subject.refused == "opted_out"
    assert subject.scrapes == ()


def test_a_pod_s_label_does_not_pass_for_one_of_the_agent_s(tmp_path):
    owner = {"service_name": "bank", "node": "n9", "2nd": "x", "a.b/c-d": "e", "__x": "y"}
    found = attributes(
        tmp_path, process(), FixedPods(pod(labels=owner)), pod_labels=[*owner, "absent"]
    )
    assert found["service.name"] == "pay"
    assert found["host.name"] == "n1"
    assert {name: value for name, value in found.items() if name.startswith("label.")} == {
        "label.pod_label_service_name": "bank",
        "label.pod_label_node": "n9",
        "label._2nd": "x",
        "label.a_b_c_d": "e",
        "label.pod_label___x": "y",
    }


def test_what_is_sent_keeps_to_the_collector_s_limits(tmp_path):
    """30 labels a series, of which three come with samples; 2,048 bytes a value."""
    many = {f"l{at:03}": "é" * 5000 for at in range(300)}
    write(
        tmp_path, 5, b"".join(b"NOMAD_%s=x\0" % each for each in (b"JOB_NAME", b"DC", b"ALLOC_ID"))
    )
    bad = pod(
        labels=many,
        name="n\x00" * 5000,
        workload_kind="k" * 5000,
        workload_name="w\u202e" * 5000,
        containers=(PodContainer("c\n" * 5000, C, "i"),),
    )
    identity = Identity(
        "n1", tmp_path, {"label.zone": "z"}, pods=FixedPods(bad), pod_labels=list(many),
        rules=parse_rules([{"action": "labelmap", "regex": "__meta_kubernetes_pod_label_(.+)",
                            "replacement": "more_$1"}]),
    )  # fmt: skip
    found = dict(identity.subject(process(5, runtime_version="\udcff" * 999)).resource.attributes)
    assert len(labels(found)) == 27
    assert found["label.zone"] == "z", "what the operator configured stays"
    for value in found.values():
        assert value.isprintable()
        assert len(value.encode()) <= VALUE_BYTES_AT_MOST


hostile = st.text(max_size=30)


texts = st.dictionaries(hostile, hostile, max_size=4)
containers = st.lists(st.builds(PodContainer, hostile, st.just(C), hostile), max_size=1)
any_pod = st.builds(
    Pod,
    uid=hostile,
    namespace=hostile,
    name=hostile,
    ip=hostile,
    host_network=st.booleans(),
    labels=texts,
    annotations=texts,
    workload_kind=hostile,
    workload_name=hostile,
    containers=containers.map(tuple),
)


@given(any_pod, hostile, st.lists(hostile, max_size=4))
def test_whatever_a_pod_says_can_be_sent(pod, executable, cmdline):
    identity = Identity(
        "n", Path("/nowhere"), {}, pods=FixedPods(pod), pod_labels=list(pod.labels),
        rules=parse_rules([{"action": "labelmap", "regex": "__meta_(.+)"}]),
    )  # fmt: skip
    subject = identity.subject(process(executable=executable, cmdline=tuple(cmdline)))
    found = dict(subject.resource.attributes)
    assert found["service.name"] == subject.service_name
    assert subject.service_name
    assert all(each and each.isprintable() for each in found.values())
    assert len(labels(found)) <= 27


def test_pods_are_asked_again_when_they_change_and_only_then(tmp_path):
    write(tmp_path, 5, b"")
    pods = FixedPods(None)
    identity = Identity("n1", tmp_path, {}, pods=pods)
    own = process(5)
    assert identity.subject(own).service_name == identity.subject(own).service_name == "app"
    assert pods.asked == 1
    pods.change(pod())
    first = identity.subject(own)
    assert first.service_name == "pay"
    pods.revision += 1
    assert identity.subject(own) is first, "the same pod: nothing is made anew"
    pods.change(None)
    assert identity.subject(own).service_name == "app"
    assert pods.asked == 4


def test_any_thread_may_ask_while_pods_and_processes_change(tmp_path):
    pods = FixedPods(pod())
    identity = Identity("n1", tmp_path, {}, pods=pods)
    everybody = [process(pid, parent_pid=pid - 1) for pid in range(60)]
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            for _ in range(20):
                for each in everybody:
                    assert identity.subject(each).service_name in {"pay", "buy"}
        except (AssertionError, RuntimeError, KeyError) as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for each in threads:
        each.start()
    for at in range(100):
        pods.change(pod(workload_name="buy" if at % 2 else "pay"))
        identity.keep_only(everybody[at % 60 :])
    pods.change(pod(workload_name="buy"))
    for each in threads:
        each.join()
    assert failures == []
    assert {identity.subject(each).service_name for each in everybody} == {"buy"}


def test_what_is_published_after_the_start_is_seen(tmp_path):
    write(tmp_path, 5, b"")
    identity = Identity("n1", tmp_path, {})
    own = process(5)
    assert identity.subject(own).service_name == "app"
    (tmp_path / "5" / "environ").write_bytes(b"OTEL_SERVICE_NAME=late\0")
    seen = []
    for _ in range(6):
        identity.keep_only([own])
        seen.append(identity.subject(own).service_name)
    assert seen[0] == "app"
    assert seen[-1] == "late"


def test_a_published_context_names_a_process(publish):  # noqa: F811 - the fixture
    pid = publish("inside", 2, 1, "service.name=checkout", "service.version=7")
    own = process(pid, key=ProcessKey(pid, read_stat(PROC, pid).start_ticks))
    found = attributes(PROC, own, FixedPods(pod()))
    assert (found["service.name"], found["service.version"]) == ("checkout", "7")


def test_a_real_process_with_a_megabyte_of_environment(spawn):
    big = {f"V{at}": "x" * 100_000 for at in range(9)}
    target = spawn(
        sys.executable, str(TARGETS / "sleeper.py"), env={"OTEL_SERVICE_NAME": "shop", **big}
    )
    own = process(target.pid, key=ProcessKey(target.pid, read_stat(PROC, target.pid).start_ticks))
    assert named(PROC, own).service_name == "shop"
