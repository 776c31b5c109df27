"""Watches many series minute by minute and says which leak. Pure: time and readings are handed in.

``step`` reads like the rule: take the minute in, look at the windows that have a new bin, judge
them by both tiers, keep what is held long enough, let go what has stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from flamewell_collector.analysis.leaks.forecast import Forecast, forecast
from flamewell_collector.analysis.leaks.ladder import SCALES, Ladder, Minutes, median
from flamewell_collector.analysis.leaks.lives import Lives, Minute
from flamewell_collector.analysis.leaks.rule import (
    CONFIRMED,
    SUSPECTED,
    Judgement,
    Rule,
    Setting,
    judge,
    worth_a_look,
)
from flamewell_collector.analysis.leaks.trend import BINS, Bools, Floats, Trends, bends, trends

Tier = Literal["suspected", "confirmed"]
TIERS: Final[tuple[Tier, ...]] = ("suspected", "confirmed")
_GROWTH_SCALE: Final = 2
STRAIGHT_FIT: Final = 0.9
"""A window of which a line explains so much of the variance shows one steady growth."""
STANDS_WINDOWS: Final = 0.5
"""A verdict stands for so many lengths of the window that last gave it: then the growth has
stopped."""


@dataclass(frozen=True, slots=True)
class Look:
    """Windows of one scale that may be leaks, and all that they are judged by.

    Attributes:
        scale: Index of the scale.
        series: (n,) which series.
        seen: Of each window.
        setting: Of each window.
    """

    scale: int
    series: Minutes
    seen: Trends
    setting: Setting

    def take(self, chosen: Bools) -> Look:
        """Give some of the windows."""
        return Look(
            self.scale, self.series[chosen], self.seen.take(chosen), self.setting.take(chosen)
        )


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a verdict rests on: one window, amounts in the unit of the readings.

    Attributes:
        minute: The window's last.
        bin_minutes: A 24th of the window.
        share: Of the confirming thresholds, how many are met, 0 to 1.
        level: Where memory is.
        limit: Of the container; NaN without one.
        slope_per_second: Theil-Sen.
        rise: Over the window.
        order: Kendall's tau.
        order_beside_cpu: The same, CPU use held constant.
        fit: Share of the variance that the line explains.
        bend: 1 is straight, below it growth slows down.
        step: The greatest single gain as a share of the rise.
        highest_before: Earlier in this life, or in one that did not end full; NaN if nothing was.
        full_in_a_row: Lives before this one that ended because memory was full.
        seconds_to_limit: By the slope; NaN without a limit.
        earliest_seconds: 80 % interval of it.
        latest_seconds: Likewise.
    """

    minute: int
    bin_minutes: int
    share: float
    level: float
    limit: float
    slope_per_second: float
    rise: float
    order: float
    order_beside_cpu: float
    fit: float
    bend: float
    step: float
    highest_before: float
    full_in_a_row: int
    seconds_to_limit: float
    earliest_seconds: float
    latest_seconds: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said of one series.

    Attributes:
        tier: How sure it is.
        since: Minute from which on it is said, of whichever tier.
        confirmed_since: Minute from which on somebody is told; -1 while it is only suspected.
        stands_until: Minute at which it is let go, if nothing gives it anew.
        floor: An amount: memory that falls below it was not leaked.
        evidence: What it rests on.
    """

    tier: Tier
    since: int
    confirmed_since: int
    stands_until: int
    floor: float
    evidence: Evidence


class Detector:
    """The state of all series that are watched."""

    def __init__(self, *, suspected: Rule = SUSPECTED, confirmed: Rule = CONFIRMED) -> None:
        """Take the rules of both tiers."""
        self._rules: tuple[Rule, ...] = (suspected, confirmed)
        self._lives = Lives()
        self._ladder = Ladder()
        self._held = np.zeros((len(TIERS), len(SCALES), 0), np.int16)
        self.verdicts: dict[int, Verdict] = {}
        self.growth = np.zeros(0, np.float32)
        """Per second, over the last 72 minutes of each series' life; NaN if not known."""

    def __len__(self) -> int:
        """How many series there is room for."""
        return len(self._lives)

    def grow(self, series: int) -> None:
        """Make room for so many series."""
        more = series - len(self)
        self._ladder.grow(series)
        self._lives.grow(series)
        self._held = np.pad(self._held, ((0, 0), (0, 0), (0, more)))
        self.growth = np.pad(self.growth, (0, more), constant_values=np.nan)

    def forget(self, at: Minutes) -> None:
        """Let series go; their places can be used again."""
        self._ladder.forget(at)
        self._lives.forget(at)
        self._held[:, :, at] = 0
        self.growth[at] = np.nan
        for series in at.tolist():
            self.verdicts.pop(series, None)

    def inherit(self, at: int, relatives: Minutes) -> None:
        """Let a new series know what other containers of its workload have shown."""
        self._lives.inherit(at, relatives)

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        """Give all that is known but the verdicts, by name, to be kept."""
        return {**self._lives.state(), **self._ladder.state(), "_held": self._held}

    def restore(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Take back what ``state`` gave.

        Raises:
            KeyError: Something is missing.
            ValueError: It does not fit together: it was made by another version.
        """
        held = state["_held"].astype(np.int16)
        self._lives.restore(state)
        self._ladder.restore(state)
        self._held = held
        if held.shape != (len(TIERS), len(SCALES), len(self._lives)) or len(self._ladder) != len(
            self._lives
        ):
            raise ValueError("the parts of the state do not fit together")
        self.growth = np.full(len(self), np.nan, np.float32)

    def remember(self, now: Minute) -> None:
        """Take a minute of the past in, without a look at it."""
        for _ in self._windows(now):
            pass

    def step(self, now: Minute) -> None:
        """Take a minute in; ``verdicts`` has what is said then."""
        for look in self.looks(now):
            suspected, confirmed = (judge(look.seen, look.setting, rule) for rule in self._rules)
            maybe = self._keep(0, look, suspected)
            sure = self._keep(1, look, confirmed)
            self._give(now.at, look.take(maybe | sure), sure[maybe | sure], confirmed, maybe | sure)
        self._let_go(now)

    def looks(self, now: Minute) -> list[Look]:
        """Take a minute in; give the windows with a new bin that may be leaks."""
        looks = []
        for index, windows, cpu in self._windows(now):
            grown = np.flatnonzero(_grown(windows))
            seen = trends(windows[grown], cpu[grown])
            worth = worth_a_look(seen)
            looks.append(self._set(now, index, grown[worth], seen.take(worth), cpu[grown[worth]]))
        return looks

    def _windows(self, now: Minute) -> Iterator[tuple[int, Floats, Floats]]:
        """Take readings in; give each scale's windows with a new bin, former lives left out."""
        new = self._lives.observe(now)
        self._held[:, :, new] = 0
        for series in np.flatnonzero(new).tolist():
            self.verdicts.pop(series, None)
        self._ladder.push(now.at, now.anon, now.peak, now.cpu)
        for index, (scale, rung) in enumerate(SCALES):
            if (now.at + 1) % scale:
                continue
            windows, cpu = self._ladder.windows(scale, rung, now.at)
            starts = now.at + 1 - scale * np.arange(BINS, 0, -1)
            windows[starts < self._lives.born[:, None]] = np.nan
            self._lives.fold(index, windows)
            if index == _GROWTH_SCALE:
                self.growth = _growth(windows) / np.float32(60 * scale)
            yield index, windows, cpu

    def _set(self, now: Minute, index: int, chosen: Minutes, seen: Trends, cpu: Floats) -> Look:
        scale, lives = SCALES[index][0], self._lives
        usual = self._ladder.cpu_before(now.at, scale * BINS, chosen)
        setting = Setting(
            limit=now.limit[chosen],
            highest_before=lives.highest_before(index, chosen),
            known_minutes=(now.at - lives.known_since[chosen]).astype(np.float32),
            full_in_a_row=lives.full_in_a_row[chosen].astype(np.float32),
            life_bend=bends(self._ladder.lives(now.at, lives.born, chosen)),
            by_load=_gain(cpu) * self._ladder.per_cpu_before(now.at, scale * BINS, chosen),
            cpu_ratio=(median(cpu) / np.where(usual > 0, usual, np.nan)).astype(np.float32),
        )
        return Look(index, chosen, seen, setting)

    def _keep(self, tier: int, look: Look, said: Judgement) -> Bools:
        """Count evaluations in a row; tell which windows have enough of them."""
        held = self._held[tier, look.scale]
        again = np.zeros(len(self), bool)
        again[look.series[said.leaks]] = True
        held[:] = np.where(again, held + 1, 0)
        found: Bools = said.leaks & (held[look.series] >= said.held_bins)
        return found

    def _give(
        self, minute: int, look: Look, sure: Bools, confirmed: Judgement, chosen: Bools
    ) -> None:
        """Say it, or say it anew."""
        scale, rung = SCALES[look.scale]
        swing = self._ladder.swing(scale, rung, minute, look.series)
        ahead = forecast(look.seen, look.setting.limit, swing, look.scale)
        shares = confirmed.share[chosen]
        length = scale * BINS
        for row, series in enumerate(look.series.tolist()):
            evidence = _evidence(minute, look, row, float(shares[row]), ahead)
            before = self.verdicts.get(series)
            tier: Tier = "confirmed" if sure[row] else "suspected"
            made = Verdict(
                tier,
                since=minute,
                confirmed_since=minute if sure[row] else -1,
                stands_until=minute + round(STANDS_WINDOWS * length),
                floor=evidence.level - evidence.rise,
                evidence=evidence,
            )
            self.verdicts[series] = made if before is None else _renewed(before, made)

    def _let_go(self, now: Minute) -> None:
        for series, verdict in list(self.verdicts.items()):
            if now.at > verdict.stands_until or now.anon[series] < verdict.floor:
                del self.verdicts[series]


def _renewed(before: Verdict, made: Verdict) -> Verdict:
    """Join a verdict that stands with one given anew: the surer and the longer window count."""
    confirmed_since = (
        before.confirmed_since if before.confirmed_since >= 0 else made.confirmed_since
    )
    better = _tells_more(made.evidence, before.evidence)
    return replace(
        made,
        tier="confirmed" if confirmed_since >= 0 else "suspected",
        since=before.since,
        confirmed_since=confirmed_since,
        stands_until=max(before.stands_until, made.stands_until),
        floor=max(before.floor, made.floor) if better else before.floor,
        evidence=made.evidence if better else before.evidence,
    )


def _tells_more(made: Evidence, before: Evidence) -> bool:
    """Prefer straight windows, of these the longest; what is no longer renewed counts no more."""
    if made.minute - before.minute > 2 * before.bin_minutes:
        return True
    if made.fit >= STRAIGHT_FIT:
        return before.fit < STRAIGHT_FIT or made.bin_minutes >= before.bin_minutes
    return made.fit >= before.fit


def _evidence(minute: int, look: Look, row: int, share: float, ahead: Forecast) -> Evidence:
    seen, setting, bin_minutes = look.seen, look.setting, SCALES[look.scale][0]
    return Evidence(
        minute=minute,
        bin_minutes=bin_minutes,
        share=share,
        level=float(seen.level[row]),
        limit=float(setting.limit[row]),
        slope_per_second=float(seen.slope[row]) / (60 * bin_minutes),
        rise=float(seen.rise[row]),
        order=float(seen.order[row]),
        order_beside_cpu=float(seen.order_beside_cpu[row]),
        fit=float(seen.fit[row]),
        bend=float(seen.bend[row]),
        step=float(seen.step[row]),
        highest_before=float(setting.highest_before[row]),
        full_in_a_row=int(setting.full_in_a_row[row]),
        seconds_to_limit=float(ahead.seconds[row]),
        earliest_seconds=float(ahead.earliest[row]),
        latest_seconds=float(ahead.latest[row]),
    )


def _gain(cpu: Floats) -> Floats:
    """Give what CPU use has gained over windows, from first to last third; 0 if not known."""
    gain: Floats = median(cpu[:, -(BINS // 3) :]) - median(cpu[:, : BINS // 3])
    whole = np.float32((BINS - 1) / (BINS - BINS // 3))
    found: Floats = np.nan_to_num(gain * whole, nan=0.0).astype(np.float32)
    return found


def _growth(windows: Floats) -> Floats:
    """Give what windows gain per bin, from first to last third; NaN if too little is known."""
    first, last = median(windows[:, : BINS // 3]), median(windows[:, -(BINS // 3) :])
    found: Floats = (last - first) / np.float32(BINS - BINS // 3)
    return found


def _grown(windows: Floats) -> Bools:
    """Tell which windows end above where they began: nothing dearer is done for the others."""
    third = BINS // 3
    known = np.isfinite(windows).sum(axis=1) >= BINS // 2
    first = np.fmin.reduce(windows[:, :third], axis=1)
    last = np.fmin.reduce(windows[:, -third:], axis=1)
    found: Bools = known & (last > first)
    return found


__all__ = ["TIERS", "Detector", "Evidence", "Look", "Tier", "Verdict"]
