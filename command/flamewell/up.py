"""``flamewell up``: a collector and an agent for this machine, until Ctrl-C.

``Up.run`` reads in the order in which things happen.
"""

from __future__ import annotations

import signal
import sys
import textwrap
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import TextIO

from flamewell.arrivals import profiled_services
from flamewell.browser import open_page
from flamewell.data_dir import make_data_dir
from flamewell.demo import (
    BUILD,
    LOOK_AT,
    ORDERS,
    OUT_OF_MEMORY_STATUS,
    PAYMENTS,
    Demo,
    finish_build,
    plan_demo,
    prepare_build,
)
from flamewell.errors import CommandError
from flamewell.logbook import LogBook, parse_line
from flamewell.preflight import (
    LOOPBACK,
    check_installed,
    choose_port,
    free_port,
    http_status,
    privilege_note,
    read_privileges,
)
from flamewell.processes import Ended, ProcessSpec, Supervisor
from flamewell.signals import StopSignals

COLLECTOR, AGENT = "collector", "agent"
READY_SECONDS = 60.0
"""How long a collector may take to be ready: a store left by kill -9 is recovered first."""

_READY_POLL_SECONDS = 0.2
_ARRIVAL_POLL_SECONDS = 2.0
_ARRIVAL_PATIENCE_SECONDS = 90.0
_DEMO_GRACE_SECONDS = 5.0
_AGENT_GRACE_SECONDS = 15.0
_COLLECTOR_GRACE_SECONDS = 30.0
_NOTE_COLUMNS = 90
_STOPPED = frozenset({0, -signal.SIGTERM})
"""How a part may end that was asked to: one that was still starting has no handler yet."""

_DEMO_PACE = {"FLAMEWELL_AGENT_CYCLE_SECONDS": "10", "FLAMEWELL_AGENT_GO_CYCLE_SECONDS": "10"}
"""Who looks at a demo waits for it: shorter cycles than by default, unless the user set some."""


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What ``flamewell up`` was asked for.

    Attributes:
        data_dir: Where profiles, the log and the built demo are kept between starts.
        port: Of the collector on the loopback address; 0 for any free one.
        demo: Start the demo services as well.
        browser: Open the page where there is a desktop.
    """

    data_dir: Path
    port: int
    demo: bool
    browser: bool


class Up:
    """One run of ``flamewell up``."""

    def __init__(
        self,
        options: UpOptions,
        *,
        port: int,
        environ: Mapping[str, str],
        out: TextIO,
        signals: StopSignals,
        log: LogBook,
        supervisor: Supervisor,
    ) -> None:
        """Make a run from its parts; ``up`` puts them together."""
        self._options = options
        self._environ = environ
        self._out = out
        self._signals = signals
        self._log = log
        self._supervisor = supervisor
        self._port = port
        self._url = f"http://{LOOPBACK}:{port}"
        self._demo: Demo | None = None
        self._awaited: frozenset[str] = frozenset()
        self._begin = time.monotonic()
        self._begin_ms = int(time.time() * 1000)

    def run(self) -> int:
        """Start everything, watch it until it is told to stop, stop it in order.

        Returns:
            The exit status: 0 after a clean stop.

        Raises:
            CommandError: A part ended by itself; the rest has been stopped.
        """
        try:
            self._supervisor.start(self._collector_spec())
            if self._options.demo:
                self._start_demo()
            if self._wait_ready():
                self._supervisor.start(self._agent_spec())
                self._greet()
                self._watch()
        finally:
            clean = self._stop()
        return 0 if clean else 1

    def _collector_spec(self) -> ProcessSpec:
        arguments = (
            *("serve", "--listen", f"{LOOPBACK}:{self._port}", "--log-format", "json"),
            *("--data-dir", str(self._options.data_dir / "store")),
        )
        return self._part("flamewell_collector", COLLECTOR, arguments)

    def _agent_spec(self) -> ProcessSpec:
        metrics = free_port(self._port + 1)
        arguments = (
            *("run", "--collector-url", self._url, "--log-format", "json", "--go-detect"),
            *("--state-dir", str(self._options.data_dir / "agent")),
            *("--metrics-listen", f"{LOOPBACK}:{metrics}"),
        )
        spec = self._part("flamewell_agent", AGENT, arguments)
        if not self._options.demo:
            return spec
        return replace(spec, environ={**_DEMO_PACE, **spec.environ})

    def _part(self, module: str, name: str, arguments: tuple[str, ...]) -> ProcessSpec:
        settings = {
            **self._environ,
            "OTEL_SERVICE_NAME": f"flamewell-{name}",
            "PYTHONUNBUFFERED": "1",
        }
        # -P: a file in the current folder must not stand in for a module.
        return ProcessSpec(name, (sys.executable, "-P", "-m", module, *arguments), settings)

    def _start_demo(self) -> None:
        demo = plan_demo(self._options.data_dir, collector_port=self._port, environ=self._environ)
        self._demo, self._awaited = demo, frozenset(demo.services)
        for spec in demo.at_once:
            self._supervisor.start(spec)
        if demo.build is not None:
            prepare_build(demo.build)
            self._supervisor.start(demo.build.spec)
            self._say("Building the Go demo service (once, about half a minute) ...")

    def _wait_ready(self) -> bool:
        """Wait for the collector; False if it was told to stop meanwhile."""
        deadline = time.monotonic() + READY_SECONDS
        while not self._signals.count:
            if http_status(f"{self._url}/ready") == HTTPStatus.OK:
                return True
            if time.monotonic() > deadline:
                raise CommandError(
                    f"the collector was not ready after {READY_SECONDS:.0f} seconds; "
                    f"see {self._log.path}"
                )
            self._pump(_READY_POLL_SECONDS)
        return False

    def _watch(self) -> None:
        """Hand on log lines until a signal comes; tell when the demo's profiles have arrived."""
        patience = time.monotonic() + _ARRIVAL_PATIENCE_SECONDS
        while not self._signals.count:
            if not self._awaited:
                self._pump(None)
                continue
            self._pump(_ARRIVAL_POLL_SECONDS)
            self._tell_arrivals()
            if BUILD in self._supervisor.names:
                patience = time.monotonic() + _ARRIVAL_PATIENCE_SECONDS
            elif self._awaited and time.monotonic() > patience:
                names = ", ".join(sorted(self._awaited))
                self._say(f"No CPU profile of {names} so far; see {self._log.path}")
                self._awaited = frozenset()

    def _tell_arrivals(self) -> None:
        arrived = self._awaited & profiled_services(self._url, self._begin_ms)
        if arrived:
            self._awaited -= arrived
            self._tell_progress(f"first profiles of {', '.join(sorted(arrived))}")

    def _tell_progress(self, text: str) -> None:
        self._say(f"{time.monotonic() - self._begin:4.0f} s  {text}")

    def _pump(self, seconds: float | None) -> None:
        for ended in self._supervisor.pump(seconds):
            self._handle_end(ended)

    def _handle_end(self, ended: Ended) -> None:
        """Go on where an end was to be expected.

        Raises:
            CommandError: It was not.
        """
        build = self._demo.build if self._demo else None
        if build is not None and ended.spec == build.spec:
            self._handle_build(ended)
        elif ended.spec.name == PAYMENTS and ended.status == OUT_OF_MEMORY_STATUS:
            self._say("payments reached its memory limit and is started again, as a cluster would")
            self._supervisor.start(ended.spec)
        else:
            raise CommandError(self._describe(ended))

    def _handle_build(self, ended: Ended) -> None:
        demo = self._demo
        if demo is None or demo.build is None:
            return
        if ended.status == 0:
            finish_build(demo.build)
            self._tell_progress("orders is built and starts")
            for spec in demo.after_build:
                self._supervisor.start(spec)
        else:
            self._awaited -= {ORDERS}
            self._say(f"orders is left out, its build failed. {self._describe(ended)}")

    def _describe(self, ended: Ended) -> str:
        lines = [parse_line(raw).text for raw in ended.tail]
        shown = "\n".join(f"    {line}" for text in lines for line in text.splitlines())
        said = f" Its last lines:\n{shown}\n" if shown else " It wrote nothing. "
        return f"{ended.spec.name} {ended.how}.{said}The whole log: {self._log.path}"

    def _greet(self) -> None:
        self._say(f"\nflamewell is up: {self._url}\n")
        if self._demo is not None:
            self._say("Look at")
            for name in self._demo.services:
                self._say(f"  {name:<9} {LOOK_AT[name]}")
            if self._demo.skipped:
                self._say(f"  orders    is left out: {self._demo.skipped}")
            self._say("")
        note = privilege_note(read_privileges())
        if note:
            self._say(textwrap.fill(note, _NOTE_COLUMNS) + "\n")
        self._say("Profiles of this machine come in from now on, the first in about 20 seconds.")
        self._say(f"Data  {self._options.data_dir} (kept for the next start)")
        self._say(f"Log   {self._log.path}")
        self._say("Ctrl-C stops everything.\n")
        if self._options.browser:
            open_page(self._url, self._environ, interactive=self._out.isatty())

    def _stop(self) -> bool:
        """Stop the demo, then the agent, then the collector, each with time to write its data.

        Returns:
            Whether all ended well when asked.
        """
        asked = self._signals.count
        if self._supervisor.names:
            self._say("Stopping (Ctrl-C again kills) ...")
        demo = self._supervisor.names - {AGENT, COLLECTOR}
        clean = True
        for names, seconds in (
            (demo, _DEMO_GRACE_SECONDS),
            (frozenset({AGENT}), _AGENT_GRACE_SECONDS),
            (frozenset({COLLECTOR}), _COLLECTOR_GRACE_SECONDS),
        ):
            for ended in self._supervisor.stop(
                names, seconds=seconds, hurry=lambda: self._signals.count > asked
            ):
                if ended.spec.name in {AGENT, COLLECTOR} and ended.status not in _STOPPED:
                    self._say(self._describe(ended))
                    clean = False
        killed = self._supervisor.kill()
        if killed:
            self._say(f"Killed: {', '.join(killed)}. What was stored is kept.")
        elif clean:
            self._say("Stopped; the data is kept.")
        return clean and not killed

    def _say(self, text: str) -> None:
        print(text, file=self._out, flush=True)


def up(options: UpOptions, *, environ: Mapping[str, str], out: TextIO) -> int:
    """Run a collector and an agent until told to stop.

    Returns:
        The exit status.

    Raises:
        CommandError: Something is missing or in the way, or a part ended by itself.
    """
    check_installed()
    make_data_dir(options.data_dir)
    port = choose_port(options.port)
    with (
        StopSignals() as signals,
        LogBook(options.data_dir / "flamewell.log", out) as log,
        Supervisor(log.write, wakeup=signals.wakeup) as supervisor,
    ):
        return Up(
            options,
            port=port,
            environ=environ,
            out=out,
            signals=signals,
            log=log,
            supervisor=supervisor,
        ).run()
