"""Decayed counts against direct sums over all events, by every clock."""

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online_models.popularity import CLOCK_NAMES, CLOCKS, LEAST_SHARE, Popularity, count_item
from tests.oracles.item_sources import DAY_MS, PlainPopularity

ITEMS = 5
NOW = 20_000 * DAY_MS
TIMES = st.one_of(
    st.integers(NOW - 90 * DAY_MS, NOW),
    st.integers(-5_000 * DAY_MS, 40_000 * DAY_MS),  # decades apart, and before 1970
    st.integers(-(2**62), 2**62),
)
EVENTS = st.lists(st.tuples(st.integers(0, ITEMS - 1), TIMES), max_size=40)
Events = list[tuple[int, int]]


def counted(events: Events, counts: Popularity | None = None) -> Popularity:
    if counts is None:
        counts = Popularity()
        counts.grow(ITEMS)
    for event in events:
        count_item(counts.arrays, *event)
    return counts


def bits(counts: Popularity) -> list[tuple[str, bytes]]:
    return [(name, array.tobytes()) for name, array in counts.packed().items()]


@given(EVENTS, TIMES)
@settings(max_examples=150, deadline=None)
def test_shares_are_sums_of_what_age_leaves_of_each_event_late_ones_too(events: Events, asked: int) -> None:
    plain = PlainPopularity(events)
    # at the ends of time a day is no longer told from the next
    rounding = 1e-4 if all(abs(ts) < 2**50 for ts in (asked, *(ts for _, ts in events))) else 1e-2
    found = counted(events).shares(asked)
    assert found.dtype == np.float32
    assert found == pytest.approx(plain.shares(ITEMS, asked), abs=rounding)


@given(EVENTS)
@settings(max_examples=100, deadline=None)
def test_an_item_that_had_no_event_has_the_least_share_and_nothing_over_or_underflows(events: Events) -> None:
    counts, met = counted(events), {item for item, _ in events}
    shares = counts.shares(NOW)
    assert np.isfinite(shares).all()
    assert (shares[:, [item for item in range(ITEMS) if item not in met]] == LEAST_SHARE).all()
    assert (shares <= 1e-3).all()
    assert all(np.isfinite(array).all() for array in counts.arrays)
    assert counts.counted().tolist() == [item in met for item in range(ITEMS)]


@given(EVENTS)
@settings(max_examples=100, deadline=None)
def test_events_are_counted_exactly_whatever_their_times(events: Events) -> None:
    expected = Counter(item for item, _ in events)
    assert counted(events).counts(np.arange(ITEMS)).tolist() == [expected[item] for item in range(ITEMS)]
    assert counted(events).arrays.events.tolist() == [len(events)]


def test_counts_stay_exact_for_tens_of_thousands_of_events_of_one_item() -> None:
    counts = counted([])
    for number in range(1, 30_001):
        count_item(counts.arrays, 1, NOW + number)
        if number % 10 == 0:
            count_item(counts.arrays, 2, NOW)
        if number % 997 == 0:
            assert counts.counts(np.array([1, 2, 3])).tolist() == [number, number // 10, 0]


@given(EVENTS, TIMES, TIMES)
@settings(max_examples=50, deadline=None)
def test_all_decay_alike_so_a_share_does_not_depend_on_when_it_is_asked_for(
    events: Events, one: int, other: int
) -> None:
    counts = counted(events)
    assert counts.shares(one) == pytest.approx(counts.shares(other), abs=1e-2)


def test_each_clock_has_its_own_memory() -> None:
    counts = counted([(0, 0)] * 64 + [(1, 7 * DAY_MS)] * 64)
    ratio = dict(zip(CLOCK_NAMES, counts.shares(7 * DAY_MS)[:, 0] - counts.shares(7 * DAY_MS)[:, 1], strict=True))
    assert ratio["popularity_all"] == 0
    assert ratio["popularity_7_days"] == pytest.approx(-1, abs=1e-5)
    assert ratio["popularity_30_days"] == pytest.approx(-7 / 30, abs=1e-5)
    assert ratio["popularity_5000_events"] == pytest.approx(-64 / 5_000, abs=1e-5)


def test_before_the_first_event_nobody_has_a_share() -> None:
    assert (counted([]).shares(NOW) == LEAST_SHARE).all()
    assert not counted([]).counted().any()
    assert Popularity().shares(NOW).shape == (CLOCKS, 0)


@given(EVENTS)
def test_the_newest_event_is_the_latest_by_time_not_the_last_to_come(events: Events) -> None:
    expected = max([0, *(ts for _, ts in events)])
    assert counted(events).newest_ms == pytest.approx(expected, abs=2**10)  # of float64 near 2^62


@given(EVENTS, st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_to_unpack_and_go_on_is_never_to_have_stopped(events: Events, cut: int) -> None:
    stored = counted(events[:cut]).packed()
    resumed = counted(events[cut:], Popularity.unpacked(**stored))  # type: ignore[arg-type]
    assert bits(resumed) == bits(counted(events))


@given(EVENTS, st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_to_grow_changes_no_share(events: Events, more: int) -> None:
    counts = counted(events)
    before = counts.shares(NOW)
    counts.grow(ITEMS + more)
    counts.grow(1)
    assert len(counts) == ITEMS + more
    assert np.array_equal(counts.shares(NOW)[:, :ITEMS], before)
    assert (counts.shares(NOW)[:, ITEMS:] == LEAST_SHARE).all()


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("log2_count", np.zeros((CLOCKS, ITEMS + 1))),
        ("at", np.zeros((CLOCKS - 1, ITEMS))),
        ("at", np.zeros(CLOCKS)),
        ("log2_count", np.full((CLOCKS, ITEMS), np.nan)),
        ("log2_count", np.zeros((CLOCKS, ITEMS), np.float32)),
        ("log2_total", np.zeros(CLOCKS + 1)),
        ("total_at", np.full(CLOCKS, np.inf)),
        ("events", np.zeros(2, np.int64)),
        ("events", np.zeros(1)),
    ],
)
def test_arrays_that_are_no_counts_are_refused(name: str, array: npt.NDArray[Any]) -> None:
    stored: dict[str, Any] = counted([(0, NOW)]).packed()
    with pytest.raises(ValueError, match="expected"):
        Popularity.unpacked(**{**stored, name: array})
