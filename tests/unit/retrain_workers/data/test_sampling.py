"""Negatives, down-sampling and replay: what is drawn, how often, and that arrival changes nothing."""

import math
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from retrain_workers.data.datasets import Dataset, dataset_of
from retrain_workers.data.impressions import NEVER, Impressions
from retrain_workers.data.sampling import Negatives, Rows, event_keys, logit_correction, negatives, replayed
from tests.clustered_world import as_interactions, clustered_events


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
        np.where(np.array(clicked, np.bool_), 0, NEVER),
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


@given(truth=st.floats(1e-6, 1 - 1e-6), rate=st.floats(0.01, 1.0))
def test_the_correction_undoes_what_down_sampling_does_to_a_probability(truth: float, rate: float) -> None:
    # among what is left there is a share `rate` of the negatives
    seen = truth / (truth + (1 - truth) * rate)
    logit = math.log(seen / (1 - seen)) + logit_correction(rate)
    assert math.isclose(1 / (1 + math.exp(-logit)), truth, rel_tol=1e-9)


@given(old=st.integers(0, 60), new=st.integers(0, 60), share=st.floats(0, 3), seed=st.integers(0, 2**32))
def test_a_share_of_the_new_examples_is_replayed_of_the_old_ones_none_twice(
    old: int, new: int, share: float, seed: int
) -> None:
    rows = replayed(old, new, share, seed).tolist()
    assert rows == sorted(set(rows))
    assert len(rows) == min(old, round(share * new))
    assert set(rows) <= set(range(old))
    assert replayed(old, new, share, seed).tolist() == rows


def test_every_old_example_is_as_likely_to_be_replayed() -> None:
    chosen = np.zeros(50)
    for seed in range(4_000):
        chosen[replayed(50, 40, 0.25, seed)] += 1
    np.testing.assert_allclose(chosen / 4_000, 0.2, atol=5 * math.sqrt(0.16 / 4_000))
