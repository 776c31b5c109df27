"""Query engines in processes of their own: Sail, and Apache Spark where Java and its jars are."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def spark_home() -> Path | None:
    """Find a whole Apache Spark: $SPARK_HOME, or what scripts/spark.sh has fetched."""
    for folder in (os.environ.get("SPARK_HOME"), REPOSITORY / ".spark" / "pyspark"):
        if folder and (Path(folder) / "bin" / "spark-submit").exists() and shutil.which("java"):
            return Path(folder)
    return None


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextmanager
def sail(log: Path, port: int = 0) -> Iterator[str]:
    """Run Sail; give the URL of its Spark Connect server."""
    port = port or free_port()
    command = [str(Path(sys.executable).parent / "sail"), "spark", "server"]
    with _running([*command, "--ip", "127.0.0.1", "--port", str(port)], log, port):
        yield f"sc://127.0.0.1:{port}"


@contextmanager
def apache_spark(log: Path) -> Iterator[str]:
    """Run Apache Spark with its Spark Connect server: driver and executor in one JVM."""
    home, port = spark_home(), free_port()
    assert home is not None
    settings = {
        "spark.connect.grpc.binding.address": "127.0.0.1",
        "spark.connect.grpc.binding.port": str(port),
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.warehouse.dir": str(log.parent / "warehouse"),
    }
    command = [str(home / "bin" / "spark-submit"), "--master", "local[2]", "--driver-memory", "1g"]
    command += ["--class", "org.apache.spark.sql.connect.service.SparkConnectServer"]
    for name, value in settings.items():
        command += ["--conf", f"{name}={value}"]
    environ = {"SPARK_HOME": str(home), "PYSPARK_PYTHON": sys.executable}
    with _running([*command, "spark-internal"], log, port, seconds=150, **environ):
        yield f"sc://127.0.0.1:{port}"


@contextmanager
def _running(
    command: list[str], log: Path, port: int, *, seconds: float = 60, **environ: str
) -> Iterator[None]:
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, cwd=log.parent, stdout=output, stderr=output, start_new_session=True,
            env={**os.environ, **environ},
        )  # fmt: skip
        try:
            _wait(lambda: _listens(port), process, log, seconds)
            yield
        finally:
            # The launcher is a shell that has become or has started the server.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)


def _wait(
    done: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, seconds: float
) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert process.poll() is None, log.read_text()[-2_000:]
        assert time.monotonic() < deadline, f"no answer in {seconds} s: {log.read_text()[-2_000:]}"
        time.sleep(0.05)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
