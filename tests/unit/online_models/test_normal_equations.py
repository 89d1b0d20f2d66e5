"""The in-place Cholesky against numpy, and how it says that rounding has left nothing to go on."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online_models.normal_equations import solve, solve_users


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-3), (np.float64, 1e-10)])
@given(st.integers(0, 2**32 - 1), st.integers(1, 70))
@settings(max_examples=50, deadline=None)
def test_a_positive_definite_system_is_solved(dtype: npt.DTypeLike, tolerance: float, seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    half = rng.normal(size=(k, 2 * k))
    A, b = half @ half.T / k + np.eye(k), rng.normal(size=k)
    U, x = A.astype(dtype), b.astype(dtype)
    assert solve(U, x)
    assert np.allclose(x, np.linalg.solve(A, b), rtol=tolerance, atol=tolerance)
    assert np.allclose(np.triu(U).T @ np.triu(U), A, rtol=tolerance, atol=tolerance)


def test_a_pivot_of_the_size_of_rounding_errors_is_lost_in_float32_and_not_in_float64() -> None:
    A, b = np.array([[1.0, 1.0], [1.0, 1.0 + 2.0**-21]]), np.array([1.0, 2.0])
    assert not solve(A.astype(np.float32), b.astype(np.float32))
    assert solve(A.copy(), b)
    assert np.allclose(b, [1 - 2.0**21, 2.0**21])


def test_an_indefinite_system_is_not_solved() -> None:
    for A in (np.array([[1.0, 2.0], [2.0, 1.0]]), np.array([[-1.0]]), np.array([[np.nan]])):
        assert not solve(A, np.ones(len(A)))


def test_a_solution_that_is_not_finite_is_none() -> None:
    assert not solve(np.eye(2, dtype=np.float32) * np.float32(1e-30), np.full(2, 1e30, np.float32))
    assert not solve(np.eye(2), np.array([1.0, np.nan]))
    assert not solve(np.eye(2), np.array([np.inf, 1.0]))


def test_a_row_that_is_singular_in_float64_too_or_not_wanted_is_left_as_it_is() -> None:
    Y, users = np.array([[1.0, 1.0]], np.float32), np.full((2, 2), 7, np.float32)
    indptr, indices, c = np.array([0, 1, 1]), np.array([0]), np.full(1, 4, np.float32)
    solve_users(indptr, indices, c, Y, Y.T @ Y, 1e-30, np.ones(2, np.bool_), users)
    assert users.tolist() == [[7.0, 7.0], [7.0, 7.0]]
    solve_users(indptr, indices, c, Y, Y.T @ Y, 1.0, np.zeros(2, np.bool_), users)
    assert users.tolist() == [[7.0, 7.0], [7.0, 7.0]]
    solve_users(indptr, indices, c, Y, Y.T @ Y, 1.0, np.ones(2, np.bool_), users)
    assert users[0] == pytest.approx([4 / 9, 4 / 9])
    assert users[1].tolist() == [7.0, 7.0]


def test_a_solution_that_only_float64_can_hold_is_left_out() -> None:
    # x = 1e-25 / 1e-70
    Y, users, c = np.array([[1e-25]], np.float32), np.zeros((1, 1), np.float32), np.ones(1, np.float32)
    solve_users(np.array([0, 1]), np.array([0]), c, Y, Y * 0, 1e-70, np.ones(1, np.bool_), users)
    assert users.tolist() == [[0.0]]
