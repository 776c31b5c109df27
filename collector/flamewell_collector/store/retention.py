"""Which blocks have outlived their keep: by age, then by bytes, oldest first."""

from __future__ import annotations

from collections.abc import Iterable

from flamewell_collector.store.catalog import Block


def expired(blocks: Iterable[Block], *, now_ms: int, keep_ms: int, keep_bytes: int) -> list[Block]:
    """Give the blocks to remove.

    Args:
        blocks: All of them.
        now_ms: Now.
        keep_ms: Blocks whose last row is older go; 0 keeps for ever.
        keep_bytes: The oldest go until the rest is not larger than this; 0 is no limit.
    """
    ordered = sorted(blocks, key=lambda each: each.end_ms)
    gone = [each for each in ordered if keep_ms and each.end_ms < now_ms - keep_ms]
    rest = ordered[len(gone) :]
    left = sum(each.bytes for each in rest)
    for each in rest:
        if not keep_bytes or left <= keep_bytes:
            break
        gone.append(each)
        left -= each.bytes
    return gone
