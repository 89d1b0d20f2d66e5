"""DDM against river's, error by error."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import drift

from online_models.drift.ddm import Ddm

F64 = npt.NDArray[np.float64]


def errors(seed: int) -> F64:
    """Errors whose rate jumps up to three times; in one stream of four the model is never wrong at first."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(50, 3000))
    rate = np.full(n, rng.choice([0.01, 0.1, 0.4, 0.5]))
    for start in rng.integers(0, n, 3):
        rate[start:] = rng.random()
    if seed % 4 == 0:
        rate[: n // 3] = 0.0
    return (rng.random(n) < rate).astype(np.float64)


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 1, 30, 300]),
    st.sampled_from([0.5, 2.0]),
    st.sampled_from([2.0, 3.0, 5.0]),
)
@settings(max_examples=40, deadline=None)
def test_detections_and_warnings_are_those_of_river_at_every_error(
    seed: int, warm_start: int, warning: float, threshold: float
) -> None:
    ours = Ddm(warm_start=warm_start, warning_threshold=warning, drift_threshold=threshold)
    theirs = drift.binary.DDM(warm_start=warm_start, warning_threshold=warning, drift_threshold=threshold)
    told = errors(seed)
    for i, error in enumerate(told):
        ours.update(told[i : i + 1])
        theirs.update(error)
        assert (i, ours.drift_detected, ours.warning_detected) == (i, theirs.drift_detected, theirs.warning_detected)


def test_these_streams_hold_detections_and_warnings() -> None:
    detections, warnings = 0, 0
    for seed in range(20):
        ddm = Ddm(warm_start=30, warning_threshold=2.0, drift_threshold=3.0)
        for error in errors(seed):
            ddm.update(np.array([error]))
            warnings += ddm.warning_detected
        detections += ddm.detections
    assert detections >= 10
    assert warnings >= 100


def test_the_statistic_is_above_the_threshold_just_when_drift_is_detected() -> None:
    rng = np.random.default_rng(3)
    ddm = Ddm()
    seen = set()
    for rate in [0.1] * 20 + [0.5] * 5:
        ddm.update((rng.random(200) < rate).astype(np.float64))
        assert ddm.drift_detected == (ddm.statistic > ddm.threshold)
        seen.add(ddm.drift_detected)
    assert seen == {True, False}


def test_the_first_error_after_none_is_a_detection() -> None:
    ddm = Ddm(warm_start=30)
    told = []
    for error in np.append(np.zeros(31), 1.0):
        ddm.update(np.array([error]))
        told.append((ddm.drift_detected, ddm.statistic))
    assert told == [(False, 0.0)] * 31 + [(True, np.inf)]


def test_a_fall_of_the_rate_of_errors_is_none() -> None:
    rng = np.random.default_rng(4)
    ddm = Ddm()
    ddm.update((rng.random(5000) < 0.5).astype(np.float64))
    ddm.update((rng.random(5000) < 0.1).astype(np.float64))
    assert ddm.detections == 0


def test_the_defaults_raise_at_most_half_a_false_alarm_per_million_errors_and_those_published_many() -> None:
    calibrated, published = 0, 0
    rng = np.random.default_rng(5)
    for _ in range(80):
        told = (rng.random(50_000) < 0.1).astype(np.float64)
        for warm_start, warning, threshold in ((300, 3.0, 4.0), (30, 2.0, 3.0)):
            ddm = Ddm(warm_start=warm_start, warning_threshold=warning, drift_threshold=threshold)
            ddm.update(told)
            calibrated += ddm.detections if threshold == 4.0 else 0
            published += ddm.detections if threshold == 3.0 else 0
    assert calibrated <= 2
    assert published >= 40


@pytest.mark.parametrize("bad", [[0.5], [2.0], [-1.0], [np.nan], [[1.0]]])
def test_what_is_no_error_is_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="expected errors, 0 or 1"):
        Ddm().update(np.array(bad))
