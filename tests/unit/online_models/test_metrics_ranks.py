"""Ranks of single targets against the metrics of whole rankings."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from online_models import metrics

ITEMS = 12
K = st.integers(1, 15)
RANKS = st.lists(st.integers(-1, 20), max_size=30)
FAST_AND_SLOW = (
    (metrics.hit_at, metrics.hit_rate),
    (metrics.ndcg_at, metrics.ndcg),
    (metrics.reciprocal_rank_at, metrics.reciprocal_rank),
    # with one relevant item these are the same figures
    (metrics.hit_at, metrics.recall),
    (metrics.reciprocal_rank_at, metrics.average_precision),
)
At = Callable[[npt.NDArray[np.integer], int], npt.NDArray[np.float64]]
each_fast = pytest.mark.parametrize("at", [metrics.hit_at, metrics.ndcg_at, metrics.reciprocal_rank_at])


@given(RANKS, K)
@settings(deadline=None)
def test_the_figures_of_ranks_are_those_of_the_rankings_with_the_target_there(ranks: list[int], k: int) -> None:
    rankings = [["target" if place == rank else place for place in range(21)] for rank in ranks]
    for fast, slow in FAST_AND_SLOW:
        expected = [slow(ranking, {"target"}, k) for ranking in rankings]
        np.testing.assert_allclose(fast(np.array(ranks, np.int64), k), expected, rtol=1e-14)
    precisions = [metrics.precision(ranking, {"target"}, k) for ranking in rankings]
    np.testing.assert_allclose(metrics.hit_at(np.array(ranks, np.int64), k) / k, precisions)


@given(st.lists(st.permutations(range(ITEMS)), min_size=1, max_size=8), K)
@settings(deadline=None)
def test_ndcg_is_that_of_scikit_learn(orders: list[list[int]], k: int) -> None:
    scores = np.array(orders, np.float64)  # (n, items), no ties; the target is item 0
    relevant = np.zeros_like(scores)
    relevant[:, 0] = 1
    ranks = (scores > scores[:, :1]).sum(1)
    assert metrics.ndcg_at(ranks, k).mean() == pytest.approx(ndcg_score(relevant, scores, k=k))


@each_fast
@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.uint16, np.uint64])
def test_ranks_may_be_of_any_whole_type(at: At, dtype: npt.DTypeLike) -> None:
    ranks = np.array([0, 3, 4, 100], np.int64)
    assert at(ranks.astype(dtype), 4).tolist() == at(ranks, 4).tolist()


@each_fast
def test_what_is_no_rank_is_refused(at: At) -> None:
    with pytest.raises(ValueError, match="expected k >= 1, got 0"):
        at(np.array([1]), 0)
    with pytest.raises(ValueError, match="expected ranks >= -1, got -2"):
        at(np.array([1, -2]), 3)
    for bad in (np.array([1.0]), np.array([[1]]), np.array([True])):
        with pytest.raises(ValueError, match="expected ranks of whole numbers"):
            at(bad, 3)
