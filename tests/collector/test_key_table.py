from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from flamewell_collector.store.key_table import KeyTable

KEY = st.one_of(st.integers(0, 20), st.integers(0, 2**64 - 1))


def array(keys: list[int]) -> np.ndarray:
    return np.array(keys, dtype=np.uint64)


@settings(max_examples=150, deadline=None)
@given(rounds=st.lists(st.lists(KEY, max_size=40), max_size=6), asked=st.lists(KEY, max_size=20))
def test_it_is_a_dict_in_order(rounds: list[list[int]], asked: list[int]) -> None:
    table, plain = KeyTable(), dict[int, int]()
    for keys in rounds:
        first = [at for at, key in enumerate(keys) if key not in plain and key not in keys[:at]]
        for key in keys:
            plain.setdefault(key, len(plain))
        numbers, new = table.add(array(keys))
        assert numbers.tolist() == [plain[key] for key in keys]
        assert new.tolist() == first
    assert table.keys.tolist() == list(plain)
    assert table.find(array(asked)).tolist() == [plain.get(key, -1) for key in asked]


def test_it_grows() -> None:
    chance = np.random.default_rng(3)
    keys = chance.integers(0, 2**64, 50_000, dtype=np.uint64)
    table = KeyTable()
    for part in np.array_split(np.concatenate((keys, keys[::2])), 7):
        table.add(part)
    assert (table.keys == keys).all()
    assert (table.find(keys) == np.arange(50_000)).all()
    assert (table.find(keys + np.uint64(1)) == -1).sum() > 49_990
