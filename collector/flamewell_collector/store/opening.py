"""Opens the store that the options name."""

from __future__ import annotations

from pathlib import Path

from flamewell_collector.store.state import StorageOptions
from flamewell_collector.store.storage import Storage


def open_storage(data_dir: Path, options: StorageOptions) -> Storage:
    """Open a store in a data folder, or a shared one with a data folder for copies.

    Raises:
        ConfigError: The URL of a shared one can't be understood, or a package is missing.
        StorageError: It is used by another process, damaged, or can't be read or written.
    """
    if options.shared is None:
        return Storage.open(data_dir, options)
    from flamewell_collector.store.shared.shared_storage import SharedStorage  # noqa: PLC0415

    return SharedStorage.open(data_dir, options)
