"""Objects in S3 and what speaks like it, Google Cloud Storage, or Azure: by obstore."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import from_url

from flamewell_collector.errors import ConfigError, StorageUnavailable
from flamewell_collector.store.shared.object_info import ObjectInfo

_TIMEOUT: Final = timedelta(seconds=30)
_CONNECT_TIMEOUT: Final = timedelta(seconds=5)
_RETRY_SECONDS: Final = 20
_RETRIES: Final = 4
_PART_BYTES: Final = 16 << 20
"""Larger files go up in parts of this size."""


class UrlObjects:
    """Each call retries what may pass, for seconds; then it is told."""

    def __init__(self, url: str, endpoint: str) -> None:
        """Take the URL; nothing is asked of the store yet.

        Args:
            url: Of a folder of a bucket.
            endpoint: Of the server, where it is not the cloud's own.

        Raises:
            ConfigError: It can't be understood.
        """
        self._url = url
        # Google's is called otherwise; each cloud has a type of its own for such settings.
        word = "base_url" if url.startswith("gs:") else "endpoint"
        settings: Any = {word: endpoint} if endpoint else None
        try:
            self._store = from_url(
                url,
                config=settings,
                client_options={
                    "timeout": _TIMEOUT,
                    "connect_timeout": _CONNECT_TIMEOUT,
                    "allow_http": endpoint.startswith("http://"),
                },
                retry_config={
                    "max_retries": _RETRIES,
                    "retry_timeout": timedelta(seconds=_RETRY_SECONDS),
                },
            )
        except BaseError as error:
            raise ConfigError(f"store_url {url!r}: {_first_line(error)}") from error

    def put_new(self, key: str, data: bytes) -> bool:
        """Write an object where there is none: If-None-Match, which all these stores know."""
        with self._told():
            try:
                obstore.put(self._store, key, data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return False
            return True

    def put(self, key: str, data: bytes) -> None:
        """Write an object, or write it anew."""
        with self._told():
            obstore.put(self._store, key, data, use_multipart=False)

    def upload(self, key: str, path: Path) -> None:
        """Write a file as an object."""
        with self._told():
            obstore.put(self._store, key, path, chunk_size=_PART_BYTES)

    def get(self, key: str) -> bytes | None:
        """Read an object; None where there is none."""
        with self._told():
            try:
                return bytes(obstore.get(self._store, key).bytes())
            except (FileNotFoundError, NotFoundError):
                return None

    def download(self, key: str, path: Path) -> bool:
        """Read an object into a file; False where there is none."""
        with self._told():
            try:
                found = obstore.get(self._store, key)
                with path.open("wb") as file:
                    for part in found.stream(min_chunk_size=4 << 20):
                        file.write(part)
            except (FileNotFoundError, NotFoundError):
                return False
            return True

    def listed(self, prefix: str) -> Iterator[ObjectInfo]:
        """Give the objects below a folder, in the order of their keys."""
        with self._told():
            found = [
                ObjectInfo(
                    each["path"],
                    each["size"],
                    f"{each['e_tag']}-{each['last_modified'].timestamp()}",
                    int(each["last_modified"].timestamp() * 1000),
                )
                for part in obstore.list(self._store, prefix.rstrip("/") + "/")
                for each in part
            ]
        yield from sorted(found, key=lambda each: each.key)

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects, many by one request where the store can; some name what is missing."""
        with self._told():
            with suppress(FileNotFoundError, NotFoundError):
                obstore.delete(self._store, list(keys))
                return
            for key in keys:
                try:
                    obstore.delete(self._store, key)
                except (FileNotFoundError, NotFoundError):
                    continue

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError) as error:
            raise StorageUnavailable(
                f"the store {self._url} can't be used: {_first_line(error)}"
            ) from error


def _first_line(error: BaseException) -> str:
    return str(error).split("\n", 1)[0][:500]
