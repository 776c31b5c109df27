"""What a listing tells of objects."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a listing tells of an object.

    Attributes:
        key: Behind the store's URL.
        size: In bytes.
        version: Changes whenever it is written.
        changed_ms: When it was written, by the store's clock.
    """

    key: str
    size: int
    version: str
    changed_ms: int
