"""Examples against a slow reading of the same events, one by one; no history holds what came at its event's time or later."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from online_models.errors import TrainingError
from online_models.interactions import DAY_MS
from retrain_workers.data import point_in_time
from retrain_workers.data.datasets import Dataset
from retrain_workers.data.point_in_time import Histories
from retrain_workers.two_tower.examples import Examples, TowerData, decayed_weights

Event = tuple[int, int, int]
ITEMS = 6
LENGTH = 4
events = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 3), st.integers(0, ITEMS - 1)), max_size=40).map(sorted)
"""(time, user, item), oldest first; times, users and items repeat."""


def data_of(given: Sequence[Event], **more: dict[str, np.ndarray]) -> TowerData:
    ts_ms, user, item = (np.array(column, np.int64) for column in (zip(*given, strict=True) if given else ((), (), ())))
    ids = [f"i{row}" for row in range(ITEMS)]
    return TowerData(ids, {}, user, item, ts_ms, np.ones(len(given), np.float32), **more)


def one_by_one(given: Sequence[Event]) -> list[tuple[Event, list[int]]]:
    """Oracle: each user's first event with an item, and all items that the user met strictly before it, newest first."""
    found = []
    for number, (ts_ms, user, item) in enumerate(given):
        if any((u, i) == (user, item) for _, u, i in given[:number]):
            continue
        before = [i for t, u, i in given if u == user and t < ts_ms]
        found.append(((ts_ms, user, item), before[::-1]))
    return found


@given(events)
def test_examples_are_first_events_with_all_that_came_strictly_before(given: list[Event]) -> None:
    examples, expected = Examples.of(data_of(given), 30.0), one_by_one(given)
    told = list(zip(examples.ts_ms.tolist(), examples.user.tolist(), examples.target.tolist(), strict=True))
    assert told == [event for event, _ in expected]
    histories = examples.histories(np.arange(len(examples)), LENGTH).tolist()
    assert histories == [(before + [-1] * LENGTH)[:LENGTH] for _, before in expected]


@given(events)
def test_what_comes_later_changes_no_example(given: list[Event]) -> None:
    cut = given[len(given) // 2][0] if given else 0
    whole, past = Examples.of(data_of(given), 30.0), Examples.of(data_of([e for e in given if e[0] < cut]), 30.0)
    rows = np.arange(len(past))
    assert whole.target[rows].tolist() == past.target.tolist()
    assert whole.histories(rows, LENGTH).tolist() == past.histories(rows, LENGTH).tolist()


@given(events, st.integers(0, 2**32 - 1))
def test_a_batch_names_every_item_once(given: list[Event], seed: int) -> None:
    examples = Examples.of(data_of(given), 30.0)
    rows = np.random.default_rng(seed).permutation(len(examples))[: len(examples) // 2]
    batch = examples.batch(rows, LENGTH)
    assert len(np.unique(batch.items)) == len(batch.items)
    assert batch.items[batch.targets].tolist() == examples.target[rows].tolist()
    named = np.where(batch.history >= 0, np.append(batch.items, -1)[batch.history], -1)
    assert named.tolist() == examples.histories(rows, LENGTH).tolist()
    assert batch.weights.tolist() == examples.weight[rows].tolist()


def test_a_basket_is_no_history_of_itself_and_has_one_for_what_follows() -> None:
    examples = Examples.of(data_of([(1, 0, 0), (1, 0, 1), (2, 0, 2)]), 30.0)
    assert examples.histories(np.arange(3), 3).tolist() == [[-1, -1, -1], [-1, -1, -1], [1, 0, -1]]


def test_a_join_that_leaks_gives_no_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [(0, 0, 1), (5, 0, 2), (5, 0, 3)]
    Examples.of(data_of(given), 30.0)
    monkeypatch.setattr("retrain_workers.two_tower.examples.histories", one_row_too_many)
    with pytest.raises(TrainingError, match="leak"):
        Examples.of(data_of(given), 30.0)


def one_row_too_many(key: np.ndarray, ts_ms: np.ndarray, at_key: np.ndarray, at_ms: np.ndarray) -> Histories:
    """A join by row: what came at the same time is history."""
    found = point_in_time.histories(key, ts_ms, at_key, at_ms)
    return replace(found, end=found.end + 1)


def test_the_half_life_is_no_less_than_a_fourth_of_the_span() -> None:
    ts_ms = np.array([0, 75, 100]) * DAY_MS
    assert decayed_weights(ts_ms, 1.0).tolist() == decayed_weights(ts_ms, 25.0).tolist()
    assert decayed_weights(ts_ms, 50.0)[0] / decayed_weights(ts_ms, 50.0)[2] == pytest.approx(0.25)
    assert decayed_weights(ts_ms, 50.0).mean() == pytest.approx(1)
    assert decayed_weights(ts_ms[:1], 50.0).tolist() == [1.0]


def test_demographics_go_with_the_users() -> None:
    examples = Examples.of(data_of([(1, 1, 0), (2, 0, 0)], demographics={"age": np.array([7, -1])}), 30.0)
    assert examples.batch(np.arange(2), 2).demographics["age"].tolist() == [-1, 7]


def test_a_dataset_gives_its_positive_events_of_the_wanted_items() -> None:
    columns = np.array([0, 1, 2, 0], np.int32)
    strength = np.array([1, 0, 2, 3], np.float32)
    dataset = Dataset("u", "abc", columns * 0, columns, np.arange(4), strength, columns > 9)
    data = TowerData.of(dataset, "ca", {})
    assert (data.item.tolist(), data.ts_ms.tolist(), data.strength.tolist()) == ([1, 0, 1], [0, 2, 3], [1, 2, 3])


@pytest.mark.parametrize(
    ("given", "message"),
    [([(2, 0, 0), (1, 0, 1)], "oldest first"), ([(1, 0, ITEMS)], "rows of 6 items"), ([(1, 0, -1)], "rows of 6")],
)
def test_columns_that_are_no_positive_events_in_order_are_refused(given: list[Event], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        data_of(given)
