"""What is read out of pods, without any server."""

from __future__ import annotations

import json
import stat

import pytest
from agent.kubernetes_api import RECORDED, recorded
from hypothesis import given
from hypothesis import strategies as st

from flamewell_agent.errors import KubernetesError
from flamewell_agent.identity import kubernetes_snapshot
from flamewell_agent.identity.kubernetes_cache import PodCache
from flamewell_agent.identity.kubernetes_lines import (
    LineSplitter,
    error_of_status,
    parse_event,
    parse_list,
)
from flamewell_agent.identity.kubernetes_objects import PodRecord, read_pod, strip_scheme
from flamewell_agent.identity.kubernetes_owners import workload_of
from flamewell_agent.identity.pods import (
    Pod,
    PodContainer,
    PodPort,
    problems,
    sampling_options,
    scrapes,
)
from flamewell_agent.model import SamplingOptions, Scrape

NAMES = sorted(each.stem for each in RECORDED.glob("*.json"))


def record(name) -> PodRecord:
    found = read_pod(recorded(name))
    assert found is not None
    return found


def pod_with(annotations, *containers, ip="10.0.0.7") -> Pod:
    return Pod("u", "n", "p", ip=ip, annotations=annotations, containers=containers)


APP = PodContainer("app", "", "", (PodPort("http", 8080), PodPort("pprof", 6060)))
PROXY = PodContainer("proxy", "", "", (PodPort("admin", 9901),))


@pytest.mark.parametrize(
    ("name", "workload"),
    [
        ("deployment", ("Deployment", "checkout")),
        ("statefulset", ("StatefulSet", "ledger")),
        ("daemonset", ("DaemonSet", "node-exporter")),
        ("cronjob", ("CronJob", "report")),
        ("static", ("StaticPod", "kube-apiserver")),
        ("rollout", ("Rollout", "search")),
        ("bare", ("Pod", "debug-me")),
        ("pending", ("Deployment", "cart")),
    ],
)
def test_the_workload_of_each_recorded_pod(name, workload):
    pod = record(name).pod
    assert (pod.workload_kind, pod.workload_name) == workload


@pytest.mark.parametrize(
    ("kind", "owner", "labels", "expected"),
    [
        ("ReplicaSet", "web", {}, ("ReplicaSet", "web")),
        ("ReplicaSet", "web-abc", {"pod-template-hash": "xyz"}, ("ReplicaSet", "web-abc")),
        ("ReplicaSet", "-abc", {"pod-template-hash": "abc"}, ("ReplicaSet", "-abc")),
        ("ReplicaSet", "a-b-c", {"pod-template-hash": "c"}, ("Deployment", "a-b")),
        ("Job", "migrate-1", {}, ("Job", "migrate-1")),
        ("Job", "load-20260115", {}, ("Job", "load-20260115")),
        ("Job", "report-1700000000", {}, ("CronJob", "report")),
        ("Job", "report-29401200", {}, ("CronJob", "report")),
        ("Job", "29401200", {}, ("Job", "29401200")),
        ("SparkApplication", "etl", {}, ("SparkApplication", "etl")),
    ],
)
def test_workloads_by_their_names(kind, owner, labels, expected):
    metadata = {"name": "pod-1", "ownerReferences": [{"kind": kind, "name": owner}]}
    assert workload_of(metadata, labels) == expected


def test_the_controlling_owner_counts_and_nonsense_does_not():
    references = [
        "nonsense",
        {"kind": "ConfigMap", "name": "c"},
        {"kind": "StatefulSet", "name": "s", "controller": True},
    ]
    assert workload_of({"name": "p", "ownerReferences": references}, {}) == ("StatefulSet", "s")
    for bad in (None, 7, [], [{"kind": 7, "name": "x"}], [{}]):
        assert workload_of({"name": "p", "ownerReferences": bad}, {}) == ("Pod", "p")


def test_containers_of_a_pod_init_and_restarted_ones_too():
    found = record("deployment")
    assert [each.name for each in found.pod.containers] == ["app", "proxy", "migrate", "mesh"]
    app = found.pod.containers[0]
    assert app.ports == (PodPort("http", 8080), PodPort("pprof", 6060))
    assert app.image == "registry.example/checkout:1.8.2"
    of_app = [container_id for container_id, name in found.ids if name == "app"]
    assert app.id == of_app[0]
    assert len(of_app) == 2  # the run that was killed as well
    assert {name for _, name in found.ids} == {"app", "proxy", "migrate", "mesh"}
    assert {name for _, name in record("bare").ids} == {"shell", "debugger-x7k"}


@pytest.mark.parametrize("name", NAMES)
def test_ids_have_no_scheme_and_secrets_are_not_kept(name):
    found = record(name)
    assert all(len(each) == 64 and ":" not in each for each, _ in found.ids)
    assert "DATABASE_PASSWORD" not in repr(found)
    assert "checksum/config" not in found.pod.annotations


def test_a_static_pod_is_found_by_its_hash():
    found = record("static")
    assert len(found.uids) == 2
    assert found.uids[0] == found.pod.uid
    assert len(found.uids[1]) == 32


@pytest.mark.parametrize("scheme", ["containerd", "docker", "cri-o"])
def test_schemes(scheme):
    assert strip_scheme(f"{scheme}://{'A' * 64}") == "a" * 64
    assert strip_scheme("") == ""


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("metadata", "spec", "status", "name", "uid", "labels", "ports"),
                    *("containers", "containerStatuses", "containerID", "state", "terminated"),
                    *("ownerReferences", "annotations", "containerPort", "podIP"),
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=25,
)


@given(JSON)
def test_any_json_is_a_pod_or_none(body):
    found = read_pod(body)
    if found is not None:
        cache = PodCache()
        cache.replace([found])
        assert cache.find("", found.pod.uid) == (found.pod, None)


def test_sampling_options():
    assert sampling_options({}) == (SamplingOptions(), "", "")
    assert sampling_options(
        {
            "flamewell.dev/rate_hz": " 49 ",
            "flamewell.dev/wall": "True",
            "flamewell.dev/native": "1",
            "flamewell.dev/threads": "yes",
            "flamewell.dev/service_name": "search api",
            "profiles.grafana.com/service_name": "other",
        }
    ) == (SamplingOptions(49, wall=True, native=True, threads=True), "", "search_api")
    assert sampling_options({"profiles.grafana.com/service_name": "other"})[2] == "other"
    for text in ("false", "False", "0", "no", "off"):
        assert sampling_options({"flamewell.dev/profile": text})[1] == "opted_out"
    assert sampling_options({"flamewell.dev/profile": "true"})[1] == ""


@pytest.mark.parametrize(
    "annotations",
    [
        {"flamewell.dev/profile": "perhaps"},
        {"flamewell.dev/rate_hz": "0"},
        {"flamewell.dev/rate_hz": "1001"},
        {"flamewell.dev/rate_hz": "-5"},
        {"flamewell.dev/rate_hz": "٤٩"},
        {"flamewell.dev/wall": "\x00\n"},
        {"flamewell.dev/service_name": "---"},
        {"profiles.grafana.com/cpu.scrape": "maybe"},
        {"profiles.grafana.com/cpu.port": "99999999999999"},
        {"profiles.grafana.com/cpu.scheme": "file"},
        {"profiles.grafana.com/cpu.path": "//evil.example/"},
        {"profiles.grafana.com/cpu.path": "/a/../b"},
        {"profiles.grafana.com/cpu.path": "/x?y=1#z"},
        {"profiles.grafana.com/cpu.path": "/" + "a" * 300},
        {"profiles.grafana.com/cpu.path": "/profile"},
    ],
)
def test_an_annotation_that_means_nothing_is_named_and_ignored(annotations):
    (problem,) = problems(annotations)
    assert problem.startswith(next(iter(annotations)))
    assert problem.isprintable()
    assert sampling_options(annotations) == (SamplingOptions(), "", "")


@given(
    st.dictionaries(
        st.sampled_from(
            [
                f"profiles.grafana.com/cpu.{key}"
                for key in ("scrape", "port", "port_name", "scheme", "path")
            ]
        ),
        st.text(max_size=30) | st.just("true"),
    )
)
def test_scrapes_only_ever_go_to_the_pod(annotations):
    for each in scrapes(pod_with(annotations, APP, PROXY), None):
        assert each.url.startswith(("http://10.0.0.7:", "https://10.0.0.7:"))
    assert len(problems(annotations)) <= len(annotations)


def test_scrapes_by_port_name_of_the_recorded_deployment():
    pod = record("deployment").pod
    app, proxy = pod.containers[:2]
    expected = (Scrape(("cpu", "memory"), "http://10.244.1.17:6060"),)
    assert scrapes(pod, app) == expected
    assert scrapes(pod, proxy) == ()
    assert scrapes(pod, None) == expected


def test_scrapes_of_a_pod_on_the_hosts_network_go_to_loopback():
    pod = record("daemonset").pod
    assert scrapes(pod, pod.containers[0]) == (Scrape(("goroutine",), "http://127.0.0.1:9100"),)


def test_scrapes_schemes_paths_and_ipv6():
    prefix = "profiles.grafana.com/"
    annotations = {
        f"{prefix}cpu.scrape": "true",
        f"{prefix}cpu.port": "6060",
        f"{prefix}cpu.scheme": "https",
        f"{prefix}cpu.path": "/internal/pprof/profile",
        f"{prefix}memory.scrape": "true",
        f"{prefix}memory.port": "6060",
        f"{prefix}memory.scheme": "https",
        f"{prefix}memory.path": "/internal/pprof/allocs",
        f"{prefix}mutex.scrape": "true",
        f"{prefix}mutex.port": "6060",
        f"{prefix}mutex.path": "/debug/pprof/mutex",
        f"{prefix}block.scrape": "false",
        f"{prefix}block.port": "6060",
    }
    assert scrapes(pod_with(annotations, APP, ip="fd00::7"), APP) == (
        Scrape(("cpu", "memory"), "https://[fd00::7]:6060/internal/pprof"),
        Scrape(("mutex",), "http://[fd00::7]:6060"),
    )


def test_a_port_that_nobody_declares_belongs_to_the_default_container():
    annotations = {
        "profiles.grafana.com/cpu.scrape": "true",
        "profiles.grafana.com/cpu.port": "7777",
    }
    pod = pod_with(annotations, APP, PROXY)
    assert [each.url for each in scrapes(pod, APP)] == ["http://10.0.0.7:7777"]
    assert scrapes(pod, PROXY) == ()
    pod = pod_with({**annotations, "kubectl.kubernetes.io/default-container": "proxy"}, APP, PROXY)
    assert scrapes(pod, APP) == ()
    assert [each.url for each in scrapes(pod, PROXY)] == ["http://10.0.0.7:7777"]


def test_without_a_port_every_declared_one_is_meant_and_they_are_bounded():
    annotations = {"profiles.grafana.com/cpu.scrape": "true"}
    urls = [each.url for each in scrapes(pod_with(annotations, APP, PROXY), APP)]
    assert urls == ["http://10.0.0.7:8080", "http://10.0.0.7:6060"]
    many = PodContainer("m", "", "", tuple(PodPort("", 1000 + n) for n in range(100)))
    assert len(scrapes(pod_with(annotations, many), many)) == 8
    assert scrapes(pod_with(annotations, APP, ip=""), APP) == ()


def test_lines_in_pieces_and_too_long_ones():
    splitter = LineSplitter(at_most_bytes=10)
    assert splitter.feed(b"ab") == []
    assert splitter.feed(b"c\n\nde\nf") == [b"abc", b"de"]
    assert splitter.feed(b"x" * 20) == []
    assert splitter.feed(b"x" * 20) == []
    assert splitter.feed(b"\nnext\n") == [b"next"]
    assert splitter.too_long == 1


@given(st.lists(st.binary(max_size=8), max_size=8), st.integers(1, 7))
def test_lines_do_not_depend_on_how_they_come(lines, size):
    lines = [each.replace(b"\n", b"") for each in lines]
    data = b"".join(each + b"\n" for each in lines)
    splitter = LineSplitter()
    got = [line for at in range(0, len(data), size) for line in splitter.feed(data[at : at + size])]
    assert got == [each for each in lines if each]


@pytest.mark.parametrize(
    "line", [b"", b"{", b"[]", b"7", b'{"type":"ADDED"}', b"\xff\xfe", b"[" * 100_000]
)
def test_what_is_no_event_is_malformed(line):
    with pytest.raises(KubernetesError, match="malformed"):
        parse_event(line)
    with pytest.raises(KubernetesError, match="malformed"):
        parse_list(line)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (401, "unauthorized"),
        (403, "forbidden"),
        (404, "client_error"),
        (410, "gone"),
        (429, "throttled"),
        (503, "server_error"),
        (302, "unexpected_status"),
        (0, "unexpected_status"),
    ],
)
def test_statuses_have_reasons(code, reason):
    assert error_of_status(code, None).reason == reason


def test_how_long_to_wait_is_read_from_header_and_body():
    assert error_of_status(429, None, "7").retry_after_seconds == 7
    assert error_of_status(429, {"details": {"retryAfterSeconds": 3}}).retry_after_seconds == 3
    assert error_of_status(429, None, "Wed, 21 Oct").retry_after_seconds == 0
    assert error_of_status(429, None, "9" * 30).retry_after_seconds == 0


def test_the_cache_keeps_deleted_pods_and_former_runs_for_a_while():
    now = [0.0]
    cache = PodCache(keep_seconds=300, clock=lambda: now[0])
    found = record("deployment")
    cache.replace([found])
    first, revision = found.ids[0][0], cache.revision
    cache.apply([found], [])
    assert cache.revision == revision  # nothing has changed
    cache.apply([], [found.pod.uid])
    assert cache.revision > revision
    assert len(cache) == 0
    now[0] = 299
    cache.apply([], [])
    assert cache.find(first, "") == (found.pod, found.pod.containers[0])
    assert cache.find("", found.pod.uid) == (found.pod, None)
    now[0] = 301
    revision = cache.revision
    cache.apply([], [])
    assert cache.find(first, found.pod.uid) is None
    assert cache.revision > revision


def test_a_pod_that_comes_back_is_found_as_it_is_now():
    cache = PodCache()
    found = record("deployment")
    cache.replace([found])
    cache.replace([])
    cache.replace([found])
    assert cache.find("", found.pod.uid) == (found.pod, None)
    assert cache.find("f" * 64, "") is None
    assert cache.find("", "") is None


def test_the_cache_is_bounded():
    cache = PodCache()
    many = [PodRecord(Pod(f"u{n}", "n", f"p{n}"), (f"u{n}",), ()) for n in range(5000)]
    assert cache.replace(many) == 904
    assert cache.apply([PodRecord(Pod("new", "n", "new"), ("new",), ())], []) == 1
    assert cache.apply(many[:10], []) == 0


def test_a_snapshot_comes_back_whole_and_is_private(tmp_path):
    path = tmp_path / "deep" / "pods.json"
    records = [record(name) for name in NAMES]
    kubernetes_snapshot.save(path, "worker-1", records, 1000.0)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert kubernetes_snapshot.load(path, "worker-1", 2000.0) == records
    assert kubernetes_snapshot.load(path, "worker-2", 2000.0) == []
    assert kubernetes_snapshot.load(path, "worker-1", 1000.0 + 86401) == []
    assert kubernetes_snapshot.load(tmp_path / "none", "worker-1", 0.0) == []
    assert [each.name for each in path.parent.iterdir()] == ["pods.json"]


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"\xff", b'{"format":1,"node":"n","saved_unix":1,"pods":[{}]}']
)
def test_a_damaged_snapshot_is_told(tmp_path, content):
    path = tmp_path / "pods.json"
    path.write_bytes(content)
    with pytest.raises(KubernetesError, match="snapshot"):
        kubernetes_snapshot.load(path, "n", 2.0)


def test_a_snapshot_is_not_written_through_a_link(tmp_path):
    victim, path = tmp_path / "victim", tmp_path / "pods.json"
    victim.write_text("mine")
    path.with_suffix(".tmp").symlink_to(victim)
    kubernetes_snapshot.save(path, "n", [], 1.0)
    assert victim.read_text() == "mine"
    assert json.loads(path.read_text())["pods"] == []
