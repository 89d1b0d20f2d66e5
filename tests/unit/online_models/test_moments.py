"""Moments in fixed point: how exact they are, and what absurd numbers do to them."""

import math
import statistics

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online_models.moments import LIMIT, SUMS, UNITS, add_moments, mean_and_sd

LOW, HIGH = -5.0, 15.0


def state_of(numbers: list[float]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    sums, extremes = np.zeros(SUMS, np.int64), np.full(2, -np.inf)
    add_moments(np.array(numbers, np.float64), LOW, HIGH, sums, extremes)
    return sums, extremes


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=50))
@settings(max_examples=200, deadline=None)
def test_mean_and_sd_are_right_to_half_a_unit(numbers: list[float]) -> None:
    mean, sd = mean_and_sd(state_of(numbers)[0], len(numbers), LOW, HIGH)
    half_unit = (HIGH - LOW) / UNITS / 2
    assert mean == pytest.approx(statistics.fmean(numbers), abs=1.01 * half_unit)
    assert sd == pytest.approx(statistics.pstdev(numbers), abs=1.01 * half_unit)


def test_small_spread_far_from_the_range_does_not_cancel() -> None:
    numbers = [2_000.0, 2_000.001, 2_000.002, 2_000.003]
    _, sd = mean_and_sd(state_of(numbers)[0], 4, LOW, HIGH)
    assert sd == pytest.approx(statistics.pstdev(numbers), rel=1e-3)


def test_one_absurd_number_moves_the_mean_by_at_most_128_ranges_over_n() -> None:
    numbers = [0.0] * 9_999 + [1e300]
    mean, _ = mean_and_sd(state_of(numbers)[0], len(numbers), LOW, HIGH)
    assert 0 < mean < 128 * (HIGH - LOW) / len(numbers) * 1.001


def test_infinities_count_as_the_farthest_numbers_and_are_the_extremes() -> None:
    sums, extremes = state_of([math.inf, -math.inf])
    assert extremes.tolist() == [math.inf, math.inf]
    assert mean_and_sd(sums, 2, LOW, HIGH) == (LOW, LIMIT * (HIGH - LOW) / UNITS)


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=40))
@settings(max_examples=200, deadline=None)
def test_extremes_are_exact(numbers: list[float]) -> None:
    assert state_of(numbers)[1].tolist() == [max(-x for x in numbers), max(numbers)]


def test_the_sign_of_zero_does_not_depend_on_the_order() -> None:
    for numbers in ([0.0, -0.0], [-0.0, 0.0], [-0.0], [0.0]):
        assert [math.copysign(1, end) for end in state_of(numbers)[1]] == [1, 1], numbers


def test_sums_of_the_farthest_numbers_are_exact_integers() -> None:
    sums, _ = state_of([1e9] * 1_000)
    limit = int(LIMIT)
    assert [int(sums[0]), int(sums[1]) + (int(sums[2]) << 32)] == [1_000 * limit, 1_000 * limit**2]


def test_nothing_changes_nothing() -> None:
    sums, extremes = state_of([])
    assert sums.tolist() == [0, 0, 0]
    assert extremes.tolist() == [-math.inf, -math.inf]
