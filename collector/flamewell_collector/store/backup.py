"""Copies a data folder, also while a collector writes to it, and brings the copy back.

Blocks never change and come and go by renames, so they are copied (or linked) as they are, each
once. Beside a running collector the log is copied first, the catalog after it and the blocks that
it names last. Whatever was acknowledged before the backup began is then in it: in the log, or,
where it was flushed meanwhile, in blocks of the catalog, which also tells which log files do not
count any more. A block that compaction or retention takes away meanwhile begins the last two steps
anew.

A backup folder holds ``blocks``, ``rollups``, one ``state-ID`` (catalog, captures, log) and
``manifest.json``, which is replaced by one rename when all of it is durable.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flamewell_collector.errors import StorageError
from flamewell_collector.store import folder_lock, wal
from flamewell_collector.store.backup_manifest import (
    MANIFEST_FILE,
    Entry,
    Manifest,
    read_manifest,
    write_manifest,
)
from flamewell_collector.store.captures import CAPTURES_FILE
from flamewell_collector.store.catalog import Catalog
from flamewell_collector.store.changes import Block
from flamewell_collector.store.data_folder import CATALOG_FILE, WAL_FOLDER
from flamewell_collector.store.database_copy import copy_database
from flamewell_collector.store.durable_copy import checksum, copy_file, link_file
from flamewell_collector.store.folder_lock import LOCK_FILE
from flamewell_collector.store.recovery import try_write
from flamewell_collector.store.wal import sync_folder
from flamewell_collector.store.writer import BLOCKS_FOLDER, ROLLUPS_FOLDER, block_folders

_TRIES: Final = 20
_RESTORING_FOLDER: Final = "restoring"
_MAY_BE_THERE: Final = frozenset({LOCK_FILE, _RESTORING_FOLDER, "lost+found"})


@dataclass(frozen=True, slots=True)
class Done:
    """What a backup or a restore did.

    Attributes:
        blocks: How many there are.
        copied_blocks: How many of them were not there before.
        bytes: Of all files.
        log_batches: Batches that come from the log.
    """

    blocks: int
    copied_blocks: int
    bytes: int
    log_batches: int


class _BlockGone(Exception):
    """A block (its path) was replaced since the catalog was copied."""


def back_up(data_dir: Path, target: Path, *, link: bool, now_ms: int) -> Done:
    """Bring a backup folder up to date.

    Args:
        data_dir: Of a collector that runs or not.
        target: Empty, not there, or an earlier backup.
        link: Make hard links of blocks where the file system can; they then stand and fall with
            the disk of the data folder.
        now_ms: For the manifest.

    Raises:
        StorageError: It can't be read or written, or ``target`` is something else.
    """
    if not (data_dir / CATALOG_FILE).exists():
        raise StorageError(f"{data_dir} is no data folder of a collector: it has no catalog")
    try:
        target.mkdir(parents=True, exist_ok=True)
        with _alone(target):
            return _back_up(data_dir, target, link=link, now_ms=now_ms)
    except OSError as error:
        raise StorageError(f"the backup can't be written: {error}") from error


def _back_up(data_dir: Path, target: Path, *, link: bool, now_ms: int) -> Done:
    former = _former(target)
    state = f"state-{uuid.uuid4().hex}"
    folder = target / state
    folder.mkdir()
    try:
        log = _copy_log(data_dir / WAL_FOLDER, folder / WAL_FOLDER)
        copied, blocks, flushed = _copy_blocks(data_dir, target, folder, former, link=link)
        files = _with_captures(data_dir, folder)
        kept = {number: entry for number, (entry, _) in log.items() if number > flushed}
        for number in log.keys() - kept.keys():
            (folder / WAL_FOLDER / f"{number:012d}.wal").unlink()
        files |= {f"{WAL_FOLDER}/{number:012d}.wal": entry for number, entry in kept.items()}
        sync_folder(folder / WAL_FOLDER)
        sync_folder(folder)
        manifest = Manifest(now_ms, state, files, blocks)
        write_manifest(target, manifest)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    _sweep(target, manifest)
    batches = sum(count for number, (_, count) in log.items() if number in kept)
    return Done(len(blocks), copied, manifest.bytes, batches)


def restore(source: Path, data_dir: Path) -> Done:
    """Copy a backup into an empty data folder; every file's checksum is compared on the way.

    Raises:
        StorageError: The folder is not empty, or a file of the backup is missing or damaged:
            nothing is left in the data folder then.
    """
    manifest = read_manifest(source)
    if manifest is None:
        raise StorageError(f"{source} is no backup: it has no {MANIFEST_FILE}")
    _refuse_if_used(data_dir)
    work = data_dir / _RESTORING_FOLDER
    try:
        (data_dir / LOCK_FILE).touch()
        with folder_lock.held(data_dir):
            _restore(source, manifest, data_dir, work)
    except OSError as error:
        raise StorageError(f"the backup can't be restored: {error}") from error
    batches = sum(_batches(path) for _, path in wal.files(data_dir / WAL_FOLDER))
    return Done(len(manifest.blocks), len(manifest.blocks), manifest.bytes, batches)


def _restore(source: Path, manifest: Manifest, data_dir: Path, work: Path) -> None:
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        _copy_all(source, manifest, work)
        # The catalog goes last: until it is there, the folder is none that a collector has used.
        for name in (BLOCKS_FOLDER, ROLLUPS_FOLDER, WAL_FOLDER, CAPTURES_FILE, CATALOG_FILE):
            if (work / name).exists():
                (work / name).rename(data_dir / name)
        sync_folder(data_dir)
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Keep others from writing to the same backup."""
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise StorageError(f"another backup is being written to {target}") from error
    finally:
        os.close(fd)


def _former(target: Path) -> Manifest | None:
    """Give what an earlier backup left.

    Raises:
        StorageError: The folder holds something else.
    """
    former = read_manifest(target)
    if former is None:
        others = sorted(
            each.name
            for each in target.iterdir()
            if each.name not in {BLOCKS_FOLDER, ROLLUPS_FOLDER, "lost+found"}
            and not each.name.startswith("state-")
        )
        if others:
            raise StorageError(
                f"{target} is neither empty nor a backup, it holds {others[0]!r}: name another "
                "folder"
            )
    return former


def _copy_log(source: Path, target: Path) -> dict[int, tuple[Entry, int]]:
    """Copy the log's whole frames; gives number → entry and how many batches it holds."""
    target.mkdir()
    found = {}
    for number, path in wal.files(source):
        copy = target / path.name
        try:
            copy_file(path, copy)
        except FileNotFoundError:
            continue  # it was flushed meanwhile: the catalog, which is copied later, has its rows
        replayed = wal.replay(copy)
        if replayed.torn_bytes:
            # A frame that was being written: it is not acknowledged yet, or was never.
            with copy.open("r+b") as file:
                file.truncate(copy.stat().st_size - replayed.torn_bytes)
        entry = Entry(copy.stat().st_size, checksum(copy))
        found[number] = (entry, len(replayed.payloads))
    return found


def _copy_blocks(
    data_dir: Path, target: Path, state: Path, former: Manifest | None, *, link: bool
) -> tuple[int, dict[str, dict[str, Entry]], int]:
    """Copy the catalog and the blocks that it names; gives (copied, blocks, flushed log)."""
    copied, gone = 0, ""
    for _ in range(_TRIES):
        copy_database(data_dir / CATALOG_FILE, state / CATALOG_FILE)
        catalog = Catalog(state / CATALOG_FILE)
        try:
            registered, flushed = catalog.blocks(), catalog.flushed_wal()
        finally:
            catalog.close()
        known: dict[str, dict[str, Entry]] = {}
        try:
            for block in registered:
                entries = _kept(block, target, former)
                copied += entries is None
                known[block.path] = entries or _copy_block(block, data_dir, target, link=link)
        except _BlockGone as error:
            if str(error) == gone:
                raise StorageError(
                    f"block {gone} is registered but not there: see `verify`"
                ) from error
            gone = str(error)
            continue
        return copied, known, flushed
    raise StorageError("blocks were replaced all the time: try again when less is merged")


def _kept(block: Block, target: Path, former: Manifest | None) -> dict[str, Entry] | None:
    """Give the files of a block that the backup has already, None where it has not."""
    entries = former.blocks.get(block.path) if former else None
    if entries is None:
        return None
    folder = target / block.path
    sizes = {each.name: each.stat().st_size for each in folder.iterdir()} if folder.is_dir() else {}
    return entries if sizes == {name: each.bytes for name, each in entries.items()} else None


def _copy_block(block: Block, data_dir: Path, target: Path, *, link: bool) -> dict[str, Entry]:
    """Copy a block's folder, which appears whole.

    Raises:
        _BlockGone: It is not there (any more).
        StorageError: It is not whole: verify tells more.
    """
    source, final = data_dir / block.path, target / block.path
    draft = final.with_name(f"draft-{final.name}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    entries: dict[str, Entry] = {}
    try:
        for path in sorted(source.iterdir()):
            done = link_file(path, draft / path.name) if link else None
            entries[path.name] = done or copy_file(path, draft / path.name)
    except FileNotFoundError as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise _BlockGone(block.path) from error
    if sum(each.bytes for each in entries.values()) != block.bytes:
        shutil.rmtree(draft, ignore_errors=True)
        if source.exists():
            raise StorageError(f"block {block.path} is not whole: see `verify`")
        raise _BlockGone(block.path)
    sync_folder(draft)
    shutil.rmtree(final, ignore_errors=True)
    draft.rename(final)
    sync_folder(final.parent)
    return entries


def _with_captures(data_dir: Path, state: Path) -> dict[str, Entry]:
    """Copy the file of captures; gives the entries of both databases."""
    names = [CATALOG_FILE]
    if (data_dir / CAPTURES_FILE).exists():
        copy_database(data_dir / CAPTURES_FILE, state / CAPTURES_FILE)
        names.append(CAPTURES_FILE)
    for each in state.glob("*.sqlite-*"):
        each.unlink()
    return {name: Entry((state / name).stat().st_size, checksum(state / name)) for name in names}


def _sweep(target: Path, manifest: Manifest) -> None:
    """Remove what the manifest does not name (any more)."""
    for state in target.glob("state-*"):
        if state.name != manifest.state:
            shutil.rmtree(state, ignore_errors=True)
    for folder in block_folders(target):
        if str(folder.relative_to(target)) not in manifest.blocks:
            shutil.rmtree(folder, ignore_errors=True)
    for draft in target.glob("*/tenant=*/**/draft-*"):
        shutil.rmtree(draft, ignore_errors=True)


def _refuse_if_used(data_dir: Path) -> None:
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        there = sorted({each.name for each in data_dir.iterdir()} - _MAY_BE_THERE)
        try_write(data_dir)
    except OSError as error:
        raise StorageError(f"the data folder {data_dir} can't be used: {error}") from error
    if there:
        raise StorageError(
            f"the data folder {data_dir} is not empty, it holds {there[0]!r}: a backup is restored "
            "into an empty folder only"
        )


def _copy_all(source: Path, manifest: Manifest, work: Path) -> None:
    (work / WAL_FOLDER).mkdir()
    (work / BLOCKS_FOLDER).mkdir()
    (work / ROLLUPS_FOLDER).mkdir()
    _copy_checked(source / manifest.state, work, manifest.files)
    for path, entries in manifest.blocks.items():
        (work / path).mkdir(parents=True)
        _copy_checked(source / path, work / path, entries)
    _sync_folders(work, [work / path for path in manifest.blocks])


def _copy_checked(source: Path, target: Path, entries: dict[str, Entry]) -> None:
    for name, wanted in entries.items():
        try:
            found = copy_file(source / name, target / name)
        except FileNotFoundError as error:
            raise StorageError(f"the backup is not whole: {source / name} is missing") from error
        if found != wanted:
            raise StorageError(
                f"the backup is damaged: {source / name} is not what was written to it"
            )


def _sync_folders(top: Path, folders: Iterable[Path]) -> None:
    every = {top / WAL_FOLDER, top}
    for folder in folders:
        every |= {folder, *(each for each in folder.parents if each.is_relative_to(top))}
    for folder in every:
        sync_folder(folder)


def _batches(path: Path) -> int:
    return len(wal.replay(path).payloads)
