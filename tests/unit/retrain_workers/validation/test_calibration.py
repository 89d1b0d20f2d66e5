"""Calibrators against plain searches, their order, their form, and what they do with next to nothing."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit

from online_models.metrics import cross_entropy, expected_calibration_error
from retrain_workers.validation.calibration import (
    F64,
    Calibrator,
    Isotonic,
    Platt,
    Temperature,
    Uncalibrated,
    calibrate,
    calibration_check,
    decode_calibrator,
    encode_calibrator,
    fit_isotonic,
    fit_platt,
    fit_temperature,
    fits,
    probabilities,
    quality,
)


def drawn(seed: int, events: int = 3_000) -> tuple[F64, F64]:
    """Log-odds, and outcomes that follow them."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(-0.5, 1.2, events)
    return scores, (rng.random(events) < expit(scores)).astype(np.float64)


def slow_isotonic(values: list[float]) -> list[float]:
    """Pool adjacent violators, by the book."""
    pools: list[list[float]] = []
    for value in values:
        pools.append([value])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    return [float(np.mean(pool)) for pool in pools for _ in pool]


def test_the_temperature_is_that_of_least_cross_entropy() -> None:
    scores, labels = drawn(1)
    found = fit_temperature(3 * scores, labels).temperature
    tried = np.exp(np.linspace(-2, 3, 2_001))
    losses = [cross_entropy(expit(3 * scores / temperature), labels) for temperature in tried]
    assert found == pytest.approx(tried[int(np.argmin(losses))], rel=0.01)
    assert found == pytest.approx(3.0, rel=0.15)


def test_platt_is_the_logistic_regression_on_softened_labels() -> None:
    scores, labels = drawn(2)
    found = fit_platt(5 * scores + 2, labels)
    ones = labels.sum()
    target = np.where(labels == 1, (ones + 1) / (ones + 2), 1 / (len(labels) - ones + 2))

    def loss(line: F64) -> float:
        odds = line[0] * (5 * scores + 2) + line[1]
        return float(np.mean(np.logaddexp(0, odds) - target * odds))

    best = minimize(loss, np.array([0.1, 0.0]), tol=1e-12).x
    assert (found.slope, found.intercept) == pytest.approx(tuple(best), abs=1e-3)


@given(st.lists(st.integers(0, 1), min_size=2, max_size=30))
def test_isotonic_regression_pools_what_would_fall(labels: list[int]) -> None:
    scores = np.arange(len(labels), dtype=np.float64)
    least = 1 / (len(labels) + 2)
    expected = np.clip(slow_isotonic([float(label) for label in labels]), least, 1 - least)
    found = probabilities(fit_isotonic(scores, np.array(labels, np.float64)), scores)
    assert found.tolist() == pytest.approx(expected.tolist())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["none", "temperature", "platt", "isotonic"])
def test_no_calibrator_changes_the_order_of_scores(kind: str, seed: int) -> None:
    scores, labels = drawn(seed, 300)
    for sign in (1, -1):  # also where high scores mean little
        found = probabilities(fits(sign * scores, labels)[kind], np.sort(np.append(sign * scores, [-1e3, 0, 1e3])))
        assert (np.diff(found) >= 0).all()
        assert ((found >= 0) & (found <= 1)).all()


@pytest.mark.parametrize(
    ("spoil", "kinds"),
    [
        (lambda scores: 4 * scores, (Temperature, Platt)),
        (lambda scores: scores + 2, (Platt,)),
        (lambda scores: np.sign(scores + 1) * np.abs(scores + 1) ** 3, (Isotonic,)),
        (lambda scores: scores, (Uncalibrated,)),
    ],
)
def test_the_best_on_held_out_events_is_chosen_and_mends_what_was_spoiled(spoil, kinds) -> None:  # type: ignore[no-untyped-def]
    scores, labels = drawn(0, 4_000)
    found = calibrate(spoil(scores), labels)
    assert isinstance(found.calibrator, kinds)
    assert found.after.nll == min(found.nll.values())
    fresh, outcomes = drawn(10, 4_000)
    predicted = probabilities(found.calibrator, spoil(fresh))
    assert expected_calibration_error(predicted, outcomes) < 0.04
    assert quality(predicted, outcomes).nll == pytest.approx(cross_entropy(expit(fresh), outcomes), abs=0.012)


def test_figures_are_those_of_the_later_events() -> None:
    scores, labels = drawn(3, 1_000)
    found = calibrate(3 * scores, labels)
    later = expit(3 * scores[500:])
    assert found.before.events == 500
    assert found.before.ece == pytest.approx(expected_calibration_error(later, labels[500:]))
    assert found.before.brier == pytest.approx(np.mean((later - labels[500:]) ** 2))
    assert found.before.mce >= found.before.ece
    assert found.after.ece < found.before.ece


@pytest.mark.parametrize("label", [0, 1])
def test_outcomes_of_one_kind_never_make_anything_certain(label: int) -> None:
    scores = np.linspace(-3, 3, 40)
    for name, calibrator in fits(scores, np.full(40, label)).items():
        if name != "none":
            found = probabilities(calibrator, scores)
            assert ((found > 0) & (found < 1)).all(), name
    assert (calibrate(scores, np.full(40, label)).after.nll) < np.log(2)


def test_scores_that_are_all_the_same_give_the_base_rate() -> None:
    labels = np.tile([0, 0, 0, 1], 10)
    for kind in ("platt", "isotonic"):
        assert probabilities(fits(np.full(40, 2.0), labels)[kind], np.array([2.0]))[0] == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize(
    ("scores", "labels"),
    [([], []), ([1.0], [1]), ([1.0, 2.0], [0, 2]), ([np.nan, 1.0], [0, 1]), ([1.0, 2.0, 3.0], [0, 1])],
)
def test_what_cannot_be_calibrated_is_refused(scores: list[float], labels: list[int]) -> None:
    with pytest.raises(ValueError, match="expected"):
        calibrate(np.array(scores), np.array(labels))


def test_a_calibrator_is_kept_as_json() -> None:
    scores, labels = drawn(4, 200)
    for calibrator in fits(scores, labels).values():
        again: Calibrator = decode_calibrator(encode_calibrator(calibrator))
        assert again == calibrator
        assert probabilities(again, scores).tolist() == probabilities(calibrator, scores).tolist()
    with pytest.raises(msgspec.DecodeError):
        decode_calibrator(b'{"method":"magic"}')


def test_the_gate_s_row_says_whether_the_error_is_small_enough() -> None:
    found = calibrate(*drawn(5))
    assert calibration_check(found, 0.1).passed
    refused = calibration_check(found, 1e-6)
    assert not refused.passed
    assert refused.value == found.after.ece
    assert "at most 1e-06 allowed" in refused.detail
