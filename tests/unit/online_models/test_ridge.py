"""What fold-ins share, and the n x n solve of short rows, against dense solves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online_models.als import gramian
from online_models.ridge import Ridge, short, solve_short_users
from tests.oracles.least_squares import dense_users, drawn_entries, factors


@given(st.integers(0, 2**32 - 1), st.integers(1, 70), st.sampled_from([1e-3, 0.05, 10.0]))
@settings(max_examples=40, deadline=None)
def test_a_ridge_holds_the_inverse_and_its_root(seed: int, k: int, regularization: float) -> None:
    YtY = gramian(factors(np.random.default_rng(seed), 3 * k, k))
    ridge = Ridge.of(YtY, regularization)
    M = YtY.astype(np.float64) + regularization * np.eye(k)
    assert np.allclose(ridge.whitener.T @ M @ ridge.whitener, np.eye(k), atol=1e-9)
    assert np.allclose(ridge.inverse, np.linalg.inv(M), rtol=1e-4, atol=1e-5 / regularization)


@given(st.integers(0, 2**32 - 1), st.integers(1, 70), st.integers(1, 30), st.integers(1, 30))
@settings(max_examples=80, deadline=None)
def test_rows_up_to_the_longest_are_solved_and_the_others_left(seed: int, k: int, items: int, longest: int) -> None:
    rng = np.random.default_rng(seed)
    Y, entries = factors(rng, items, k), drawn_entries(rng, 6, items)
    entries.confidence[rng.random(len(entries.confidence)) < 0.2] = 1
    users = np.full((6, k), 7, np.float32)
    indptr, indices, confidence = entries
    whitener = Ridge.of(gramian(Y), 0.1).whitener
    left = solve_short_users(indptr.astype(np.int64), indices.astype(np.int64), confidence, Y, whitener, longest, users)
    lengths = np.diff(indptr)
    assert left.tolist() == (lengths > longest).tolist()
    done = ~left & (lengths > 0)
    assert np.allclose(users[done], dense_users(Y, entries, 0.1)[done], rtol=1e-4, atol=1e-4)
    assert (users[~done] == 7).all()


def test_a_row_with_a_confidence_below_one_or_that_is_not_finite_is_left() -> None:
    Y = factors(np.random.default_rng(1), 4, 3)
    whitener = Ridge.of(gramian(Y), 0.1).whitener
    confidence = np.array([2, 0.5, np.nan, np.inf, 2], np.float32)
    users = np.zeros((5, 3), np.float32)
    left = solve_short_users(np.arange(6), np.array([0, 1, 2, 3, 0]), confidence, Y, whitener, 3, users)
    assert left.tolist() == [False, True, True, True, False]
    assert users.any(axis=1).tolist() == [True, False, False, False, True]


def test_what_is_no_ridge_is_refused() -> None:
    one = np.ones((2, 2), np.float32)
    for gram, regularization in ((one, 0.0), (one, np.nan), (-one, 0.5), (np.full((2, 2), np.nan, np.float32), 1.0)):
        with pytest.raises(ValueError, match="expected"):
            Ridge.of(gram, regularization)


def test_a_short_row_has_at_most_three_eighths_of_the_factors() -> None:
    assert [short(k) for k in (1, 8, 64, 128)] == [0, 3, 24, 48]
