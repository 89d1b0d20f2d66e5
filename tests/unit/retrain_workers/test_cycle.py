"""Settings judged beside a champion: worlds that have moved on, spoiled settings, and too little data."""

from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace

from online_models.contracts.artifacts import DataWindow, Manifest
from online_models.contracts.events import Event
from online_models.contracts.ids import ModelName, ModelVersion
from online_models.contracts.jobs import TrainAls
from retrain_workers.als import AlsModel, AlsTrainer
from retrain_workers.attempt import Unwatched
from retrain_workers.champions import Champion
from retrain_workers.cycle import evaluate
from retrain_workers.data.datasets import dataset_of
from retrain_workers.data.splits import split
from retrain_workers.data.training_data import TrainingData
from retrain_workers.validation.gate import Gate, GateReport, Verdict
from tests.clustered_world import HOUR_MS, ITEMS, START_MS, as_interactions, clustered_events

JOB = TrainAls(factors=8, iterations=5, half_life_days=60.0, holdout_fraction=0.2, seed=7)
WORLD = clustered_events(1)


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
