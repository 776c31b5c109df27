"""Frames of the model workload: names and files as long as real ones are, the same every time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flamewell_collector.hashing import frame_hashes, text_hashes

LIBRARY_FRAMES: Final = 6_000
"""Of all libraries together; a service uses some of them."""
_LINES_A_FUNCTION: Final = 3
_VERBS: Final = (
    "get", "load", "parse", "encode", "validate", "resolve", "dispatch", "flush", "build", "apply",
    "execute", "iterate", "merge", "render", "serialize", "open", "lookup", "schedule", "retry",
    "compile", "normalize", "authorize", "publish", "consume", "_handle", "_prepare", "_update",
    "_collect", "_reduce", "_acquire", "_emit", "__call",
)  # fmt: skip
_NOUNS: Final = (
    "request", "response", "row", "rows_from_cursor", "session", "token", "payload", "batch",
    "connection", "header", "template", "query", "result", "cache_entry", "message", "event",
    "order_line", "price", "customer", "inventory", "stream", "chunk", "index", "filter", "schema",
    "permission", "callback", "task", "buffer", "metric", "document", "attachment",
)  # fmt: skip
_LIBRARIES: Final = (
    "asyncio", "json", "ssl", "logging", "concurrent/futures", "http", "email", "sqlalchemy/orm",
    "sqlalchemy/engine", "django/db/models", "django/core/handlers", "django/template", "pydantic",
    "fastapi", "starlette", "uvicorn/protocols/http", "urllib3", "requests", "redis/asyncio",
    "botocore", "kafka/producer", "grpc/_channel", "google/protobuf/internal", "numpy/core",
    "celery/app",
)  # fmt: skip
_AREAS: Final = (
    "checkout", "billing", "search", "catalog", "shipping", "identity", "ledger", "pricing",
    "recommendation", "notification", "inventory", "gateway", "reporting", "fraud", "media",
    "session", "export", "campaign", "support", "workflow",
)  # fmt: skip
_ROLES: Final = ("api", "worker", "scheduler", "stream", "sync", "indexer", "proxy", "batch", "web",
                 "store")  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Symbols:
    """Frames, each once. All of shape (n,).

    Attributes:
        hashes: ``hashing.frame_hash`` of each, unsigned.
        functions: Qualified names.
        files: Paths.
        lines: 1-based, int32.
    """

    hashes: npt.NDArray[np.uint64]
    functions: pa.Array
    files: pa.Array
    lines: npt.NDArray[np.int32]

    @classmethod
    def joined(cls, parts: Sequence[Symbols]) -> Symbols:
        """Put frames behind each other."""
        return cls(
            np.concatenate([each.hashes for each in parts]),
            pa.concat_arrays([each.functions for each in parts]),
            pa.concat_arrays([each.files for each in parts]),
            np.concatenate([each.lines for each in parts]),
        )

    @classmethod
    def of(cls, frames: Sequence[tuple[str, str, int]]) -> Symbols:
        """Make columns of (function, file, line)."""
        functions, files, lines = zip(*frames, strict=True)
        names, places = (
            text_hashes([each.encode() for each in texts]) for texts in (functions, files)
        )
        return cls(
            frame_hashes(names, places, np.array(lines)),
            pa.array(functions, pa.string()),
            pa.array(files, pa.string()),
            np.array(lines, np.int32),
        )


def service_name(number: int) -> str:
    """Name a service: 200 pairs of words, then numbers."""
    area, role = _AREAS[number % len(_AREAS)], _ROLES[number // len(_AREAS) % len(_ROLES)]
    round_number = number // (len(_AREAS) * len(_ROLES))
    return f"{area}-{role}" + (f"-{round_number}" if round_number else "")


def library_symbols() -> Symbols:
    """Give the frames that services share."""
    return Symbols.of([_library_frame(at) for at in range(LIBRARY_FRAMES)])


def service_symbols(service: str, count: int) -> Symbols:
    """Give so many frames of a service's own, at most 98,304."""
    package = service.replace("-", "_")
    return Symbols.of([_own_frame(package, at) for at in range(count)])


def _library_frame(at: int) -> tuple[str, str, int]:
    number, line = divmod(at, _LINES_A_FUNCTION)
    library = _LIBRARIES[number % len(_LIBRARIES)]
    function, kind, module = _method(number // len(_LIBRARIES))
    standard = library.islower() and "/" not in library and len(library) <= len("logging")
    folder = "/usr/local/lib/python3.12" + ("" if standard else "/site-packages")
    qualified = f"{library.replace('/', '.')}.{module}.{kind}.{function}"
    return qualified, f"{folder}/{library}/{module}.py", _line(number, line)


def _own_frame(package: str, at: int) -> tuple[str, str, int]:
    number, line = divmod(at, _LINES_A_FUNCTION)
    function, kind, module = _method(number)
    return (
        f"{package}.{module}.{kind}.{function}",
        f"/srv/app/{package}/{module}.py",
        _line(number, line),
    )


def _method(number: int) -> tuple[str, str, str]:
    """Give a method's, its class's and its module's name; numbers below 32,768 differ."""
    verb, rest = number % len(_VERBS), number // len(_VERBS)
    noun, more = rest % len(_NOUNS), rest // len(_NOUNS)
    subject = _NOUNS[(number * 5 + more) % len(_NOUNS)]
    kind = "".join(part.capitalize() for part in subject.split("_")) + "Handler" * (number % 2)
    function = f"{_VERBS[verb]}_{_NOUNS[noun]}" + (f"_{more}" if more else "")
    return function, kind, f"{subject}s"


def _line(number: int, line: int) -> int:
    return 12 + number * 37 % 900 + line * (2 + number % 5)
