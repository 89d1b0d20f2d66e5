"""ADWIN against river's, value by value; what it says of the change it found."""

from typing import TypedDict

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import drift

from online_models.drift.adwin import Adwin, AdwinMany
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


def a_hard_stream(kind: int, seed: int) -> F64:
    """Values far from [0, 1]: heavy tails, far from zero, of hardly any spread, constant; half of them jump."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(100, 3000))
    values = (
        rng.standard_t(1.5, n),
        rng.normal(1e9, 1.0, n),
        rng.normal(0.0, 1e-12, n),
        np.full(n, rng.normal()),
        rng.lognormal(0.0, 3.0, n),
    )[kind]
    if seed % 2:
        values[n // 2 :] *= 3.0
    return values


@given(st.integers(0, 4), st.integers(0, 2**32 - 1), HYPERPARAMETERS)
@settings(max_examples=50, deadline=None)
def test_so_they_are_on_values_of_any_size(kind: int, seed: int, how: Hyperparameters) -> None:
    values = a_hard_stream(kind, seed)
    theirs, found = drift.ADWIN(**how), []
    for i, value in enumerate(values):
        theirs.update(float(value))
        if theirs.drift_detected:
            found.append(i)
    ours = AdwinMany(1, **how)
    ours.update(values[np.newaxis])
    assert (ours.found[:, 1].tolist(), ours.widths[0]) == (found, theirs.width)


@given(
    st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=5),
    HYPERPARAMETERS,
    st.sampled_from([0.0, 0.1, 0.9]),
    st.lists(st.integers(0, 1000), max_size=4),
)
@settings(max_examples=25, deadline=None)
def test_many_features_are_as_many_of_river_s_that_never_see_what_is_missing(
    seeds: list[int], how: Hyperparameters, missing: float, cuts: list[int]
) -> None:
    streams = [a_stream(seed) for seed in seeds]
    values = np.full((len(streams), max(map(len, streams))), np.nan)
    for row, stream in zip(values, streams, strict=True):
        row[: len(stream)] = stream
    values[np.random.default_rng(seeds[0]).random(values.shape) < missing] = np.nan

    expected, theirs = set(), [drift.ADWIN(**how) for _ in streams]
    for feature, row in enumerate(values):
        for place in np.flatnonzero(~np.isnan(row)).tolist():
            theirs[feature].update(float(row[place]))
            if theirs[feature].drift_detected:
                expected.add((feature, place))

    ours, found, start = AdwinMany(len(streams), **how), set(), 0
    for part in np.split(values, sorted(min(cut, values.shape[1]) for cut in cuts), axis=1):
        ours.update(part)
        assert ours.drift_detected == (len(ours.found) > 0)
        found |= {(feature, start + place) for feature, place in ours.found.tolist()}
        start += part.shape[1]
    assert found == expected
    assert ours.widths.tolist() == [each.width for each in theirs]
    assert np.allclose(ours.means, [each.estimation for each in theirs], atol=1e-9)


def test_each_of_many_features_is_told_as_a_lone_one_would_be() -> None:
    rows = [np.resize(a_stream(seed), 900) for seed in range(4)]
    many, lone = AdwinMany(4), [Adwin() for _ in rows]
    many.update(np.stack(rows))
    for adwin, row in zip(lone, rows, strict=True):
        adwin.update(row)
    assert many.detections.tolist() == [each.detections for each in lone]
    assert many.means_before.tolist() == [each.mean_before for each in lone]
    assert many.means_after.tolist() == [each.mean_after for each in lone]
    assert many.statistic == max(each.statistic for each in lone)
    assert many.detections.sum() >= 3


def test_a_batch_of_other_features_or_with_an_infinite_value_is_refused() -> None:
    adwin = AdwinMany(2)
    for bad in (np.zeros((3, 5)), np.zeros(5), np.array([[0.1, np.inf], [0.1, 0.1]])):
        with pytest.raises(ValueError, match=r"expected values \(2, n\)"):
            adwin.update(bad)
    assert adwin.widths.tolist() == [0, 0]
    assert adwin.means.tolist() == [0.0, 0.0]


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
