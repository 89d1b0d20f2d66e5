"""Contexts of a batch against the merging of one event after the other into its user's history."""

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from online_models.contexts import Contexts, contexts_of
from online_models.history import EMPTY, ENTRY, RECENT_EVENTS, UserHistory, merge
from tests.oracles.item_sources import plain_contexts

SEEDS = st.integers(0, 2**32 - 1)
SPREAD = st.sampled_from([1, 6, 10_000])
Rows = npt.NDArray[np.void]


def drawn_events(rng: np.random.Generator, events: int, spread: int) -> Rows:
    """Distinct events in any order of their times, late ones and equal times among them."""
    rows = np.empty(events, ENTRY)
    rows["ts_ms"] = rng.integers(-spread, spread, events)
    rows["event"] = rng.permutation(events).astype(np.uint64) * np.uint64(2**63 // max(1, events) + 1)
    rows["item"] = rng.integers(0, 9, events)
    rows["strength"] = rng.choice([1, 2.5, 4], events)
    return rows


def split(rows: Rows, user: npt.NDArray[np.int64], old: list[UserHistory], at: int) -> list[UserHistory]:
    """The users' histories after the first events."""
    return [merge(known, rows[:at][user[:at] == u], EMPTY.seen) for u, known in enumerate(old)]


def each(found: Contexts) -> list[list[tuple[int, int, int, float]]]:
    return [found.entries[begin:end].tolist() for begin, end in zip(found.ptr[:-1], found.ptr[1:], strict=True)]


@given(SEEDS, SPREAD, st.integers(1, 4), st.integers(0, 150), st.integers(0, 130))
@settings(max_examples=40, deadline=None)
def test_a_context_is_the_history_that_merging_event_by_event_gives(
    seed: int, spread: int, users: int, before: int, events: int
) -> None:
    rng = np.random.default_rng(seed)
    rows = drawn_events(rng, before + events, spread)
    user = rng.integers(0, users, before + events)
    old = split(rows, user, [EMPTY] * users, before)
    found = contexts_of(old, user[before:], rows[before:])
    expected, until = plain_contexts(old, user[before:].tolist(), rows[before:])
    assert each(found) == [context.tolist() for context in expected]
    assert (found.until - found.ptr[:-1]).tolist() == until
    assert found.ptr[0] == 0
    assert len(found.ptr) == len(found.until) + 1 == events + 1


@given(SEEDS, SPREAD, st.integers(1, 4), st.integers(0, 250), st.integers(0, 250))
@settings(max_examples=40, deadline=None)
def test_where_the_batch_is_cut_makes_no_difference(seed: int, spread: int, users: int, events: int, cut: int) -> None:
    rng = np.random.default_rng(seed)
    rows, user = drawn_events(rng, events, spread), rng.integers(0, users, events)
    whole = contexts_of([EMPTY] * users, user, rows)
    first = contexts_of([EMPTY] * users, user[:cut], rows[:cut])
    rest = contexts_of(split(rows, user, [EMPTY] * users, cut), user[cut:], rows[cut:])
    assert each(whole) == each(first) + each(rest)
    assert np.array_equal(np.diff(whole.ptr), np.concatenate([np.diff(first.ptr), np.diff(rest.ptr)]))
    assert np.array_equal(
        whole.until - whole.ptr[:-1], np.concatenate([first.until - first.ptr[:-1], rest.until - rest.ptr[:-1]])
    )


@given(SEEDS, st.integers(1, 4), st.integers(0, 120))
@settings(max_examples=30, deadline=None)
def test_users_do_not_meet(seed: int, users: int, events: int) -> None:
    rng = np.random.default_rng(seed)
    rows, user = drawn_events(rng, events, 50), rng.integers(0, users, events)
    together = each(contexts_of([EMPTY] * users, user, rows))
    for u in range(users):
        mine = np.flatnonzero(user == u)
        alone = each(contexts_of([EMPTY], np.zeros(len(mine), np.int64), rows[mine]))
        assert alone == [together[place] for place in mine.tolist()]


def test_of_a_full_context_the_oldest_leaves_and_what_is_older_still_does_not_enter() -> None:
    rows = np.zeros(RECENT_EVENTS + 3, ENTRY)
    rows["ts_ms"], rows["event"] = np.arange(len(rows)) + 10, np.arange(len(rows))
    rows["ts_ms"][-2] = 1  # so late that it finds no room
    found = contexts_of([EMPTY], np.zeros(len(rows), np.int64), rows)
    assert np.diff(found.ptr)[-3:].tolist() == [RECENT_EVENTS] * 3
    oldest = found.entries["event"][found.ptr[-4:-1]].tolist()
    assert oldest == [0, 1, 1]
    assert found.until[-2] == found.ptr[-3]


def test_events_of_one_time_do_not_count_as_before_each_other_but_are_in_the_context() -> None:
    rows = np.array([(5, 9, 70, 1.0), (5, 3, 71, 1.0), (4, 8, 72, 1.0), (6, 1, 73, 1.0)], ENTRY)
    found = contexts_of([EMPTY], np.zeros(4, np.int64), rows)
    assert [[entry[2] for entry in context] for context in each(found)] == [[], [70], [71, 70], [72, 71, 70]]
    assert (found.until - found.ptr[:-1]).tolist() == [0, 0, 0, 3]


def test_no_events_have_no_contexts() -> None:
    for old in ([], [EMPTY]):
        found = contexts_of(old, np.empty(0, np.int64), np.empty(0, ENTRY))
        assert (len(found.entries), found.ptr.tolist(), len(found.until)) == (0, [0], 0)


def test_an_event_older_than_all_of_a_full_history_joins_nothing_wherever_the_batch_is_cut() -> None:
    def rows(*times: int) -> npt.NDArray[np.void]:
        return np.array([(ts, ts, ts, 1.0) for ts in times], ENTRY)

    full = merge(EMPTY, rows(*range(1_000, 1_000 + RECENT_EVENTS)), EMPTY.seen)
    later, late = rows(*range(2_000, 2_050)), rows(1_025)
    user = np.zeros(51, np.int64)
    whole = contexts_of([full], user, np.concatenate([later, late]))
    assert whole.joined.tolist() == [True] * 50 + [False]
    after = merge(full, later, EMPTY.seen)
    assert contexts_of([after], user[:1], late).joined.tolist() == [False]
    assert contexts_of([full], user[:1], late).joined.tolist() == [True]
    assert contexts_of([full], user[:1], rows(999)).joined.tolist() == [False]


def test_contexts_of_some_events_are_theirs() -> None:
    events = np.array([(5, 1, 70, 1.0), (6, 2, 71, 1.0), (9, 3, 72, 1.0)], ENTRY)
    found = contexts_of([EMPTY], np.zeros(3, np.int64), events).taken(np.array([False, True, True]))
    assert found.entries["item"].tolist() == [70, 70, 71]
    assert (found.ptr.tolist(), found.until.tolist(), found.joined.tolist()) == ([0, 1, 3], [1, 3], [True, True])
