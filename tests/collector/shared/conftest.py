"""Stores that collectors share: in a common folder, and in a bucket of a real S3 server."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from collector.shared.s3_server import s3_server
from collector.stored import let_go

from flamewell_collector.store.shared.objects import Objects, open_objects
from flamewell_collector.store.shared.shared_storage import SharedStorage
from flamewell_collector.store.state import SharedOptions, StorageOptions

_names = itertools.count()


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An S3 server with a bucket ``profiles``; gives its URL."""
    with s3_server(tmp_path_factory.mktemp("s3")) as endpoint:
        yield endpoint


@pytest.fixture(scope="session", autouse=True)
def _started_before_tests_are_watched(s3_endpoint: str) -> None:
    """A process that the first test started would look as if it were left behind."""


@dataclass(frozen=True)
class Place:
    """Where an empty store is.

    Attributes:
        url: Of its folder.
        endpoint: Of the server.
    """

    url: str
    endpoint: str = ""

    def objects(self) -> Objects:
        """Its objects."""
        return open_objects(self.url, self.endpoint)


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest) -> Place:
    """A store in a folder, and one in a bucket."""
    return request.getfixturevalue(f"{request.param}_place")


@pytest.fixture
def folder_place(tmp_path: Path) -> Place:
    """A store in a folder."""
    return Place(f"file://{tmp_path}/shared")


@pytest.fixture
def s3_place(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A store in a bucket."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    return Place(f"s3://profiles/store-{next(_names)}", s3_endpoint)


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Callable[..., SharedStorage]]:
    """Open a shared store as one collector does: (place, name); closed at the end of the test."""
    folders = itertools.count()
    with ExitStack() as stack:

        def opened(place: Place, instance: str = "one", **options: Any) -> SharedStorage:
            own = {name: options.pop(name) for name in list(options) if name in _SHARED}
            own = {"endpoint": place.endpoint, "gather_seconds": 0, **own}
            storage = SharedStorage.open(
                tmp_path / f"data-{instance}-{next(folders)}",
                StorageOptions(shared=SharedOptions(place.url, instance, **own), **options),
            )
            stack.callback(_close_once, storage)
            return storage

        yield opened


_SHARED = frozenset(SharedOptions.__dataclass_fields__)


def killed(storage: SharedStorage) -> None:
    """Let go of a store as kill -9 does."""
    let_go(storage)
    storage._files_.close()


def _close_once(storage: SharedStorage) -> None:
    if storage._lock_fd >= 0:
        storage.close()
        storage._lock_fd = -1
