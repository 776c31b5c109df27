"""Which stacks the current log file has already: batches that come later leave those out.

Most samples stand on stacks that came a minute ago. Building, compressing and reading their trees
again for each batch would be most of the work of ingest.
"""

from __future__ import annotations

import threading
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flamewell_collector.store.key_table import KeyTable
from flamewell_collector.store.reader import equal_to

Bools = npt.NDArray[np.bool_]
UInt64s = npt.NDArray[np.uint64]

_MAX_STACKS = 4_000_000
"""What comes beyond is written again in each batch: 100 MB are enough for knowing it."""


class KnownStacks:
    """Stacks by tenant and service; safe to use from several threads."""

    def __init__(self, epoch: int, *, max_stacks: int = _MAX_STACKS) -> None:
        """Know nothing of the log file with the number ``epoch``."""
        self._lock = threading.Lock()
        self._max_stacks = max_stacks
        self._epoch = epoch
        self._table = KeyTable()

    def reset(self, epoch: int) -> None:
        """Begin with a new log file."""
        with self._lock:
            self._epoch, self._table = epoch, KeyTable()

    def add(self, tenant: str, stacks: pa.Table) -> None:
        """Note the stacks of a batch (BATCH_STACKS) that is in the log file."""
        ended = stacks.filter(stacks["stack_id"].is_valid())
        for service in ended["service_name"].unique().to_pylist():
            mine = ended.filter(equal_to(ended["service_name"], service))
            self.add_ids(tenant, service, mine["stack_id"].to_numpy().view(np.uint64))

    def add_ids(self, tenant: str, service: str, stack_ids: UInt64s) -> None:
        """Note stacks of a service."""
        with self._lock:
            if len(self._table) + len(stack_ids) <= self._max_stacks:
                self._table.add(stack_ids ^ _salt(tenant, service))

    def of(self, tenant: str) -> TenantStacks:
        """Give what is known of a tenant from now on; outdated once the log file is closed."""
        with self._lock:
            return TenantStacks(self, tenant, self._epoch)

    def unknown(self, epoch: int, tenant: str, service: str, stack_ids: UInt64s) -> Bools:
        """Tell which stacks are not in the log file with this number."""
        with self._lock:
            if epoch != self._epoch:
                return np.ones(len(stack_ids), dtype=bool)
            return self._table.find(stack_ids ^ _salt(tenant, service)) < 0


class TenantStacks:
    """One tenant's share, for one log file.

    Attributes:
        epoch: The log file.
    """

    def __init__(self, known: KnownStacks, tenant: str, epoch: int) -> None:
        self._known = known
        self._tenant = tenant
        self.epoch = epoch

    def unknown(self, service: str, stack_ids: UInt64s) -> Bools:
        """Tell which of a service's stacks are not in the log file, shape (n,)."""
        return self._known.unknown(self.epoch, self._tenant, service, stack_ids)


def _salt(tenant: str, service: str) -> np.uint64:
    data = f"{tenant}\0{service}".encode("utf-8", "surrogatepass")
    return np.uint64(int.from_bytes(blake2b(data, digest_size=8).digest(), "little"))
