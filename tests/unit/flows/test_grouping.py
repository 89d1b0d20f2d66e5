"""A batch's engagements by user: their order, what joins each history, and which of them are new to it."""

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.grouping import fresh_rows, group_by_user, merged
from online_models import history as histories
from online_models.contracts.events import Event, EventType
from online_models.contracts.ids import hash64
from online_models.history import UserHistory
from tests.engagements import START_MS, engagement, entries_of, history_of, logs, strength_of
from tests.samples import batch


@settings(deadline=None)
@given(logs(ordered=False))
def test_events_are_grouped_by_user_in_the_order_of_time(log: list[Event]) -> None:
    grouped = group_by_user(batch(log))
    assert sorted(grouped.users) == sorted({one.user_id for one in log})
    for row, user in enumerate(grouped.users):
        mine = [one for one in log if one.user_id == user]
        mine.sort(key=lambda one: (one.ts, hash64(one.event_id)))
        rows = grouped.rows(row)
        assert grouped.entries["event"][rows].tolist() == [hash64(one.event_id) for one in mine]
        assert grouped.entries["ts_ms"][rows].tolist() == [one.ts for one in mine]
        assert grouped.entries["item"][rows].tolist() == [hash64(one.item_id) for one in mine]
        assert grouped.entries["strength"][rows].tolist() == [strength_of(one) for one in mine]
        assert grouped.items[rows] == [one.item_id for one in mine]
        assert [log[place] for place in grouped.place[rows].tolist()] == mine
    assert grouped.starts.tolist() == sorted(grouped.starts.tolist())
    marked = grouped.entries["strength"] > 0
    in_order = [int(grouped.place[row]) for row in grouped.in_order(marked)]
    assert in_order == [number for number, one in enumerate(log) if strength_of(one) > 0]


@settings(deadline=None)
@given(logs(ordered=False), st.integers(0, 39))
def test_histories_joined_by_the_batch_are_those_joined_one_by_one(log: list[Event], cut: int) -> None:
    if cut >= len(log):
        return
    grouped = group_by_user(batch(log[cut:]))
    found = merged(grouped, [history_of(log[:cut], user) for user in grouped.users])
    for user, history in zip(grouped.users, found, strict=True):
        expected = history_of(log[:cut], user)
        for one in log[cut:]:
            if one.user_id == user:
                expected = histories.merge(expected, *entries_of([one]))
        assert histories.encode(history) == histories.encode(expected)


def fresh(log: Sequence[Event], old: UserHistory) -> list[Event]:
    """Of one user's events those that are new to their history, in the order of the log."""
    grouped = group_by_user(batch(log))
    rows = grouped.in_order(fresh_rows(grouped, [old] * len(grouped.users)))
    return [log[int(grouped.place[row])] for row in rows]


@settings(deadline=None)
@given(logs(ordered=False), st.lists(st.booleans(), min_size=40, max_size=40))
def test_fresh_are_the_positive_events_that_no_history_holds_yet(log: list[Event], known: list[bool]) -> None:
    before = [one for one, is_known in zip(log, known, strict=False) if is_known]
    grouped = group_by_user(batch(log))
    found = fresh_rows(grouped, [history_of(before, user) for user in grouped.users])
    expected = [one for one in log if one not in before and strength_of(one) > 0]
    assert [log[int(grouped.place[row])] for row in grouped.in_order(found)] == expected


def test_another_user_s_event_of_the_same_id_is_no_repeat() -> None:
    mine, theirs = (engagement(1, START_MS, user, 3, EventType.CLICK) for user in (0, 1))
    grouped = group_by_user(batch([mine, theirs]))
    found = fresh_rows(grouped, [history_of([theirs], user) for user in grouped.users])
    assert [grouped.users[int(user)] for user in grouped.owner()[found]] == ["u0"]


def test_rows_of_each_user_and_their_owners_agree() -> None:
    log = [engagement(n, START_MS + n, n % 3, n, EventType.CLICK) for n in range(10)]
    grouped = group_by_user(batch(log))
    for user in range(len(grouped.users)):
        assert np.flatnonzero(grouped.owner() == user).tolist() == list(range(10))[grouped.rows(user)]
