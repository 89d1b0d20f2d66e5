"""Popularity against plain sums; and any split of the same interactions."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from flows.popular import Popularity
from online_models.contracts.ids import ItemId
from tests.engagements import START_MS
from tests.online_learners import SECOND_DAYS

STRIDE_MS = 256_000
COUNTED = st.tuples(
    st.sampled_from("abcd"),
    st.builds(lambda stride, ms: max(0, stride * STRIDE_MS + ms), st.integers(0, 6), st.integers(-20_000, 20_000)),
)
"""Items and times; the half-life is a second, so that landmarks are 256 s apart: times lie around them."""


def counted(popularity: Popularity, events: Sequence[tuple[str, int]]) -> dict[ItemId, tuple[float, int]]:
    return popularity.add([ItemId(item) for item, _ in events], np.array([ms for _, ms in events], np.int64))


def log2_of_sums(events: Sequence[tuple[str, int]]) -> dict[str, float]:
    """Item -> log2 of its sum of 2^(t in seconds), which ranks as the decayed counts do at any common time."""
    times: dict[str, list[float]] = {}
    for item, ms in events:
        times.setdefault(item, []).append(ms / 1000)
    tops = {item: max(seconds) for item, seconds in times.items()}
    return {item: tops[item] + math.log2(sum(2.0 ** (s - tops[item]) for s in each)) for item, each in times.items()}


@given(st.lists(COUNTED, min_size=1, max_size=40))
def test_counts_and_their_order_are_those_of_plain_sums(events: list[tuple[str, int]]) -> None:
    popularity = Popularity(SECOND_DAYS, {})
    state = counted(popularity, events)
    sums = log2_of_sums(events)
    assert set(state) == set(sums)
    for item, (count, at_ms) in state.items():
        assert math.isclose(math.log2(count) + at_ms / 1000, sums[item], rel_tol=1e-9, abs_tol=1e-9)
    best = popularity.best(10)
    assert sorted(best) == sorted(sums)
    assert all(sums[before] > sums[after] - 1e-9 for before, after in pairwise(best))
    assert popularity.best(2) == best[:2]


@given(st.lists(COUNTED, min_size=1, max_size=40), st.lists(st.integers(0, 40), max_size=6), st.booleans())
@example([("a", 0), ("a", 0), ("a", STRIDE_MS - 1), ("a", STRIDE_MS)], [3], False)
def test_popularity_does_not_depend_on_where_chunks_end_to_the_last_bit(
    events: list[tuple[str, int]], cuts: list[int], restart: bool
) -> None:
    whole, pieces = Popularity(SECOND_DAYS, {}), Popularity(SECOND_DAYS, {})
    expected = counted(whole, events)
    state: dict[ItemId, tuple[float, int]] = {}
    for start, end in pairwise(sorted({0, *(cut for cut in cuts if cut < len(events)), len(events)})):
        if restart:
            pieces = Popularity(SECOND_DAYS, dict(sorted(state.items())))
        state |= counted(pieces, events[start:end])
    assert state == expected
    assert pieces.best(3) == whole.best(3)


def test_an_interaction_one_half_life_older_counts_half() -> None:
    popularity = Popularity(SECOND_DAYS, {})
    state = counted(popularity, [("old", 100_000), ("new", 101_000), ("old", 101_000)])
    (old, at_ms), (new, same_ms) = state[ItemId("old")], state[ItemId("new")]
    assert at_ms == same_ms
    assert math.isclose(old, 1.5 * new)


def test_items_of_one_popularity_are_in_the_order_of_their_ids() -> None:
    popularity = Popularity(30.0, {})
    counted(popularity, [(item, START_MS) for item in "dbca"])
    assert popularity.best(3) == ["a", "b", "c"]


def test_thousands_of_items_are_counted_one_by_one() -> None:
    popularity = Popularity(30.0, {})
    names = [f"item-{number % 3_000}" for number in range(4_500)]
    counted(popularity, [(name, START_MS) for name in names])
    assert set(popularity.best(1_500)) == set(names[:1_500])
    assert len(popularity.best(10_000)) == 3_000
