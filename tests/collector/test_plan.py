"""Which blocks answer: every row counts once, whatever there is."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from flamewell_collector.store.changes import Block
from flamewell_collector.store.plan import Plan, Stored, make_plan
from flamewell_collector.store.tiers import HOUR_MS, ONE_HOUR, TEN_MINUTES

FIRST = 1_800_000_000_000 // HOUR_MS * HOUR_MS


def hour(at: int) -> int:
    return FIRST + at * HOUR_MS


def raw(name: str, at: int, *, compacted: bool = True) -> Block:
    return Block(name, "t", hour(at), hour(at) + HOUR_MS - 1, 1, 1, compacted=compacted)


def rollup(name: str, tier: str, *, first: int = 0, last: int = 3) -> Block:
    return Block(name, "t", hour(first), hour(last), 1, 1, compacted=True, tier=tier)


def plan(stored: Stored, start: float, end: float, **options: bool) -> Plan:
    wanted = {"gauge": False, "sums_do": True, **options}
    return make_plan(stored, int(FIRST + start * HOUR_MS), int(FIRST + end * HOUR_MS), **wanted)


DAY = rollup("day", ONE_HOUR)
FINE = rollup("fine", TEN_MINUTES)
FULL = Stored(
    [raw(f"r{at}", at) for at in range(4)],
    {
        ONE_HOUR: {hour(at): DAY for at in range(4)},
        TEN_MINUTES: {hour(at): FINE for at in range(4)},
    },
    (),
)


def spans(found: Plan) -> list[tuple[str, list[tuple[float, float]]]]:
    return [
        (each.path, [((a - FIRST) / HOUR_MS, (b - FIRST) / HOUR_MS) for a, b in each.ranges])
        for each in found.sums
    ]


def test_whole_hours_come_from_sums_and_edges_from_raw_rows() -> None:
    found = plan(FULL, 0.5, 3.25)
    assert spans(found) == [("day", [(1, 3)])]
    assert found.raw == ("r0", "r3")
    assert found.totals == ()


def test_other_labels_need_raw_rows() -> None:
    assert plan(FULL, 0, 4, sums_do=False) == Plan(("r0", "r1", "r2", "r3"), (), ())


def test_late_rows_are_added_to_sums_of_deltas() -> None:
    late = Stored([*FULL.raw, raw("late", 1, compacted=False)], FULL.rollups, ())
    found = plan(late, 0, 4)
    assert spans(found) == [("day", [(0, 4)])]
    assert found.raw == ("late",)


def test_averages_with_late_rows_come_from_raw_rows() -> None:
    late = Stored([*FULL.raw, raw("late", 1, compacted=False)], FULL.rollups, {hour(2)})
    found = plan(late, 0, 4, gauge=True)
    assert spans(found) == [("day", [(0, 1), (3, 4)])]
    assert found.raw == ("r1", "late", "r2")


def test_where_raw_rows_are_gone_sums_have_to_do() -> None:
    gone = Stored([raw("r3", 3)], FULL.rollups, ())
    found = plan(gone, 0.5, 3.5)
    assert spans(found) == [("fine", [(0.5, 1)]), ("day", [(1, 3)])]
    assert found.raw == ("r3",)
    assert [(each.path, each.ranges) for each in found.totals] == [
        ("fine", ((hour(0) + HOUR_MS // 2, hour(3)),))
    ]
    by_pod = plan(gone, 0, 4, sums_do=False)
    assert (by_pod.raw, by_pod.sums) == (("r3",), ())


def test_an_hour_without_sums_is_read_raw() -> None:
    some = Stored(FULL.raw, {ONE_HOUR: {hour(0): DAY}}, ())
    found = plan(some, 0, 4)
    assert spans(found) == [("day", [(0, 1)])], "its other hours have newer sums elsewhere"
    assert found.raw == ("r1", "r2", "r3")


def test_a_block_all_of_which_counts_is_read_with_the_whole_range() -> None:
    """Blocks that are read with one range are read at once."""
    alone = {hour(at): rollup(f"h{at}", ONE_HOUR, first=at, last=at) for at in range(4)}
    found = plan(Stored(FULL.raw, {ONE_HOUR: alone}, ()), 0.5, 3.25)
    assert spans(found) == [("h1", [(0.5, 3.25)]), ("h2", [(0.5, 3.25)])]
    assert spans(plan(FULL, -1, 5)) == [("day", [(-1, 5)])]


@settings(max_examples=300, deadline=None)
@given(
    hours=st.lists(
        st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans()), max_size=5
    ),
    start=st.integers(0, 30),
    length=st.integers(1, 30),
    gauge=st.booleans(),
)
def test_each_hour_is_read_from_one_place(
    hours: list[tuple[bool, bool, bool, bool]], start: int, length: int, gauge: bool
) -> None:
    blocks, sixty, ten = [], {}, {}
    day = rollup("day", ONE_HOUR, last=len(hours))
    fine = rollup("fine", TEN_MINUTES, last=len(hours))
    for at, (has_raw, has_late, has_sixty, has_ten) in enumerate(hours):
        blocks += [raw(f"r{at}", at)] if has_raw else []
        blocks += [raw(f"l{at}", at, compacted=False)] if has_late else []
        sixty |= {hour(at): day} if has_sixty else {}
        ten |= {hour(at): fine} if has_ten else {}
    found = plan(
        Stored(blocks, {ONE_HOUR: sixty, TEN_MINUTES: ten}, ()), start / 6, (start + length) / 6,
        gauge=gauge,
    )  # fmt: skip
    read = set(found.raw)
    assert len(read) == len(found.raw)
    for at, (has_raw, has_late, has_sixty, has_ten) in enumerate(hours):
        first, last = max(start, at * 6), min(start + length, at * 6 + 6)
        inside = first < last
        summed = [
            each.path
            for each in found.sums
            for begin, end in each.ranges
            if begin < hour(at) + HOUR_MS and end > hour(at)
        ]
        assert (f"l{at}" in read) == (inside and has_late)
        if not inside or not (has_raw or has_sixty or has_ten):
            assert not summed
        else:
            assert len(summed) + (f"r{at}" in read) == 1
