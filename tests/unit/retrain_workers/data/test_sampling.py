"""Negatives, down-sampling and replay: what is drawn, how often, and that arrival changes nothing."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online_models.errors import TrainingError
from retrain_workers.data.datasets import Dataset, dataset_of
from retrain_workers.data.impressions import Impressions
from retrain_workers.data.sampling import (
    Negatives,
    Rows,
    calibrated,
    event_keys,
    kept,
    kept_weights,
    logit_correction,
    negatives,
    replay,
    warm_rows,
)
from tests.clustered_world import as_interactions, clustered_events

RATES = st.floats(0.01, 1.0)


def world(events: int = 300) -> Dataset:
    return dataset_of(as_interactions(clustered_events(0, events=events)))


def reordered(dataset: Dataset, order: Rows) -> Dataset:
    names = ("user", "item", "ts_ms", "strength", "recommended")
    return replace(dataset, **{name: getattr(dataset, name)[order] for name in names})


def small(events: list[tuple[int, int, float]], users: int = 3, items: int = 6) -> Dataset:
    """One event a millisecond: user, item, strength."""
    user, item, strength = np.array(events, np.float64).reshape(-1, 3).T
    return Dataset(
        [f"u{n}" for n in range(users)],
        [f"i{n}" for n in range(items)],
        user.astype(np.int32),
        item.astype(np.int32),
        np.arange(len(events)) * 10,
        strength.astype(np.float32),
        np.zeros(len(events), np.bool_),
    )


Shown = tuple[int, int, int, float, bool]


def impressions(shown: list[Shown]) -> Impressions:
    """User, item, time, propensity, clicked."""
    user, item, ts_ms, propensity, clicked = zip(*shown, strict=True) if shown else ((),) * 5
    n = len(shown)
    return Impressions(
        [f"u{each}" for each in user],
        [f"i{each}" for each in item],
        np.array(ts_ms, np.int64),
        [None] * n,
        np.full(n, -1, np.int32),
        np.array(propensity, np.float64),
        np.array(clicked, np.bool_),
    )


def test_equal_events_have_keys_of_their_own_and_order_changes_none() -> None:
    events = small([(0, 1, 1.0), (0, 1, 1.0), (0, 2, 1.0), (1, 1, 1.0), (0, 1, 4.0)])
    events = replace(events, ts_ms=np.zeros(5, np.int64))
    keys = event_keys(events)
    assert len(set(keys.tolist())) == 5
    backwards = event_keys(reordered(events, np.arange(5)[::-1]))
    assert sorted(backwards.tolist()) == sorted(keys.tolist())
    assert backwards[2] == keys[2]
    assert event_keys(small([])).tolist() == []


EVENTS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 5), st.sampled_from([0.0, 1.0, 4.0])), min_size=1, max_size=12
)
SHOWN = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.integers(0, 8),
        st.integers(0, 120),
        st.sampled_from([0.001, 0.5, 1.0, math.nan]),
        st.booleans(),
    ),
    max_size=12,
).map(lambda shown: sorted(shown, key=lambda row: row[2]))


@settings(deadline=None)
@given(events=EVENTS, shown=SHOWN, count=st.integers(0, 7), seed=st.integers(-5, 5), shown_ms=st.integers(0, 60))
def test_negatives_are_shown_ones_first_and_then_unmet_items_as_far_as_there_are_any(
    events: list[tuple[int, int, float]], shown: list[Shown], count: int, seed: int, shown_ms: int
) -> None:
    dataset = small(events)
    rows = np.arange(len(events))
    found = negatives(dataset, rows, count, seed, impressions(shown), max_weight=5.0, shown_ms=shown_ms)
    assert found.item.shape == found.weight.shape == (len(events), count)
    for row, (user, _, _) in enumerate(events):
        expected = slowly_shown(events, shown, row, shown_ms)[:count]
        items, weights = found.item[row].tolist(), found.weight[row].tolist()
        assert list(zip(items, weights, strict=True))[: len(expected)] == expected
        met = {item for who, item, _ in events if who == user}
        left = set(range(6)) - met - {item for item, _ in expected}
        drawn = items[len(expected) :]
        filled = min(len(left), count - len(expected))
        assert set(drawn[:filled]) <= left
        assert len(set(drawn[:filled])) == filled
        assert drawn[filled:] == [-1] * (count - len(expected) - filled)
        assert weights[len(expected) :] == [1.0] * filled + [0.0] * (count - len(expected) - filled)


def slowly_shown(
    events: list[tuple[int, int, float]], shown: list[Shown], row: int, shown_ms: int
) -> list[tuple[int, float]]:
    """Items and weights, newest impression first, the larger item first at equal times."""
    user, now = events[row][0], row * 10
    taken = {item for who, item, strength in events if who == user and strength > 0}
    looked_past = [
        (ts_ms, item, propensity)
        for who, item, ts_ms, propensity, clicked in shown
        if who == user and item < 6 and not clicked and item not in taken and now - shown_ms <= ts_ms <= now
    ]
    found: dict[int, float] = {}
    for _, item, propensity in sorted(looked_past, key=lambda each: each[:2], reverse=True):
        found.setdefault(item, 1.0 if math.isnan(propensity) else min(1 / propensity, 5.0))
    return list(found.items())


def test_an_impression_at_one_time_twice_counts_once() -> None:
    dataset = small([(0, 0, 1.0), (1, 1, 1.0)])
    found = negatives(dataset, np.array([0]), 2, 0, impressions([(0, 3, 0, 0.5, False), (0, 3, 0, 0.5, False)]))
    assert found.item[0, 0] == 3
    assert found.item[0, 1] == 1  # the only other item that anybody has taken


def test_items_are_drawn_by_the_root_of_their_popularity() -> None:
    # items 1 to 4 are taken 1, 4, 9 and 16 times by user 1; user 0 has met item 0 alone, once per event
    events = [(1, item, 1.0) for item in range(1, 5) for _ in range(item**2)] + [(0, 0, 1.0)] * 20_000
    dataset = small(events, users=2, items=5)
    found = negatives(dataset, np.flatnonzero(dataset.user == 0), 1, seed=3)
    share = np.bincount(found.item[:, 0], minlength=5) / 20_000
    np.testing.assert_allclose(share, [0.0, 0.1, 0.2, 0.3, 0.4], atol=5 * math.sqrt(0.25 / 20_000))


def same(left: Negatives, right: Negatives) -> bool:
    return np.array_equal(left.item, right.item) and np.array_equal(left.weight, right.weight)


def test_negatives_are_the_same_again_and_in_any_order_and_others_under_another_seed() -> None:
    dataset = world()
    rows = np.arange(0, 300, 7)
    once = negatives(dataset, rows, 5, 1)
    assert same(once, negatives(dataset, rows, 5, 1))
    assert not same(once, negatives(dataset, rows, 5, 2))
    order = np.random.default_rng(0).permutation(300)
    again = negatives(reordered(dataset, order), np.argsort(order)[rows], 5, 1)
    assert same(once, again)


@given(rate=RATES, seed=st.integers(0, 2**63))
def test_positives_are_all_kept_and_the_share_of_negatives_is_the_rate(rate: float, seed: int) -> None:
    keys = np.arange(4_000, dtype=np.uint64) * np.uint64(7_919)
    positive = np.arange(4_000) % 10 == 0
    chosen = kept(positive, keys, rate, seed)
    assert chosen[positive].all()
    share = chosen[~positive].mean()
    assert abs(share - rate) < 6 * math.sqrt(rate * (1 - rate) / 3_600) + 1e-9


@pytest.mark.parametrize("rate", [0.0, -0.5, 1.5, math.nan])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(TrainingError, match=r"rate within \(0, 1\]"):
        kept(np.zeros(1, np.bool_), np.zeros(1, np.uint64), rate, 0)


@settings(max_examples=20)
@given(rate=st.floats(0.05, 1.0), values=st.lists(st.floats(-5, 5), min_size=20, max_size=20))
def test_reweighted_sums_over_what_is_kept_are_unbiased(rate: float, values: list[float]) -> None:
    value, positive = np.array(values), np.arange(20) % 4 == 0
    keys = np.arange(20, dtype=np.uint64)
    draws = 3_000
    sums = np.empty(draws)
    for seed in range(draws):
        chosen = kept(positive, keys, rate, seed)
        sums[seed] = (value[chosen] * kept_weights(positive[chosen], rate)).sum()
    # the variance of a Horvitz-Thompson sum: Σ v² (1 - w) / w over the negatives
    sd = math.sqrt((value[~positive] ** 2).sum() * (1 - rate) / rate / draws)
    assert abs(sums.mean() - value.sum()) < 6 * sd + 1e-9


@given(truth=st.floats(1e-6, 1 - 1e-6), rate=RATES)
def test_calibration_undoes_what_down_sampling_does_to_a_probability(truth: float, rate: float) -> None:
    # among kept events a share `rate` of the negatives is left
    seen = truth / (truth + (1 - truth) * rate)
    corrected = calibrated(np.array([seen]), rate)
    np.testing.assert_allclose(corrected, truth, rtol=1e-9)
    logit = math.log(seen / (1 - seen)) + logit_correction(rate)
    assert math.isclose(1 / (1 + math.exp(-logit)), truth, rel_tol=1e-9)


@given(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=5), count=st.integers(0, 40), seed=st.integers(0, 9))
def test_the_replay_of_a_whole_is_the_replay_of_its_parts_replays(sizes: list[int], count: int, seed: int) -> None:
    keys = event_keys(world(sum(sizes))) if sum(sizes) else np.empty(0, np.uint64)
    whole = replay(keys, count, seed)
    assert whole.tolist() == sorted(set(whole.tolist()))
    assert len(whole) == min(count, len(keys))
    parts = np.split(keys, np.cumsum(sizes)[:-1])
    merged = np.concatenate([part[replay(part, count, seed)] for part in parts])
    assert set(merged[replay(merged, count, seed)].tolist()) == set(keys[whole].tolist())


def test_every_event_is_as_likely_to_be_replayed() -> None:
    keys = event_keys(world(50))
    chosen = np.zeros(50)
    for seed in range(4_000):
        chosen[replay(keys, 10, seed)] += 1
    np.testing.assert_allclose(chosen / 4_000, 0.2, atol=5 * math.sqrt(0.16 / 4_000))


def test_a_warm_start_sees_all_new_events_and_a_share_of_the_old_ones() -> None:
    dataset = world(400)
    since_ms = int(dataset.ts_ms[320])
    rows = warm_rows(dataset.ts_ms, event_keys(dataset), since_ms, 0.25, 0)
    assert rows.tolist() == sorted(rows.tolist())
    assert set(range(320, 400)) < set(rows.tolist())
    assert len(rows) == 80 + 20
    everything = warm_rows(dataset.ts_ms, event_keys(dataset), since_ms, 9.0, 0)
    assert everything.tolist() == list(range(400))
