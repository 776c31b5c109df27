"""Ground truth and profiles as cells (service, function) → share, and how far they are apart."""

from __future__ import annotations

import http.server
import re
import statistics
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import zstandard
from node_worker import FUNCTIONS, ROW, THREADS_AT_MOST
from opentelemetry.proto.collector.profiles.v1development.profiles_service_pb2 import (
    ExportProfilesServiceRequest,
)

Cells = Counter[tuple[str, str]]
_WORK = re.compile(r"work_\d$")
_RAW_WORK = re.compile(r"(work_\d) \(")
CPU_TYPE = "process_cpu:cpu:nanoseconds:cpu:nanoseconds"
OTHER = "(other)"


class Sink:
    """A collector that keeps what it is sent in a folder, and decodes nothing meanwhile."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(handler) -> None:  # noqa: N805 - self is the sink
                body = handler.rfile.read(int(handler.headers["Content-Length"]))
                if not handler.path.endswith("/profiles"):  # the agent asks for orders as well
                    handler.send_error(404)
                    return
                coming = folder / "coming"
                coming.write_bytes(body)
                coming.rename(folder / f"{len(list(folder.iterdir())):06d}")
                handler.send_response(200)
                handler.send_header("Content-Length", "0")
                handler.end_headers()

            def log_message(handler, *_: object) -> None:  # noqa: N805 - as above
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Take no more."""
        self._server.shutdown()
        self._server.server_close()

    def received(self) -> Iterable[bytes]:
        """Give the batches that have come so far."""
        for path in sorted(self._folder.glob("0*")):
            yield zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes())


def counted(data: bytes, workers: int, service_of: Callable[[int], str]) -> Cells:
    """Read the targets' own counters."""
    cells: Cells = Counter()
    for worker in range(workers):
        for thread in range(THREADS_AT_MOST):
            row = ROW.unpack_from(data, (worker * THREADS_AT_MOST + thread) * ROW.size)
            for function in range(FUNCTIONS):
                cells[service_of(worker), f"work_{function}"] += row[function]
    return cells


def cells_of_batches(batches: Iterable[bytes]) -> Cells:
    """Add up the CPU time of Python profiles by service and work function."""
    cells: Cells = Counter()
    for body in batches:
        request = ExportProfilesServiceRequest.FromString(body)
        tables = request.dictionary
        names = [
            {
                tables.string_table[tables.function_table[line.function_index].name_strindex]
                for line in location.lines
            }
            for location in tables.location_table
        ]
        of_stack = [
            _function(name for index in stack.location_indices for name in names[index])
            for stack in tables.stack_table
        ]
        for resource in request.resource_profiles:
            attributes = {
                each.key: each.value.string_value for each in resource.resource.attributes
            }
            service = attributes.get("service.name", "")
            if not service.startswith("service-"):
                continue
            for scope in resource.scope_profiles:
                for profile in scope.profiles:
                    kind = _kind(profile, tables)
                    unit = tables.string_table[profile.sample_type.unit_strindex]
                    factor = profile.period if unit == "count" else 1
                    if kind == CPU_TYPE:
                        for sample in profile.samples:
                            function = of_stack[sample.stack_index]
                            cells[service, function] += sum(sample.values) * factor
    return cells


def _kind(profile, tables) -> str:
    for index in profile.attribute_indices:
        entry = tables.attribute_table[index]
        if tables.string_table[entry.key_strindex] == "flamewell.profile_type":
            return entry.value.string_value
    return ""


def _function(names: Iterable[str]) -> str:
    """Give the work function of a stack, or the pseudo frame that it is."""
    pseudo = OTHER
    for name in names:
        if _WORK.match(name):
            return name
        if name.startswith("["):
            pseudo = name
    return pseudo


def cells_of_raw_files(folder: Path, service_of: Callable[[int], str]) -> Cells:
    """Add up py-spy's raw files, each sample as much as any other."""
    cells: Cells = Counter()
    for path in folder.iterdir():
        service = service_of(int(path.name))
        for line in path.read_text(errors="replace").splitlines():
            stack, _, count = line.rpartition(" ")
            found = _RAW_WORK.findall(stack)
            cells[service, found[-1] if found else OTHER] += int(count)
    return cells


def native_share(cells: Cells) -> float:
    """Share that is told without a Python stack."""
    told = sum(cells.values())
    return sum(each for (_, name), each in cells.items() if name.startswith("[")) / max(told, 1)


def accuracy(truth: Cells, cells: Cells) -> dict[str, object]:
    """Compare two profiles by the shares of their work functions."""
    work = Counter({key: value for key, value in cells.items() if _WORK.match(key[1])})
    whole, told = sum(truth.values()), max(sum(work.values()), 1)
    errors = {key: work[key] / told - truth[key] / whole for key in truth}
    top = sorted(truth, key=lambda key: -truth[key])[:10]
    by_function = Counter({name: 0.0 for _, name in truth})
    for (_, name), error in errors.items():
        by_function[name] += error
    services = sorted({service for service, _ in truth})
    return {
        "error_points_top_10_max": round(100 * max(abs(errors[key]) for key in top), 3),
        "error_points_by_function_max": round(100 * max(map(abs, by_function.values())), 3),
        "distance_of_profiles_percent": round(50 * sum(map(abs, errors.values())), 2),
        "distance_within_a_service_percent_median": round(
            statistics.median(_within(truth, work, each) for each in services), 2
        ),
        "no_work_function_percent": round(
            100 * cells_without_work(cells) / max(sum(cells.values()), 1), 2
        ),
    }


def _within(truth: Cells, work: Cells, service: str) -> float:
    keys = [key for key in truth if key[0] == service]
    whole = sum(truth[key] for key in keys) or 1
    told = sum(work[key] for key in keys) or 1
    return 50 * sum(abs(work[key] / told - truth[key] / whole) for key in keys)


def cells_without_work(cells: Cells) -> int:
    """Sum of what is not in a work function: waiting code, pseudo frames."""
    return sum(value for (_, name), value in cells.items() if not _WORK.match(name))
