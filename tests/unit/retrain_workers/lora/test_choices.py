"""Choices made of events: nothing of the choice or after it is told, and columns stay together."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from online_models.errors import TrainingError
from retrain_workers.data.point_in_time import Histories, Rows, histories
from retrain_workers.lora.choices import choices_of, decayed, joined, with_replay
from tests.unit.retrain_workers.lora.little_world import choices

EVENTS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6), st.integers(0, 5)), min_size=1, max_size=30)


@given(events=EVENTS, recent=st.integers(1, 4), data=st.data())
def test_a_history_is_the_newest_events_of_the_user_strictly_before(
    events: list[tuple[int, int, int]], recent: int, data: st.DataObject
) -> None:
    user, item, ts_ms = (np.array(column, np.int64) for column in zip(*events, strict=True))
    chosen = np.array(data.draw(st.lists(st.integers(0, len(events) - 1), max_size=5)), np.int64)
    found = choices_of(user, item, ts_ms, chosen, np.full((len(chosen), 2), 99), recent)
    for row, event in enumerate(chosen.tolist()):
        before = [(at, n) for n, at in enumerate(ts_ms.tolist()) if user[n] == user[event] and at < ts_ms[event]]
        assert found.history(row).tolist() == [item[n] for _, n in sorted(before)][-recent:]
        assert found.candidates[row].tolist() == [item[event], 99, 99]
        assert found.ts_ms[row] == ts_ms[event]


def test_later_events_change_no_choice_before_them() -> None:
    user, item, ts_ms = np.zeros(4, np.int64), np.arange(4), np.arange(4) * 10
    chosen, beside = np.array([2]), np.array([[7]])
    known = choices_of(user[:3], item[:3], ts_ms[:3], chosen, beside, 8)
    assert choices_of(user, item, ts_ms, chosen, beside, 8).sha256() == known.sha256()


def test_a_join_that_leaks_gives_no_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    user, item, ts_ms = np.zeros(3, np.int64), np.arange(3), np.array([0, 10, 10])
    chosen, beside = np.array([2]), np.array([[7]])
    choices_of(user, item, ts_ms, chosen, beside, 8)
    monkeypatch.setattr("retrain_workers.lora.choices.histories", one_row_too_many)
    with pytest.raises(TrainingError, match="leak"):
        choices_of(user, item, ts_ms, chosen, beside, 8)


def one_row_too_many(key: Rows, ts_ms: Rows, at_key: Rows, at_ms: Rows) -> Histories:
    """A join by row: the item of the same basket is history."""
    found = histories(key, ts_ms, at_key, at_ms)
    return dataclasses.replace(found, end=found.end + 1)


def test_negatives_weigh_beside_each_other_and_what_is_taken_keeps_its_share() -> None:
    user, item, ts_ms = np.zeros(3, np.int64), np.arange(3), np.arange(3)
    beside, weights = np.array([[7, 8], [7, 8]]), np.array([[1, 1], [9, 1]], np.float32)
    found = choices_of(user, item, ts_ms, np.array([1, 2]), beside, 8, negative_weights=weights)
    np.testing.assert_allclose(found.candidate_weights, np.array([[1, 1, 1], [1, 1.8, 0.2]]), rtol=1e-6)
    alike = choices_of(user, item, ts_ms, np.array([1, 2]), beside, 8)
    assert alike.candidate_weights.tolist() == [[1, 1, 1], [1, 1, 1]]
    assert found.take(np.array([1])).candidate_weights.tolist() == found.candidate_weights[1:].tolist()
    assert joined(alike, found).candidate_weights.tolist() == [
        *alike.candidate_weights.tolist(),
        *found.candidate_weights.tolist(),
    ]
    assert found.sha256() != alike.sha256()


def test_the_taken_item_beside_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        choices_of(np.zeros(1, np.int64), np.array([4]), np.zeros(1, np.int64), np.array([0]), np.array([[4]]), 8)


def test_replay_adds_a_share_of_old_choices_the_same_each_time() -> None:
    new, old = choices(40, 0), choices(60, 1)
    mixed = with_replay(new, old, 0.25, seed=3)
    assert len(mixed) == 50
    assert mixed.take(np.arange(40)).sha256() == new.sha256()
    assert with_replay(new, old, 0.25, seed=3).sha256() == mixed.sha256()
    assert with_replay(new, old, 0.25, seed=4).sha256() != mixed.sha256()
    assert len(with_replay(new, old, 9.0, seed=3)) == 100
    assert with_replay(new, choices(0, 1), 0.25, seed=3) is new


def test_choices_are_taken_and_joined_with_their_histories() -> None:
    groups = choices(20, 0)
    rows = np.array([7, 3, 3])
    assert [each.tolist() for each in groups.take(rows).histories()] == [groups.history(row).tolist() for row in rows]
    assert joined(groups.take(np.arange(5)), groups.take(np.arange(5, 20))).sha256() == groups.sha256()


def test_a_choice_one_half_life_older_weighs_half() -> None:
    groups = choices(3, 0)
    day = 86_400_000
    assert decayed(groups, 1_000 / day).weights.tolist() == [0.25, 0.5, 1.0]
