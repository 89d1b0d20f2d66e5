"""EDDM against river's, error by error."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import drift

from online_models.drift.eddm import Eddm

F64 = npt.NDArray[np.float64]


def errors(seed: int) -> F64:
    """Errors whose rate jumps up to three times."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(50, 3000))
    rate = np.full(n, rng.choice([0.05, 0.3, 0.5]))
    for start in rng.integers(0, n, 3):
        rate[start:] = rng.random()
    return (rng.random(n) < rate).astype(np.float64)


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 1, 30, 300]),
    st.sampled_from([0.95, 1.0]),
    st.sampled_from([0.5, 0.8, 0.9, 0.95]),
)
@settings(max_examples=40, deadline=None)
def test_detections_and_warnings_are_those_of_river_at_every_error(
    seed: int, warm_start: int, alpha: float, beta: float
) -> None:
    ours = Eddm(warm_start=warm_start, alpha=alpha, beta=beta)
    theirs = drift.binary.EDDM(warm_start=warm_start, alpha=alpha, beta=beta)
    told = errors(seed)
    for i, error in enumerate(told):
        ours.update(told[i : i + 1])
        theirs.update(error)
        assert (i, ours.drift_detected, ours.warning_detected) == (i, theirs.drift_detected, theirs.warning_detected)


def test_these_streams_hold_detections_and_warnings() -> None:
    detections, warnings = 0, 0
    for seed in range(20):
        eddm = Eddm(warm_start=30, alpha=0.95, beta=0.9)
        for error in errors(seed):
            eddm.update(np.array([error]))
            warnings += eddm.warning_detected
        detections += eddm.detections
    assert detections >= 10
    assert warnings >= 100


def test_the_statistic_is_above_the_threshold_just_when_drift_is_detected() -> None:
    rng = np.random.default_rng(3)
    eddm = Eddm()
    seen = set()
    for rate in [0.1] * 40 + [0.5] * 10:
        eddm.update((rng.random(500) < rate).astype(np.float64))
        assert eddm.drift_detected == (eddm.statistic > eddm.threshold)
        seen.add(eddm.drift_detected)
    assert seen == {True, False}


def test_a_fall_of_the_rate_of_errors_is_none() -> None:
    rng = np.random.default_rng(4)
    eddm = Eddm()
    eddm.update((rng.random(5000) < 0.5).astype(np.float64))
    eddm.update((rng.random(20_000) < 0.1).astype(np.float64))
    assert eddm.detections == 0


def test_the_defaults_raise_few_false_alarms_and_those_published_hundreds() -> None:
    calibrated, published = 0, 0
    rng = np.random.default_rng(5)
    for _ in range(40):
        told = (rng.random(50_000) < 0.3).astype(np.float64)
        for beta, detector in ((0.7, Eddm()), (0.9, Eddm(warm_start=30, alpha=0.95, beta=0.9))):
            detector.update(told)
            calibrated += detector.detections if beta == 0.7 else 0
            published += detector.detections if beta == 0.9 else 0
    assert calibrated <= 1
    assert published >= 500


@pytest.mark.parametrize("bad", [[0.5], [2.0], [-1.0], [np.nan], [[1.0]]])
def test_what_is_no_error_is_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="expected errors, 0 or 1"):
        Eddm().update(np.array(bad))
