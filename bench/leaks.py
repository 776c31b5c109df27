"""How well memory leaks are found: recall, false alarms, time to detect, beside the usual rules.

    python bench/leaks.py                       the shapes held out, 40 services each
    python bench/leaks.py --set tuning --shapes with a line for each shape
    python bench/leaks.py --speed               what 10,000 series cost

Services are made minute by minute (leak_suite.py); nothing is known but readings, CPU use, limits
and starts of processes. A false alarm is an alarm while nothing leaks; alarms less than six hours
apart are one. A leak is found if the alarm comes before memory is full for the first time. The way
is the share of the time from the begin of the leak to full memory that has passed by then.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

import machine
import numpy as np
import numpy.typing as npt
from leak_shapes_held_out import BENIGN_HELD_OUT, LEAKY_HELD_OUT
from leak_shapes_tuning import BENIGN_TUNING, LEAKY_TUNING
from leak_suite import DAY, MINUTES, Leak, Trace, traces

from flamewell_collector.analysis.leaks.detector import Detector, Verdict
from flamewell_collector.analysis.leaks.lives import Minute

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
EPOCH_MINUTE = 28_000_000
SAME_ALARM_MINUTES = 360
BATCH = 40
SETS = {
    "tuning": (BENIGN_TUNING, LEAKY_TUNING),
    "held-out": (BENIGN_HELD_OUT, LEAKY_HELD_OUT),
}


@dataclass
class Forecasts:
    """Predicted over true time to the limit, and whether the truth lay within the band."""

    when_found: list[float] = field(default_factory=list)
    half_way: list[float] = field(default_factory=list)
    within: list[bool] = field(default_factory=list)


@dataclass
class Score:
    """What a rule has made of services."""

    found: int = 0
    leaky: int = 0
    true_alarms: int = 0
    young_false: int = 0
    settled_false: int = 0
    young_days: float = 0.0
    settled_days: float = 0.0
    ways: list[float] = field(default_factory=list)
    settled_ways: list[float] = field(default_factory=list)
    false_by_shape: Counter[str] = field(default_factory=Counter)
    missed_by_shape: Counter[str] = field(default_factory=Counter)

    def add(self, trace: Trace, alarms: Sequence[int]) -> None:
        """Take in the minutes in which a rule has said that a service leaks."""
        healthy_until = trace.leaks[0].begins if trace.leaks else MINUTES
        self.young_days += min(healthy_until, DAY) / DAY
        self.settled_days += max(0, healthy_until - DAY) / DAY
        last = -SAME_ALARM_MINUTES - 1
        for at in alarms:
            if at >= healthy_until:
                break
            if at - last > SAME_ALARM_MINUTES:
                self.false_by_shape[trace.shape] += 1
                self.young_false += at < DAY
                self.settled_false += at >= DAY
            last = at
        if trace.leaks:
            self._add_leak(trace, alarms)

    def _add_leak(self, trace: Trace, alarms: Sequence[int]) -> None:
        self.leaky += 1
        for leak in trace.leaks:
            first = next((at for at in alarms if leak.begins <= at < leak.ends), None)
            if first is not None:
                self.found += 1
                self.true_alarms += 1
                if leak.full is not None:
                    way = (first - leak.begins) / (leak.full - leak.begins)
                    self.ways.append(way)
                    if leak.begins >= DAY:
                        self.settled_ways.append(way)
                return
            if leak.full == leak.ends:
                break
        self.missed_by_shape[trace.shape] += 1

    def line(self, name: str) -> str:
        """Give a row of the table."""
        days = self.young_days + self.settled_days
        false = self.young_false + self.settled_false
        ways = np.array(self.ways or [np.nan])
        settled = np.array(self.settled_ways or [np.nan])
        return (
            f"{name:<26} {self.found / max(1, self.leaky):7.3f} "
            f"{self.found / max(1, self.found + false):9.3f} {1_000 * false / days:8.1f} "
            f"{1_000 * self.settled_false / max(1e-9, self.settled_days):8.1f} "
            f"{np.median(ways):6.2f} {np.quantile(ways, 0.9):6.2f} {np.median(settled):8.2f}"
        )


HEAD = (
    f"{'rule':<26} {'recall':>7} {'precision':>9} {'false':>8} {'settled':>8} "
    f"{'way':>6} {'p90':>6} {'settled':>8}"
)


def detect(batch: Sequence[Trace]) -> tuple[list[list[int]], list[list[int]], Forecasts]:
    """Run our detector; give the minutes of both tiers (suspected first) and the forecasts."""
    anon = np.stack([each.anon for each in batch]).astype(np.float32)
    cpu = np.stack([each.cpu for each in batch]).astype(np.float32)
    born = np.stack([each.born for each in batch]) + EPOCH_MINUTE
    limit = np.array([each.limit for each in batch], np.float32)
    detector = Detector()
    detector.grow(len(batch))
    suspected: list[list[int]] = [[] for _ in batch]
    confirmed: list[list[int]] = [[] for _ in batch]
    forecasts, told = Forecasts(), _Told(batch)
    for at in range(MINUTES):
        now = EPOCH_MINUTE + at
        detector.step(Minute(now, anon[:, at], anon[:, at], cpu[:, at], limit, born[:, at]))
        for series, verdict in detector.verdicts.items():
            suspected[series].append(at)
            if verdict.tier == "confirmed":
                confirmed[series].append(at)
                told.look(series, at, verdict, forecasts)
    return suspected, confirmed, forecasts


class _Told:
    """Which forecasts of which lives were looked at."""

    def __init__(self, batch: Sequence[Trace]) -> None:
        self._batch = batch
        self._found: set[tuple[int, int]] = set()
        self._half: set[tuple[int, int]] = set()

    def look(self, series: int, at: int, verdict: Verdict, into: Forecasts) -> None:
        leak = self._leak(series, at)
        if leak is None or leak.full is None:
            return
        evidence, key = verdict.evidence, (series, leak.begins)
        since = (EPOCH_MINUTE + at - evidence.minute) * 60
        left = (leak.full - at) * 60
        predicted = (evidence.seconds_to_limit - since) / left
        if key not in self._found:
            self._found.add(key)
            into.when_found.append(predicted)
            early, late = evidence.earliest_seconds, evidence.latest_seconds
            into.within.append(early <= left + since <= late)
        if key not in self._half and at - leak.begins >= (leak.full - leak.begins) / 2:
            self._half.add(key)
            into.half_way.append(predicted)

    def _leak(self, series: int, at: int) -> Leak | None:
        leaks = self._batch[series].leaks
        return next((each for each in leaks if each.begins <= at < each.ends), None)


# The usual rules.


def _regression(values: Floats, born: npt.NDArray[np.int64], window: int) -> tuple[Floats, ...]:
    """Give slope a minute, value at the end and share explained of each minute's last window."""
    known = np.isfinite(values)
    minute = np.arange(len(values), dtype=float)
    parts = [known, minute * known, np.nan_to_num(values), minute * np.nan_to_num(values)]
    parts += [minute**2 * known, np.nan_to_num(values) ** 2]
    n, x, y, xy, xx, yy = (_windowed(np.asarray(each, float), window) for each in parts)
    n = np.where((n >= window // 2) & (minute - born >= window), n, np.nan)
    spread = xx - x * x / n
    slope = (xy - x * y / n) / np.where(spread > 0, spread, np.nan)
    end = y / n + slope * (minute - x / n)
    variance = yy - y * y / n
    return slope, end, slope**2 * spread / np.where(variance > 0, variance, np.nan)


def _windowed(values: Floats, window: int) -> Floats:
    total = np.concatenate(([0.0], np.cumsum(values)))
    found = np.full(len(values), np.nan)
    found[window - 1 :] = total[window:] - total[:-window]
    return found


def _held(yes: Bools, minutes: int) -> list[int]:
    """Give the minutes in which something has been so for so long."""
    total = np.concatenate(([0], np.cumsum(yes)))
    held = total[minutes:] - total[:-minutes] == minutes
    return (np.flatnonzero(held) + minutes - 1).tolist()


def predict_linear(trace: Trace) -> list[int]:
    """Alert as many do: over the limit in four hours, by the line through the last; for 15 min."""
    slope, end, _ = _regression(trace.anon, trace.born, 60)
    return _held(np.nan_to_num(end + 240 * slope) > trace.limit, 15)


def regression_slope(trace: Trace) -> list[int]:
    """Alert on a straight slope: 6 h, 90 % explained, full within 24 h."""
    slope, end, fit = _regression(trace.anon, trace.born, 360)
    ahead = np.nan_to_num(end + DAY * slope) > trace.limit
    return _held(ahead & (np.nan_to_num(fit) > 0.9), 15)


def coroot(trace: Trace) -> list[int]:
    """Alert as Coroot does: regression over an hour of more than 10 % an hour."""
    slope, end, _ = _regression(trace.anon, trace.born, 60)
    return _held(np.nan_to_num(60 * slope / end) > 0.1, 15)


BASELINES: dict[str, Callable[[Trace], list[int]]] = {
    "predict_linear[1h], 4 h": predict_linear,
    "regression 6 h, full in 24": regression_slope,
    "regression 10 %/h (Coroot)": coroot,
}


def report(name: str, *, each: int, seed: int, shapes: bool) -> None:
    """Print the table of one set of shapes."""
    benign, leaky = SETS[name]
    services = traces(benign, leaky=False, each=each, seed=seed)
    services += traces(leaky, leaky=True, each=each, seed=seed)
    batches = [services[at : at + BATCH] for at in range(0, len(services), BATCH)]
    scores: dict[str, Score] = defaultdict(Score)
    forecasts = Forecasts()
    with ProcessPoolExecutor() as pool:
        for batch, (suspected, confirmed, ahead) in zip(
            batches, pool.map(detect, batches), strict=True
        ):
            for trace, maybe, sure in zip(batch, suspected, confirmed, strict=True):
                scores["flamewell, confirmed"].add(trace, sure)
                scores["flamewell, suspected"].add(trace, maybe)
            forecasts.when_found += ahead.when_found
            forecasts.half_way += ahead.half_way
            forecasts.within += ahead.within
    for label, rule in BASELINES.items():
        for trace in services:
            scores[label].add(trace, rule(trace))
    healthy = scores["flamewell, confirmed"]
    print(
        f"{name}: {len(benign)} benign and {len(leaky)} leaky shapes, {each} services each, seed "
        f"{seed}; {healthy.young_days + healthy.settled_days:,.0f} service-days without a leak"
    )
    print(HEAD)
    for label, score in scores.items():
        print(score.line(label))
    for label, ratios in (("found", forecasts.when_found), ("half way", forecasts.half_way)):
        near = np.mean(np.abs(np.array(ratios or [np.nan]) - 1) <= 0.25)
        print(f"time to limit within 25 %, when {label}: {near:.2f} of {len(ratios)} lives")
    print(f"truth within the band, when found: {np.mean(forecasts.within or [np.nan]):.2f}")
    if shapes:
        print("false alarms:", dict(healthy.false_by_shape.most_common()))
        print("missed:", dict(healthy.missed_by_shape.most_common()))
    print(
        "false: alarms per 1,000 service-days without a leak; settled: of containers known for a "
        "day"
    )


def speed(series: int = 10_000, minutes: int = 120) -> None:
    """Print what a minute of so many series costs."""
    rng = np.random.default_rng(1)
    detector = Detector()
    detector.grow(series)
    level = rng.uniform(100, 1_000, series)
    slope = np.where(rng.random(series) < 0.1, level / 2_000, 0)
    limit = (4 * level).astype(np.float32)
    born = np.full(series, EPOCH_MINUTE)
    spent = []
    for at in range(24 * 60 + minutes):
        anon = (level + slope * at + rng.normal(0, 1, series)).astype(np.float32)
        now = Minute(EPOCH_MINUTE + at, anon, anon, np.full_like(anon, np.nan), limit, born)
        if at < 24 * 60:
            detector.remember(now)
            continue
        begin = time.process_time()
        detector.step(now)
        spent.append(time.process_time() - begin)
    print(
        f"{series:,} series: {np.median(spent):.3f} s of CPU a minute (median), "
        f"{np.mean(spent):.3f} on average, {max(spent):.2f} at most; "
        f"{len(detector.verdicts):,} suspects"
    )


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", choices=tuple(SETS), default="held-out")
    parser.add_argument("--each", type=int, default=40, help="services a shape [default: 40]")
    parser.add_argument("--seed", type=int, default=7, help="tuning used 1 and 2 [default: 7]")
    parser.add_argument("--shapes", action="store_true", help="which were missed, which misled")
    parser.add_argument("--speed", action="store_true", help="what 10,000 series cost")
    asked = parser.parse_args()
    print(machine.describe())
    if asked.speed:
        speed()
        return
    report(asked.set, each=asked.each, seed=asked.seed, shapes=asked.shapes)


if __name__ == "__main__":
    main()
