"""Counts requests to the store by kind: they cost money, and tell when it is ill."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from flamewell_collector.errors import StorageUnavailable
from flamewell_collector.store.shared.object_info import ObjectInfo
from flamewell_collector.store.shared.objects import Objects


class CountedObjects:
    """Hands everything on.

    Attributes:
        requests: Kind → how many.
        failures: Kind → how many failed.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._lock = threading.Lock()
        self.requests: Counter[str] = Counter(put=0, get=0, list=0, delete=0)
        self.failures: Counter[str] = Counter(put=0, get=0, list=0, delete=0)

    def put_new(self, key: str, data: bytes) -> bool:
        """Write an object where there is none."""
        with self._counted("put"):
            return self._objects.put_new(key, data)

    def put(self, key: str, data: bytes) -> None:
        """Write an object."""
        with self._counted("put"):
            self._objects.put(key, data)

    def upload(self, key: str, path: Path) -> None:
        """Write a file as an object."""
        with self._counted("put"):
            self._objects.upload(key, path)

    def get(self, key: str) -> bytes | None:
        """Read an object."""
        with self._counted("get"):
            return self._objects.get(key)

    def download(self, key: str, path: Path) -> bool:
        """Read an object into a file."""
        with self._counted("get"):
            return self._objects.download(key, path)

    def listed(self, prefix: str) -> Iterator[ObjectInfo]:
        """Give the objects below a folder."""
        with self._counted("list"):
            yield from self._objects.listed(prefix)

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects."""
        if keys:
            with self._counted("delete", len(keys)):
                self._objects.delete(keys)

    @contextmanager
    def _counted(self, kind: str, count: int = 1) -> Iterator[None]:
        with self._lock:
            self.requests[kind] += count
        try:
            yield
        except StorageUnavailable:
            with self._lock:
                self.failures[kind] += 1
            raise
