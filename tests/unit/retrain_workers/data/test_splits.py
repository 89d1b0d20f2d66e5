"""Splits by time: no holdout reaches into its history, and a rolling origin holds every event out once."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from online_models.errors import TrainingError
from retrain_workers.data.datasets import Dataset, dataset_of
from retrain_workers.data.splits import Split, expanding_splits, sliding_splits, split
from tests.clustered_world import as_interactions, clustered_events

EVENTS = st.lists(st.tuples(st.integers(0, 60), st.sampled_from([0.0, 1.0, 4.0])), max_size=60).map(sorted)


def dataset(times: list[int], strengths: list[float]) -> Dataset:
    rows = np.arange(len(times), dtype=np.int32)
    names = [f"{row:03}" for row in rows]
    strength, recommended = np.array(strengths, np.float32), np.zeros(len(rows), np.bool_)
    return Dataset(names, names, rows, rows, np.array(times, np.int64), strength, recommended)


@given(
    events=st.lists(st.tuples(st.integers(0, 20), st.sampled_from([0.0, 1.0, 4.0])), min_size=1, max_size=60),
    fraction=st.floats(0.01, 0.9),
    not_before_ms=st.none() | st.integers(0, 25),
)
def test_the_history_lies_strictly_before_the_holdout(
    events: list[tuple[int, float]], fraction: float, not_before_ms: int | None
) -> None:
    times, strengths = zip(*sorted(events), strict=True)
    all_events = dataset(list(times), list(strengths))
    try:
        parts = split(all_events, fraction, not_before_ms)
    except TrainingError:
        positive = all_events.positive().ts_ms
        floor = 0 if not_before_ms is None else not_before_ms
        at_the_cut = [t for t in positive if t < max(floor, positive[int(len(positive) * (1 - fraction))])]
        assert not at_the_cut
        return
    assert parts.history.ts_ms.max() < parts.cut_ms
    assert parts.holdout.ts_ms.min(initial=parts.cut_ms) >= parts.cut_ms
    assert not_before_ms is None or parts.cut_ms >= not_before_ms
    assert (parts.holdout.strength > 0).all()
    assert len(parts.history.positive()) + len(parts.holdout) == len(all_events.positive())


def test_the_holdout_is_about_the_asked_fraction_of_the_positive_events() -> None:
    parts = split(dataset_of(as_interactions(clustered_events(0))), 0.2)
    assert len(parts.holdout) == 300


def test_the_holdout_begins_after_what_the_champion_was_trained_on() -> None:
    events = dataset([0, 10, 20, 30, 40], [1.0] * 5)
    assert split(events, 0.6, not_before_ms=31).holdout.ts_ms.tolist() == [40]


def test_what_answers_a_recommendation_stays_marked_through_the_split() -> None:
    columns = as_interactions(clustered_events(0, events=100))
    columns = replace(columns, recommended=np.arange(100) % 3 == 0)
    parts = split(dataset_of(columns), 0.3)
    assert parts.history.recommended.tolist() == columns.recommended[:70].tolist()
    assert parts.holdout.recommended.tolist() == columns.recommended[70:].tolist()


def rows_of(part: Dataset) -> list[int]:
    rows: list[int] = part.user.tolist()
    return rows


@given(events=EVENTS, history_ms=st.integers(1, 30), holdout_ms=st.integers(1, 30), sliding=st.booleans())
def test_a_rolling_origin_keeps_the_order_of_time_and_holds_every_event_out_once(
    events: list[tuple[int, float]], history_ms: int, holdout_ms: int, sliding: bool
) -> None:
    everything = dataset([time for time, _ in events], [strength for _, strength in events])
    rolling = sliding_splits if sliding else expanding_splits
    parts = list(rolling(everything, history_ms, holdout_ms))
    for part in parts:
        assert part.history.ts_ms.max() < part.cut_ms <= part.holdout.ts_ms.min()
        assert part.holdout.ts_ms.max() < part.cut_ms + holdout_ms
        assert not sliding or part.history.ts_ms.min() >= part.cut_ms - history_ms
        assert (part.holdout.strength > 0).all()
        assert not set(rows_of(part.history)) & set(rows_of(part.holdout))
    held_out = [row for part in parts for row in rows_of(part.holdout)]
    assert held_out == slowly_held_out(everything, history_ms, holdout_ms, sliding)
    assert [part.cut_ms for part in parts] == sorted({part.cut_ms for part in parts})


def slowly_held_out(everything: Dataset, history_ms: int, holdout_ms: int, sliding: bool) -> list[int]:
    """The positive events from the first cut on, each once, but for windows whose history has nothing positive."""
    found = []
    events = list(zip(everything.ts_ms.tolist(), everything.strength.tolist(), strict=True))
    for row, (time, strength) in enumerate(events):
        first = events[0][0] + history_ms
        if strength == 0 or time < first:
            continue
        cut = first + (time - first) // holdout_ms * holdout_ms
        since = cut - history_ms if sliding else events[0][0]
        if any(since <= earlier < cut and positive > 0 for earlier, positive in events):
            found.append(row)
    return found


def test_an_expanding_history_is_all_that_came_before() -> None:
    everything = dataset([0, 10, 20, 30, 40, 50], [1.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    told = [(rows_of(each.history), rows_of(each.holdout)) for each in expanding_splits(everything, 15, 20)]
    assert told == [([0, 1], [2, 3]), ([0, 1, 2, 3], [4, 5])]


def test_a_pause_of_years_costs_no_window() -> None:
    everything = dataset([0, 1, 10**13], [1.0, 1.0, 1.0])
    parts: list[Split] = list(expanding_splits(everything, 1, 1))
    assert [rows_of(part.holdout) for part in parts] == [[1], [2]]


def test_windows_without_length_are_refused() -> None:
    with pytest.raises(TrainingError, match="longer than 0 ms, got 0 ms and 5 ms"):
        list(sliding_splits(dataset([0], [1.0]), 0, 5))
