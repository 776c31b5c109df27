"""The detector on made-up series: leaks are found, what only grows is not, minute by minute."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from flamewell_collector.analysis.leaks.detector import Detector, Verdict
from flamewell_collector.analysis.leaks.ladder import RUNGS, SCALES, Ladder
from flamewell_collector.analysis.leaks.lives import Minute
from flamewell_collector.analysis.leaks.rule import CONFIRMED, SUSPECTED
from flamewell_collector.analysis.leaks.trend import BINS, trends
from flamewell_collector.analysis.leaks.wording import explain, size, span

MIB = float(1 << 20)
LIMIT = 1_000 * MIB
BEGIN = 28_000_000
DAY = 1_440


def run(
    anon: np.ndarray,
    *,
    born: np.ndarray | None = None,
    cpu: np.ndarray | None = None,
    limit: float = LIMIT,
    detector: Detector | None = None,
    begin: int = BEGIN,
) -> tuple[Detector, list[dict[int, Verdict]]]:
    """Run (series, minutes) of MiB through a detector; give what it said after each minute."""
    series, count = anon.shape
    found = Detector() if detector is None else detector
    if len(found) < series:
        found.grow(series)
    lives = np.full((series, count), begin) if born is None else born + begin
    use = np.full((series, count), np.nan) if cpu is None else cpu
    said = []
    for at in range(count):
        found.step(
            Minute(
                begin + at,
                (anon[:, at] * MIB).astype(np.float32),
                (anon[:, at] * MIB).astype(np.float32),
                use[:, at].astype(np.float32),
                np.full(series, limit, np.float32),
                lives[:, at].astype(np.int64),
            )
        )
        said.append(dict(found.verdicts))
    return found, said


def noisy(values: np.ndarray, seed: int = 1, deviation: float = 1.0) -> np.ndarray:
    return values + np.random.default_rng(seed).normal(0, deviation, values.shape)


def confirmed(said: list[dict[int, Verdict]], series: int = 0) -> int | None:
    """Give the first minute in which it is confirmed."""
    return next(
        (at for at, each in enumerate(said)
         if series in each and each[series].tier == "confirmed"), None,
    )  # fmt: skip


class TestTrends:
    def test_a_straight_line(self) -> None:
        line = (10 + 2 * np.arange(BINS))[None, :].astype(np.float32)
        seen = trends(line, np.full_like(line, np.nan))
        assert seen.filled[0]
        assert (seen.slope[0], seen.rise[0], seen.order[0]) == (2, 46, 1)
        assert (seen.noise[0], seen.drop[0], seen.bend[0]) == (0, 0, 1)
        assert seen.step[0] == pytest.approx(1 / 23)
        assert seen.fit[0] == 1
        assert seen.ahead_low[0] <= 2 <= seen.ahead_high[0]

    def test_slope_and_order_are_those_of_the_books(self) -> None:
        rng = np.random.default_rng(3)
        values = rng.normal(size=(20, BINS)).astype(np.float32)
        seen = trends(values, np.full_like(values, np.nan))
        for row, window in enumerate(values):
            pairs = [(i, j) for i in range(BINS) for j in range(i + 1, BINS)]
            slopes = [(window[j] - window[i]) / (j - i) for i, j in pairs]
            signs = [math.copysign(1, window[j] - window[i]) for i, j in pairs]
            assert seen.slope[row] == pytest.approx(np.median(slopes), abs=0.01)
            assert seen.order[row] == pytest.approx(np.mean(signs), abs=1e-5)

    def test_growth_that_begins_within_the_window_goes_on_as_it_is_now(self) -> None:
        at = np.arange(BINS)
        late = np.maximum(0, at - 10).astype(np.float32)[None, :]
        seen = trends(late, np.full_like(late, np.nan))
        assert seen.slope[0] < 0.9
        assert seen.ahead[0] == 1
        assert seen.ahead_low[0] <= 1 <= seen.ahead_high[0]


class TestLadder:
    def test_windows_are_minima_of_the_minutes(self) -> None:
        ladder = Ladder()
        ladder.grow(2)
        rng = np.random.default_rng(6)
        low = rng.normal(size=(2, 3_000)).astype(np.float32)
        cpu = rng.random(size=(2, 3_000)).astype(np.float32)
        for at in range(3_000):
            ladder.push(at, low[:, at], low[:, at], cpu[:, at])
        for scale, rung in SCALES:
            last = 3_000 // scale * scale
            if BINS * scale > last or last % rung.minutes or rung is RUNGS[2]:
                continue
            if last != 3_000:
                continue
            values, use = ladder.windows(scale, rung, last - 1)
            expected = low[:, last - BINS * scale : last].reshape(2, BINS, scale)
            assert np.array_equal(values, expected.min(axis=2))
            used = cpu[:, last - BINS * scale : last].reshape(2, BINS, scale)
            assert np.allclose(use, used.mean(axis=2), atol=1e-5)

    def test_it_survives_gaps_and_being_kept(self) -> None:
        ladder = Ladder()
        ladder.grow(1)
        for at in range(240):
            low = np.float32(np.nan) if at % 3 else np.float32(at)
            ladder.push(at, np.array([low]), np.array([low]), np.array([low]))
        again = Ladder()
        again.restore(ladder.state())
        for scale, rung in SCALES[:6]:
            for before, after in zip(
                ladder.windows(scale, rung, 239), again.windows(scale, rung, 239), strict=True
            ):
                assert np.array_equal(before, after, equal_nan=True)


LEAK = 300 + np.arange(600) * (700 / 600)
STEADY = np.full(DAY, 300.0)
GROWTH = 300 + np.arange(300) * 1.5
FILL = 300 + 300 * np.minimum(1, np.arange(700) / 500)


def scenarios() -> dict[str, tuple[np.ndarray, int]]:
    """Give MiB by the minute, and the minute in which a second life begins (0 for none)."""
    age = np.arange(2 * DAY, dtype=float)
    return {
        "leak": (np.concatenate((STEADY, LEAK)), 0),
        "leak from the start": (LEAK, 0),
        "leak twice": (np.concatenate((LEAK, LEAK[:300])), 600),
        "fill twice": (np.concatenate((FILL, FILL)), 700),
        "stops": (np.concatenate((STEADY, GROWTH, np.full(DAY, GROWTH[-1]))), 0),
        "falls back": (np.concatenate((STEADY, GROWTH, np.full(9, 290.0))), 0),
        "flat": (np.full(2 * DAY, 300.0), 0),
        "cache": (300 + 400 * (1 - np.exp(-age / 200)), 0),
        "sawtooth": (300 + 400 * ((age / 97) % 1), 0),
        "load": (300 + 200 * (1 + 0.8 * np.sin(2 * np.pi * age / DAY)), 0),
        "step": (300 + 300 * (age > DAY + 100), 0),
        "plateaus": (300 + 100 * np.searchsorted([100, 700, 1_500], age), 0),
        "job again": (300 + 400 * ((age % DAY) < 120) * (age % DAY) / 120, 0),
    }


Told = dict[str, list[Verdict | None]]


@pytest.fixture(scope="module")
def told() -> Told:
    """All scenarios side by side: what was said of each after each minute."""
    shapes = scenarios()
    length = max(len(memory) for memory, _ in shapes.values())
    anon = np.full((len(shapes), length), np.nan)
    born = np.zeros(anon.shape, int)
    for row, (memory, second) in enumerate(shapes.values()):
        anon[row, : len(memory)] = noisy(memory, row)
        if second:
            born[row, second:] = second
    cpu = np.ones(anon.shape)
    at = list(shapes).index("load")
    cpu[at] = 1 + 0.8 * np.sin(2 * np.pi * np.arange(length) / DAY)
    _, said = run(anon, born=born, cpu=noisy(cpu, 99, 0.02))
    return {
        name: [each.get(row) for each in said[: len(memory)]]
        for row, (name, (memory, _)) in enumerate(shapes.items())
    }


def sure(told: list[Verdict | None]) -> int | None:
    """Give the first minute in which it is confirmed."""
    found = (at for at, each in enumerate(told) if each and each.tier == "confirmed")
    return next(found, None)


class TestDetector:
    def test_a_leak_is_found_early_with_the_time_that_is_left(self, told: Told) -> None:
        said = told["leak"]
        at = sure(said)
        assert at is not None
        assert DAY < at < DAY + 0.3 * 600
        verdict = said[at]
        assert verdict is not None
        evidence = verdict.evidence
        assert evidence.seconds_to_limit / 60 == pytest.approx(DAY + 600 - at, rel=0.25)
        assert evidence.earliest_seconds < evidence.seconds_to_limit < evidence.latest_seconds
        assert verdict.since <= verdict.confirmed_since == BEGIN + at
        suspected = next(minute for minute, each in enumerate(said) if each)
        assert suspected <= at
        assert said[-1] is not None

    def test_without_history_it_takes_longer(self, told: Told) -> None:
        at = sure(told["leak from the start"])
        assert at is not None
        assert at < 0.7 * 600

    @pytest.mark.parametrize(
        "name", ["flat", "cache", "sawtooth", "load", "step", "plateaus", "job again"]
    )
    def test_what_only_grows_is_no_leak(self, told: Told, name: str) -> None:
        assert sure(told[name][DAY:]) is None

    def test_a_new_life_lets_the_verdict_go(self, told: Told) -> None:
        said = told["leak twice"]
        assert said[599] is not None
        assert said[601] is None
        # The life before ended full: the second time less is asked for.
        first, again = sure(said), sure(said[601:])
        assert first is not None
        assert again is not None
        assert again + 1 < first
        verdict = said[601 + again]
        assert verdict is not None
        assert verdict.evidence.full_in_a_row == 1

    def test_growth_up_to_where_a_former_life_was_is_no_news(self, told: Told) -> None:
        assert not any(told["fill twice"][701:])

    def test_growth_that_stops_lets_it_go(self, told: Told) -> None:
        assert sure(told["stops"]) is not None
        assert told["stops"][-1] is None

    def test_memory_that_falls_back_lets_it_go_at_once(self, told: Told) -> None:
        assert told["falls back"][DAY + 299]
        assert told["falls back"][-1] is None

    def test_a_verdict_in_a_sentence(self, told: Told) -> None:
        verdict = told["leak"][-1]
        assert verdict is not None
        text = explain(verdict, replicas=4, replicas_growing=3)
        assert text.startswith("memory grew steadily by ")
        assert "of the limit of 1000 MiB" in text
        assert "above all it had before" in text
        assert "as do 3 of 4 containers of the workload" in text
        assert "the limit is reached in about" in text

    def test_series_do_not_touch_each_other(self) -> None:
        leak = noisy(LEAK)
        flat = noisy(np.full(600, 300.0), 2)
        both, said = run(np.stack((flat, leak, flat)))
        _, alone = run(leak[None, :])
        assert confirmed(said, 1) == confirmed(alone)
        assert set(both.verdicts) == {1}

    def test_gaps_cost_time_only(self) -> None:
        leak = noisy(LEAK)
        leak[np.random.default_rng(1).random(600) < 0.3] = np.nan
        leak[200:230] = np.nan
        _, said = run(leak[None, :])
        assert confirmed(said) is not None

    def test_without_a_limit_doubling_counts(self) -> None:
        leak = noisy(100 + np.arange(600) * 1.0)
        detector, said = run(leak[None, :], limit=np.nan)
        assert confirmed(said) is not None
        evidence = detector.verdicts[0].evidence
        assert math.isnan(evidence.limit)
        assert math.isnan(evidence.seconds_to_limit)

    def test_a_restart_of_the_collector_changes_nothing(self) -> None:
        leak = noisy(np.concatenate((np.full(300, 300.0), 300 + np.arange(600) * (700 / 600))))
        _, through = run(leak[None, :])
        first, _ = run(leak[None, :500])
        second = Detector()
        second.restore(first.state())
        second.verdicts.update(first.verdicts)
        born = np.zeros((1, 400), int) - 500
        _, after = run(leak[None, 500:], detector=second, begin=BEGIN + 500, born=born)
        # NaN is not equal to itself.
        assert repr(after) == repr(through[500:])

    def test_a_state_that_does_not_fit_is_refused(self) -> None:
        state = Detector().state()
        with pytest.raises(ValueError, match="do not fit"):
            Detector().restore({**state, "_held": np.zeros((1, 2, 3))})

    def test_a_container_that_is_new_knows_its_workload(self) -> None:
        fill = noisy(300 + 300 * np.minimum(1, np.arange(900) / 500))
        detector, _ = run(fill[None, :])
        detector.grow(2)
        detector.inherit(1, np.array([0]))
        both = np.stack((np.full(900, np.nan), noisy(fill, 3)))
        born = np.stack((np.zeros(900, int), np.zeros(900, int))) + np.array([[-900], [0]])
        _, said = run(both, detector=detector, begin=BEGIN + 900, born=born)
        assert not any(1 in each for each in said)

    def test_places_are_used_again(self) -> None:
        leak = 300 + np.arange(600) * (700 / 600)
        detector, _ = run(noisy(leak)[None, :])
        assert detector.verdicts
        detector.forget(np.array([0]))
        assert not detector.verdicts
        _, said = run(noisy(np.full(100, 300.0))[None, :], detector=detector, begin=BEGIN + 600)
        assert not any(said)

    def test_remembered_readings_are_history_and_no_more(self) -> None:
        fill = noisy(300 + 300 * np.minimum(1, np.arange(900) / 500))
        detector = Detector()
        detector.grow(1)
        for at, value in enumerate(fill):
            one = np.array([value * MIB], np.float32)
            detector.remember(
                Minute(BEGIN + at, one, one, one * np.nan, one * 0 + LIMIT, np.array([BEGIN]))
            )
        assert not detector.verdicts
        born = np.full((1, 900), 900)
        _, said = run(noisy(fill, 4)[None, :], detector=detector, begin=BEGIN + 900, born=born)
        assert not any(said)

    def test_a_stricter_rule_says_less(self) -> None:
        never = replace(CONFIRMED.settled, order=1.1)
        strict = Detector(confirmed=replace(CONFIRMED, settled=never, young=never))
        leak = noisy(LEAK)
        _, said = run(leak[None, :], detector=strict)
        assert confirmed(said) is None
        assert any(said)
        assert 0.8 < said[-1][0].evidence.share < 1

    def test_the_suspecting_rule_asks_no_more_time(self) -> None:
        assert SUSPECTED.young.windows_to_limit > CONFIRMED.young.windows_to_limit
        assert SUSPECTED.young.held_bins < CONFIRMED.young.held_bins


class TestWording:
    def test_amounts(self) -> None:
        assert [size(each) for each in (0, 1_536, 5 * MIB, 1.5 * 2**30)] == [
            "0 B", "1.5 KiB", "5 MiB", "1.5 GiB",
        ]  # fmt: skip
        assert [span(each) for each in (0.2, 61, 7_200, 90_000)] == [
            "0 s", "1 min 1 s", "2 h", "1 d 1 h",
        ]  # fmt: skip
