"""Numbered columns, decay, and what counts as too little."""

from dataclasses import replace

import numpy as np
import pytest

from online_models.contracts.events import TYPE_CODES, EventType
from online_models.errors import TrainingError
from online_models.interactions import DAY_MS
from retrain_workers.data.datasets import (
    Dataset,
    content_sha256,
    dataset_of,
    decay_weights,
    decayed_preferences,
    refuse_too_little,
    window_of,
)
from tests.clustered_world import as_interactions, clustered_events


def test_users_and_items_are_numbered_by_sorted_ids() -> None:
    columns = as_interactions(clustered_events(0, events=300))
    found = dataset_of(columns)
    assert list(found.users) == sorted(set(columns.user_id))
    assert [found.users[row] for row in found.user] == columns.user_id
    assert [found.items[row] for row in found.item] == columns.item_id


def test_an_event_one_half_life_older_weighs_half_and_repeated_ones_add_up() -> None:
    rows = np.zeros(3, np.int32)
    times = np.array([0, 10 * DAY_MS, 10 * DAY_MS])
    strength, recommended = np.array([4.0, 1.0, 1.0], np.float32), np.zeros(3, np.bool_)
    events = Dataset(["u"], ["i"], rows, rows, times, strength, recommended)
    assert decayed_preferences(events, half_life_days=10).toarray().tolist() == [[4.0]]


def test_too_little_data_is_a_training_error() -> None:
    few = dataset_of(as_interactions(clustered_events(0, events=49)))
    with pytest.raises(TrainingError, match="at least 50 positive events on 5 items, got 49 on"):
        refuse_too_little(few, 50, 5)
    refuse_too_little(few, 49, 5)
    with pytest.raises(TrainingError, match="on 101 items"):
        refuse_too_little(few, 49, 101)


def test_events_that_say_nothing_positive_are_no_data() -> None:
    columns = as_interactions(clustered_events(0, events=80))
    skipped = np.full(80, TYPE_CODES[EventType.SKIP], np.int8)
    with pytest.raises(TrainingError, match="got 0 on 0"):
        refuse_too_little(dataset_of(replace(columns, type=skipped)), 1, 2)


def test_the_content_hash_tells_any_changed_event() -> None:
    columns = as_interactions(clustered_events(0, events=100))
    other = [
        replace(columns, user_id=[*columns.user_id[:-1], "somebody"]),
        replace(columns, value=np.where(np.arange(100) == 50, 1.0, columns.value)),
        replace(columns, ts_ms=columns.ts_ms + 1),
        replace(columns, features=[None, *columns.features[1:]]),
    ]
    assert len({content_sha256(each) for each in (columns, *other)}) == 5
    assert window_of(columns) == window_of(as_interactions(clustered_events(0, events=100)))


def test_decay_is_measured_from_the_newest_event_unless_a_time_is_given() -> None:
    times = np.array([0, 7, 14]) * DAY_MS
    np.testing.assert_allclose(decay_weights(times, 7.0), [0.25, 0.5, 1.0])
    np.testing.assert_allclose(decay_weights(times, 7.0, now_ms=21 * DAY_MS), [0.125, 0.25, 0.5])
    assert decay_weights(times[:0], 7.0).tolist() == []
