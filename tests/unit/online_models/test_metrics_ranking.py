"""Ranking metrics against naive oracles written from their definitions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online_models import metrics
from online_models.metrics import mean_metrics

ITEMS = st.integers(0, 12)
RANKED = st.lists(ITEMS, max_size=12, unique=True)
RELEVANT = st.sets(ITEMS, min_size=1, max_size=8)
K = st.integers(1, 15)
METRICS = (
    metrics.hit_rate,
    metrics.precision,
    metrics.recall,
    metrics.ndcg,
    metrics.average_precision,
    metrics.reciprocal_rank,
)


@given(RANKED, RELEVANT, K)
@settings(deadline=None)
def test_each_metric_is_its_definition_on_the_vector_of_gains(ranked: list[int], relevant: set[int], k: int) -> None:
    gains = [int(item in relevant) for item in ranked[:k]] + [0] * max(0, k - len(ranked))
    possible = min(k, len(relevant))
    precisions = [sum(gains[: i + 1]) / (i + 1) for i in range(k)]
    ideal = sum(1 / math.log2(i + 2) for i in range(possible))
    assert metrics.hit_rate(ranked, relevant, k) == max(gains)
    assert metrics.precision(ranked, relevant, k) == pytest.approx(sum(gains) / k)
    assert metrics.recall(ranked, relevant, k) == pytest.approx(sum(gains) / len(relevant))
    assert metrics.ndcg(ranked, relevant, k) == pytest.approx(
        sum(gain / math.log2(i + 2) for i, gain in enumerate(gains)) / ideal
    )
    assert metrics.average_precision(ranked, relevant, k) == pytest.approx(
        sum(gain * at for gain, at in zip(gains, precisions, strict=True)) / possible
    )
    assert metrics.reciprocal_rank(ranked, relevant, k) == max(gain / (i + 1) for i, gain in enumerate(gains))


@given(st.lists(ITEMS, max_size=20), RELEVANT, K)
@settings(deadline=None)
def test_every_metric_lies_between_0_and_1_whatever_is_repeated(ranked: list[int], relevant: set[int], k: int) -> None:
    for metric in METRICS:
        assert 0 <= metric(ranked, relevant, k) <= 1 + 1e-12, metric.__name__


@given(RELEVANT, K)
@settings(deadline=None)
def test_the_ideal_ranking_is_best_by_every_metric_of_order(relevant: set[int], k: int) -> None:
    ideal = [*relevant, *(set(range(13)) - relevant)]
    for metric in (metrics.hit_rate, metrics.ndcg, metrics.average_precision, metrics.reciprocal_rank):
        assert metric(ideal, relevant, k) == pytest.approx(1.0), metric.__name__


def test_a_repeated_item_is_a_hit_only_once() -> None:
    assert metrics.recall([1, 1, 1], {1, 2}, 3) == 0.5
    assert metrics.precision([1, 1], {1}, 2) == 0.5


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.__name__)
def test_no_relevant_item_and_k_of_0_are_errors(metric: metrics.Metric) -> None:
    with pytest.raises(ValueError, match="relevant"):
        metric([1, 2], set(), 2)
    with pytest.raises(ValueError, match="k >= 1"):
        metric([1, 2], {1}, 0)


@given(st.lists(st.tuples(RANKED, st.sets(ITEMS, max_size=4)), min_size=1, max_size=8), K)
@settings(deadline=None)
def test_means_leave_out_rankings_with_nothing_relevant(pairs: list[tuple[list[int], set[int]]], k: int) -> None:
    kept = [(ranked, relevant) for ranked, relevant in pairs if relevant]
    rankings, relevant = [ranked for ranked, _ in pairs], [wanted for _, wanted in pairs]
    if not kept:
        with pytest.raises(ValueError, match="something relevant"):
            mean_metrics(rankings, relevant, k)
        return
    means = mean_metrics(rankings, relevant, k)
    assert means.rankings == len(kept)
    for metric in METRICS:
        one_by_one = [metric(ranked, wanted, k) for ranked, wanted in kept]
        assert getattr(means, metric.__name__) == pytest.approx(np.mean(one_by_one))


def test_means_want_as_many_answers_as_rankings() -> None:
    with pytest.raises(ValueError, match="expected as many relevant sets as rankings, got 1 and 2"):
        mean_metrics([[1], [2]], [{1}], 1)


def test_rows_as_numpy_arrays_are_rankings_too() -> None:
    assert metrics.hit_rate(np.array([4, 2]), {2}, 2) == 1.0
    assert metrics.ndcg(np.array([4, 2]), {4}, 2) == 1.0
