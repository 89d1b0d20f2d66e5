"""Fold-in, exact and by steps, against dense solves in float64 and against implicit; indexing and selection."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from implicit.cpu.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from online_models.als import (
    FoldIn,
    ItemIndex,
    confidences,
    event_strength,
    fold_in,
    fold_in_histories,
    fold_in_history,
    gramian,
    recency_weights,
    top_k,
    warm_fold_in,
)
from online_models.contracts.events import TYPE_CODES, EventType
from online_models.contracts.ids import hash64
from online_models.history import EMPTY, ENTRY, SEEN, UserHistory
from online_models.ridge import Ridge
from tests.oracles.least_squares import dense_fold_in, dense_users, drawn_entries, factors

SEEDS = st.integers(0, 2**32 - 1)
DAY_MS = 86_400_000


@given(SEEDS, st.integers(1, 70), st.integers(1, 40), st.sampled_from([1e-3, 0.05, 10.0]), st.booleans())
@settings(max_examples=80, deadline=None)
def test_fold_in_is_the_dense_solution(seed: int, k: int, items: int, regularization: float, with_ridge: bool) -> None:
    rng = np.random.default_rng(seed)
    Y, entries = factors(rng, items, k), drawn_entries(rng, 5, items)
    YtY = gramian(Y)
    ridge = Ridge.of(YtY, regularization) if with_ridge else None
    users = fold_in(*entries, Y, YtY, regularization, ridge)
    assert users.dtype == np.float32
    # The residual in the items' scores: what rounding may do to x along directions no item has, nobody sees.
    assert np.allclose(users @ Y.T, dense_users(Y, entries, regularization) @ Y.T, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("with_ridge", [False, True])
def test_fold_in_at_the_size_of_a_model_is_exact_to_five_digits_and_agrees_with_implicit(with_ridge: bool) -> None:
    rng = np.random.default_rng(1)
    Y, entries = factors(rng, 2_000, 64), drawn_entries(rng, 100, 2_000, most=40)
    YtY = gramian(Y)
    users = fold_in(*entries, Y, YtY, 0.05, Ridge.of(YtY, 0.05) if with_ridge else None)
    expected = dense_users(Y, entries, 0.05)
    assert np.abs(users - expected).max() <= 1e-5 * np.abs(expected).max()
    with threadpool_limits(1, "blas"):  # implicit warns of more
        model = AlternatingLeastSquares(factors=64, regularization=0.05, alpha=1.0)
        model.item_factors = Y
        stored = csr_matrix((entries.confidence, entries.indices, entries.indptr), shape=(100, 2_000))
        theirs = model.recalculate_user(np.arange(100), stored)
    assert np.abs(users - theirs).max() <= 1e-5 * np.abs(expected).max()


def test_a_ridge_changes_nothing_but_rounding_for_short_and_long_rows_and_confidence_one_and_below() -> None:
    rng = np.random.default_rng(2)
    Y, k = factors(rng, 60, 16), 16
    YtY = gramian(Y)
    lengths = [0, 1, 3 * k // 8, 3 * k // 8 + 1, 60, 4]
    indices = np.concatenate([rng.permutation(60)[:length] for length in lengths])
    confidence = (1 + rng.exponential(5, len(indices))).astype(np.float32)
    confidence[[0, -1]] = 1.0, 0.5
    entries = (np.cumsum([0, *lengths]), indices, confidence)
    plain, shared = fold_in(*entries, Y, YtY, 0.1), fold_in(*entries, Y, YtY, 0.1, Ridge.of(YtY, 0.1))
    assert plain[1:].any(axis=1).all()
    assert np.allclose(plain, shared, rtol=1e-4, atol=1e-5)


def test_a_ridge_of_something_else_is_refused() -> None:
    Y = factors(np.random.default_rng(3), 5, 4)
    entries = (np.array([0, 1]), np.zeros(1, np.int64), np.full(1, 2, np.float32))
    for ridge in (Ridge.of(gramian(Y), 0.2), Ridge.of(gramian(Y[:, :3]), 0.1)):
        with pytest.raises(ValueError, match="the ridge of"):
            fold_in(*entries, Y, gramian(Y), 0.1, ridge)


@given(SEEDS, st.integers(1, 40), st.integers(1, 40), st.booleans())
@settings(max_examples=60, deadline=None)
def test_as_many_steps_as_factors_are_the_dense_solution_from_anywhere(
    seed: int, k: int, items: int, from_zeros: bool
) -> None:
    rng = np.random.default_rng(seed)
    Y, entries = factors(rng, items, k), drawn_entries(rng, 5, items)
    start = np.zeros((5, k), np.float32) if from_zeros else factors(rng, 5, k)
    users = warm_fold_in(*entries, Y, gramian(Y), 0.5, start, 2 * k)
    assert np.allclose(users, dense_users(Y, entries, 0.5), rtol=5e-3, atol=5e-3)


def test_every_step_comes_closer_in_the_norm_of_the_system_and_a_near_start_is_worth_a_step() -> None:
    rng = np.random.default_rng(4)
    Y, entries = factors(rng, 400, 32), drawn_entries(rng, 40, 400, most=30)
    YtY = gramian(Y)
    exact = dense_users(Y, entries, 0.1)
    near = (exact + 0.1 * rng.normal(size=exact.shape) * np.abs(exact)).astype(np.float32)

    def off(start: npt.NDArray[np.float32], steps: int) -> float:
        users = warm_fold_in(*entries, Y, YtY, 0.1, start, steps)
        lengths = []
        for user, wanted in enumerate(exact):
            of = slice(entries.indptr[user], entries.indptr[user + 1])
            rows, extra = Y[entries.indices[of]], entries.confidence[of] - 1
            A = YtY + 0.1 * np.eye(32) + (rows.T * extra) @ rows
            lengths.append((users[user] - wanted) @ A @ (users[user] - wanted))
        return float(np.sum(lengths))

    zeros = np.zeros_like(near)
    from_zeros, from_near = [[off(start, steps) for steps in range(5)] for start in (zeros, near)]
    for errors in (from_zeros, from_near):
        assert errors == sorted(errors, reverse=True)
    assert all(near_ < zero for near_, zero in zip(from_near, from_zeros, strict=True))
    assert from_near[3] < 0.01 * from_near[0]
    assert np.abs(warm_fold_in(*entries, Y, YtY, 0.1, zeros, 0)).max() == 0


def test_a_start_of_another_shape_is_refused_and_one_that_is_not_finite_is_zeros() -> None:
    rng = np.random.default_rng(5)
    Y, entries = factors(rng, 20, 8), drawn_entries(rng, 3, 20)
    zeros, bad = np.zeros((3, 8), np.float32), np.zeros((3, 8), np.float32)
    bad[0, 3], bad[1, 0], bad[2, 7] = np.nan, np.inf, -np.inf
    of = (*entries, Y, gramian(Y), 0.1)
    assert np.array_equal(warm_fold_in(*of, bad, 3), warm_fold_in(*of, zeros, 3))
    with pytest.raises(ValueError, match="start of 3 x 8"):
        warm_fold_in(*of, zeros[:2], 3)


def test_steps_that_overflow_give_way_to_the_exact_solution() -> None:
    rng = np.random.default_rng(6)
    Y, entries = factors(rng, 20, 8), drawn_entries(rng, 3, 20)
    far = np.full((3, 8), 3e38, np.float32)
    users = warm_fold_in(*entries, Y, gramian(Y), 0.1, far, 3)
    assert np.array_equal(users, fold_in(*entries, Y, gramian(Y), 0.1))


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
        ([0, 1], [0], np.nan),
    ):
        rows = (np.array(indptr), np.array(indices), c)
        with pytest.raises(ValueError, match="expected"):
            fold_in(*rows, Y, gramian(Y), regularization)
        with pytest.raises(ValueError, match="expected"):
            warm_fold_in(*rows, Y, gramian(Y), regularization, np.zeros((1, 2), np.float32), 2)


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
    recent["ts_ms"], recent["event"] = np.sort(rng.integers(0, 20 * DAY_MS, events)), np.arange(events)
    recent["item"] = [hash64(f"item-{row}") for row in rng.integers(0, items, events)]
    recent["strength"] = rng.choice([1, 2.5, 4], events)
    return UserHistory(recent, np.empty(0, SEEN))


@given(SEEDS, st.lists(st.integers(0, 30), max_size=4), st.sampled_from([1.5, np.inf]))
@settings(max_examples=60, deadline=None)
def test_a_history_is_folded_in_with_the_summed_recency_weighted_strengths_of_its_known_items(
    seed: int, lengths: list[int], half_life_days: float
) -> None:
    rng = np.random.default_rng(seed)
    known, k = 12, 8
    how = FoldIn(alpha=3.0, regularization=0.1, half_life_events=4.0, half_life_days=half_life_days)
    Y, index = factors(rng, known, k), ItemIndex.of([f"item-{row}" for row in range(known)])
    histories = [a_history(rng, events, known + 4) for events in lengths]
    users = fold_in_histories(histories, index, Y, gramian(Y), how)
    assert users.shape == (len(histories), k)
    for history, user in zip(histories, users, strict=True):
        recent, r = history.recent, np.zeros(known)
        weights = recency_weights(recent["strength"], 4.0)
        for event, row, weight in zip(recent, index.rows(recent["item"]), weights, strict=True):
            if row >= 0:
                r[row] += weight * 0.5 ** ((recent["ts_ms"].max() - event["ts_ms"]) / DAY_MS / half_life_days)
        rows = np.flatnonzero(r)
        expected = dense_fold_in(Y, rows, (1 + 3.0 * r[rows]).astype(np.float32), 0.1)
        assert np.allclose(user, expected, rtol=1e-3, atol=1e-4)
        assert np.array_equal(fold_in_history(history, index, Y, gramian(Y), how), user)
        ridge = Ridge.of(gramian(Y), 0.1)
        assert np.allclose(fold_in_history(history, index, Y, gramian(Y), how, ridge), user, rtol=1e-4, atol=1e-5)


def test_confidences_are_csr_rows_of_distinct_items_whose_age_counts_from_the_newest_event() -> None:
    recent = np.zeros(4, ENTRY)
    recent["ts_ms"] = np.array([0, 1, 3, 4]) * DAY_MS
    recent["item"] = [hash64(item) for item in ("b", "a", "b", "unknown")]
    recent["strength"] = 4
    how = FoldIn(alpha=1.0, half_life_events=np.inf, half_life_days=1.0)
    rows = confidences([EMPTY, UserHistory(recent, EMPTY.seen)], ItemIndex.of(["a", "b"]), how)
    assert rows.indptr.tolist() == [0, 0, 2]
    assert rows.indices.tolist() == [1, 0]
    assert rows.confidence.tolist() == [1 + 4 / 16 + 4 / 2, 1 + 4 / 8]


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
    assert FoldIn.of(hyperparameters) == FoldIn(2.0, 0.1, 7.0, np.inf)
    assert FoldIn.of({**hyperparameters, "recency_half_life_days": 30.0}) == FoldIn(2.0, 0.1, 7.0, 30.0)
    for wrong in ((0.0, 0.1, 7.0), (2.0, 0.0, 7.0), (2.0, 0.1, 0.0), (2.0, np.nan, 7.0), (2.0, 0.1, 7.0, 0.0)):
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


@given(
    st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0, np.nan, np.inf, -np.inf]), min_size=1, max_size=30),
    st.integers(1, 12),
    st.sets(st.integers(-1, 29)),
)
@settings(deadline=None)
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


@given(SEEDS, st.integers(1, 70), st.integers(1, 40), st.sampled_from([1e-3, 0.05, 10.0]), st.booleans())
@settings(max_examples=80, deadline=None)
def test_a_fading_fold_in_is_the_dense_solution_for_preferences_that_fade_with_their_confidence(
    seed: int, k: int, items: int, regularization: float, with_ridge: bool
) -> None:
    rng = np.random.default_rng(seed)
    Y, entries = factors(rng, items, k), drawn_entries(rng, 5, items)
    entries.confidence[rng.random(len(entries.confidence)) < 0.3] = 1
    YtY = gramian(Y)
    ridge = Ridge.of(YtY, regularization) if with_ridge else None
    users = fold_in(*entries, Y, YtY, regularization, ridge, fading=True)
    expected = dense_users(Y, entries, regularization, fading=True)
    assert np.allclose(users @ Y.T, expected @ Y.T, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("with_ridge", [False, True])
def test_what_has_faded_away_says_nothing_and_what_fades_says_less(with_ridge: bool) -> None:
    rng = np.random.default_rng(7)
    Y, k = factors(rng, 60, 16), 16
    YtY = gramian(Y)
    ridge = Ridge.of(YtY, 0.1) if with_ridge else None

    def folded(confidence: list[float]) -> npt.NDArray[np.float32]:
        c = np.array(confidence, np.float32)
        users = fold_in(np.array([0, len(c)]), np.arange(len(c)), c, Y, YtY, 0.1, ridge, fading=True)
        return np.asarray(users[0])

    assert not folded([1.0]).any()
    assert not folded([1.0] * k).any()  # too long for the ridge
    assert np.array_equal(folded([3.0, 1.0]), folded([3.0]))
    pulls = [float(Y[0] @ folded([confidence, 5.0])) for confidence in (1.0, 1.01, 1.5, 3.0, 10.0)]
    assert pulls == sorted(pulls)
    assert pulls[0] < pulls[-1]
