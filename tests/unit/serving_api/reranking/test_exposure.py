"""Decayed counts equal the sum of every impression's weight, and stay within their memory."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving_api.reranking.exposure import Exposure

HALF_LIFE = 60.0

batches = st.lists(
    st.tuples(st.lists(st.sampled_from([0, 2, 3, 2**20 + 2, 2**63]), max_size=6), st.floats(0, 3_000)), max_size=30
)
"""Items, of which two share a slot of any small table, and the seconds until the next ones."""


def hashes(*items: int) -> np.ndarray:
    return np.array(items, np.uint64)


@settings(deadline=None)
@given(batches)
def test_a_share_is_the_weight_of_an_item_s_impressions_among_all(shown: list[tuple[list[int], float]]) -> None:
    exposure, now = Exposure(HALF_LIFE, items=8), 0.0
    told: list[tuple[int, float]] = []
    for items, pause in shown:
        exposure.add(hashes(*items), now)
        told += [(item, now) for item in items]
        now += pause
    weights = {item: sum(2 ** (-(now - at) / HALF_LIFE) for other, at in told if other == item) for item, _ in told}
    assert exposure.total(now) == pytest.approx(sum(weights.values()), abs=1e-12)
    # Shares are compared as of the newest impression: later all weights may be too small to be numbers.
    newest = max((at for _, at in told), default=0.0)
    plain = {item: sum(2 ** (-(newest - at) / HALF_LIFE) for other, at in told if other == item) for item in weights}
    for item, weight in plain.items():
        assert exposure.shares(hashes(item), now)[0] == pytest.approx(weight / sum(plain.values()), rel=1e-6)
    assert len(exposure) == len(weights)


def test_an_item_that_was_never_shown_has_no_share_and_neither_has_any_before_the_first() -> None:
    exposure = Exposure(HALF_LIFE)
    assert exposure.shares(hashes(5, 6), 0.0).tolist() == [0.0, 0.0]
    exposure.add(hashes(5), 0.0)
    assert exposure.shares(hashes(5, 6), 1e4).tolist() == [1.0, 0.0]
    assert exposure.shares(hashes(5, 6), 1e9).tolist() == [0.0, 0.0]  # so long ago that it is no number any more


def test_a_time_long_before_the_landmark_is_no_division_by_zero() -> None:
    exposure = Exposure(HALF_LIFE)
    exposure.add(hashes(5), 1e9)
    exposure.add(hashes(6), 0.0)
    assert exposure.shares(hashes(5, 6), -1e12).tolist() == pytest.approx([1.0, 0.0], abs=1e-8)
    assert np.isfinite(exposure.total(0.0))


def test_shares_are_not_told_of_too_few_impressions() -> None:
    exposure = Exposure(HALF_LIFE)
    exposure.add(hashes(5, 6, 6, 6), 0.0)
    assert exposure.shares(hashes(5, 6), 0.0, least=4.0).tolist() == [0.25, 0.75]
    assert exposure.shares(hashes(5, 6), HALF_LIFE, least=4.0).tolist() == [0.0, 0.0]
    assert exposure.shares(hashes(5, 6), HALF_LIFE, least=2.0).tolist() == [0.25, 0.75]


@pytest.mark.parametrize("items", [2, 9, 64])
def test_a_full_table_keeps_what_is_shown_often_and_no_more_than_it_may(items: int) -> None:
    exposure, rng = Exposure(1e9, items), np.random.default_rng(7)
    often = hashes(1)
    for _ in range(400):
        exposure.add(np.concatenate([often, rng.integers(10, 2**62, 3 * items).astype(np.uint64)]), 0.0)
        exposure.add(np.repeat(often, 3 * items), 0.0)
        assert len(exposure) <= items
    assert exposure.shares(often, 0.0)[0] == pytest.approx(0.5, abs=0.1)


def test_what_a_full_table_forgets_had_less_than_its_share_of_memory() -> None:
    exposure, items = Exposure(1e9, items=8), hashes(*range(1, 10))
    exposure.add(np.repeat(items, 10 - np.arange(9)), 0.0)
    kept = exposure.shares(items, 0.0) > 0
    assert kept.tolist() == [True] * 4 + [False] * 5
    total = exposure.total(0.0)
    assert all(count / total <= 2 / 8 for count in (10 - np.arange(9))[~kept])


@pytest.mark.parametrize(("half_life", "items"), [(0.0, 8), (-1.0, 8), (float("nan"), 8), (60.0, 1)])
def test_a_half_life_or_memory_that_cannot_be_is_refused(half_life: float, items: int) -> None:
    with pytest.raises(ValueError, match="positive half-life"):
        Exposure(half_life, items)
