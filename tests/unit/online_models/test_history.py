"""A history is a join-semilattice: the order and the number of times that rows arrive do not matter."""

import random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online_models.history import (
    EMPTY,
    ENTRY,
    RECENT_EVENTS,
    SEEN,
    SEEN_ITEMS,
    UserHistory,
    decode,
    encode,
    fresh,
    merge,
    merge_all,
)

Rows = npt.NDArray[np.void]


def entries(events: list[int], spread: int) -> Rows:
    """Rows that their event hash determines, as events are determined by their id."""
    rows = [(event * 7919 % spread, event, event * 31 % 17, 1 + event % 4) for event in events]
    return np.array(rows, ENTRY)


def met(pairs: list[tuple[int, int]]) -> Rows:
    return np.array(pairs, SEEN)


def same(one: UserHistory, other: UserHistory) -> bool:
    return encode(one) == encode(other)


EVENTS = st.lists(st.integers(0, 2 * RECENT_EVENTS), max_size=3 * RECENT_EVENTS)
SEEN_ROWS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 60)), max_size=60)
SPREAD = st.sampled_from([1, 5, 1000])
BATCH = st.tuples(EVENTS, SEEN_ROWS)
Batch = tuple[list[int], list[tuple[int, int]]]


def joined(batches: list[Batch], spread: int) -> UserHistory:
    history = EMPTY
    for events, pairs in batches:
        history = merge(history, entries(events, spread), met(pairs))
    return history


@given(st.lists(BATCH, max_size=4), SPREAD, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_batches_may_arrive_in_any_order_and_any_number_of_times(
    batches: list[Batch], spread: int, order: random.Random
) -> None:
    once = joined(batches, spread)
    replayed = batches + batches[:2]
    order.shuffle(replayed)
    assert same(once, joined(replayed, spread))


@given(BATCH, BATCH, BATCH, SPREAD)
@settings(max_examples=60, deadline=None)
def test_joining_histories_is_associative_and_idempotent(a: Batch, b: Batch, c: Batch, spread: int) -> None:
    one, two, three = (joined([batch], spread) for batch in (a, b, c))

    def join(left: UserHistory, right: UserHistory) -> UserHistory:
        return merge(left, right.recent, right.seen)

    assert same(join(join(one, two), three), join(one, join(two, three)))
    assert same(join(one, two), join(two, one))
    assert same(join(one, one), one)


@given(BATCH, SPREAD)
@settings(max_examples=60, deadline=None)
def test_the_newest_events_are_kept_one_row_each_oldest_first(batch: Batch, spread: int) -> None:
    history = joined([batch], spread)
    times = {event: event * 7919 % spread for event in batch[0]}
    newest = sorted((ts, event) for event, ts in times.items())[-RECENT_EVENTS:]
    assert [(int(row["ts_ms"]), int(row["event"])) for row in history.recent] == newest
    latest: dict[int, int] = {}
    for ts, item in batch[1]:
        latest[item] = max(ts, latest.get(item, 0))
    assert [(int(row["ts_ms"]), int(row["item"])) for row in history.seen] == sorted(
        (ts, item) for item, ts in latest.items()
    )


def test_seen_items_beyond_the_limit_are_forgotten_oldest_first_in_any_order_of_arrival() -> None:
    rng = np.random.default_rng(5)
    rows = np.empty(SEEN_ITEMS + 3000, SEEN)
    rows["ts_ms"], rows["item"] = rng.integers(0, 10**6, len(rows)), rng.permutation(len(rows))
    none = np.empty(0, ENTRY)
    whole = merge(EMPTY, none, rows)
    parts = EMPTY
    for part in np.array_split(rng.permutation(rows), 7):
        parts = merge(merge(parts, none, part), none, part[:10])
    assert len(whole.seen) == SEEN_ITEMS
    assert same(whole, parts)
    assert np.array_equal(np.sort(rows, order=["ts_ms", "item"])[-SEEN_ITEMS:], whole.seen)


@given(BATCH, SPREAD)
@settings(max_examples=60, deadline=None)
def test_the_stored_form_gives_the_history_back(batch: Batch, spread: int) -> None:
    history = joined([batch], spread)
    again = decode(encode(history))
    assert np.array_equal(again.recent, history.recent)
    assert np.array_equal(again.seen, history.seen)
    assert int.from_bytes(encode(history)[:8], "little") == history.version_ms


@given(BATCH, st.data())
@settings(max_examples=60, deadline=None)
def test_torn_bytes_are_refused(batch: Batch, data: st.DataObject) -> None:
    stored = encode(joined([batch], 1000))
    length = data.draw(st.integers(0, len(stored) - 1))
    with pytest.raises(ValueError):
        decode(stored[:length])
    with pytest.raises(ValueError):
        decode(stored + stored[: length + 1])


def test_fresh_events_are_those_not_kept_yet() -> None:
    history = joined([([1, 2, 3], [])], 1000)
    assert fresh(history, np.array([2, 9, 3], np.uint64)).tolist() == [False, True, False]


@given(st.lists(st.tuples(BATCH, BATCH), max_size=5), SPREAD, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_joining_all_users_at_once_is_joining_each_of_them(
    users: list[tuple[Batch, Batch]], spread: int, order: random.Random
) -> None:
    old = [joined([before], spread) for before, _ in users]
    new = [(entries(events, spread), met(pairs)) for _, (events, pairs) in users]
    rows = [(user, row) for user, (recent, _) in enumerate(new) for row in recent.tolist()]
    met_rows = [(user, row) for user, (_, seen) in enumerate(new) for row in seen.tolist()]
    order.shuffle(rows)
    order.shuffle(met_rows)
    together = merge_all(
        old,
        np.array([row for _, row in rows], ENTRY),
        np.array([user for user, _ in rows], np.int64),
        np.array([row for _, row in met_rows], SEEN),
        np.array([user for user, _ in met_rows], np.int64),
    )
    apart = [merge(one, recent, seen) for one, (recent, seen) in zip(old, new, strict=True)]
    assert [encode(history) for history in together] == [encode(history) for history in apart]


def test_joining_all_users_at_once_forgets_the_oldest_seen_items_beyond_the_limit() -> None:
    rng = np.random.default_rng(6)
    rows = np.empty(2 * SEEN_ITEMS, SEEN)
    rows["ts_ms"], rows["item"] = rng.integers(0, 10**6, len(rows)), rng.integers(0, 2**63, len(rows), np.uint64)
    half, none = SEEN_ITEMS, np.empty(0, ENTRY)
    old = [merge(EMPTY, none, rows[:half]), EMPTY]
    nobody, owner = np.empty(0, np.int64), np.zeros(half, np.int64)
    one, other = merge_all(old, none, nobody, rows[half:], owner)
    assert same(one, merge(old[0], none, rows[half:]))
    assert len(one.seen) == SEEN_ITEMS
    assert same(other, EMPTY)
