"""Ranks over time: what they weigh, that they know noise from signal, and that a restart changes nothing."""

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import numpy.typing as npt
import pytest

from online_models.ranking import KEPT_PAIRS, Ranking, drawn_pairs

I64 = npt.NDArray[np.int64]
HOUR_MS = 3_600_000


@dataclass(frozen=True)
class Values:
    rows: None
    cells: npt.NDArray[np.uint16]


def world(
    rng: np.random.Generator, tells: Sequence[float], words: Sequence[int], events: int
) -> tuple[list[Values], I64]:
    """Features whose code says the class with the given strength, and the target, one event in ten."""
    target = (rng.random(events) < 0.1).astype(np.int64)
    codes = [rng.integers(0, size, events) for size in words]
    codes = [np.where(rng.random(events) < tell, target, of) for of, tell in zip(codes, tells, strict=True)]
    return [Values(None, of.astype(np.uint16)) for of in codes], target


def ranked_after(ranking: Ranking, panes: Sequence[tuple[int, Sequence[float], int]], words: Sequence[int]) -> Ranking:
    for at, tells, events in panes:
        features, target = world(np.random.default_rng(at), tells, words, events)
        ranking.update(at, ranking.tables(at).count(features, target.astype(np.int8)))
    return ranking


def test_what_tells_most_is_first_and_many_values_that_tell_nothing_last() -> None:
    words, tells = [2, 5, 20_000, 50_000, 3], [0.05, 0.3, 0.0, 0.0, 0.0]
    ranking = Ranking(words)
    told = [
        ranking.update(at, ranking.tables(at).count(features, target.astype(np.int8)))
        for at in range(4)
        for features, target in [world(np.random.default_rng(at), tells, words, 10_000)]
    ]
    ranks = ranking.ranks()
    assert [each.features for each in ranks[:2]] == [(1,), (0,)]
    assert [each.sure for each in ranks] == [True, True, False, False, False]
    # chance moves a score more the more values there are, so some that is not sure may be larger than one that is
    assert max(each.nats for each in ranks[2:]) > ranks[1].nats
    # what is corrected for few cells only would put the feature that has the most values first
    assert all(np.argmax(each.corrected) == 3 for each in told)


def test_z_grows_with_the_panes_and_the_score_does_not() -> None:
    words, tells = [40], [0.05]
    few = ranked_after(Ranking(words, half_life=timedelta(days=365)), [(0, tells, 5_000)], words).ranks()[0]
    panes = [(at, tells, 5_000) for at in range(30)]
    many = ranked_after(Ranking(words, half_life=timedelta(days=365)), panes, words).ranks()[0]
    assert many.events == pytest.approx(30 * few.events)
    assert many.z > 3 * few.z
    assert many.nats == pytest.approx(few.nats, rel=0.5)


def test_half_of_the_weight_is_gone_after_each_half_life() -> None:
    words = [4]
    panes = [(0, [1.0], 4_000), (2 * HOUR_MS, [0.0], 1_000), (3 * HOUR_MS, [0.5], 2_000)]
    ranking = Ranking(words, half_life=timedelta(hours=1))
    scores = []
    for at, tells, events in panes:
        features, target = world(np.random.default_rng(at), tells, words, events)
        told = ranking.update(at, ranking.tables(at).count(features, target.astype(np.int8)))
        scores.append((told.score[0], told.deviation[0]))
    weights = np.array([4_000 / 8, 1_000 / 2, 2_000])
    (only,) = ranking.ranks()
    score, deviation = np.array(scores).T
    assert only.events == pytest.approx(weights.sum())
    assert only.nats == pytest.approx(np.average(score, weights=weights))
    assert only.z == pytest.approx((weights @ score) / np.sqrt((weights**2) @ (deviation**2)))


def test_panes_may_come_in_any_order() -> None:
    words, tells = [4, 30], [0.5, 0.1]
    panes = [(at * HOUR_MS, tells, 1_000) for at in range(5)]
    one = ranked_after(Ranking(words, pairs=1), panes, words).ranks()
    other = ranked_after(Ranking(words, pairs=1), panes[::-1], words).ranks()
    assert [each.features for each in one] == [each.features for each in other]
    assert [each.nats for each in one] == pytest.approx([each.nats for each in other])
    assert [each.z for each in one] == pytest.approx([each.z for each in other])


def test_a_pane_without_labels_changes_no_rank() -> None:
    words = [4]
    ranking = ranked_after(Ranking(words), [(0, [0.5], 1_000)], words)
    before = ranking.ranks()
    ranking.update(HOUR_MS, ranking.tables(HOUR_MS).empty())
    (after,) = ranking.ranks()
    assert (after.nats, after.z) == pytest.approx((before[0].nats, before[0].z))


def test_restoring_and_going_on_equals_never_having_stopped() -> None:
    words = [4, 30, 7, 2]
    panes = [(at * HOUR_MS, [0.1, 0.2, 0.0, 0.3], 500) for at in range(6)]
    steady = ranked_after(Ranking(words, pairs=2, seed=3, half_life=timedelta(hours=5)), panes[:3], words)
    again = Ranking.restore(pickle.loads(pickle.dumps(steady.snapshot())))
    for ranking in (steady, again):
        ranked_after(ranking, panes[3:], words)
    assert again.ranks() == steady.ranks()
    for one, other in zip(again.snapshot(), steady.snapshot(), strict=True):
        assert np.array_equal(one, other)


def test_a_snapshot_does_not_move_with_the_ranking() -> None:
    words = [4, 30]
    ranking = ranked_after(Ranking(words, pairs=1), [(0, [0.1, 0.2], 500)], words)
    taken = ranking.snapshot()
    kept, restored = pickle.dumps(taken), Ranking.restore(taken)
    for each in (ranking, restored):
        ranked_after(each, [(HOUR_MS, [0.1, 0.2], 500)], words)
    assert pickle.dumps(taken) == kept


def test_a_foreign_or_torn_snapshot_is_refused() -> None:
    taken = Ranking([2]).snapshot()
    for wrong in (("somebody", *taken[1:]), (taken[0], 999, *taken[2:]), taken[:-1], (*taken, 1), ()):
        with pytest.raises(ValueError, match="expected a snapshot"):
            Ranking.restore(wrong)


def test_every_pair_is_drawn_in_time_and_each_pane_draws_few() -> None:
    seen = set()
    for pane in range(200):
        drawn = drawn_pairs(8, 3, seed=1, pane=pane * 60_000)
        assert len(set(drawn)) == len(drawn) == 3
        assert all(0 <= a < b < 8 for a, b in drawn)
        seen |= set(drawn)
    assert len(seen) == 8 * 7 // 2
    assert drawn_pairs(8, 3, seed=1, pane=0) != drawn_pairs(8, 3, seed=2, pane=0)
    assert drawn_pairs(8, 3, seed=1, pane=0) == drawn_pairs(8, 3, seed=1, pane=0)
    assert drawn_pairs(0, 3, seed=1, pane=0) == drawn_pairs(1, 3, seed=1, pane=0) == ()


def test_a_pair_that_was_drawn_keeps_its_rank_until_it_is_drawn_again() -> None:
    rng = np.random.default_rng(6)
    codes = rng.integers(0, 2, (6, 4_000))
    features = [Values(None, of.astype(np.uint16)) for of in codes]
    target = (codes[2] ^ codes[4]).astype(np.int8)
    ranking, pane = Ranking([2] * 6, pairs=2), 0
    while (2, 4) not in drawn_pairs(6, 2, 0, pane):
        pane += 1
    for at in range(pane, pane + 20):
        ranking.update(at, ranking.tables(at).count(features, target))
        best = ranking.ranks()[0]
        assert best.features == (2, 4)
        assert best.nats == pytest.approx(np.log(2), abs=0.01)


def test_only_the_best_pairs_are_kept() -> None:
    features = 60
    rng = np.random.default_rng(7)
    codes = rng.integers(0, 2, (features, 200))
    coded = [Values(None, of.astype(np.uint16)) for of in codes]
    target = (codes[0] ^ codes[1]).astype(np.int8)
    ranking = Ranking([2] * features, pairs=600)
    for pane in range(4):
        ranking.update(pane, ranking.tables(pane).count(coded, target))
    ranks = ranking.ranks()
    pairs = [each for each in ranks if len(each.features) == 2]
    assert len(pairs) == KEPT_PAIRS
    assert len(ranks) - len(pairs) == features
    drawn = {pair for pane in range(4) for pair in drawn_pairs(features, 600, 0, pane)}
    assert len(drawn) > KEPT_PAIRS
    assert ((0, 1) in drawn) == (ranks[0].features == (0, 1))


def test_bad_hyperparameters_are_refused() -> None:
    refusals: tuple[Callable[[], Ranking], ...] = (
        lambda: Ranking([2], pairs=-1),
        lambda: Ranking([2], seed=-1),
        lambda: Ranking([2], half_life=timedelta(0)),
        lambda: Ranking([0]),
        lambda: Ranking([2], classes=1),
    )
    for refused in refusals:
        with pytest.raises(ValueError, match="expected"):
            refused()
