"""Page-Hinkley against river's, value by value."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import drift

from online_models.drift.page_hinkley import Mode, PageHinkley

F64 = npt.NDArray[np.float64]


def a_stream(seed: int) -> F64:
    """Numbers, or 0 and 1 only, whose mean jumps up to three times."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(50, 2000))
    values = rng.normal(rng.choice([-100.0, 0.0, 5.0]), rng.choice([0.1, 1.0, 20.0]), n)
    if seed % 3 == 0:
        values = (values > np.median(values)).astype(np.float64)
    for start in rng.integers(0, n, 3):
        values[start:] += rng.normal() * rng.choice([0.0, 0.1, 1.0, 10.0])
    return values


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 1, 30, 300]),
    st.sampled_from([0.0, 0.005, 0.5]),
    st.sampled_from([1.0, 10.0, 50.0]),
    st.sampled_from([0.9, 0.9999, 1.0]),
    st.sampled_from(Mode),
)
@settings(max_examples=60, deadline=None)
def test_detections_are_those_of_river_at_every_value(
    seed: int, least: int, delta: float, threshold: float, alpha: float, mode: Mode
) -> None:
    ours = PageHinkley(min_instances=least, delta=delta, threshold=threshold, alpha=alpha, mode=mode)
    theirs = drift.PageHinkley(min_instances=least, delta=delta, threshold=threshold, alpha=alpha, mode=mode.value)
    values = a_stream(seed)
    for i, value in enumerate(values):
        ours.update(values[i : i + 1])
        theirs.update(float(value))
        assert (i, ours.drift_detected) == (i, theirs.drift_detected)
        assert ours.drift_detected == (ours.statistic > ours.threshold)


def test_these_streams_hold_detections() -> None:
    found = 0
    for seed in range(20):
        test = PageHinkley(threshold=10.0)
        test.update(a_stream(seed))
        found += test.detections
    assert found >= 10


@pytest.mark.parametrize(
    ("mode", "rises", "falls"), [(Mode.UP, True, False), (Mode.DOWN, False, True), (Mode.BOTH, True, True)]
)
def test_the_mode_says_which_moves_count(mode: Mode, rises: bool, falls: bool) -> None:
    for step, found in ((1.0, rises), (-1.0, falls)):
        test = PageHinkley(mode=mode)
        test.update(np.repeat([0.0, step], 500))
        assert test.drift_detected == found


@pytest.mark.parametrize("bad", [[np.nan], [np.inf], [[1.0]]])
def test_a_value_that_is_no_number_is_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="expected finite values"):
        PageHinkley().update(np.array(bad))
