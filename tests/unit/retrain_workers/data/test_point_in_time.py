"""Point-in-time joins: the histories of events, checked one by one, and the leak that is planted in them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from online_models.errors import TrainingError
from retrain_workers.data.datasets import dataset_of
from retrain_workers.data.point_in_time import Rows, check_no_leak, first_not_before, histories
from tests.clustered_world import as_interactions, clustered_events

PAIRS = st.lists(st.tuples(st.integers(-2, 5), st.integers(0, 12)), max_size=40)


def columns(pairs: list[tuple[int, int]]) -> tuple[Rows, Rows]:
    table = np.array(pairs, np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


@given(events=PAIRS, targets=PAIRS, count=st.integers(0, 5))
def test_a_history_is_what_happened_to_its_key_strictly_before(
    events: list[tuple[int, int]], targets: list[tuple[int, int]], count: int
) -> None:
    found = histories(*columns(events), *columns(targets))
    indptr, rows = found.entries()
    newest = found.newest(count)
    assert len(found) == len(targets)
    assert newest.shape == (len(targets), count)
    for number, (at_key, at_ms) in enumerate(targets):
        expected = [row for row, (key, ts) in enumerate(events) if key == at_key and ts < at_ms]
        expected.sort(key=lambda row: (events[row][1], row))
        assert rows[indptr[number] : indptr[number + 1]].tolist() == expected
        assert found.end[number] - found.start[number] == len(expected)
        padded = [*expected[::-1], *[-1] * count][:count]
        assert newest[number].tolist() == padded


@given(events=PAIRS, targets=PAIRS)
def test_the_first_pair_not_before_another_is_found(
    events: list[tuple[int, int]], targets: list[tuple[int, int]]
) -> None:
    events.sort()
    found = first_not_before(*columns(events), *columns(targets))
    assert found.tolist() == [sum(event < target for event in events) for target in targets]


def test_keys_of_any_size_do_not_overflow() -> None:
    key, ts_ms = np.array([-(2**62), 2**62, 2**62]), np.array([2**60, -(2**60), 2**60])
    assert histories(key, ts_ms, key, ts_ms).newest(1)[:, 0].tolist() == [-1, -1, 1]


def test_the_items_of_one_basket_are_no_history_of_each_other() -> None:
    user, ts_ms = np.array([7, 7, 7]), np.array([10, 20, 20])
    assert histories(user, ts_ms, user, ts_ms).newest(3).tolist() == [[-1] * 3, [0, -1, -1], [0, -1, -1]]


def test_joined_histories_never_leak() -> None:
    data = dataset_of(as_interactions(clustered_events(0, events=600)))
    indptr, rows = histories(data.user, data.ts_ms, data.user, data.ts_ms).entries()
    check_no_leak(data.ts_ms[rows], np.repeat(np.arange(len(data)), np.diff(indptr)), data.ts_ms)


@pytest.mark.parametrize("later_ms", [0, 1, 3_600_000])
def test_a_leak_planted_in_the_histories_is_caught_and_named(later_ms: int) -> None:
    data = dataset_of(as_interactions(clustered_events(0, events=600)))
    indptr, rows = histories(data.user, data.ts_ms, data.user, data.ts_ms).entries()
    target = np.repeat(np.arange(len(data)), np.diff(indptr))
    entry_ms = data.ts_ms[rows].copy()
    planted = len(rows) // 2
    event = target[planted]
    entry_ms[planted] = data.ts_ms[event] + later_ms
    with pytest.raises(TrainingError, match=f"history of event {event} strictly before {data.ts_ms[event]} ms"):
        check_no_leak(entry_ms, target, data.ts_ms)


def test_joining_by_row_instead_of_time_is_caught_as_a_leak() -> None:
    ts_ms = np.array([10, 20, 20])
    # what a shifted column of one user's rows gives: the first item of the basket is history of the second
    rows, target = np.array([(earlier, event) for event in range(3) for earlier in range(event)]).T
    with pytest.raises(TrainingError, match="history of event 2 strictly before 20 ms, got one of 20 ms"):
        check_no_leak(ts_ms[rows], target, ts_ms)


@pytest.mark.parametrize("rows_too_many", [1, 2])
def test_one_look_at_the_newest_entries_tells_a_leak_of_all(rows_too_many: int) -> None:
    data = dataset_of(as_interactions(clustered_events(0, events=600)))
    found = histories(data.user, data.ts_ms, data.user, data.ts_ms)
    found.refuse_leak(data.ts_ms, data.ts_ms)
    end = found.end.copy()
    event = int(
        np.flatnonzero(data.user == 3)[-rows_too_many]
    )  # by a row too many the event itself, by two a later one
    end[event] += rows_too_many
    with pytest.raises(TrainingError, match=f"history of event {event} strictly before {data.ts_ms[event]} ms"):
        replace(found, end=end).refuse_leak(data.ts_ms, data.ts_ms)
