"""Laws of every running metric: it is its batch twin, however a stream is cut, stored and gone on with."""

import pickle

import numpy as np
import pytest

from online_models.metrics.prequential import Snapshot
from tests.metric_cases import EVENTS, SEEDS, SIZE, STREAM, K, Running, drawn, each_running, in_batches, poisoned, torn


def told_alike(case: Running, one: float | None, other: float | None) -> bool:
    """To the bit, but for the rounding of a fading mean."""
    return one == other if case.latest is not None else one == pytest.approx(other)


def same(one: Snapshot, other: Snapshot) -> bool:
    return len(one) == len(other) and all(
        type(a) is type(b)
        and (np.array_equal(a, b) if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) else a == b)
        for a, b in zip(one, other, strict=True)
    )


@each_running
def test_a_running_metric_is_the_batch_metric_of_its_latest_events(case: Running) -> None:
    for seed in SEEDS:
        columns = drawn(case, seed, STREAM)
        metric, seen, told = case.make(), 0, 0
        assert (metric.count, metric.value) == (0, None)
        for batch in in_batches(columns, seed):
            metric.update(*batch)
            seen += len(batch[0])
            assert metric.count == seen
            begin = 0 if case.latest is None else max(0, seen - case.latest)
            if metric.value is not None:
                told += 1
                assert told_alike(case, metric.value, case.of(*(column[begin:seen] for column in columns)))
        assert told > 0


@each_running
def test_how_a_stream_is_batched_changes_nothing(case: Running) -> None:
    columns = drawn(case, 1, STREAM)
    whole = case.make()
    whole.update(*columns)
    for seed in SEEDS:
        parts = case.make()
        for batch in in_batches(columns, seed):
            parts.update(*batch)
        assert parts.count == whole.count
        assert told_alike(case, parts.value, whole.value)
        assert case.latest is None or same(parts.snapshot(), whole.snapshot())


@each_running
def test_restoring_and_going_on_equals_never_having_stopped(case: Running) -> None:
    batches = [batch for seed in range(3) for batch in in_batches(drawn(case, seed), seed + 1)]
    assert len(batches) > 5
    for stop in range(len(batches) + 1):
        steady = case.make()
        for batch in batches[:stop]:
            steady.update(*batch)
        again = type(steady).restore(pickle.loads(pickle.dumps(steady.snapshot())))
        assert same(again.snapshot(), steady.snapshot())
        for batch in batches[stop:]:
            steady.update(*batch)
            again.update(*batch)
            assert (again.value, again.count) == (steady.value, steady.count)
            assert same(again.snapshot(), steady.snapshot())


@each_running
def test_a_snapshot_is_plain_and_does_not_move_with_the_metric(case: Running) -> None:
    for events in (SIZE // 2, EVENTS):
        metric = case.make()
        metric.update(*drawn(case, 3, events))
        taken = metric.snapshot()
        name, version, *state = taken
        assert (type(name), type(version)) == (str, int)
        assert {type(part) for part in state} <= {str, int, float, np.ndarray}
        copy = pickle.loads(pickle.dumps(taken))
        restored = type(metric).restore(taken)
        metric.update(*drawn(case, 4))
        restored.update(*drawn(case, 5))
        assert same(taken, copy)


@each_running
def test_a_foreign_or_torn_snapshot_is_refused(case: Running) -> None:
    metric = case.make()
    metric.update(*drawn(case, 4))
    taken = metric.snapshot()
    for wrong in (
        ("somebody", *taken[1:]),
        (taken[0], 999, *taken[2:]),
        taken[:-1],
        (*taken[:3], *taken[4:]),
        (*taken, 1),
        (*taken[:3], "1", *taken[4:]),
        (),
    ):
        with pytest.raises(ValueError, match="expected a snapshot of"):
            type(metric).restore(wrong)


@each_running
def test_memory_is_bounded(case: Running) -> None:
    metric = case.make()
    for seed in range(4):
        metric.update(*drawn(case, seed, STREAM))
        # at most 8 bytes for each of K numbers of an event
        assert len(pickle.dumps(metric.snapshot())) <= SIZE * 8 * K + 1000
        assert len(pickle.dumps(metric)) <= SIZE * 8 * K + 1000


@each_running
def test_an_update_that_is_refused_takes_nothing_in(case: Running) -> None:
    metric = case.make()
    columns = drawn(case, 6)
    metric.update(*columns)
    taken = metric.snapshot()
    bad = [poisoned(columns, at) for at in range(len(columns))]
    bad += [torn(columns, at) for at in range(len(columns)) if len(columns) > 1]
    for batch in bad:
        for attempt in (metric.check, metric.update):
            with pytest.raises(ValueError, match=r"expected .* got"):
                attempt(*batch)
            assert same(metric.snapshot(), taken)


@each_running
def test_an_empty_batch_is_no_news_and_a_check_neither(case: Running) -> None:
    metric = case.make()
    columns = drawn(case, 7)
    metric.update(*columns)
    taken = metric.snapshot()
    metric.update(*(column[:0] for column in columns))
    metric.check(*columns)
    assert same(metric.snapshot(), taken)


@each_running
def test_the_constructor_refuses_bad_hyperparameters(case: Running) -> None:
    for refused in case.refused:
        with pytest.raises(ValueError, match=r"expected .* got"):
            refused()
