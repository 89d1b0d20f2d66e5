"""Settings judged beside a champion: worlds that have moved on, spoiled settings, and too little data."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pytest
from msgspec.structs import replace

from online_models.contracts.artifacts import DataWindow, FeatureSketch, Manifest
from online_models.contracts.events import Event
from online_models.contracts.features import ENGAGEMENT, FeatureKind, FeatureSpec
from online_models.contracts.ids import FencingToken, JobId, ModelName, ModelVersion
from online_models.contracts.jobs import JobPayload, RetrainJob, TrainAls, TrainLora
from retrain_workers.als import AlsModel, AlsTrainer
from retrain_workers.attempt import Attempt, Unwatched
from retrain_workers.champions import Champion
from retrain_workers.cycle import LANGUAGE, RECOMMENDER, evaluate, judged_settings, sketches_of
from retrain_workers.data.datasets import dataset_of
from retrain_workers.data.splits import split
from retrain_workers.data.training_data import TrainingData
from retrain_workers.validation.evaluation import Ranker
from retrain_workers.validation.gate import Gate, GateReport, Verdict
from tests.clustered_world import HOUR_MS, ITEMS, START_MS, as_interactions, clustered_events

JOB = TrainAls(factors=8, iterations=5, half_life_days=60.0, holdout_fraction=0.2, seed=7)
WORLD = clustered_events(1)


GOOD, BAD = AlsTrainer(JOB, 10.0), AlsTrainer(replace(JOB, factors=1), 10.0)
KNOWN_SHARE = 0.2


def job_of(payload: JobPayload) -> RetrainJob:
    return RetrainJob(
        JobId(1), ModelName("movies"), "t", "test", payload, 1, 3, FencingToken(1), datetime(2026, 1, 1, tzinfo=UTC)
    )


@dataclass(frozen=True)
class Warm:
    """A warm start: trains as `first` does, and from nothing as `cold` does."""

    first: AlsTrainer
    cold: AlsTrainer

    @property
    def job(self) -> JobPayload:
        return self.first.job

    def from_nothing(self) -> AlsTrainer:
        return self.cold

    def rival(self, recommender: Ranker, data: TrainingData) -> Ranker:
        return self.first.rival(recommender, data)

    def fit(self, data: TrainingData, attempt: Attempt) -> AlsModel:
        return self.first.fit(data, attempt)


def data_of(events: Sequence[Event]) -> TrainingData:
    interactions = as_interactions(events)
    return TrainingData(dataset_of(interactions), interactions, {})


def trained(trainer: AlsTrainer, data: TrainingData) -> AlsModel:
    return trainer.fit(data, Unwatched())


def judged(trainer: AlsTrainer, data: TrainingData, beside: Champion) -> GateReport:
    return evaluate(trainer, data, beside, Gate(), Unwatched()).report


def champion(model: AlsModel, data: TrainingData) -> Champion:
    ts_ms = data.dataset.ts_ms
    window = DataWindow(int(ts_ms[0]), int(ts_ms[-1]), len(ts_ms))
    manifest = Manifest(
        model=ModelName("movies"),
        version=ModelVersion("v1"),
        kind="als",
        created_at="",
        files=[],
        hyperparameters=dict(model.hyperparameters),
        metrics={},
        data_window=window,
        sketches=[],
        feature_spec_hash="",
        golden=[],
    )
    return Champion(manifest, model.files(), model.ranker())


def joined_worlds() -> tuple[TrainingData, TrainingData]:
    """The events up to a shift, and those after it too; the shift puts most items into another group."""
    before = clustered_events(1)
    regrouped = np.random.default_rng(5).permutation(ITEMS).tolist()
    shifted = clustered_events(2, start_ms=START_MS + 1_500 * HOUR_MS, grouping=regrouped)
    return data_of(before), data_of([*before, *shifted])


def test_a_champion_that_the_world_has_moved_away_from_is_replaced() -> None:
    before, everything = joined_worlds()
    trainer = AlsTrainer(replace(JOB, half_life_days=7.0), 10.0)
    old = champion(trained(trainer, before), before)
    report = judged(trainer, everything, old)
    assert report.verdict is Verdict.BETTER
    assert report.figures["ndcg_at_10"] > 1.2 * report.figures["champion_ndcg_at_10"]


def test_a_candidate_with_spoiled_settings_does_not_replace_a_good_champion() -> None:
    good, spoiled = AlsTrainer(JOB, 10.0), AlsTrainer(replace(JOB, factors=1), 10.0)
    world = data_of(WORLD)
    known = world.before(split(world.dataset, 0.2).cut_ms)
    report = judged(spoiled, world, champion(trained(good, known), known))
    assert not report.accepted
    assert report.figures["holdout_users"] >= 30


def test_without_events_since_the_champion_nothing_can_be_told() -> None:
    trainer = AlsTrainer(JOB, 10.0)
    world = data_of(WORLD)
    report = judged(trainer, world, champion(trained(trainer, world), world))
    assert not report.accepted
    assert "inconclusive: 0 holdout users" in report.reason()
    assert report.figures == {"holdout_users": 0.0, "holdout_events": 0.0, "holdout_overlaps_champion": 0.0}


# --- two looks


@pytest.fixture(scope="module")
def served() -> tuple[TrainingData, Champion]:
    """The world, and a champion that knows all but its newest fifth."""
    world = data_of(WORLD)
    known = world.before(split(world.dataset, KNOWN_SHARE).cut_ms)
    return world, champion(trained(GOOD, known), known)


def confidence(report: GateReport) -> str:
    """Of the interval that the report gives: 1 - 2 alpha / 4, in per cent."""
    return report.checks[0].detail.partition(" % interval")[0].rpartition("(")[2]


def test_a_warm_start_that_passes_is_not_tried_again(served: tuple[TrainingData, Champion]) -> None:
    warm = Warm(GOOD, BAD)
    trainer, found = judged_settings(job_of(JOB), warm, *served, Gate(margin=0.5), Unwatched())
    assert trainer is warm
    assert found.report.accepted
    assert confidence(found.report) == "98.75"


def test_a_refused_warm_start_is_tried_from_nothing_with_half_the_error(served: tuple[TrainingData, Champion]) -> None:
    trainer, found = judged_settings(job_of(JOB), Warm(BAD, GOOD), *served, Gate(margin=0.5), Unwatched())
    assert trainer is GOOD
    assert found.report.accepted
    assert confidence(found.report) == "98.75"


def test_a_training_from_nothing_has_one_look_with_all_of_the_error(served: tuple[TrainingData, Champion]) -> None:
    trainer, found = judged_settings(job_of(JOB), BAD, *served, Gate(), Unwatched())
    assert trainer is BAD
    assert not found.report.accepted
    assert confidence(found.report) == "97.5"


# --- references


CATEGORY = FeatureSpec("category", FeatureKind.CATEGORICAL, "type", ENGAGEMENT, bins=8)
WORDS = FeatureSpec("words", FeatureKind.CATEGORICAL, "item_id", ENGAGEMENT, bins=8, component=LANGUAGE)


def sketches(payload: JobPayload, beside: Champion | None) -> dict[str, FeatureSketch]:
    world = data_of(WORLD)
    found = sketches_of(job_of(payload), trained(GOOD, world), world, beside, None)
    return {sketch.feature.name: sketch for sketch in found}


def test_a_job_counts_the_features_of_what_it_trains_and_carries_the_others() -> None:
    world = data_of(WORLD)
    older = [FeatureSketch(spec, [1] * (spec.cells + 3), events=9) for spec in (CATEGORY, WORDS)]
    model = champion(trained(GOOD, world), world)
    beside = Champion(replace(model.manifest, sketches=older), model.files, model.ranker)
    features = (CATEGORY, WORDS)
    for payload, mine in ((replace(JOB, features=features), RECOMMENDER), (TrainLora(features=features), LANGUAGE)):
        found = sketches(payload, beside)
        assert list(found) == ["category", "words"]
        for old in older:
            new = found[old.feature.name]
            assert (new == old) == (old.feature.component != mine)
            assert new.events == (9 if new == old else len(WORLD))


def test_without_a_champion_every_feature_is_counted() -> None:
    found = sketches(replace(JOB, features=(CATEGORY, WORDS)), None)
    assert [found[name].events for name in ("category", "words")] == [len(WORLD)] * 2


def test_a_feature_that_the_champion_never_saw_is_counted_by_whoever_comes_next() -> None:
    world = data_of(WORLD)
    beside = champion(trained(GOOD, world), world)
    found = sketches(TrainLora(features=(CATEGORY, WORDS)), beside)
    assert [found[name].events for name in ("category", "words")] == [len(WORLD)] * 2
