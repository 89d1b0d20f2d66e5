"""Fold-in and new items against dense solves in float64 and against implicit; indexing and selection."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from implicit.cpu.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from online_models.als import (
    F32,
    FoldIn,
    ItemIndex,
    event_strength,
    fold_in,
    fold_in_histories,
    fold_in_history,
    gramian,
    item_equations,
    recency_weights,
    solve_item,
    top_k,
)
from online_models.contracts.events import TYPE_CODES, EventType
from online_models.contracts.ids import hash64
from online_models.history import EMPTY, ENTRY, SEEN, UserHistory

SEEDS = st.integers(0, 2**32 - 1)
F64 = npt.NDArray[np.float64]


def dense_fold_in(Y: F32, rows: npt.NDArray[np.integer], c: F32, regularization: float) -> F64:
    """Oracle: x = (Yt C Y + lambda I)^-1 Yt c, with C the identity but for the entries."""
    items, k = Y.shape
    C, Yd = np.ones(items), Y.astype(np.float64)
    C[rows] = c.astype(np.float64)
    preference = np.zeros(items)
    preference[rows] = 1
    A, b = (Yd.T * C) @ Yd + regularization * np.eye(k), (Yd.T * C) @ preference
    return np.linalg.solve(A, b).astype(np.float64)


def factors(rng: np.random.Generator, rows: int, k: int) -> F32:
    return rng.normal(scale=k**-0.5, size=(rows, k)).astype(np.float32)


def csr(rng: np.random.Generator, users: int, items: int) -> tuple[list[npt.NDArray[np.int64]], list[F32]]:
    rows = [rng.permutation(items)[: rng.integers(0, items + 1)] for _ in range(users)]
    return rows, [(1 + rng.exponential(10, len(row))).astype(np.float32) for row in rows]


@given(SEEDS, st.integers(1, 70), st.integers(1, 40), st.sampled_from([1e-3, 0.05, 10.0]))
@settings(max_examples=60, deadline=None)
def test_fold_in_is_the_dense_solution(seed: int, k: int, items: int, regularization: float) -> None:
    rng = np.random.default_rng(seed)
    Y, (rows, c) = factors(rng, items, k), csr(rng, 5, items)
    indptr = np.cumsum([0, *map(len, rows)])
    users = fold_in(indptr, np.concatenate(rows), np.concatenate(c), Y, gramian(Y), regularization)
    assert users.dtype == np.float32
    for user, row, confidence in zip(users, rows, c, strict=True):
        expected = dense_fold_in(Y, row, confidence, regularization)
        # The residual in the items' scores: what rounding may do to x along directions no item has, nobody sees.
        assert np.allclose(Y @ user, Y @ expected, rtol=2e-3, atol=2e-3)


def test_fold_in_agrees_with_implicit() -> None:
    rng = np.random.default_rng(1)
    Y, (rows, c) = factors(rng, 50, 32), csr(rng, 20, 50)
    indptr, indices, confidence = np.cumsum([0, *map(len, rows)]), np.concatenate(rows), np.concatenate(c)
    with threadpool_limits(1, "blas"):  # implicit warns of more
        model = AlternatingLeastSquares(factors=32, regularization=0.05, alpha=1.0)
        model.item_factors = Y
        stored = csr_matrix((confidence, indices, indptr), shape=(20, 50))
        expected = model.recalculate_user(np.arange(20), stored)
    users = fold_in(indptr, indices, confidence, Y, gramian(Y), 0.05)
    assert np.allclose(users, expected, rtol=1e-4, atol=1e-5)


def test_a_user_without_entries_gets_zeros_between_others() -> None:
    Y = factors(np.random.default_rng(2), 3, 4)
    users = fold_in(np.array([0, 1, 1, 2]), np.array([0, 2]), np.full(2, 5, np.float32), Y, gramian(Y), 0.1)
    assert not users[1].any()
    assert users[0].any()
    assert users[2].any()


def test_a_system_beyond_float32_is_solved_in_float64() -> None:
    rng = np.random.default_rng(3)
    Y = np.repeat(factors(rng, 1, 16), 30, axis=0)  # one direction only: the rest hangs on the ridge
    c, rows = np.full(30, 1e5, np.float32), np.arange(30)
    user = fold_in(np.array([0, 30]), rows, c, Y, gramian(Y), 1e-3)[0]
    expected = dense_fold_in(Y, rows, c, 1e-3)
    assert user.any()
    assert np.allclose(user, expected, rtol=1e-2, atol=1e-2 * np.abs(expected).max())


def test_malformed_rows_are_refused() -> None:
    Y, c = factors(np.random.default_rng(4), 3, 2), np.ones(1, np.float32)
    for indptr, indices, regularization in (
        ([0, 1], [3], 0.1),
        ([0, 1], [-1], 0.1),
        ([0, 2], [0], 0.1),
        ([0, 1], [0], 0.0),
    ):
        with pytest.raises(ValueError, match="expected"):
            fold_in(np.array(indptr), np.array(indices), c, Y, gramian(Y), regularization)


def test_only_positive_events_have_strength_and_more_of_them_is_not_weaker() -> None:
    def strength(kind: EventType, value: float) -> float:
        return float(event_strength(np.array([TYPE_CODES[kind]], np.int8), np.array([value]))[0])

    for kind in (EventType.IMPRESSION, EventType.SKIP):
        assert strength(kind, 5.0) == 0
    ratings = [strength(EventType.RATING, value) for value in (np.nan, 0.5, 3.0, 3.49, 3.5, 4.0, 5.0, 50.0)]
    assert ratings == [0, 0, 0, 0, 1.0, 1.5, 2.5, 2.5]
    watched = [strength(EventType.WATCH, seconds) for seconds in (-5.0, 0.0, 60.0, 5400.0, 14_400.0)]
    assert watched[0] == watched[1] == strength(EventType.WATCH, np.nan) == 1.0
    assert watched[1:] == sorted(watched[1:])
    assert watched[-1] < strength(EventType.PURCHASE, np.nan)
    assert strength(EventType.CLICK, np.nan) == 1


def test_a_strength_halves_after_a_half_life_of_events() -> None:
    weights = recency_weights(np.full(11, 4, np.float32), 5.0)
    assert weights[[-1, -6, -11]].tolist() == [4.0, 2.0, 1.0]
    assert recency_weights(np.ones(3, np.float32), np.inf).tolist() == [1, 1, 1]


def a_history(rng: np.random.Generator, events: int, items: int) -> UserHistory:
    recent = np.zeros(events, ENTRY)
    recent["ts_ms"], recent["event"] = np.arange(events), np.arange(events)
    recent["item"] = [hash64(f"item-{row}") for row in rng.integers(0, items, events)]
    recent["strength"] = rng.choice([1, 2.5, 4], events)
    return UserHistory(recent, np.empty(0, SEEN))


@given(SEEDS, st.lists(st.integers(0, 30), max_size=4))
@settings(max_examples=60, deadline=None)
def test_a_history_is_folded_in_with_the_summed_recency_weighted_strengths_of_its_known_items(
    seed: int, lengths: list[int]
) -> None:
    rng = np.random.default_rng(seed)
    known, k = 12, 8
    Y, how = factors(rng, known, k), FoldIn(alpha=3.0, regularization=0.1, half_life_events=4.0)
    index = ItemIndex.of([f"item-{row}" for row in range(known)])
    histories = [a_history(rng, events, known + 4) for events in lengths]
    users = fold_in_histories(histories, index, Y, gramian(Y), how)
    assert users.shape == (len(histories), k)
    for history, user in zip(histories, users, strict=True):
        r = np.zeros(known)
        weights = recency_weights(history.recent["strength"], 4.0)
        for row, weight in zip(index.rows(history.recent["item"]), weights, strict=True):
            if row >= 0:
                r[row] += weight
        rows = np.flatnonzero(r)
        expected = dense_fold_in(Y, rows, (1 + 3.0 * r[rows]).astype(np.float32), 0.1)
        assert np.allclose(user, expected, rtol=1e-3, atol=1e-4)
        assert np.allclose(fold_in_history(history, index, Y, gramian(Y), how), user, atol=1e-6)


def test_an_empty_history_and_one_of_unknown_items_give_zeros() -> None:
    rng = np.random.default_rng(6)
    Y, index = factors(rng, 2, 4), ItemIndex.of(["a", "b"])
    assert not fold_in_history(EMPTY, index, Y, gramian(Y), FoldIn()).any()
    assert not fold_in_history(a_history(rng, 5, 3), index, Y, gramian(Y), FoldIn()).any()
    assert fold_in_histories([], index, Y, gramian(Y), FoldIn()).shape == (0, 4)
    with pytest.raises(ValueError, match="indexed items"):
        fold_in_history(EMPTY, ItemIndex.of(["a"]), Y, gramian(Y), FoldIn())


def test_fold_in_settings_come_from_the_manifest_and_are_checked() -> None:
    hyperparameters = {"alpha": 2.0, "regularization": 0.1, "recency_half_life_events": 7.0, "factors": 64.0}
    assert FoldIn.of(hyperparameters) == FoldIn(2.0, 0.1, 7.0)
    for wrong in ((0.0, 0.1, 7.0), (2.0, 0.0, 7.0), (2.0, 0.1, 0.0), (2.0, np.nan, 7.0)):
        with pytest.raises(ValueError, match="positive"):
            FoldIn(*wrong)


@given(st.lists(st.text(max_size=3), unique=True, max_size=30), st.lists(st.text(max_size=3), max_size=30))
def test_the_index_finds_what_it_was_built_from_and_nothing_else(items: list[str], asked: list[str]) -> None:
    hashes = np.array([hash64(item) for item in asked], np.uint64)
    expected = [items.index(item) if item in items else -1 for item in asked]
    assert ItemIndex.of(items).rows(hashes).tolist() == expected


def test_a_repeated_item_is_refused() -> None:
    with pytest.raises(ValueError, match="1 repeated"):
        ItemIndex.of(["a", "b", "a"])


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
        assert np.allclose(together[new], alone)
    with pytest.raises(ValueError, match="one length"):
        item_equations(item[:2], c, X, 4)
    with pytest.raises(ValueError, match=r"items in \[0, 2\)"):
        item_equations(item, c, X, 2)
    with pytest.raises(ValueError, match="positive regularization"):
        solve_item(together[0], gramian(X), 0.0)


@given(
    st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0, np.nan, np.inf, -np.inf]), min_size=1, max_size=30),
    st.integers(1, 12),
    st.sets(st.integers(-1, 29)),
)
def test_the_best_rows_come_best_first_with_ties_by_row_number(scores: list[float], k: int, excluded: set[int]) -> None:
    left_out = {row for row in excluded if row < len(scores)}
    usable = [
        (-score, row)
        for row, score in enumerate(scores)
        if row not in left_out and not np.isnan(score) and score > -np.inf
    ]
    expected = [row for _, row in sorted(usable)[:k]]
    given_scores = np.array(scores, np.float32)
    assert top_k(given_scores, k, np.array(sorted(left_out), np.int64)).tolist() == expected
    assert np.array_equal(given_scores, np.array(scores, np.float32), equal_nan=True)


def test_the_best_0_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="k >= 1"):
        top_k(np.ones(3, np.float32), 0, np.empty(0, np.int64))
