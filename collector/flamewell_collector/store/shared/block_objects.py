"""The files of blocks as objects, with copies in the data folder of what was asked for lately."""

from __future__ import annotations

import logging
import shutil
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from flamewell_collector.errors import StorageUnavailable
from flamewell_collector.store.block_files import Wanted
from flamewell_collector.store.changes import Block
from flamewell_collector.store.shared.objects import Objects
from flamewell_collector.store.writer import TEMPORARY_FOLDER

log = logging.getLogger(__name__)

_TRANSFERS: Final = 16
"""At once: most of a small file's time is waiting for the store to answer."""


class BlockObjects:
    """Copies are whole files; those of blocks that were not asked for longest go first.

    Attributes:
        fetched_bytes: Read from the store since the start.
    """

    def __init__(
        self,
        objects: Objects,
        data_dir: Path,
        *,
        max_bytes: int,
        in_use: Callable[[str], bool],
    ) -> None:
        """Take the store.

        Args:
            objects: The store.
            data_dir: Where copies are.
            max_bytes: What copies may take.
            in_use: Tells whether somebody reads a block: its copy stays.
        """
        self._objects = objects
        self._data_dir = data_dir
        self._max_bytes = max_bytes
        self._in_use = in_use
        self._lock = threading.Lock()
        # Block → size of its copies, least recently used first.
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._doubted: set[str] = set()
        self._pool = ThreadPoolExecutor(_TRANSFERS, thread_name_prefix="block-transfer")
        self.fetched_bytes = 0

    @property
    def nbytes(self) -> int:
        """Size of the copies."""
        with self._lock:
            return sum(self._sizes.values())

    def fetch(self, wanted: Wanted) -> None:
        """Copy what is not here yet."""
        missing: list[tuple[str, str]] = []
        with self._lock:
            for path, tables in wanted:
                if path in self._sizes:
                    self._sizes.move_to_end(path)
                missing.extend(
                    (path, table) for table in tables if not self._file(path, table).exists()
                )
        if missing:
            self._each(self._copy, missing)
            self._trim()

    def publish(self, blocks: Iterable[Block]) -> None:
        """Upload all files of blocks; they stay here as copies."""
        found = list(blocks)
        files = [
            (each.path, file.stem)
            for each in found
            for file in (self._data_dir / each.path).iterdir()
        ]
        self._each(self._upload, files)
        with self._lock:
            for each in found:
                self._sizes[each.path] = each.bytes
        self._trim()

    def remove(self, path: str) -> None:
        """Delete the copy of a block."""
        with self._lock:
            self._sizes.pop(path, None)
        shutil.rmtree(self._data_dir / path, ignore_errors=True)

    def is_copy(self, path: str) -> bool:
        """Tell whether a damaged block may be whole in the store: at first it may."""
        with self._lock:
            first = path not in self._doubted
            self._doubted.add(path)
        if first:
            log.warning("the copy of block %s can't be read and is fetched again", path)
            self.remove(path)
        return first

    def set_aside(self, path: str) -> None:
        """Delete the copy; what the store has stays there."""
        self.remove(path)

    def close(self) -> None:
        """Wait for transfers."""
        self._pool.shutdown()

    def _file(self, path: str, table: str) -> Path:
        return self._data_dir / path / f"{table}.parquet"

    def _each(self, do: Callable[[str, str], None], files: Sequence[tuple[str, str]]) -> None:
        """Do something for all files, several at once.

        Raises:
            StorageUnavailable: It failed for one; what was begun is done, the rest is not.
        """
        running = [self._pool.submit(do, *each) for each in files]
        failure: BaseException | None = None
        for each in running:
            if failure is not None and each.cancel():
                continue
            failure = each.exception() or failure
        if isinstance(failure, OSError):
            raise StorageUnavailable(f"the data folder can't be used: {failure}") from failure
        if failure is not None:
            raise failure

    def _copy(self, path: str, table: str) -> None:
        final = self._file(path, table)
        draft = self._data_dir / TEMPORARY_FOLDER / uuid.uuid4().hex
        draft.parent.mkdir(exist_ok=True)
        try:
            if not self._objects.download(f"{path}/{table}.parquet", draft):
                return
            size = draft.stat().st_size
            final.parent.mkdir(parents=True, exist_ok=True)
            draft.rename(final)
        finally:
            draft.unlink(missing_ok=True)
        with self._lock:
            self._sizes[path] = self._sizes.get(path, 0) + size
            self.fetched_bytes += size

    def _upload(self, path: str, table: str) -> None:
        self._objects.upload(f"{path}/{table}.parquet", self._file(path, table))

    def _trim(self) -> None:
        """Delete copies that nobody reads until the rest fits."""
        with self._lock:
            over = sum(self._sizes.values()) - self._max_bytes
            chosen: list[str] = []
            for path, size in self._sizes.items():
                if over <= 0:
                    break
                if not self._in_use(path):
                    chosen.append(path)
                    over -= size
        for path in chosen:
            self.remove(path)
