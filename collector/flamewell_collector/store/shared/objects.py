"""The seam to object storage: whole objects by key, and one that only the first writer can make."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

from flamewell_collector.errors import ConfigError
from flamewell_collector.store.shared.folder_objects import FolderObjects
from flamewell_collector.store.shared.object_info import ObjectInfo

SCHEMES: Final = ("file", "s3", "s3a", "gs", "az", "abfs", "abfss")


class Objects(Protocol):
    """Objects below one URL. Every method may raise StorageUnavailable: it can't be reached."""

    def put_new(self, key: str, data: bytes) -> bool:
        """Write an object, durably, where there is none of this key; False where there is.

        After an error it may have been written all the same.
        """
        ...

    def put(self, key: str, data: bytes) -> None:
        """Write an object, or write it anew."""
        ...

    def upload(self, key: str, path: Path) -> None:
        """Write a file as an object."""
        ...

    def get(self, key: str) -> bytes | None:
        """Read an object; None where there is none."""
        ...

    def download(self, key: str, path: Path) -> bool:
        """Read an object into a file; False where there is none."""
        ...

    def listed(self, prefix: str) -> Iterator[ObjectInfo]:
        """Give the objects below a folder, in the order of their keys."""
        ...

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; those that are not there are deleted already."""
        ...


def open_objects(url: str, endpoint: str = "") -> Objects:
    """Open the place that a URL names. Credentials come from the environment, as each cloud's do.

    Args:
        url: Of a folder.
        endpoint: Of the server of a bucket, where it is not the cloud's own.

    Raises:
        ConfigError: It is no such URL, or the package for it is not installed.
    """
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise ConfigError(
            f"store_url {url!r}: give s3://bucket/folder, gs://bucket/folder, "
            "az://container/folder or file:///folder"
        )
    if parts.scheme == "file":
        if parts.netloc or not parts.path.startswith("/"):
            raise ConfigError(f"store_url {url!r}: a folder is named as file:///its/path")
        return FolderObjects(Path(parts.path))
    if not parts.netloc:
        raise ConfigError(f"store_url {url!r} names no bucket")
    try:
        # A library of 20 MB, which a store in a folder does without.
        from flamewell_collector.store.shared.url_objects import UrlObjects  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            f"store_url {url!r} needs the extra 'object-storage' ({error}): "
            "pip install 'flamewell[object-storage]'"
        ) from error
    return UrlObjects(url, endpoint)
