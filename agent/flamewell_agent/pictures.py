"""What a service's last windows looked like, for CPU time that no window of its own tells. Pure.

CPU time must be told within a minute, a turn may come later than that, and a process may end before
it: then the stacks of the same service's last windows stand in, marked as extrapolated.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from flamewell_agent.model import Frame, Resource, Stack

SAMPLES_REMEMBERED = 200
"""A share is then known to ±3.5 points (one standard deviation of 200 draws, worst case); with
depth 40 and shared frames a picture takes about 50 kB."""
PICTURES_AT_MOST = 500
_FRAMES_AT_MOST = 100_000


@dataclass(frozen=True, slots=True)
class Picture:
    """Stacks drawn from the last windows.

    Attributes:
        samples: Stack and count; the counts add up to ``SAMPLES_REMEMBERED`` at most.
        python_share: How much of the CPU time was Python's then, 0 to 1.
    """

    samples: tuple[tuple[Stack, int], ...]
    python_share: float


@dataclass(slots=True)
class Pictures:
    """One picture a resource; those that were not renewed for longest go first.

    Args:
        seed: Of the draws.
    """

    seed: int = 0
    _kept: dict[Resource, Picture] = field(default_factory=dict)
    _frames: dict[Frame, Frame] = field(default_factory=dict)
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        """Begin the draws."""
        self._random = random.Random(self.seed)  # noqa: S311 - sampling, no secret

    def __len__(self) -> int:
        """Count pictures."""
        return len(self._kept)

    def get(self, resource: Resource) -> Picture | None:
        """Give what is remembered of a resource."""
        return self._kept.get(resource)

    def add(
        self, resource: Resource, samples: Sequence[tuple[Stack, int]], python_share: float
    ) -> None:
        """Take a window in: as many samples of older ones are kept as there is room for."""
        fresh = self._draw(samples, SAMPLES_REMEMBERED)
        known = self._kept.pop(resource, None)
        room = SAMPLES_REMEMBERED - sum(fresh.values())
        if known is not None and room > 0:
            fresh.update(self._draw(known.samples, room))
        if len(self._frames) > _FRAMES_AT_MOST:
            self._frames.clear()
        shared = tuple((self._share(stack), count) for stack, count in fresh.items())
        self._kept[resource] = Picture(shared, python_share)
        while len(self._kept) > PICTURES_AT_MOST:
            del self._kept[next(iter(self._kept))]

    def _draw(self, samples: Iterable[tuple[Stack, int]], size: int) -> Counter[Stack]:
        """Draw without replacement, each sample with the same chance."""
        stacks, counts = zip(*samples, strict=True) if samples else ((), ())
        if sum(counts) <= size:
            return Counter(dict(zip(stacks, counts, strict=True)))
        return Counter(self._random.sample(stacks, size, counts=counts))

    def _share(self, stack: Stack) -> Stack:
        """Keep one object for equal frames: most stacks of a service have theirs in common."""
        return tuple([self._frames.setdefault(frame, frame) for frame in stack])
