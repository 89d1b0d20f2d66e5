"""ADWIN against river's, value by value; what it says of the change it found."""

from typing import TypedDict

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import drift

from online_models.drift.adwin import Adwin
from online_models.drift.composite import drop_exceeds

F64 = npt.NDArray[np.float64]


class Hyperparameters(TypedDict):
    delta: float
    clock: int
    max_buckets: int
    min_window_length: int
    grace_period: int


HYPERPARAMETERS: st.SearchStrategy[Hyperparameters] = st.builds(
    Hyperparameters,
    delta=st.sampled_from([0.002, 0.05, 0.3]),
    clock=st.sampled_from([1, 7, 32]),
    max_buckets=st.sampled_from([2, 5, 8]),
    min_window_length=st.sampled_from([1, 2, 5, 20]),
    grace_period=st.sampled_from([0, 1, 10, 100]),
)


def a_stream(seed: int) -> F64:
    """Values in [0, 1], or 0 and 1 only, whose mean jumps up to three times."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(100, 1000))
    values = rng.random(n)
    if seed % 3 == 0:
        values = (values > 0.5).astype(np.float64)
    for start in rng.integers(0, n, 3):
        values[start:] += rng.normal() * rng.choice([0.0, 0.1, 1.0])
    return values


@given(st.integers(0, 2**32 - 1), HYPERPARAMETERS)
@settings(max_examples=25, deadline=None)
def test_detections_and_widths_are_those_of_river_at_every_value(seed: int, how: Hyperparameters) -> None:
    values = a_stream(seed)
    ours, theirs = Adwin(**how), drift.ADWIN(**how)
    for i, value in enumerate(values):
        ours.update(values[i : i + 1])
        theirs.update(float(value))
        assert (i, ours.drift_detected, ours.width) == (i, theirs.drift_detected, theirs.width)
        assert ours.mean == pytest.approx(theirs.estimation, abs=1e-9)


def test_river_finds_changes_in_these_streams_at_all() -> None:
    found = 0
    for seed in range(20):
        adwin = Adwin()
        adwin.update(a_stream(seed))
        found += adwin.detections
    assert found >= 10


@given(st.integers(0, 2**32 - 1), HYPERPARAMETERS, st.lists(st.integers(0, 1500), max_size=6))
@settings(max_examples=60, deadline=None)
def test_how_a_stream_is_batched_changes_nothing(seed: int, how: Hyperparameters, cuts: list[int]) -> None:
    values = a_stream(seed)
    whole, parts = Adwin(**how), Adwin(**how)
    whole.update(values)
    detected = False
    for part in np.split(values, sorted(min(cut, len(values)) for cut in cuts)):
        parts.update(part)
        detected |= parts.drift_detected
    assert detected == whole.drift_detected
    for name in ("detections", "width", "mean", "mean_before", "mean_after", "statistic"):
        assert getattr(parts, name) == getattr(whole, name), name


@pytest.mark.parametrize(("before", "after"), [(0.5, 0.35), (0.1, 0.07), (0.3, 0.2), (0.2, 0.3)])
def test_a_detection_tells_the_rates_before_and_after_the_change(before: float, after: float) -> None:
    rng = np.random.default_rng(11)
    adwin = Adwin()
    adwin.update((rng.random(5000) < before).astype(np.float64))
    assert adwin.detections == 0
    while not adwin.detections:
        adwin.update((rng.random(32) < after).astype(np.float64))
    assert adwin.mean_before == pytest.approx(before, rel=0.1)
    assert adwin.mean_after == pytest.approx(after, rel=0.3)
    assert drop_exceeds(adwin.mean_before, adwin.mean_after) == (after < before)
    assert adwin.statistic == pytest.approx(abs(adwin.mean_after - adwin.mean_before))


def test_one_change_is_one_detection() -> None:
    rng = np.random.default_rng(12)
    adwin = Adwin()
    adwin.update(np.concatenate([rng.random(20_000) < 0.5, rng.random(20_000) < 0.3]).astype(np.float64))
    assert adwin.detections == 1
    assert adwin.mean == pytest.approx(0.3, abs=0.02)


def test_a_value_that_is_no_number_is_refused_and_nothing_of_its_batch_is_taken_in() -> None:
    adwin = Adwin()
    for bad in (np.array([0.1, np.nan]), np.array([np.inf]), np.array([[0.1]])):
        with pytest.raises(ValueError, match="finite"):
            adwin.update(bad)
    assert adwin.width == 0
    assert adwin.mean == 0.0


def test_an_empty_batch_is_no_news() -> None:
    adwin = Adwin()
    told = []
    for values in (np.repeat([0.0, 1.0], 500), np.empty(0)):
        adwin.update(values)
        told.append((adwin.drift_detected, adwin.detections))
    assert told == [(True, 1), (False, 1)]


def test_its_state_does_not_grow_with_the_stream() -> None:
    adwin = Adwin()
    adwin.update(np.full(10, 0.5))
    small = sum(part.nbytes for part in adwin.snapshot() if isinstance(part, np.ndarray))
    adwin.update(np.full(200_000, 0.5))
    assert sum(part.nbytes for part in adwin.snapshot() if isinstance(part, np.ndarray)) == small < 8192
    assert adwin.width == 200_010
