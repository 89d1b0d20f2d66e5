"""Running means and sliding windows against plain means, river's metrics and the batch metrics."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import metrics as river_metrics

from online_models import metrics
from online_models.metrics import Prequential


@given(
    st.lists(st.lists(st.floats(-100, 100), max_size=6), max_size=6),
    st.floats(0.01, 1.0),
)
@settings(deadline=None)
def test_a_prequential_mean_is_the_weighted_mean_of_all_figures_however_they_are_batched(
    batches: list[list[float]], fading: float
) -> None:
    running = Prequential(fading)
    for batch in batches:
        running.update(np.array(batch, np.float64))
    figures = [figure for batch in batches for figure in batch]
    assert running.count == len(figures)
    if not figures:
        assert running.mean is None
        return
    weights = [fading ** (len(figures) - 1 - i) for i in range(len(figures))]
    assert running.mean == pytest.approx(np.average(figures, weights=weights), abs=1e-6)


def test_a_prequential_mean_refuses_what_would_poison_it() -> None:
    running = Prequential()
    running.update(np.array([1.0]))
    for bad in (np.array([2.0, np.nan]), np.array([np.inf]), np.array([[1.0]])):
        with pytest.raises(ValueError, match="finite"):
            running.update(bad)
    assert (running.mean, running.count) == (1.0, 1)
    for fading in (0.0, -1.0, 1.1, math.nan):
        with pytest.raises(ValueError, match="fading"):
            Prequential(fading)


PREDICTED = st.integers(1, 999).map(lambda thousandth: thousandth / 1000)
SIZE = st.integers(1, 12)
Pairs = list[tuple[float, int]]


def by_river(metric: Any, pairs: Pairs) -> float:
    for predicted, observed in pairs:
        metric.update(observed, predicted)
    return float(metric.get())


@given(st.lists(st.tuples(PREDICTED, st.integers(0, 1)), min_size=1, max_size=30), SIZE)
@settings(deadline=None)
def test_a_window_is_what_river_says_of_its_events(pairs: Pairs, size: int) -> None:
    rmse, mae, nats = metrics.WindowedRmse(size), metrics.WindowedMae(size), metrics.WindowedCrossEntropy(size)
    for seen, (predicted, observed) in enumerate(pairs, 1):
        for window in (rmse, mae, nats):
            window.update(np.array([predicted]), np.array([observed]))
        recent = pairs[max(0, seen - size) : seen]
        assert rmse.value == pytest.approx(by_river(river_metrics.RMSE(), recent))
        assert mae.value == pytest.approx(by_river(river_metrics.MAE(), recent))
        assert nats.value == pytest.approx(by_river(river_metrics.LogLoss(), recent))


@given(st.lists(st.tuples(PREDICTED, st.integers(0, 1)), min_size=1, max_size=30, unique_by=lambda pair: pair[0]), SIZE)
@settings(deadline=None)
def test_the_auc_of_a_window_is_that_of_river_where_no_scores_tie(pairs: Pairs, size: int) -> None:
    # where scores tie, river counts a tie as lost: no chance level of 0.5
    auc, rolling = metrics.WindowedAuc(size), river_metrics.RollingROCAUC(size)
    for predicted, observed in pairs:
        auc.update(np.array([predicted]), np.array([observed]))
        rolling.update(observed, predicted)
        if auc.value is not None:
            assert auc.value == pytest.approx(rolling.get())


def test_a_window_says_none_where_its_metric_has_no_value() -> None:
    likely, nothing = np.array([0.4, 0.6]), np.array([0, 0])
    for window in (
        metrics.WindowedAuc(),
        metrics.WindowedNormalisedCrossEntropy(),
        metrics.WindowedCalibrationRatio(),
    ):
        window.update(likely, nothing)
        assert window.value is None
        window.update(likely, np.array([0, 1]))
        assert window.value is not None
    for reach in (metrics.WindowedCoverage(4, 2), metrics.WindowedGini(4, 2)):
        reach.update(np.array([[-1, -1]]))
        assert reach.value is None
        assert reach.count == 1
        reach.update(np.array([[1, -1]]))
        assert reach.value is not None


def test_a_window_forgets_what_left_it() -> None:
    window = metrics.WindowedCoverage(items=10, k=1, size=3)
    window.update(np.arange(10)[:, None])
    assert window.value == 0.3
    (lists,) = window.columns
    assert lists.tolist() == [[7], [8], [9]]
    window.update(np.array([[0], [0], [0]]))
    assert window.value == 0.1


def test_lists_of_another_length_than_the_windows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"windowed Gini: expected lists \(n, 2\), got shape \(1, 3\)"):
        metrics.WindowedGini(5, 2).update(np.array([[0, 1, 2]]))
