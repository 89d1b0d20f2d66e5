"""Boosted trees: what they learn, that they know nothing of the future, and that a seed decides everything."""

from dataclasses import replace

import numpy as np
import pytest

from online_models.contracts.jobs import TrainAls
from online_models.errors import TrainingError
from retrain_workers import als
from retrain_workers.data.datasets import Dataset, dataset_of
from retrain_workers.data.splits import Split, split
from retrain_workers.reports.boosted_trees import FEATURES, Categories, State, TreesRanker, fit
from retrain_workers.validation.evaluation import cases_of, popularity_of, score
from tests.clustered_world import as_interactions, clustered_events

JOB = TrainAls(factors=8, iterations=5, half_life_days=60.0, seed=7)
CATEGORIES: Categories = {f"item-{row}": [f"group-{row % 4}"] for row in range(100)}


@pytest.fixture(scope="module")
def world() -> Dataset:
    return dataset_of(as_interactions(clustered_events(1, events=2_500)))


@pytest.fixture(scope="module")
def parts(world: Dataset) -> Split:
    return split(world, 0.2)


@pytest.fixture(scope="module")
def ranker(parts: Split) -> TreesRanker:
    return fit(parts.history, JOB, 10.0, CATEGORIES)


def test_trees_beat_popularity_on_a_clustered_world(parts: Split, ranker: TreesRanker) -> None:
    cases = cases_of(parts)
    ours, popular = score(ranker, cases), score(popularity_of(parts.history, JOB.half_life_days), cases)
    assert ours.ndcg.mean() > 2 * popular.ndcg.mean()


def test_nothing_that_a_user_has_met_is_recommended_and_nothing_twice(parts: Split, ranker: TreesRanker) -> None:
    histories = [case.history for case in cases_of(parts)]
    for history, found in zip(histories, ranker.top(histories, 10), strict=True):
        assert len(set(found.tolist())) == len(found) == 10
        assert not np.isin(found, history.seen["item"]).any()


def test_the_same_seed_gives_the_same_lists(parts: Split, ranker: TreesRanker) -> None:
    histories = [case.history for case in cases_of(parts)][:20]
    again = fit(parts.history, JOB, 10.0, CATEGORIES)
    assert [each.tolist() for each in again.top(histories, 10)] == [each.tolist() for each in ranker.top(histories, 10)]
    assert again.files() == ranker.files()


def test_a_score_is_that_of_the_item_s_own_features(parts: Split, ranker: TreesRanker) -> None:
    case = cases_of(parts)[0]
    best = ranker.top([case.history], 5)[0]
    scores = ranker.scores([case.history] * 5, best)
    assert (np.diff(scores) <= 0).all()
    assert np.isnan(ranker.scores([case.history], np.array([1], np.uint64))).all()


def test_features_are_what_was_known_at_the_moment(world: Dataset) -> None:
    known = world.take(np.arange(len(world)) < 1_000)
    model = als.fit(known, JOB, 10.0)
    state = State.of(known, model, CATEGORIES, JOB.half_life_days)
    now_ms = int(known.ts_ms[-1])
    item = int(known.item[500])
    mine = known.take(known.item == item)
    case = cases_of(Split(known, world.take(np.arange(len(world)) >= 1_000), now_ms + 1))[0]
    row = state.features([case.history], [np.array([item])])[0]
    days = (now_ms - mine.ts_ms) / 86_400_000
    groups = [CATEGORIES[name][0] for name in _names(known, case.history.recent["item"])]
    expected = {
        "user events": np.log1p(len(case.history.seen)),
        "item popularity": np.log1p((mine.strength * 0.5 ** (days / JOB.half_life_days)).sum()),
        "item age": np.log1p(days.max()),
        "item quiet": np.log1p(days.min()),
        "categories in common": groups.count(CATEGORIES[known.items[item]][0]) / len(groups),
    }
    for name, value in expected.items():
        assert row[FEATURES.index(name)] == pytest.approx(value, rel=1e-4), name


def _names(known: Dataset, hashes: np.ndarray) -> list[str]:
    name = dict(zip(known.item_hashes().tolist(), known.items, strict=True))
    return [name[each] for each in hashes.tolist()]


def test_log_odds_hold_for_all_candidates_though_few_were_examples(world: Dataset) -> None:
    trees = fit(world, JOB, 10.0, CATEGORIES)
    cuts = np.quantile(world.ts_ms, [0.7, 0.8, 0.9]).astype(np.int64)
    older = als.fit(world.take(world.ts_ms < cuts[0]), JOB, 10.0)
    taken, corrected, plain = 0, 0.0, 0.0
    for begin in cuts:  # about the slices that the examples came from
        parts = Split(
            world.take(world.ts_ms < begin),
            world.take((world.ts_ms >= begin) & (world.ts_ms < begin + cuts[1] - cuts[0])),
            begin,
        )
        cases = cases_of(parts)
        at_the_time = replace(trees, state=State.of(parts.history, older, CATEGORIES, JOB.half_life_days))
        for case, candidates in zip(cases, at_the_time.state.candidates([case.history for case in cases]), strict=True):
            odds = at_the_time.scores([case.history] * len(candidates), at_the_time.state.hashes[candidates])
            corrected += (1 / (1 + np.exp(-odds))).sum()
            plain += (1 / (1 + np.exp(trees.correction - odds))).sum()
            taken += np.isin(at_the_time.state.hashes[candidates], case.relevant).sum()
    assert 0.7 * taken < corrected < 1.4 * taken
    assert plain > 2 * taken


def test_too_little_gives_no_trees(world: Dataset) -> None:
    with pytest.raises(TrainingError, match="expected at least 50 positive events, got 30"):
        fit(world.take(np.arange(len(world)) < 30), JOB, 10.0)
