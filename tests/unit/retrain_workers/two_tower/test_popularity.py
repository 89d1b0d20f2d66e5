"""Popularity at the time against counts one by one; nothing of an example's own stretch or later is in it."""

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from retrain_workers.two_tower.popularity import PRIOR, STRETCHES, PopularityThen, half_life_of, log_shares_after

ITEMS = 5
targets = st.lists(st.integers(0, ITEMS - 1), max_size=150)


def one_by_one(given: Sequence[int], half_life: float) -> list[float]:
    """Oracle: each item's decayed count, with the prior, as a share."""
    counts = [PRIOR] * ITEMS
    for number, item in enumerate(given):
        counts[item] += 2 ** (-(len(given) - 1 - number) / half_life)
    return [count / sum(counts) for count in counts]


@given(targets, st.floats(0.5, 100))
def test_shares_are_counts_that_halve_with_every_half_life(given: list[int], half_life: float) -> None:
    found = log_shares_after(np.array(given, np.int64), ITEMS, half_life)
    np.testing.assert_allclose(np.exp(found), one_by_one(given, half_life), rtol=1e-4)


@given(targets)
def test_an_example_has_the_shares_as_its_stretch_began(given: list[int]) -> None:
    popularity, rows = PopularityThen.of(np.array(given, np.int64), ITEMS), np.arange(len(given))
    found = popularity.at(rows, np.arange(ITEMS))
    edges = [len(given) * stretch // STRETCHES for stretch in range(STRETCHES + 1)]
    for row in rows.tolist():
        begin = max(edge for edge in edges if edge <= row)
        expected = one_by_one(given[:begin], half_life_of(len(given)))
        # what has decayed is not as exact
        np.testing.assert_allclose(np.exp(found[row]), expected, rtol=1e-4)


@given(targets, st.integers(0, ITEMS - 1))
def test_what_an_example_takes_changes_no_share_that_it_has(given: list[int], other: int) -> None:
    for row in range(0, len(given), 29):
        changed = [*given[:row], *[other] * (len(given) - row)]
        both = [PopularityThen.of(np.array(each, np.int64), ITEMS) for each in (given, changed)]
        one, two = (each.at(np.array([row]), np.arange(ITEMS)).tolist() for each in both)
        assert one == two
