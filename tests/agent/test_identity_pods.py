"""Processes named by pods of a real HTTP server that plays the API."""

from __future__ import annotations

from pathlib import Path

import pytest
from agent.kubernetes_api import ApiServer, recorded
from agent.test_kubernetes import account, errors, first_id, follow  # noqa: F401 - fixtures

from flamewell_agent.identity.resolver import Identity
from flamewell_agent.model import Process, ProcessKey, Subject

NOWHERE = Path("/nowhere")


def process_of(pod: dict, *, container_id: str = "", pid: int = 10) -> Process:
    container_id = container_id or first_id(pod)
    return Process(
        ProcessKey(pid, 1),
        "cpython",
        "3.12",
        "python3.12",
        ("python", "app.py"),
        cgroup=f"/kubepods/burstable/pod{pod['metadata']['uid']}/{container_id}",
    )


def attributes(subject: Subject) -> dict[str, str]:
    return dict(subject.resource.attributes)


@pytest.mark.parametrize("name", ["deployment", "statefulset", "daemonset", "cronjob", "static"])
def test_processes_of_recorded_pods_are_named_for_their_workload(follow, until, name):  # noqa: F811
    with ApiServer(name) as server:
        directory = follow(server)
        until(lambda: directory.status.up)
        raw = recorded(name)
        own = process_of(raw)
        found = directory.find(first_id(raw), "")
        assert found is not None
        pod, container = found
        assert container is not None
        subject = Identity("worker-1", NOWHERE, {}, pods=directory).subject(own)
        given = attributes(subject)
        assert given["k8s.pod.name"] == raw["metadata"]["name"]
        assert given["k8s.namespace.name"] == raw["metadata"]["namespace"]
        assert given["k8s.container.name"] == container.name
        assert given["flamewell.workload.name"] == pod.workload_name
        wanted = raw["metadata"].get("annotations", {}).get("flamewell.dev/service_name")
        assert subject.service_name == (wanted or pod.workload_name)


def test_a_pod_that_is_known_after_its_process(follow, until):  # noqa: F811
    raw = recorded("deployment")
    raw["metadata"].pop("annotations", None)
    with ApiServer() as server:
        directory = follow(server)
        until(lambda: directory.status.up and server.watching)
        identity = Identity("worker-1", NOWHERE, {}, pods=directory)
        own = process_of(raw)
        before = identity.subject(own)
        assert before.service_name == "app"
        assert attributes(before)["container.name"] == first_id(raw)[:12]
        server.put(raw)
        until(lambda: identity.subject(own).service_name != "app")
        after = attributes(identity.subject(own))
        assert after["service.name"] == after["flamewell.workload.name"]
        assert "container.name" not in after
        assert after["k8s.container.name"]


def test_a_refusal_by_annotation_comes_and_goes(follow, until):  # noqa: F811
    raw = recorded("deployment")
    raw["metadata"].pop("annotations", None)
    with ApiServer() as server:
        server.put(raw)
        directory = follow(server)
        until(lambda: directory.status.up and server.watching)
        identity = Identity("worker-1", NOWHERE, {}, pods=directory)
        own = process_of(raw)
        assert identity.subject(own).refused == ""
        raw["metadata"]["annotations"] = {"flamewell.dev/profile": "false"}
        server.put(raw)
        until(lambda: identity.subject(own).refused == "opted_out")
        raw["metadata"]["annotations"] = {
            "flamewell.dev/profile": "true",
            "flamewell.dev/service_name": "pay",
            "flamewell.dev/rate_hz": "10",
        }
        server.put(raw)
        until(lambda: identity.subject(own).refused == "")
        subject = identity.subject(own)
        assert subject.service_name == "pay"
        assert subject.options.rate_hz == 10


def test_a_container_that_started_again(follow, until):  # noqa: F811
    raw = recorded("deployment")
    raw["metadata"].pop("annotations", None)
    new_id = "ab" * 32
    with ApiServer() as server:
        server.put(raw)
        directory = follow(server)
        until(lambda: directory.status.up and server.watching)
        identity = Identity("worker-1", NOWHERE, {}, pods=directory)
        first = process_of(raw)
        name = attributes(identity.subject(first))["k8s.container.name"]
        second = process_of(raw, container_id=new_id, pid=11)
        # Its cgroup names the pod, but no status names the container yet.
        early = attributes(identity.subject(second))
        assert early["flamewell.workload.name"]
        assert early["container.name"] == new_id[:12]
        statuses = raw["status"]["containerStatuses"]
        scheme = statuses[0]["containerID"].partition("://")[0]
        statuses[0]["containerID"] = f"{scheme}://{new_id}"
        server.put(raw)
        until(lambda: attributes(identity.subject(second)).get("k8s.container.name") == name)
        identity.keep_only([second])
        assert attributes(identity.subject(second))["container.id"] == new_id
