"""When growth is a leak: thresholds, and what speaks against. Pure.

Each threshold answers something that grows and is no leak. Their values were found by a random
search on the tuning half of bench/leak_suite.py; bench/leaks.py shows what they are worth on the
other half.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from flamewell_collector.analysis.leaks.trend import Bools, Floats, Trends

DAY_MINUTES: Final = 1_440
_WORTH_ORDER: Final = 0.5
_WORTH_RISE_OVER_NOISE: Final = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """What a window has to show.

    Attributes:
        order: Kendall's tau at least: sawteeth and noise have less.
        order_beside_cpu: The same with CPU use held constant: memory that follows load has less.
        rise_over_noise: Rise over the deviation from the line, at least.
        rise_of_limit: Rise as a share of the limit, at least.
        bend: At least: filling caches slow down.
        life_bend: The same of the whole life, a day of it at most.
        step: Of the rise, at most: a model that was loaded is one step.
        drop: Of the rise, at most: what falls back was in use, not leaked.
        excess: Of the rise, what lies above all that was seen before in this life, or in one that
            did not end full, at least: batch jobs come back to where they were.
        windows_to_limit: Time to the limit over the window's length, at most.
        by_load: Of the rise, what CPU use explains by how both went together before, at most.
        cpu_ratio: CPU use over that of the day before, at most: jobs that run now and then.
        held_bins: In so many evaluations in a row.
    """

    order: float
    order_beside_cpu: float
    rise_over_noise: float
    rise_of_limit: float
    bend: float
    life_bend: float
    step: float
    drop: float
    excess: float
    windows_to_limit: float
    by_load: float
    cpu_ratio: float
    held_bins: int


@dataclass(frozen=True, slots=True)
class Rule:
    """Thresholds by how much is known.

    Attributes:
        settled: Of series that are known for a day.
        young: Of others: what comes and goes by the day was not seen yet.
        after_full: Of a life after one that ended because memory was full.
    """

    settled: Thresholds
    young: Thresholds
    after_full: Thresholds


_AFTER_FULL: Final = Thresholds(
    order=0.81,
    order_beside_cpu=-1,
    rise_over_noise=2.85,
    rise_of_limit=0.03,
    bend=-np.inf,
    life_bend=-np.inf,
    step=0.345,
    drop=np.inf,
    excess=-np.inf,
    windows_to_limit=10.8,
    by_load=np.inf,
    cpu_ratio=np.inf,
    held_bins=2,
)
_SETTLED: Final = Thresholds(
    order=0.79,
    order_beside_cpu=0.59,
    rise_over_noise=1.6,
    rise_of_limit=0.03,
    bend=0.885,
    life_bend=-0.05,
    step=0.46,
    drop=0.49,
    excess=0.665,
    windows_to_limit=3.4,
    by_load=0.5,
    cpu_ratio=2.15,
    held_bins=2,
)
_YOUNG: Final = replace(
    _SETTLED,
    rise_of_limit=0.01,
    bend=0.71,
    life_bend=0.32,
    windows_to_limit=1.57,
    held_bins=6,
)
CONFIRMED: Final = Rule(settled=_SETTLED, young=_YOUNG, after_full=_AFTER_FULL)
"""Somebody is told."""

_EARLY: Final = Thresholds(
    order=0.70,
    order_beside_cpu=0.68,
    rise_over_noise=2.3,
    rise_of_limit=0.027,
    bend=0.86,
    life_bend=0.42,
    step=0.39,
    drop=0.68,
    excess=0.54,
    windows_to_limit=4.0,
    by_load=0.5,
    cpu_ratio=2.07,
    held_bins=3,
)
SUSPECTED: Final = Rule(settled=_EARLY, young=_EARLY, after_full=_AFTER_FULL)
"""Worth a closer look by the agent; nobody is told."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a window stands in, as arrays of the windows' length.

    Attributes:
        limit: The container's limit, NaN without one.
        highest_before: Bins before the window in this life, and lives that did not end full;
            NaN where there were none.
        known_minutes: Since the series was first seen, over all its lives.
        full_in_a_row: How many lives before this one ended because memory was full.
        life_bend: See ``trend.bends``, of the whole life.
        by_load: What CPU use explains of the gain over the window, in the unit of the readings.
        cpu_ratio: Median CPU use of the window over that of the day before; NaN if not known.
    """

    limit: Floats
    highest_before: Floats
    known_minutes: Floats
    full_in_a_row: Floats
    life_bend: Floats
    by_load: Floats
    cpu_ratio: Floats

    def take(self, chosen: npt.NDArray[np.int64] | Bools) -> Setting:
        """Give some of them."""
        return Setting(**{each.name: getattr(self, each.name)[chosen] for each in fields(Setting)})


def ceiling(seen: Trends, limit: Floats) -> Floats:
    """Give what memory must not reach: the limit, or without one twice what there is."""
    found: Floats = np.where(np.isfinite(limit), limit, 2 * seen.level)
    return found


def windows_to_limit(seen: Trends, limit: Floats) -> Floats:
    """Give the time until the ceiling in lengths of the window."""
    left = np.maximum(ceiling(seen, limit) - seen.level, 0)
    return np.where(seen.rise > 0, left / np.maximum(seen.rise, 1e-6), np.inf).astype(np.float32)


def excess(seen: Trends, highest_before: Floats) -> Floats:
    """Give the share of the rise that lies above all that was there before; 1 if nothing was."""
    share = (seen.level - highest_before) / np.maximum(seen.rise, 1e-6)
    return np.where(np.isfinite(share), share, 1).astype(np.float32)


def worth_a_look(seen: Trends) -> Bools:
    """Tell which windows may be leaks at all, by the trend alone: the rest needs no more work."""
    clear = seen.rise > _WORTH_RISE_OVER_NOISE * seen.noise
    return seen.filled & (seen.order > _WORTH_ORDER) & (seen.rise > 0) & clear


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a rule says of windows, as arrays of one length.

    Attributes:
        leaks: All thresholds are met.
        share: Of the thresholds, how many are met, 0 to 1.
        held_bins: In how many evaluations in a row that must be so.
    """

    leaks: Bools
    share: Floats
    held_bins: npt.NDArray[np.int64]


def judge(seen: Trends, setting: Setting, rule: Rule) -> Judgement:
    """Hold windows against a rule."""
    young = setting.known_minutes < DAY_MINUTES
    settled_share = _share_met(seen, setting, rule.settled)
    young_share = _share_met(seen, setting, rule.young)
    share = np.where(young, young_share, settled_share)
    held = np.where(young, rule.young.held_bins, rule.settled.held_bins)
    after = (setting.full_in_a_row >= 1) & (_share_met(seen, setting, rule.after_full) >= 1)
    return Judgement(
        leaks=seen.filled & ((share >= 1) | after),
        share=np.where(after, 1, share).astype(np.float32),
        held_bins=np.where(after, np.minimum(held, rule.after_full.held_bins), held),
    )


def _share_met(seen: Trends, setting: Setting, want: Thresholds) -> Floats:
    tests = (
        seen.order >= want.order,
        seen.order_beside_cpu >= want.order_beside_cpu,
        seen.rise >= want.rise_over_noise * seen.noise,
        seen.rise >= want.rise_of_limit * ceiling(seen, setting.limit),
        seen.bend >= want.bend,
        setting.life_bend >= want.life_bend,
        seen.step <= want.step,
        seen.drop <= want.drop,
        excess(seen, setting.highest_before) >= want.excess,
        windows_to_limit(seen, setting.limit) <= want.windows_to_limit,
        setting.by_load <= want.by_load * np.maximum(seen.rise, 0),
        ~(setting.cpu_ratio > want.cpu_ratio),
    )
    return np.asarray(np.mean(tests, axis=0), np.float32)
