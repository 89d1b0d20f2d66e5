"""Errors, cross-entropy, AUC and calibration against scikit-learn, river and the definitions."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import metrics as river_metrics
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss, mean_absolute_error, roc_auc_score, root_mean_squared_error

from online_models import metrics
from online_models.metrics.pointwise import CLIP
from tests.oracles import metrics as oracle

REAL = st.floats(-100, 100)
REAL_PAIRS = st.lists(st.tuples(REAL, REAL), min_size=1, max_size=30)
# coarse: many predictions tie
PREDICTED = st.integers(0, 20).map(lambda twentieth: twentieth / 20) | st.floats(0, 1)
PAIRS = st.lists(st.tuples(PREDICTED, st.integers(0, 1)), min_size=1, max_size=40)
MIXED_PAIRS = PAIRS.filter(lambda pairs: {observed for _, observed in pairs} == {0, 1})
Pairs = list[tuple[float, int]]


@given(REAL_PAIRS)
@settings(deadline=None)
def test_rmse_and_mae_are_those_of_scikit_learn_and_river(pairs: list[tuple[float, float]]) -> None:
    predicted, observed = np.array(pairs).T
    assert metrics.rmse(predicted, observed) == pytest.approx(root_mean_squared_error(observed, predicted))
    assert metrics.mae(predicted, observed) == pytest.approx(mean_absolute_error(observed, predicted))
    rmse, mae = river_metrics.RMSE(), river_metrics.MAE()
    for each in pairs:
        rmse.update(each[1], each[0])
        mae.update(each[1], each[0])
    assert metrics.rmse(predicted, observed) == pytest.approx(rmse.get())
    assert metrics.mae(predicted, observed) == pytest.approx(mae.get())


@given(PAIRS)
@settings(deadline=None)
def test_cross_entropy_is_that_of_scikit_learn(pairs: Pairs) -> None:
    predicted, observed = np.array(pairs).T
    with warnings.catch_warnings():
        # it was renamed in 1.9 from y_pred, which stays positional
        warnings.simplefilter("ignore", FutureWarning)
        expected = log_loss(observed, predicted, labels=[0, 1])
    assert metrics.cross_entropy(predicted, observed) == pytest.approx(expected, abs=1e-12)


def test_an_event_that_was_called_impossible_costs_much_but_not_everything() -> None:
    assert metrics.cross_entropies(np.array([0.0, 1.0]), np.array([1, 0])).tolist() == pytest.approx(
        [-math.log(CLIP)] * 2
    )
    assert metrics.cross_entropies(np.array([0.0, 1.0]), np.array([0, 1])).max() < 1e-15


@given(MIXED_PAIRS)
@settings(deadline=None)
def test_normalised_cross_entropy_is_relative_to_predicting_the_base_rate(pairs: Pairs) -> None:
    predicted, observed = np.array(pairs).T
    base = np.full_like(predicted, observed.mean())
    expected = metrics.cross_entropy(predicted, observed) / metrics.cross_entropy(base, observed)
    assert metrics.normalised_cross_entropy(predicted, observed) == pytest.approx(expected)
    assert metrics.normalised_cross_entropy(base, observed) == pytest.approx(1.0)


@given(MIXED_PAIRS)
@settings(deadline=None)
def test_auc_is_the_share_of_pairs_in_order_and_that_of_scikit_learn(pairs: Pairs) -> None:
    predicted, observed = np.array(pairs).T
    found = metrics.auc(predicted, observed)
    assert found == pytest.approx(oracle.auc(*zip(*pairs, strict=True)), abs=1e-12)
    assert found == pytest.approx(roc_auc_score(observed, predicted), abs=1e-12)


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 1)), min_size=2, max_size=40))
@settings(deadline=None)
def test_auc_sees_nothing_but_the_order_of_the_scores(pairs: list[tuple[int, int]]) -> None:
    scores, observed = np.array(pairs).T
    if len(set(observed.tolist())) < 2:
        with pytest.raises(ValueError, match="expected outcomes of 0 and of 1"):
            metrics.auc(scores, observed)
        return
    found = metrics.auc(scores, observed)
    assert metrics.auc(np.exp(scores.astype(np.float64)), observed) == found
    assert metrics.auc(-scores, observed) == pytest.approx(1 - found)
    assert metrics.auc(scores, 1 - observed) == pytest.approx(1 - found)


@given(PAIRS, st.integers(1, 12))
@settings(deadline=None)
def test_the_reliability_table_of_bins_of_equal_width_is_that_of_scikit_learn(pairs: Pairs, bins: int) -> None:
    predicted, observed = np.array(pairs).T
    share, mean = calibration_curve(observed, predicted, n_bins=bins, pos_label=1)
    table = metrics.reliability(predicted, observed, bins, metrics.Binning.EQUAL_WIDTH)
    np.testing.assert_allclose(table.observed, share)
    np.testing.assert_allclose(table.predicted, mean)
    assert table.events.sum() == len(pairs)


@given(PAIRS, st.integers(1, 12))
@settings(deadline=None)
def test_the_reliability_table_of_bins_of_equal_mass_is_its_definition(pairs: Pairs, bins: int) -> None:
    predicted, observed = np.array(pairs).T
    table = metrics.reliability(predicted, observed, bins)
    held = oracle.equal_mass_bins(pairs, bins)
    assert table.events.tolist() == [len(each) for each in held]
    np.testing.assert_allclose(table.predicted, [np.mean([p for p, _ in each]) for each in held], atol=1e-15)
    np.testing.assert_allclose(table.observed, [np.mean([o for _, o in each]) for each in held], atol=1e-15)


@given(PAIRS, st.integers(1, 12), st.sampled_from(list(metrics.Binning)))
@settings(deadline=None)
def test_the_calibration_error_is_the_mean_distance_in_the_table(
    pairs: Pairs, bins: int, binning: metrics.Binning
) -> None:
    predicted, observed = np.array(pairs).T
    table = metrics.reliability(predicted, observed, bins, binning)
    rows = zip(table.events, table.predicted, table.observed, strict=True)
    expected = sum(events * abs(told - came) for events, told, came in rows) / len(pairs)
    assert metrics.expected_calibration_error(predicted, observed, bins, binning) == pytest.approx(expected, abs=1e-15)


def test_bins_of_equal_mass_hold_as_many_events_each() -> None:
    rng = np.random.default_rng(0)
    predicted = rng.beta(1, 50, 10_000)
    observed = rng.random(10_000) < predicted
    mass = metrics.reliability(predicted, observed, 10)
    width = metrics.reliability(predicted, observed, 10, metrics.Binning.EQUAL_WIDTH)
    assert mass.events.tolist() == [1000] * 10
    assert width.events[0] > 9_900
    assert bool((np.diff(mass.predicted) > 0).all())


def test_calibration_tells_a_model_that_promises_twice_as_much() -> None:
    rng = np.random.default_rng(1)
    true = rng.beta(2, 10, 50_000)
    observed = rng.random(50_000) < true
    assert metrics.calibration_ratio(true, observed) == pytest.approx(1.0, abs=0.03)
    assert metrics.calibration_ratio(np.minimum(2 * true, 1), observed) == pytest.approx(2.0, abs=0.06)
    assert metrics.expected_calibration_error(true, observed) < 0.01
    assert metrics.expected_calibration_error(np.minimum(2 * true, 1), observed) > 0.1


def test_what_is_no_prediction_or_outcome_is_refused() -> None:
    two = np.array([0.5, 0.5])
    for bad in (1.5, -0.5):
        with pytest.raises(ValueError, match=rf"expected predicted probabilities in \[0, 1\], got {bad} at 1"):
            metrics.cross_entropy(np.array([0.5, bad]), np.array([0, 1]))
    with pytest.raises(ValueError, match=r"expected observed outcomes of 0 or 1, got 2\.0 at 0"):
        metrics.auc(two, np.array([2, 1]))
    with pytest.raises(ValueError, match="expected predicted and observed of one length, got 2 and 1"):
        metrics.rmse(two, np.array([1.0]))
    with pytest.raises(ValueError, match=r"expected predicted \(n,\), got shape \(1, 2\)"):
        metrics.mae(two[None], two)
    with pytest.raises(ValueError, match="expected an outcome of 1, got none in 2"):
        metrics.calibration_ratio(two, np.array([0, 0]))
    with pytest.raises(ValueError, match="expected bins >= 1, got 0"):
        metrics.reliability(two, np.array([0, 1]), 0)
