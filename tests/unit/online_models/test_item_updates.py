"""Streaming items against dense solves: in full they are a refit, in brief one event is exact and many come near."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online_models.als import gramian
from online_models.item_updates import (
    UserBasis,
    item_equations,
    moved_items,
    solve_item,
    solve_items,
    trained_equations,
    with_events,
)
from tests.oracles.least_squares import F32, F64, dense_fold_in, factors

SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS, st.integers(1, 20), st.integers(0, 30))
@settings(max_examples=40, deadline=None)
def test_a_new_item_is_solved_as_a_refit_with_fixed_users_would(seed: int, k: int, events: int) -> None:
    rng = np.random.default_rng(seed)
    X, reg = factors(rng, 40, k), 0.1
    users = rng.permutation(40)[:events]
    c = (1 + rng.exponential(10, len(users))).astype(np.float32)
    first, second = (
        item_equations(np.zeros(len(part), np.int64), c[part], X[users[part]], 1)[0]
        for part in np.array_split(np.arange(len(users)), 2)
    )
    item = solve_item(first + second, gramian(X), reg)
    assert item.dtype == np.float32
    assert np.allclose(X @ item, X @ dense_fold_in(X, users, c, reg), rtol=1e-3, atol=1e-3)


def test_equations_of_several_items_are_kept_apart_and_bad_columns_refused() -> None:
    rng = np.random.default_rng(8)
    item, c, X = np.array([2, 0, 2]), np.array([2, 3, 4], np.float32), factors(rng, 3, 5)
    together = item_equations(item, c, X, 4)
    assert together.shape == (4, 5, 6)
    for new in range(4):
        of = item == new
        alone = item_equations(np.zeros(of.sum(), np.int64), c[of], X[of], 1)[0]
        assert np.array_equal(together[new], alone)
    basis = UserBasis.of(gramian(X), 3, 0.1)
    for columns, items, message in (
        ((item[:2], c, X), 4, "one length"),
        ((item, c, X), 2, r"items in \[0, 2\)"),
        ((-item, c, X), 4, r"items in \[0, 4\)"),
    ):
        with pytest.raises(ValueError, match=message):
            item_equations(*columns, items)
        with pytest.raises(ValueError, match=message):
            moved_items(np.zeros((items, 5), np.float32), np.zeros(items), *columns, basis)
    for regularization in (0.0, np.nan):
        with pytest.raises(ValueError, match="positive regularization"):
            solve_item(together[0], gramian(X), regularization)
        with pytest.raises(ValueError, match="positive regularization"):
            solve_items(together, gramian(X), regularization)


@given(SEEDS, st.integers(1, 20))
@settings(max_examples=40, deadline=None)
def test_the_equations_of_trained_items_give_their_vectors_back(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    X, Y = factors(rng, 30, k), factors(rng, 4, k)
    weights = rng.exponential(100, 4) * rng.integers(0, 2, 4)
    equations = trained_equations(Y, weights, 30, gramian(X), 0.1)
    assert np.allclose(solve_items(equations, gramian(X), 0.1), Y, rtol=1e-3, atol=1e-4)


def test_the_equations_of_an_item_without_weight_and_vector_are_those_of_a_new_one() -> None:
    X = factors(np.random.default_rng(1), 30, 5)
    assert not trained_equations(np.zeros((2, 5), np.float32), np.zeros(2), 30, gramian(X), 0.1).any()


@given(SEEDS, st.integers(1, 20), st.integers(0, 20))
@settings(max_examples=40, deadline=None)
def test_a_trained_item_moves_to_the_dense_solution_of_its_prior_and_its_events(seed: int, k: int, events: int) -> None:
    rng = np.random.default_rng(seed)
    X, y, reg, weight = factors(rng, 30, k), factors(rng, 1, k), 0.1, 50.0
    item, c, x = (
        np.zeros(events, np.int64),
        (1 + rng.exponential(10, events)).astype(np.float32),
        factors(rng, events, k),
    )
    found = solve_items(
        with_events(trained_equations(y, np.array([weight]), 30, gramian(X), reg), item, c, x), gramian(X), reg
    )
    P: F64 = (1 + weight / 30) * gramian(X).astype(np.float64) + reg * np.eye(k)
    A, b = P + (x.T * (c - 1)) @ x.astype(np.float64), P @ y[0] + x.T @ c.astype(np.float64)
    assert np.allclose(X @ found[0], X @ np.linalg.solve(A, b), rtol=2e-3, atol=2e-3)


def slowly_moved(Y: F32, weights: F64, events: tuple[npt.NDArray[np.int64], F32, F32], X: F32, reg: float) -> F64:
    """Oracle: each event a dense solve of the approximated system and the event itself."""
    y, w = Y.astype(np.float64), weights.copy()
    XtX, k = gramian(X).astype(np.float64), X.shape[1]
    for i, c, x in zip(*events, strict=True):
        P = (1 + w[i] / len(X)) * XtX + reg * np.eye(k)
        A, b = P + (c - 1) * np.outer(x, x).astype(np.float64), P @ y[i] + c * x.astype(np.float64)
        y[i], w[i] = np.linalg.solve(A, b), w[i] + c - 1
    return y


@given(SEEDS, st.integers(1, 20), st.integers(0, 30))
@settings(max_examples=60, deadline=None)
def test_in_brief_each_event_is_a_dense_solve_of_the_item_s_share_and_the_event(seed: int, k: int, events: int) -> None:
    rng = np.random.default_rng(seed)
    X, Y, weights = factors(rng, 30, k), factors(rng, 3, k), rng.exponential(50, 3)
    Y[0], weights[0] = 0, 0  # a new item
    item, c = rng.integers(0, 3, events), (1 + rng.exponential(5, events)).astype(np.float32)
    x = factors(rng, events, k)
    vectors, after = moved_items(Y, weights, item, c, x, UserBasis.of(gramian(X), 30, 0.1))
    assert np.allclose(vectors, slowly_moved(Y, weights, (item, c, x), X, 0.1), rtol=1e-3, atol=1e-3)
    assert np.allclose(after, weights + np.bincount(item, c - 1, 3))


def test_in_brief_the_first_event_of_a_new_item_is_what_it_is_in_full() -> None:
    rng = np.random.default_rng(2)
    X, x, c, item = factors(rng, 30, 8), factors(rng, 1, 8), np.array([5], np.float32), np.zeros(1, np.int64)
    full = solve_item(item_equations(item, c, x, 1)[0], gramian(X), 0.1)
    brief, weights = moved_items(
        np.zeros((1, 8), np.float32), np.zeros(1), item, c, x, UserBasis.of(gramian(X), 30, 0.1)
    )
    assert np.allclose(brief[0], full, rtol=1e-4, atol=1e-5)
    assert weights.tolist() == [4.0]


def test_in_brief_the_vector_of_an_item_met_by_many_users_comes_near_the_one_in_full() -> None:
    rng = np.random.default_rng(3)
    taste = factors(rng, 1, 8)
    X = (factors(rng, 500, 8) + 0.5 * taste).astype(np.float32)
    keen = np.argsort(-(X @ taste[0]))[:40]
    item, c = np.zeros(40, np.int64), np.full(40, 3, np.float32)
    full = solve_item(item_equations(item, c, X[keen], 1)[0], gramian(X), 0.1)
    brief = moved_items(
        np.zeros((1, 8), np.float32), np.zeros(1), item, c, X[keen], UserBasis.of(gramian(X), 500, 0.1)
    )[0][0]
    assert full @ brief / np.linalg.norm(full) / np.linalg.norm(brief) > 0.9


def test_events_that_are_no_number_overflow_or_count_less_than_one_are_left_out() -> None:
    x = np.ones((6, 2), np.float32)
    c = np.array([3, np.nan, np.inf, 0.5, 3, 3], np.float32)
    x[4, 0], x[5, 1] = np.nan, 1e30
    item, X = np.zeros(6, np.int64), np.eye(2, dtype=np.float32)
    assert np.array_equal(item_equations(item, c, x, 1), item_equations(item[:1], c[:1], x[:1], 1))
    basis, new, none = UserBasis.of(X, 2, 0.1), np.zeros((1, 2), np.float32), np.zeros(1)
    found, wanted = moved_items(new, none, item, c, x, basis), moved_items(new, none, item[:1], c[:1], x[:1], basis)
    assert np.array_equal(found[0], wanted[0])
    assert found[1] == wanted[1]


def test_what_cannot_be_a_prior_or_a_basis_is_refused() -> None:
    Y, X = np.ones((2, 3), np.float32), np.eye(3, dtype=np.float32)
    for weights, users in ((np.ones(1), 3), (np.array([1, -1.0]), 3), (np.array([1, np.nan]), 3), (np.ones(2), 0)):
        with pytest.raises(ValueError, match="expected"):
            trained_equations(Y, weights, users, X, 0.1)
    for gram, users, regularization in ((X, 0, 0.1), (X, 3, 0.0), (np.full((3, 3), np.inf, np.float32), 3, 0.1)):
        with pytest.raises(ValueError, match="expected users"):
            UserBasis.of(gram, users, regularization)


def test_equations_without_a_finite_solution_give_zeros_among_others_and_are_refused_alone() -> None:
    equations = np.zeros((2, 2, 3), np.float32)
    equations[0, :, 2], equations[1, 0, 0] = 1, np.nan
    X = np.eye(2, dtype=np.float32)
    assert solve_items(equations, X, 1.0).tolist() == [[0.5, 0.5], [0.0, 0.0]]
    with pytest.raises(ValueError, match="positive definite"):
        solve_item(equations[1], X, 1.0)
