"""A candidate's lists from counts by position and place: what the lists themselves say, and what plain loops do."""

from math import log2

import numpy as np
import numpy.typing as npt
import pytest

from online_models.off_policy import (
    Counted,
    Lists,
    Ranked,
    Reason,
    Refused,
    Terms,
    assumed_looks,
    counted_value,
    lift,
    ranked_value,
)
from tests.off_policy_worlds import Shelf

I64 = npt.NDArray[np.int64]
POSITIONS, COLUMNS = 20, 61
LOOKS = assumed_looks(POSITIONS)


def counted_of(lists: Lists) -> tuple[I64, I64]:
    """Impressions and those taken, (POSITIONS, COLUMNS) each."""
    found = np.zeros((2, POSITIONS, COLUMNS), np.int64)
    place = np.where(lists.place < 0, COLUMNS - 1, lists.place)
    np.add.at(found[0], (lists.position, place), 1)
    np.add.at(found[1], (lists.position[lists.clicked], place[lists.clicked]), 1)
    return found[0], found[1]


def told(shown: I64, taken: I64, terms: Terms = Terms()) -> Counted:  # noqa: B008 - frozen
    found = counted_value(shown, taken, LOOKS, terms)
    assert isinstance(found, Counted), found
    return found


@pytest.mark.parametrize("noise", [0.02, 0.5])
def test_counts_say_what_the_lists_say(noise: float) -> None:
    lists, _, _ = Shelf.drawn(1, positions=8).shadowed(1, 4_000, noise)
    found, expected = told(*counted_of(lists)), ranked_value(lists, LOOKS[:8])
    assert isinstance(expected, Ranked)
    assert (found.lists, found.positions) == (expected.requests, 8)
    assert found.logged == pytest.approx(expected.logged.value)
    assert found.per_list == pytest.approx(expected.per_list.value)
    assert found.kept == pytest.approx(1 - expected.dropped_clicks)
    assert found.order.value == pytest.approx(expected.order.value)
    # Clicks on one list hardly depend on each other in this world: both intervals are of much the same length.
    assert found.order.standard_error == pytest.approx(expected.order.standard_error, rel=0.1)
    for name in ("rows", "ess", "mean_weight", "largest_share", "unsupported"):
        assert getattr(found.order.diagnosis, name) == pytest.approx(getattr(expected.order.diagnosis, name))


def test_rows_that_occur_often_have_the_interval_of_as_many_rows() -> None:
    rng = np.random.default_rng(0)
    times = rng.integers(0, 9, 40)
    columns = [rng.random(40) + 0.1 for _ in range(4)]
    diagnosis = told(*counted_of(Shelf.drawn(1).shadowed(1, 1_000, 0.1)[0])).order.diagnosis
    a, b, c, d = (np.repeat(column, times) for column in columns)
    expected = lift((a, b), (c, d), None, diagnosis, 0.05)
    a, b, c, d = columns
    found = lift((a, b), (c, d), None, diagnosis, 0.05, times.astype(np.float64))
    for name in ("value", "standard_error", "lower", "upper"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-12)


def test_the_interval_holds_what_reordering_does_where_looks_are_as_assumed() -> None:
    """Of 60 worlds a nominal 57; the candidate reorders what is shown, so that the order is the whole difference."""
    held = 0
    for seed in range(60):
        shelf = Shelf(LOOKS[:6], Shelf.drawn(seed, items=6).taken)
        lists, logged, candidate = shelf.shadowed(seed, 3_000, candidate_noise=0.3)
        held += told(*counted_of(lists)).order.covers(candidate / logged - 1)
    assert held >= 52


def drawn(seed: int) -> tuple[I64, I64]:
    """Lists of 12 of which nearly all go on to 14, and some further."""
    rng = np.random.default_rng(seed)
    shown = np.zeros((POSITIONS, COLUMNS), np.int64)
    for position, reached in enumerate([1_000] * 12 + [960] * 2 + [300] * 6):
        shown[position] = rng.multinomial(reached, rng.dirichlet(np.full(COLUMNS, 0.3)))
    return shown, rng.binomial(shown, 0.2)


def test_sums_are_those_of_plain_loops_over_the_positions_that_nearly_all_lists_reach() -> None:
    shown, taken = drawn(3)
    found = told(shown, taken)
    clicks = ours = kept = our_looks = their_looks = weighed = squared = 0.0
    for position in range(14):
        for place in range(COLUMNS):
            n, c = int(shown[position, place]), int(taken[position, place])
            clicks += c
            if place < 14:
                weight = log2(position + 2) / log2(place + 2)
                ours += c * weight
                kept += c
                our_looks += n / log2(place + 2)
                their_looks += n / log2(position + 2)
                weighed += n * weight
                squared += n * weight**2
    assert (found.lists, found.positions) == (1_000, 14)
    assert [found.logged, found.per_list] == pytest.approx([clicks / 1_000, ours / 1_000])
    assert found.kept == pytest.approx(kept / clicks)
    assert found.order.value == pytest.approx((ours / our_looks) / (kept / their_looks) - 1)
    assert found.order.diagnosis.ess == pytest.approx(weighed**2 / squared)
    assert found.order.lower < found.order.value < found.order.upper


def test_the_same_lists_are_as_good_for_sure() -> None:
    shown = np.zeros((POSITIONS, COLUMNS), np.int64)
    shown[np.arange(10), np.arange(10)] = 1_000
    found = told(shown, shown // 5)
    assert [found.positions, found.logged, found.per_list, found.kept] == pytest.approx([10, 2.0, 2.0, 1.0])
    assert [found.order.value, found.order.lower, found.order.upper] == pytest.approx([0.0] * 3)


def test_counts_that_cannot_tell_are_refused() -> None:
    shown, taken = drawn(1)
    nothing = np.zeros_like(shown)
    absent = nothing.copy()
    absent[:10, -1] = 1_000
    far = nothing.copy()
    far[:5, 30] = 1_000
    later = nothing.copy()
    later[10:] = shown[10:]
    for (shows, takes), reason, words in [
        ((nothing, nothing), Reason.NO_ROWS, "from its first position"),
        ((later, nothing), Reason.NO_ROWS, "from its first position"),
        ((absent, absent // 9), Reason.SMALL_SAMPLE, "0 effective impressions of 10000, 500 needed"),
        ((far, far // 9), Reason.SMALL_SAMPLE, "0 effective impressions of 5000"),
        ((shown // 100, nothing), Reason.SMALL_SAMPLE, "500 needed"),
        ((shown, nothing), Reason.SMALL_SAMPLE, "nothing was taken"),
    ]:
        found = counted_value(shows, takes, LOOKS)
        assert isinstance(found, Refused)
        assert (found.reason, words in found.detail) == (reason, True), found
    assert isinstance(counted_value(shown, taken, LOOKS, Terms(min_ess=1e9)), Refused)
