"""Intervals of paired differences: against plain formulas, and in how many trials their bounds are wrong."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from scipy.stats import ttest_1samp

from retrain_workers.validation.intervals import interval, stake_of

DIFFERENCES = st_numpy.arrays(np.float64, st.integers(3, 40), elements=st.floats(-1, 1, width=32))


@given(DIFFERENCES, st.floats(0.01, 1), st.floats(0.001, 0.4))
def test_bounds_are_those_of_a_t_test_with_a_winner_and_a_loser_more(
    differences: np.ndarray, stake: float, alpha: float
) -> None:
    found = interval(differences, stake, alpha)
    expected = ttest_1samp([*differences.tolist(), stake, -stake], 0).confidence_interval(1 - 2 * alpha)
    assert (found.lower, found.upper) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert found.mean == pytest.approx(differences.mean(), abs=1e-12)
    assert found.users == len(differences)


@given(DIFFERENCES, st.floats(0, 1))
def test_whoever_changes_sides_turns_the_interval_round(differences: np.ndarray, stake: float) -> None:
    ours, theirs = interval(differences, stake, 0.05), interval(-differences, stake, 0.05)
    assert (ours.lower, ours.upper) == pytest.approx((-theirs.upper, -theirs.lower), abs=1e-12)


def test_users_who_do_not_differ_prove_little_while_they_are_few() -> None:
    assert interval(np.zeros(20), 0.5, 0.05).lower < -0.05
    assert -0.001 < interval(np.zeros(2_000), 0.5, 0.05).lower < 0


def test_a_single_user_proves_nothing() -> None:
    assert interval(np.array([0.3]), 0.0, 0.05).lower == -np.inf


@pytest.mark.parametrize(
    ("differences", "alpha"),
    [([], 0.05), ([np.nan], 0.05), ([0.1, np.inf], 0.05), ([0.1, 0.2], 0.5), ([0.1, 0.2], 0.0)],
)
def test_what_is_no_sample_or_no_error_is_refused(differences: list[float], alpha: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        interval(np.array(differences), 0.1, alpha)


def test_a_stake_is_the_mean_of_what_somebody_got() -> None:
    assert stake_of(np.array([0.0, 0.4, 0.0]), np.array([0.2, 0.0, 0.0])) == pytest.approx(0.3)
    assert stake_of(np.zeros(3), np.zeros(3)) == 0.0
