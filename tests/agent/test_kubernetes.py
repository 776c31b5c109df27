"""The pod directory against a real HTTP server that plays the API, errors included."""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from agent.kubernetes_api import ApiServer, recorded, status

from flamewell_agent import preview
from flamewell_agent.config import AgentConfig, load_config
from flamewell_agent.errors import KubernetesError
from flamewell_agent.identity.kubernetes import Pace, PodDirectory
from flamewell_agent.identity.kubernetes_api import PodApi
from flamewell_agent.identity.kubernetes_setup import make_directory, probe
from flamewell_agent.metrics import AgentMetrics

ALL = ("deployment", "statefulset", "daemonset", "cronjob", "static", "rollout", "bare", "pending")
QUICK = Pace(first_retry=0.01, longest_retry=0.05, refused_retry=0.1, watch=60, snapshot=0.0)


class Errors:
    """Counts by reason."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, reason: str) -> None:
        self.seen.append(reason)

    def __getitem__(self, reason: str) -> int:
        return self.seen.count(reason)


@pytest.fixture
def errors() -> Errors:
    return Errors()


@pytest.fixture
def account(tmp_path, monkeypatch):
    """A service account as Kubernetes mounts it; gives its folder."""
    folder = tmp_path / "account"
    folder.mkdir()
    (folder / "token").write_text("first")
    return folder


@pytest.fixture
def follow(tmp_path, errors, monkeypatch):
    """Start directories; all are stopped after the test."""
    running: list[PodDirectory] = []

    def start(server, *, pace=QUICK, snapshot=None, account=None) -> PodDirectory:
        if account is None:
            source = {"kubeconfig": str(kubeconfig(tmp_path, server.url))}
        else:
            monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
            monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
            source = {"service_account_dir": account}
        directory = PodDirectory(
            lambda: PodApi("worker-1", request_seconds=pace.request, **source),
            node_name="worker-1",
            snapshot=snapshot,
            count_error=errors,
            pace=pace,
        )
        running.append(directory)
        directory.start()
        return directory

    yield start
    for directory in running:
        directory.stop()
        assert not directory._thread.is_alive()


def kubeconfig(folder: Path, url: str, **cluster: str) -> Path:
    path = folder / "kubeconfig"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "agent"}}],
        "clusters": [{"name": "test", "cluster": {"server": url, **cluster}}],
        "users": [{"name": "agent", "user": {"token": "first"}}],
    }
    path.write_text(json.dumps(content))  # JSON is YAML
    return path


def first_id(pod) -> str:
    return pod["status"]["containerStatuses"][0]["containerID"].rpartition("/")[2]


def knows(directory, pod) -> bool:
    return directory.find("", pod["metadata"]["uid"]) is not None


def test_lists_and_finds_every_recorded_pod(follow, until, errors):
    with ApiServer(*ALL) as server:
        directory = follow(server)
        until(lambda: directory.status.up and server.watching)
        assert directory.pod_count == len(ALL)
        for name in ALL:
            raw = recorded(name)
            found = directory.find("", raw["metadata"]["uid"])
            assert found is not None
            assert found[0].name == raw["metadata"]["name"]
            for each in raw["status"]["containerStatuses"]:
                container_id = each.get("containerID", "").rpartition("/")[2]
                if container_id:
                    pod, container = directory.find(container_id, "")
                    assert (pod.name, container.name) == (found[0].name, each["name"])
        static = recorded("static")["metadata"]["annotations"]["kubernetes.io/config.hash"]
        assert directory.find("0" * 64, static)[0].workload_name == "kube-apiserver"
        assert server.requests[0] == (
            "list",
            {"fieldSelector": "spec.nodeName=worker-1", "resourceVersion": "0", "limit": "100"},
        )
        assert errors.seen == []


def test_changes_come_over_the_watch(follow, until):
    with ApiServer("deployment") as server:
        directory = follow(server)
        until(lambda: server.watching)
        pod, revision = recorded("statefulset"), directory.revision
        server.put(pod)
        until(lambda: knows(directory, pod))
        assert directory.revision > revision
        before = first_id(pod)
        restarted = recorded("statefulset")
        restarted["status"]["containerStatuses"][0]["containerID"] = "cri-o://" + "e" * 64
        server.put(restarted)
        until(lambda: directory.find("e" * 64, ""))
        assert directory.find(before, "") is not None  # the run before
        server.remove(pod)
        until(lambda: directory.pod_count == 1)
        assert knows(directory, pod)  # its last samples need a name
        assert server.count("list") == 1


def test_deleted_pods_are_forgotten_later(follow, until):
    with ApiServer("deployment", "bare") as server:
        directory = follow(server, pace=Pace(keep=0.05))
        until(lambda: server.watching)
        pod = recorded("bare")
        server.remove(pod)
        until(lambda: directory.pod_count == 1)
        until(lambda: server.bookmark() or not knows(directory, pod))


def test_a_list_of_several_pages(follow, until):
    with ApiServer(*ALL) as server:
        server.page_size = 3
        directory = follow(server)
        until(lambda: directory.pod_count == len(ALL))
        assert server.count("list") == 3


def test_a_watch_that_ends_goes_on_from_the_last_bookmark(follow, until, errors):
    with ApiServer("deployment") as server:
        directory = follow(server)
        until(lambda: server.watching)
        server.compact()
        server.bookmark()
        server.end()
        until(lambda: server.count("watch") == 2 and server.watching)
        pod = recorded("bare")
        server.put(pod)
        until(lambda: knows(directory, pod))
        assert server.count("list") == 1
        assert errors.seen == []


def test_an_expired_version_in_the_stream_is_listed_anew(follow, until, errors):
    with ApiServer("deployment", "bare") as server:
        directory = follow(server)
        until(lambda: server.watching)
        server.compact()
        server.say("ERROR", status(410, "Expired", "too old resource version: 1 (2)"))
        until(lambda: server.count("list") == 2 and server.watching)
        assert errors["gone"] == 1
        # The cache of the server was too old: it is asked for the present state.
        assert [q["resourceVersion"] for v, q in server.requests if v == "list"] == ["0", ""]
        assert directory.status.up


@pytest.mark.parametrize("verb", ["list", "watch"])
def test_an_expired_version_as_an_http_status(follow, until, errors, verb):
    with ApiServer("deployment") as server:
        body = json.dumps(status(410, "Expired")).encode()
        server.refusals[verb] = [(410, {}, body)]
        directory = follow(server)
        until(lambda: server.watching and directory.pod_count)
        assert errors["gone"] == 1
        assert server.count("list") == 2


def test_a_pod_deleted_while_nobody_watched_is_gone_after_the_list(follow, until):
    with ApiServer("deployment", "bare") as server:
        directory = follow(server)
        until(lambda: server.watching)
        body = json.dumps(status(503, "ServiceUnavailable")).encode()
        server.always["watch"] = (503, {}, body)
        server.cut()
        until(lambda: not server.watching)
        server.remove(recorded("bare"))
        server.compact()
        del server.always["watch"]
        until(lambda: directory.pod_count == 1 and directory.status.up)


def test_forbidden_says_what_to_grant_and_is_tried_again(follow, until, errors):
    with ApiServer("deployment") as server:
        message = 'pods is forbidden: User "system:serviceaccount:a:b" cannot list resource "pods"'
        server.always["list"] = (
            403, {}, json.dumps(status(403, "Forbidden", message)).encode()
        )  # fmt: skip
        directory = follow(server)
        until(lambda: errors["forbidden"] >= 2)
        assert not directory.status.up
        assert directory.status.text.startswith("forbidden: grant pods get,list,watch")
        del server.always["list"]
        until(lambda: directory.status.up)


def test_forbidden_to_watch_keeps_what_was_listed(follow, until, errors):
    with ApiServer("deployment") as server:
        body = json.dumps(status(403, "Forbidden")).encode()
        server.always["watch"] = (403, {}, body)
        directory = follow(server)
        until(lambda: "grant pods" in directory.status.text)
        assert errors["forbidden"] >= 1
        assert not directory.status.up
        assert knows(directory, recorded("deployment"))


def test_throttling_is_obeyed(follow, until, errors):
    with ApiServer("deployment") as server:
        server.refusals["list"] = [(429, {"Retry-After": "1"}, b"")]
        began = time.monotonic()
        directory = follow(server)
        until(lambda: directory.status.up)
        assert time.monotonic() - began >= 1
        assert errors["throttled"] == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((500, {}, b"oops"), "server_error"),
        ((503, {}, b"\xff" * 100_000), "server_error"),
        ((302, {"Location": "http://127.0.0.1:1/"}, b""), "unexpected_status"),
        ((400, {}, b'{"message": 7}'), "client_error"),
        ((200, {}, b'{"kind":"PodList","items":['), "malformed"),
        ((200, {}, b"<html>a proxy's page</html>"), "malformed"),
        ((200, {}, b"[]"), "malformed"),
        ((200, {}, b'{"metadata":{"resourceVersion":"1"},"items":{}}'), "malformed"),
    ],
)
def test_answers_that_are_no_list(follow, until, errors, answer, reason):
    with ApiServer("deployment") as server:
        server.refusals["list"] = [answer]
        directory = follow(server)
        until(lambda: directory.status.up)
        assert errors.seen == [reason]


def test_a_connection_that_breaks_in_mid_line(follow, until, errors):
    with ApiServer("deployment") as server:
        directory = follow(server)
        until(lambda: server.watching)
        pod = recorded("bare")
        server.send(b'{"type":"ADDED","object":{"kind":"Pod","metad')
        server.cut()
        until(lambda: not server.watching or server.count("watch") > 1)
        server.put(pod)
        until(lambda: knows(directory, pod))
        assert errors["connection_lost"] == 1
        assert server.count("list") == 1  # nothing was missed: the watch went on


def test_events_in_pieces_and_several_at_once(follow, until, errors):
    with ApiServer("deployment") as server:
        directory = follow(server)
        until(lambda: server.watching)
        pods = [recorded(name) for name in ("bare", "static")]
        for number, pod in enumerate(pods):
            pod["metadata"]["resourceVersion"] = str(9000 + number)
        lines = b"".join(
            json.dumps({"type": "ADDED", "object": pod}).encode() + b"\n" for pod in pods
        )
        for at in range(0, len(lines), 700):
            server.send(lines[at : at + 700])
        until(lambda: all(knows(directory, pod) for pod in pods))
        assert errors.seen == []


def test_a_line_that_is_no_event_leads_to_a_new_list(follow, until, errors):
    with ApiServer("deployment") as server:
        directory = follow(server)
        until(lambda: server.watching)
        server.send(b'{"type":"ADDED","object":\n')
        until(lambda: server.count("list") == 2 and directory.status.up)
        assert errors["malformed"] == 1
        assert directory.pod_count == 1


def test_a_line_without_end_is_cut_off(follow, until, errors):
    with ApiServer("deployment") as server:
        directory = follow(server)
        until(lambda: server.watching)
        for _ in range(9):
            server.send(b" " * 1024 * 1024)
        until(lambda: server.count("list") == 2 and directory.status.up)
        assert errors["too_large"] == 1


def test_unknown_events_and_broken_pods_are_counted_and_passed(follow, until, errors):
    with ApiServer("deployment") as server:
        directory = follow(server)
        until(lambda: server.watching)
        server.say("TELEPORTED", {"metadata": {}})
        server.say("ADDED", {"metadata": {"name": "without a uid"}})
        pod = recorded("bare")
        server.put(pod)
        until(lambda: knows(directory, pod))
        assert sorted(errors.seen) == ["malformed_pod", "unknown_event"]
        assert server.count("watch") == 1


def test_a_silent_watch_is_given_up(follow, until, errors):
    with ApiServer("deployment") as server:
        directory = follow(server, pace=Pace(first_retry=0.01, stale=0.1))
        until(lambda: errors["stale"] >= 2)
        assert server.count("list") == 1
        assert directory.pod_count == 1


def test_bytes_without_an_event_do_not_keep_a_watch_alive(follow, until, errors):
    with ApiServer("deployment") as server:
        follow(server, pace=Pace(first_retry=0.01, stale=0.3))
        until(lambda: server.watching)
        until(lambda: server.send(b"x") or errors["stale"] >= 1)


def test_an_answer_that_never_comes(follow, until, errors):
    with ApiServer("deployment") as server:
        server.always["list"] = (200, {"Content-Length": "1000"}, b"")
        follow(server, pace=Pace(first_retry=0.01, request=0.1))
        until(lambda: errors["timeout"] >= 1)


def test_watches_that_end_at_once_do_not_spin(follow, until, errors):
    with ApiServer("deployment") as server:
        server.always["watch"] = (200, {}, b"")
        follow(server)
        until(lambda: errors["short_watch"] >= 3)


def test_an_outage_costs_no_names(follow, until, errors):
    with ApiServer("deployment") as server:
        directory = follow(server)
        until(lambda: server.watching)
        port = server.port
    until(lambda: errors["unreachable"] >= 2)
    assert knows(directory, recorded("deployment"))
    assert not directory.status.up
    time.sleep(2)  # an outage of some seconds, as it is
    with ApiServer("deployment", "bare", port=port) as server:
        until(lambda: knows(directory, recorded("bare")))
        until(lambda: directory.status.up)


def test_a_restart_during_an_outage_reads_the_snapshot(follow, until, errors, tmp_path):
    snapshot = tmp_path / "state" / "pods.json"
    with ApiServer(*ALL) as server:
        directory = follow(server, snapshot=snapshot)
        until(lambda: directory.status.up)
        directory.stop()
        port = server.port
    assert snapshot.stat().st_mode & 0o777 == 0o600
    with ApiServer(port=port) as server:
        server.always["list"] = (500, {}, b"")
        second = follow(server, snapshot=snapshot)
        until(lambda: errors["server_error"] >= 1)
        assert second.pod_count == len(ALL)
        assert not second.status.up
        pod, container = second.find(first_id(recorded("deployment")), "")
        assert (pod.workload_name, container.name) == ("checkout", "app")
        saved = snapshot.read_bytes()
        second.stop()
        assert snapshot.read_bytes() == saved  # nothing was confirmed: it keeps its age
        server.put(recorded("bare"))
        server.always.clear()
        third = follow(server, snapshot=snapshot)
        until(lambda: third.pod_count == 1)
        assert knows(third, recorded("static"))  # for a while


def test_a_damaged_snapshot_is_no_hindrance(follow, until, errors, tmp_path):
    snapshot = tmp_path / "pods.json"
    snapshot.write_bytes(b"\x00garbage")
    with ApiServer("deployment") as server:
        directory = follow(server, snapshot=snapshot)
        until(lambda: directory.status.up)
        assert errors.seen == ["snapshot"]
        until(lambda: snapshot.read_bytes().startswith(b"{"))


def test_a_rotated_token_is_read_again(follow, until, errors, account):
    certificate, tls = make_tls(account)
    certificate.rename(account / "ca.crt")
    with ApiServer("deployment", tls=tls) as server:
        server.tokens = {"first"}
        directory = follow(server, account=account)
        until(lambda: server.watching)
        (account / "token").write_text("second")
        server.tokens = {"second"}
        server.end()
        until(lambda: errors["unauthorized"] >= 1 and server.watching)
        pod = recorded("bare")
        server.put(pod)
        until(lambda: knows(directory, pod))
        directory.stop()


def test_a_certificate_of_another_authority_is_refused(follow, until, errors, account, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    certificate, _ = make_tls(other)
    certificate.rename(account / "ca.crt")
    right, tls = make_tls(account)
    with ApiServer("deployment", tls=tls) as server:
        directory = follow(server, account=account)
        until(lambda: errors["tls"] >= 1)
        assert directory.pod_count == 0
        right.rename(account / "ca.crt")  # the authority was rotated
        until(lambda: directory.status.up)
        directory.stop()


def test_a_missing_token_is_told_and_seen_when_it_comes(follow, until, errors, account):
    (account / "token").unlink()
    certificate, tls = make_tls(account)
    certificate.rename(account / "ca.crt")
    with ApiServer("deployment", tls=tls) as server:
        directory = follow(server, account=account)
        until(lambda: "token" in directory.status.text)
        assert errors["not_configured"] >= 1
        (account / "token").write_text("first")
        until(lambda: directory.status.up)
        directory.stop()


def test_stop_ends_a_read_that_waits(follow, until):
    with ApiServer("deployment") as server:
        server.always["list"] = (200, {"Content-Length": "1000"}, b"")
        directory = follow(server, pace=Pace(request=60))
        until(lambda: server.count("list") == 1)
        directory.stop()
        assert not directory._thread.is_alive()


def test_stop_before_start_is_harmless():
    def never() -> PodApi:
        raise AssertionError

    PodDirectory(never, node_name="n").stop()


def test_invalid_annotations_are_told_once(follow, until, errors, caplog):
    with ApiServer() as server:
        pod = recorded("bare")
        pod["metadata"]["annotations"] = {"flamewell.dev/rate_hz": "many\n"}
        server.put(pod)
        directory = follow(server)
        until(lambda: server.watching)
        pod["status"]["podIP"] = "10.9.9.9"
        server.put(pod)
        until(lambda: directory.find("", pod["metadata"]["uid"])[0].ip == "10.9.9.9")
        assert errors.seen == ["invalid_annotation"]
    assert "flamewell.dev/rate_hz is 'many'" in caplog.text


def test_an_unexpected_error_does_not_end_the_thread(until, errors):
    tries = threading.Semaphore(0)

    def connect() -> PodApi:
        tries.release()
        raise RuntimeError("a bug")

    directory = PodDirectory(connect, node_name="n", count_error=errors, pace=QUICK)
    directory.start()
    for _ in range(3):
        assert tries.acquire(timeout=20)
    directory.stop()
    assert errors["unexpected"] >= 2


def test_readers_never_see_half_a_change(follow, until):
    with ApiServer("deployment", "bare") as server:
        directory = follow(server)
        until(lambda: server.watching)
        wanted, stop, missed = first_id(recorded("deployment")), threading.Event(), []

        def read() -> None:
            while not stop.is_set():
                if directory.find(wanted, "") is None:
                    missed.append(1)
                time.sleep(0)

        reader = threading.Thread(target=read)
        reader.start()
        pod = recorded("bare")
        for number in range(50):
            pod["status"]["podIP"] = f"10.0.0.{number}"
            server.put(pod)
        until(lambda: directory.find("", pod["metadata"]["uid"])[0].ip == "10.0.0.49")
        stop.set()
        reader.join()
        assert not missed


def test_probe(tmp_path):
    with ApiServer("deployment") as server:
        path = kubeconfig(tmp_path, server.url)
        config = AgentConfig(kubernetes="on", kubeconfig=str(path), node_name="worker-1")
        ok, detail, mend = probe(config)
        assert (ok, mend) == (True, "")
        assert "1 pods of node worker-1" in detail
        server.always["watch"] = (403, {}, json.dumps(status(403, "Forbidden")).encode())
        ok, detail, mend = probe(config)
        assert not ok
        assert "grant pods get,list,watch" in mend
    ok, detail, mend = probe(config)
    assert not ok
    assert "unreachable" in detail
    assert "network policy" in mend


def test_probe_tells_of_a_wrong_node_name_and_of_no_configuration(tmp_path):
    with ApiServer() as server:
        path = kubeconfig(tmp_path, server.url)
        config = AgentConfig(kubernetes="on", kubeconfig=str(path), node_name="worker-1")
        ok, _, mend = probe(config)
        assert (ok, "node_name" in mend) == (False, True)
    path.write_text("{]")
    ok, detail, mend = probe(config)
    assert (ok, "not_configured" in detail) == (False, True)
    assert "kubeconfig" in mend
    assert probe(AgentConfig(kubernetes="off")) == (True, "off", "")


def test_the_directory_out_of_options_and_its_metrics(tmp_path, until):
    with ApiServer("deployment") as server:
        config = AgentConfig(
            kubernetes="on",
            kubeconfig=str(kubeconfig(tmp_path, server.url)),
            node_name="worker-1",
            state_dir=str(tmp_path),
        )
        metrics = AgentMetrics()
        directory = make_directory(config, metrics.add_kubernetes_error)
        metrics.watch_pods(count=lambda: directory.pod_count, up=lambda: directory.status.up)
        directory.start()
        until(lambda: directory.status.up)
        text = metrics.render().decode()
        directory.stop()
    assert "flamewell_agent_kubernetes_pods 1.0" in text
    assert "flamewell_agent_kubernetes_up 1.0" in text
    assert (tmp_path / "pods.json").exists()


def test_a_command_beside_the_agent_leaves_its_snapshot_alone(tmp_path, until):
    """Another user's file could not be read by the agent at its next start."""
    (tmp_path / "pods.json").write_text("the agent's")
    with ApiServer("deployment") as server:
        config = AgentConfig(
            kubernetes="on",
            kubeconfig=str(kubeconfig(tmp_path, server.url)),
            node_name="worker-1",
            state_dir=str(tmp_path),
        )
        with contextlib.ExitStack() as held:
            pods = preview._pods(config, held)
            assert pods.revision > 0
    assert (tmp_path / "pods.json").read_text() == "the agent's"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "off"),
        ({"KUBERNETES_SERVICE_HOST": "10.96.0.1"}, "on"),
        ({"FLAMEWELL_AGENT_KUBECONFIG": "/etc/kubeconfig"}, "on"),
        ({"KUBERNETES_SERVICE_HOST": "10.96.0.1", "FLAMEWELL_AGENT_KUBERNETES": "off"}, "off"),
        ({"FLAMEWELL_AGENT_KUBERNETES": "on"}, "on"),
    ],
)
def test_kubernetes_is_on_in_a_cluster(environ, expected):
    loaded = load_config(argparse.Namespace(), environ)
    assert loaded.settings.kubernetes == expected


def test_the_client_is_not_imported_before_it_is_needed():
    code = (
        "import sys; import flamewell_agent.identity.kubernetes_setup; "
        "sys.exit('kubernetes' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_kubeconfig_with_a_certificate_inside(tmp_path):
    certificate, tls = make_tls(tmp_path)
    data = base64.b64encode(certificate.read_bytes()).decode()
    with ApiServer("deployment", tls=tls) as server:
        path = kubeconfig(tmp_path, server.url, **{"certificate-authority-data": data})
        api = PodApi("worker-1", kubeconfig=str(path))
        ((items, _),) = api.pages("0")
        assert len(items) == 1
        api.abort()
        with pytest.raises(KubernetesError):
            list(api.pages("0"))
        api.close()


def make_tls(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """Give a certificate for 127.0.0.1 and a server's context with it."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "1", "-subj", "/CN=api", "-addext"),
            *("subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    return certificate, tls
