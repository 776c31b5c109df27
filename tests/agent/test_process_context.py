"""The OpenTelemetry process context, out of real processes and out of any bytes."""

from __future__ import annotations

import struct
import sys
import threading
import time
from pathlib import Path

import pytest
from agent.conftest import TARGETS
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from flamewell_agent.identity.process_context import (
    Area,
    parse_areas,
    parse_context,
    read_process_context,
)

PROC = Path("/proc")
READY_WITHIN_SECONDS = 30
SHOP = ("service.name=shop", "service.version=1.2.3", "deployment.environment.name=prod")


def context(*resources: Resource) -> bytes:
    found = b""
    for resource in resources:
        encoded = resource.SerializeToString()
        assert len(encoded) < 128
        found += b"\x0a" + bytes([len(encoded)]) + encoded
    return found


def resource_of(**attributes: str) -> Resource:
    resource = Resource()
    for key, value in attributes.items():
        resource.attributes.add(key=key.replace("_", ".")).value.string_value = value
    return resource


@pytest.fixture
def publish(spawn):
    """Start a process that publishes, and wait until its header is written."""

    def start(where: str = "inside", version: int = 2, published: int = 1, *attributes: str) -> int:
        script = str(TARGETS / "process_context.py")
        target = spawn(sys.executable, script, where, str(version), str(published), *attributes)
        deadline = time.monotonic() + READY_WITHIN_SECONDS
        while time.monotonic() < deadline:
            if target.poll() is not None:
                pytest.skip("this machine does not let a process withhold a page")
            maps = (PROC / str(target.pid) / "maps").read_bytes()
            place = next((each for each in parse_areas(maps) if "OTEL_CTX" in each.name), None)
            if place is not None:
                with (PROC / str(target.pid) / "mem").open("rb", buffering=0) as memory:
                    memory.seek(place.start)
                    if memory.read(8) == b"OTEL_CTX":
                        return target.pid
            time.sleep(0.02)
        raise AssertionError("the target published nothing")

    return start


@pytest.mark.parametrize("where", ["inside", "elsewhere"])
def test_what_a_process_publishes_is_read(publish, where):
    pid = publish(where, 2, 1, *SHOP, "host.name=secret")
    assert read_process_context(PROC, pid) == {
        "service.name": "shop",
        "service.version": "1.2.3",
    }


@pytest.mark.parametrize(
    ("version", "published"), [(1, 1), (3, 1), (2, 0)], ids=["older", "newer", "being written"]
)
def test_what_is_not_of_this_version_or_not_complete_is_left_alone(publish, version, published):
    assert read_process_context(PROC, publish("inside", version, published, *SHOP)) == {}


def test_a_payload_beyond_the_limit_is_left_alone(publish):
    pid = publish("elsewhere", 2, 1, *SHOP, "x=" + "y" * 70_000)
    assert read_process_context(PROC, pid) == {}


def test_a_page_that_a_process_withholds_keeps_nobody_waiting(publish):
    pid = publish("withheld", 2, 1, *SHOP)
    found: list[dict[str, str]] = []
    reader = threading.Thread(
        target=lambda: found.append(read_process_context(PROC, pid)), daemon=True
    )
    reader.start()
    reader.join(READY_WITHIN_SECONDS)
    assert found == [{}]


def test_a_process_without_one_and_one_that_ended_have_none(spawn):
    target = spawn(sys.executable, str(TARGETS / "sleeper.py"))
    assert read_process_context(PROC, target.pid) == {}
    target.kill()
    target.wait()
    assert read_process_context(PROC, target.pid) == {}


def test_a_file_of_that_name_is_no_memory(tmp_path):
    """A file system in user space could keep its reader waiting: it is not even opened."""
    folder = tmp_path / "7"
    folder.mkdir()
    (folder / "maps").write_text("1000-3000 r--s 00000000 00:2f 12 /memfd:OTEL_CTX (deleted)\n")
    (folder / "mem").write_bytes(b"\0" * 0x1000 + b"OTEL_CTX")
    assert read_process_context(tmp_path, 7) == {}


@pytest.mark.parametrize(
    ("device", "found"),
    [("00:00", {"service.name": "shop"}), ("00:2f", {})],
    ids=["memory", "fuse"],
)
def test_an_inode_of_zero_is_no_proof_of_memory(tmp_path, device, found):
    """A file system in user space chooses its inode numbers."""
    payload = context(resource_of(service_name="shop"))
    header = struct.pack("=8sIIQQ", b"OTEL_CTX", 2, len(payload), 1, 0x3000)
    folder = tmp_path / "7"
    folder.mkdir()
    (folder / "maps").write_text(
        "1000-2000 r--p 00000000 00:00 0 [anon:OTEL_CTX]\n"
        f"3000-4000 r--s 00000000 {device} 0 /somewhere\n"
    )
    memory = bytearray(0x4000)
    memory[0x1000 : 0x1000 + len(header)] = header
    memory[0x3000 : 0x3000 + len(payload)] = payload
    (folder / "mem").write_bytes(memory)
    assert read_process_context(tmp_path, 7) == found


def test_the_maps_are_read():
    maps = (
        b"7f10-7f30 rw-s 00000000 00:01 458947                     /memfd:OTEL_CTX (deleted)\n"
        b"5000-6000 ---p 00000000 00:00 0 \n"
        b"zz-6000 r--p 00000000 00:00 0\nshort\n\n"
    )
    assert list(parse_areas(maps)) == [
        Area(0x7F10, 0x7F30, True, "00:01", 458947, "/memfd:OTEL_CTX (deleted)"),
        Area(0x5000, 0x6000, False, "00:00", 0, ""),
    ]


def test_only_what_names_the_service_is_taken():
    message = context(resource_of(deployment_environment="stage", service_namespace="x"))
    assert parse_context(message) == {}


def test_names_are_tidied_and_empty_ones_left_out():
    message = context(resource_of(service_name="a\n\0b" + "c" * 5, service_version=" \n"))
    assert parse_context(message) == {"service.name": "a_bccccc"}


def test_other_types_than_text_are_left_out():
    resource = Resource()
    resource.attributes.add(key="service.name").value.int_value = 7
    resource.attributes.add(key="service.version").value.double_value = 0.5
    assert parse_context(context(resource)) == {}


def test_endless_attributes_are_cut():
    one = resource_of(x="y")
    assert parse_context(context(*[one] * 300, resource_of(service_name="late"))) == {}


@given(st.binary(max_size=600))
def test_any_bytes_are_survived(payload):
    for name, value in parse_context(payload).items():
        assert name in {"service.name", "service.version"}
        assert 0 < len(value) <= 120
    for area in parse_areas(payload):
        assert isinstance(area, Area)


@given(st.data())
def test_any_cut_and_any_changed_byte_is_survived(data):
    whole = context(resource_of(service_name="shop", service_version="1"))
    at = data.draw(st.integers(0, len(whole) - 1))
    parse_context(whole[:at])
    parse_context(whole[:at] + bytes([data.draw(st.integers(0, 255))]) + whole[at + 1 :])
