"""Objects as files of a folder that collectors have in common: one machine, or NFS."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from flamewell_collector.errors import StorageUnavailable
from flamewell_collector.store.shared.object_info import ObjectInfo
from flamewell_collector.store.wal import sync_folder

_DRAFTS = ".drafts"


class FolderObjects:
    """Each object appears whole: it is written aside, synced, and then gets its name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put_new(self, key: str, data: bytes) -> bool:
        """Write an object where there is none; a hard link is made by one only."""
        with self._told(), self._draft(lambda file: file.write(data)) as draft:
            try:
                self._place(key, lambda target: os.link(draft, target))
            except FileExistsError:
                return False
            return True

    def put(self, key: str, data: bytes) -> None:
        """Write an object, or write it anew."""
        with self._told(), self._draft(lambda file: file.write(data)) as draft:
            self._place(key, draft.rename)

    def upload(self, key: str, path: Path) -> None:
        """Write a file as an object."""
        with (
            self._told(),
            path.open("rb") as source,
            self._draft(lambda file: shutil.copyfileobj(source, file)) as draft,
        ):
            self._place(key, draft.rename)

    def get(self, key: str) -> bytes | None:
        """Read an object; None where there is none."""
        with self._told():
            try:
                return (self._folder / key).read_bytes()
            except FileNotFoundError:
                return None

    def download(self, key: str, path: Path) -> bool:
        """Read an object into a file; False where there is none."""
        with self._told():
            try:
                shutil.copyfile(self._folder / key, path)
            except FileNotFoundError:
                return False
            return True

    def listed(self, prefix: str) -> Iterator[ObjectInfo]:
        """Give the objects below a folder, in the order of their keys."""
        with self._told():
            paths = sorted(each for each in (self._folder / prefix).rglob("*") if each.is_file())
        for path in paths:
            with self._told():
                try:
                    found = path.stat()
                except FileNotFoundError:
                    continue
            key = path.relative_to(self._folder).as_posix()
            version = f"{found.st_ino}-{found.st_mtime_ns}"
            yield ObjectInfo(key, found.st_size, version, found.st_mtime_ns // 1_000_000)

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects, and their folders where those are empty then."""
        with self._told():
            for key in keys:
                path = self._folder / key
                path.unlink(missing_ok=True)
                with suppress(OSError):
                    path.parent.rmdir()

    def _place(self, key: str, move: Callable[[Path], object]) -> None:
        target = self._folder / key
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            move(target)
        except FileNotFoundError:
            # Somebody has just deleted the last object of the folder, and the folder.
            target.parent.mkdir(parents=True, exist_ok=True)
            move(target)
        sync_folder(target.parent)

    @contextmanager
    def _draft(self, write: Callable[[IO[bytes]], object]) -> Iterator[Path]:
        drafts = self._folder / _DRAFTS
        drafts.mkdir(parents=True, exist_ok=True)
        draft = drafts / uuid.uuid4().hex
        try:
            with draft.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            yield draft
        finally:
            draft.unlink(missing_ok=True)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageUnavailable(f"the store {self._folder} can't be used: {error}") from error
