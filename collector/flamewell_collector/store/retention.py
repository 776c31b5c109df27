"""Which blocks have outlived their keep: by age in their tier, then by bytes (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flamewell_collector.store.changes import Block
from flamewell_collector.store.tiers import ONE_HOUR, RAW, TEN_MINUTES

_FIRST_TO_GO = (RAW, TEN_MINUTES, ONE_HOUR)


def expired(
    blocks: Iterable[Block], *, now_ms: int, keep_ms: Mapping[str, int], keep_bytes: int
) -> list[Block]:
    """Give the blocks to remove.

    Args:
        blocks: All of them.
        now_ms: Now.
        keep_ms: Tier → blocks whose last row is older go; 0 or a tier that is not there keeps for
            ever.
        keep_bytes: Blocks go until the rest is not larger than this: raw rows first, whose sums
            are small and tell as much about long ranges, the oldest ones first; 0 is no limit.
    """
    gone: list[Block] = []
    rest: list[Block] = []
    for each in blocks:
        keep = keep_ms.get(each.tier, 0)
        (gone if keep and each.end_ms < now_ms - keep else rest).append(each)
    left = sum(each.bytes for each in rest)
    rest.sort(key=lambda each: (_FIRST_TO_GO.index(each.tier), each.end_ms))
    for each in rest:
        if not keep_bytes or left <= keep_bytes:
            break
        gone.append(each)
        left -= each.bytes
    return gone
