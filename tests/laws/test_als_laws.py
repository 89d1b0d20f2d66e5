"""What holds for every way to fold users in and to move items: order, repeats, company, cuts and garbage."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from online_models import history as histories
from online_models.als import FoldIn, ItemIndex, confidences, fold_in, fold_in_histories, gramian, warm_fold_in
from online_models.contracts.ids import hash64
from online_models.history import EMPTY, ENTRY, SEEN, UserHistory
from online_models.item_updates import UserBasis, moved_items, solve_items, trained_equations, with_events
from online_models.ridge import Ridge
from tests.oracles.least_squares import F32, F64, factors

ITEMS, K, REG = 15, 16, 0.1
DAY_MS = 86_400_000
HOW = FoldIn(alpha=3.0, regularization=REG, half_life_events=4.0, half_life_days=2.0)
INDEX = ItemIndex.of([f"item-{row}" for row in range(ITEMS)])
Y: F32 = factors(np.random.default_rng(0), ITEMS, K)
YTY = gramian(Y)
RIDGE = Ridge.of(YTY, REG)

SEEDS = st.integers(0, 2**32 - 1)
ANY_FLOAT = st.floats(width=32)

Users = Sequence[UserHistory]


def stepped(users: Users, steps: int) -> F32:
    rows = confidences(users, INDEX, HOW)
    return warm_fold_in(*rows, Y, YTY, REG, np.zeros((len(users), K), np.float32), steps, RIDGE)


FOLD_INS: dict[str, Callable[[Users], F32]] = {
    "exact": lambda users: fold_in_histories(users, INDEX, Y, YTY, HOW),
    "exact with a ridge": lambda users: fold_in_histories(users, INDEX, Y, YTY, HOW, RIDGE),
    "3 steps from zeros": lambda users: stepped(users, 3),
}
every_fold_in = pytest.mark.parametrize("fold", FOLD_INS.values(), ids=FOLD_INS.keys())


def drawn_batch(
    rng: np.random.Generator, events: int, users: int
) -> tuple[npt.NDArray[np.void], npt.NDArray[np.int64]]:
    """Positive events in any order, some at one time, some of items that the model does not know; and whose each is."""
    rows = np.zeros(events, ENTRY)
    rows["ts_ms"] = rng.integers(0, 8, events) * DAY_MS // 2
    rows["event"] = rng.permutation(events)
    rows["item"] = [hash64(f"item-{row}") for row in rng.integers(0, ITEMS + 3, events)]
    rows["strength"] = rng.choice([1, 2.5, 4], events)
    return rows, rng.integers(0, users, events)


def after(old: Users, rows: npt.NDArray[np.void], owner: npt.NDArray[np.int64]) -> list[UserHistory]:
    """Histories joined with a batch."""
    return histories.merge_all(old, rows, owner, rows[["ts_ms", "item"]].astype(SEEN), owner)


@every_fold_in
@given(SEEDS, st.integers(0, 60), st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_order_inside_a_batch_does_not_change_a_bit(
    fold: Callable[[Users], F32], seed: int, events: int, users: int
) -> None:
    rng = np.random.default_rng(seed)
    rows, owner = drawn_batch(rng, events, users)
    shuffled = rng.permutation(events)
    nobody = [EMPTY] * users
    assert np.array_equal(fold(after(nobody, rows, owner)), fold(after(nobody, rows[shuffled], owner[shuffled])))


@every_fold_in
@given(SEEDS, st.integers(0, 60), st.integers(0, 60), st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_a_replayed_batch_and_a_cut_one_change_nothing(
    fold: Callable[[Users], F32], seed: int, events: int, cut: int, users: int
) -> None:
    rows, owner = drawn_batch(np.random.default_rng(seed), events, users)
    once = after([EMPTY] * users, rows, owner)
    first, rest = slice(None, cut), slice(cut, None)
    in_two = after(after([EMPTY] * users, rows[first], owner[first]), rows[rest], owner[rest])
    for again in (after(once, rows, owner), after(once, rows[first], owner[first]), in_two):
        assert np.array_equal(fold(again), fold(once))


@every_fold_in
@given(SEEDS, st.integers(1, 60), st.integers(1, 5), st.integers(-10, 10))
@settings(max_examples=40, deadline=None)
def test_a_vector_depends_on_its_own_history_alone_and_not_on_the_date(
    fold: Callable[[Users], F32], seed: int, events: int, users: int, days: int
) -> None:
    rng = np.random.default_rng(seed)
    rows, owner = drawn_batch(rng, events, users)
    known = after([EMPTY] * users, rows, owner)
    together = fold(known)
    assert np.array_equal(together, np.concatenate([fold([each]) for each in known]))
    order = rng.permutation(users)
    assert np.array_equal(together[order], fold([known[user] for user in order]))
    later = rows.copy()
    later["ts_ms"] += days * DAY_MS
    assert np.array_equal(together, fold(after([EMPTY] * users, later, owner)))


@given(
    arrays(np.float32, 6, elements=ANY_FLOAT),
    arrays(np.float32, (3, 4), elements=ANY_FLOAT),
    arrays(np.float32, (5, 4), elements=ANY_FLOAT | st.floats(-1, 1, width=32)),
    st.booleans(),
    st.integers(0, 4),
)
@settings(max_examples=300, deadline=None)
def test_users_stay_finite_for_any_confidence_start_and_factors(
    confidence: F32, start: F32, Y: F32, whole_gramian: bool, steps: int
) -> None:
    entries = (np.array([0, 1, 3, 6]), np.array([0, 1, 2, 2, 3, 4]), confidence)
    with np.errstate(all="ignore"):
        YtY = gramian(Y) if whole_gramian else np.eye(4, dtype=np.float32)
    exact = fold_in(*entries, Y, YtY, REG)
    assert np.isfinite(exact).all()
    try:
        ridge = Ridge.of(YtY, REG)
    except ValueError:
        return  # no model with such a Gramian is published
    for users in (fold_in(*entries, Y, YtY, REG, ridge), warm_fold_in(*entries, Y, YtY, REG, start, steps, ridge)):
        assert np.isfinite(users).all()


@every_fold_in
@given(arrays(np.float32, 6, elements=ANY_FLOAT), arrays(np.int64, 6, elements=st.integers(-(2**62), 2**62 - 1)))
@settings(max_examples=150, deadline=None)
def test_users_stay_finite_for_any_strength_and_time(
    fold: Callable[[Users], F32], strength: F32, ts_ms: npt.NDArray[np.int64]
) -> None:
    rows, _ = drawn_batch(np.random.default_rng(3), 6, 1)
    rows["strength"], rows["ts_ms"] = strength, np.sort(ts_ms)
    assert np.isfinite(fold([UserHistory(rows, EMPTY.seen)])).all()


Items = tuple[F32, F64]
Events = tuple[npt.NDArray[np.int64], F32, F32]
X: F32 = factors(np.random.default_rng(1), 30, K)
XTX = gramian(X)
BASIS = UserBasis.of(XTX, 30, REG)


def in_full(start: Items, batches: Sequence[Events]) -> F32:
    equations = trained_equations(*start, 30, XTX, REG)
    for batch in batches:
        equations = with_events(equations, *batch)
    return solve_items(equations, XTX, REG)


def in_brief(start: Items, batches: Sequence[Events]) -> F32:
    vectors, weights = start
    for batch in batches:
        vectors, weights = moved_items(vectors, weights, *batch, BASIS)
    assert np.isfinite(weights).all()
    return vectors


every_update = pytest.mark.parametrize("learn", [in_full, in_brief])


def drawn_events(rng: np.random.Generator, events: int) -> tuple[Items, Events]:
    """Three items, the first a new one, and events with them."""
    vectors, weights = factors(rng, 3, K), rng.exponential(20, 3)
    vectors[0], weights[0] = 0, 0
    confidence = (1 + rng.exponential(4, events)).astype(np.float32)
    return (vectors, weights), (rng.integers(0, 3, events), confidence, factors(rng, events, K))


def part(events: Events, rows: slice | npt.NDArray[np.int64]) -> Events:
    item, confidence, users = events
    return item[rows], confidence[rows], users[rows]


@every_update
@given(SEEDS, st.integers(0, 30), st.lists(st.integers(0, 30), max_size=4))
@settings(max_examples=40, deadline=None)
def test_where_events_are_cut_into_batches_does_not_change_a_bit_of_an_item(
    learn: Callable[[Items, Sequence[Events]], F32], seed: int, count: int, cuts: list[int]
) -> None:
    start, events = drawn_events(np.random.default_rng(seed), count)
    bounds = [0, *sorted(cuts), 31]
    batches = [part(events, slice(*pair)) for pair in pairwise(bounds)]
    assert np.array_equal(learn(start, batches), learn(start, [events]))


@every_update
@given(SEEDS, st.integers(0, 30))
@settings(max_examples=40, deadline=None)
def test_items_do_not_meet(learn: Callable[[Items, Sequence[Events]], F32], seed: int, count: int) -> None:
    start, events = drawn_events(np.random.default_rng(seed), count)
    together = learn(start, [events])
    for item in range(3):
        alone = learn(start, [part(events, np.flatnonzero(events[0] == item))])
        assert np.array_equal(alone[item], together[item])


@given(SEEDS, st.integers(0, 30))
@settings(max_examples=40, deadline=None)
def test_in_full_the_order_of_events_changes_no_more_than_rounding(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    start, events = drawn_events(rng, count)
    shuffled = part(events, rng.permutation(count))
    assert np.allclose(in_full(start, [shuffled]), in_full(start, [events]), rtol=1e-3, atol=1e-3)


@every_update
@given(st.data(), st.integers(0, 8))
@settings(max_examples=150, deadline=None)
def test_items_stay_finite_for_any_event(
    learn: Callable[[Items, Sequence[Events]], F32], data: st.DataObject, count: int
) -> None:
    start, _ = drawn_events(np.random.default_rng(2), 0)
    item = data.draw(arrays(np.int64, count, elements=st.integers(0, 2)))
    confidence = data.draw(arrays(np.float32, count, elements=ANY_FLOAT | st.floats(1, 100, width=32)))
    users = data.draw(arrays(np.float32, (count, K), elements=ANY_FLOAT | st.floats(-1, 1, width=32)))
    assert np.isfinite(learn(start, [(item, confidence, users)])).all()
