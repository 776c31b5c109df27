"""What a backup says of itself: every file with its size and SHA-256."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from flamewell_collector.errors import StorageError
from flamewell_collector.store.schema import FORMAT_VERSION
from flamewell_collector.store.wal import sync_folder
from flamewell_collector.store.writer import BLOCKS_FOLDER, ROLLUPS_FOLDER

MANIFEST_FILE: Final = "manifest.json"
_BACKUP_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """A file: its size in bytes and its SHA-256, hexadecimal."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """A backup.

    Attributes:
        made_ms: When, ms since the epoch.
        state: Folder of what is no block.
        files: Path in that folder → file.
        blocks: Path of a block → name → file.
    """

    made_ms: int
    state: str
    files: dict[str, Entry]
    blocks: dict[str, dict[str, Entry]]

    @property
    def bytes(self) -> int:
        """Of all files."""
        parts = (self.files, *self.blocks.values())
        return sum(each.bytes for part in parts for each in part.values())


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Put a manifest in the place of the former one, durably, by one rename.

    Raises:
        OSError: It can't be written.
    """
    text = json.dumps(
        {
            "backup_version": _BACKUP_VERSION,
            "format_version": FORMAT_VERSION,
            "made_ms": manifest.made_ms,
            "state": manifest.state,
            "files": _written(manifest.files),
            "blocks": {path: _written(each) for path, each in manifest.blocks.items()},
        },
        indent=1,
    )
    draft = folder / f"{manifest.state}.manifest"
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(folder / MANIFEST_FILE)
    sync_folder(folder)


def read_manifest(folder: Path) -> Manifest | None:
    """Read the manifest of a backup, None where there is none.

    Raises:
        StorageError: It can't be read, or is of another version.
    """
    path = folder / MANIFEST_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} can't be read: {error}") from error
    try:
        versions = (found["backup_version"], found["format_version"])
        if versions != (_BACKUP_VERSION, FORMAT_VERSION):
            raise StorageError(
                f"{path} is of backup version {versions[0]} and storage format {versions[1]}; this "
                f"version reads {_BACKUP_VERSION} and {FORMAT_VERSION}"
            )
        return _parsed(found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StorageError(f"{path} is no manifest of a backup: {error!r}") from error


def _parsed(found: dict[str, Any]) -> Manifest:
    state = str(found["state"])
    if not state.startswith("state-"):
        raise ValueError(state)
    blocks = {path: _entries(each) for path, each in found["blocks"].items()}
    for path in (state, *blocks):
        _refuse_outside(path)
    if any(path.split("/")[0] not in {BLOCKS_FOLDER, ROLLUPS_FOLDER} for path in blocks):
        raise ValueError("a block outside of its folders")
    return Manifest(int(found["made_ms"]), state, _entries(found["files"]), blocks)


def _entries(found: dict[str, Any]) -> dict[str, Entry]:
    for name in found:
        _refuse_outside(name)
    return {name: Entry(int(size), str(digest)) for name, (size, digest) in found.items()}


def _refuse_outside(path: str) -> None:
    """Refuse paths that lead out of the folder: a backup may come from anywhere."""
    parts = PurePosixPath(path).parts
    if not parts or ".." in parts or path.startswith("/") or "\0" in path:
        raise ValueError(f"the path {path!r}")


def _written(files: dict[str, Entry]) -> dict[str, list[str | int]]:
    return {name: [each.bytes, each.sha256] for name, each in files.items()}
