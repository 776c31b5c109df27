"""Content hashes: the same stack or label set has the same 64-bit id on every machine.

BLAKE2b cut to 8 bytes: keyed by nothing, fast in the standard library, and with 10⁷ distinct stacks
the chance of any collision is 3·10⁻⁶ (birthday bound n²/2⁶⁵).
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

ROOT_HASH = 0
"""The empty stack."""


def child_hash(parent_hash: int, function: str, file: str, line: int) -> int:
    """Hash of the stack made by calling ``function`` from the stack ``parent_hash``."""
    return hash_of_child(parent_hash, frame_key(function, file, line))


def frame_key(function: str, file: str, line: int) -> bytes:
    """Give what of a frame goes into the hash, for ``hash_of_child``."""
    return f"{function}\0{file}\0{line}".encode("utf-8", "surrogatepass")


def hash_of_child(parent_hash: int, key: bytes) -> int:
    """Hash of the stack made by calling the frame with this key from ``parent_hash``."""
    digest = blake2b(parent_hash.to_bytes(8, "little") + key, digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


def label_set_hash(labels: Iterable[tuple[str, str]]) -> int:
    """Hash of a label set; the order of the pairs does not matter."""
    digest = blake2b(digest_size=8)
    for name, value in sorted(labels):
        digest.update(f"{name}\0{value}\0".encode("utf-8", "surrogatepass"))
    return int.from_bytes(digest.digest(), "little") or 1
