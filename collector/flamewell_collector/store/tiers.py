"""The tiers in which rows are kept: as they came, as sums of ten minutes, as sums of an hour."""

from __future__ import annotations

from typing import Final

RAW: Final = "raw"
TEN_MINUTES: Final = "10m"
ONE_HOUR: Final = "1h"

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 86_400_000
SLOT_MS: Final = {TEN_MINUTES: 10 * MINUTE_MS, ONE_HOUR: HOUR_MS}
"""Length of a slot of each rolled-up tier; a slot never reaches into another hour."""
ROLLED_UP: Final = tuple(SLOT_MS)
