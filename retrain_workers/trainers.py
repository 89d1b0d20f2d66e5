"""From a leased job to an artifact that waits for publication: the same way for every kind of model.

- A `Trainer` fits one kind of model; reading data, judging against the champion and writing the artifact are
  not its business.
- Job types are a closed set: one without a trainer in this version is a `TrainingError`, and its job is
  buried with that reason.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, assert_never

import numpy as np

from online_models.contracts.artifacts import DataWindow, GoldenQuery, Manifest
from online_models.contracts.features import FeatureSpec
from online_models.contracts.ids import ModelName, ModelVersion
from online_models.contracts.jobs import JobPayload, RetrainJob, TrainAls, TrainLora, TrainTwoTower
from online_models.errors import ArtifactError, TrainingError
from online_models.ports import ArtifactStore, Interactions, InteractionStore, ModelRegistry
from retrain_workers import als
from retrain_workers.datasets import (
    Dataset,
    Places,
    Split,
    dataset_of,
    reference_sketches,
    refuse_too_little,
    split,
    window_of,
)
from retrain_workers.evaluation import (
    Accept,
    Case,
    Gate,
    Ranker,
    Reject,
    judge,
    popularity_of,
    score,
    unaided_cases,
)
from retrain_workers.publish import Candidate, Prepared, Refused, prepare

_LOG = logging.getLogger(__name__)


class TrainedModel(Protocol):
    """What a trainer gives back: something to judge and to publish."""

    @property
    def hyperparameters(self) -> Mapping[str, float]:
        """What the files need to be used, and how they were made."""

    def files(self) -> dict[str, bytes]:
        """The artifact's files, without the manifest."""

    def ranker(self) -> Ranker:
        """The model at work."""

    def golden(self, dataset: Dataset) -> list[GoldenQuery]:
        """Queries of known answer, from the data that the model was trained on."""

    def places(self, dataset: Dataset) -> Places:
        """Where the dataset's events lie in the model's space."""


class Trainer(Protocol):
    """One kind of model under one job's settings. The same dataset gives the same model."""

    @property
    def kind(self) -> str:
        """Of the artifact."""

    @property
    def half_life_days(self) -> float:
        """Of an event's weight, in event time."""

    @property
    def holdout_fraction(self) -> float:
        """Share of the positive events that the model is judged on."""

    @property
    def until_ms(self) -> int | None:
        """Event time that the data ends at (inclusive); None for all there is."""

    @property
    def features(self) -> Sequence[FeatureSpec]:
        """What the stream job monitors, and so needs a reference of."""

    @property
    def pane_seconds(self) -> int:
        """Of the stream job's windows; 0 for the usual ones."""

    def fit(self, dataset: Dataset) -> TrainedModel:
        """Train on all of the dataset."""


@dataclass(frozen=True, slots=True)
class TrainingStores:
    """What training reads and writes. It registers nothing: that is fenced, and the worker's."""

    interactions: InteractionStore
    artifacts: ArtifactStore
    registry: ModelRegistry


@dataclass(frozen=True, slots=True)
class TrainingRules:
    """What every job is held to; see `settings.WorkerSettings`."""

    gate: Gate
    min_positive_events: int
    min_items: int
    recency_half_life_events: float


@dataclass(frozen=True, slots=True)
class Champion:
    """The version to beat."""

    manifest: Manifest
    ranker: Ranker


def trainer_for(payload: JobPayload, rules: TrainingRules) -> Trainer:
    """The trainer of a job type. Raises TrainingError when this version has none."""
    match payload:
        case TrainAls():
            return als.AlsTrainer(payload, rules.recency_half_life_events)
        case TrainTwoTower() | TrainLora():
            raise TrainingError(f"{type(payload).__name__} is not supported by this version of the worker")
        case _:
            assert_never(payload)


def ranker_of(manifest: Manifest, files: Mapping[str, bytes]) -> Ranker:
    """A published version at work. Raises ArtifactError when its kind is unknown here."""
    if manifest.kind == als.KIND:
        return als.AlsModel.of(files, manifest.hyperparameters).ranker()
    raise ArtifactError(f"{manifest.model} {manifest.version}: expected kind {als.KIND}, got {manifest.kind}")


def run_job(job: RetrainJob, stores: TrainingStores, rules: TrainingRules, now: datetime) -> Prepared | Refused:
    """Train, judge, and write the candidate's artifact, or say why there is none.

    Raises
    ------
    TrainingError
        When the job cannot give a model: too little data, a job type without a trainer, a model gone astray.
    ArtifactError, StoreError, StoreUnavailable
        When a store fails; another attempt may go better.
    """
    trainer = trainer_for(job.payload, rules)
    parent = stores.registry.champion(job.model)
    champion = champion_of(job.model, parent, stores) if parent is not None else None
    interactions = stores.interactions.interactions(job.model, trainer.until_ms)
    dataset = dataset_of(interactions)
    refuse_too_little(dataset, rules.min_positive_events, rules.min_items)
    verdict, metrics = evaluate(trainer, dataset, champion, rules.gate)
    _LOG.info("job.judged job_id=%s model=%s verdict=%s reason=%r", job.id, job.model, verdict, verdict.reason)
    match verdict:
        case Reject(reason):
            return Refused(reason)
        case Accept():
            candidate = make_candidate(job, trainer, dataset, interactions, metrics)
            return prepare(stores.artifacts, candidate, job, parent, now)
        case _:
            assert_never(verdict)


def champion_of(model: ModelName, version: ModelVersion, stores: TrainingStores) -> Champion | None:
    """The champion, verified against the registry and ready to rank.

    None when its artifact is missing, torn or altered: no reader that starts now could serve it, so the candidate is
    judged as a first model is, and the canary decides.
    """
    registered = stores.registry.version(model, version)
    try:
        manifest, files = stores.artifacts.read(model, version, registered.manifest_sha256 if registered else None)
        return Champion(manifest, ranker_of(manifest, files))
    except ArtifactError as error:
        _LOG.error("champion.unreadable model=%s version=%s error=%r", model, version, str(error))
        return None


def evaluate(
    trainer: Trainer, dataset: Dataset, champion: Champion | None, gate: Gate
) -> tuple[Accept | Reject, dict[str, float]]:
    """Judge the settings on the newest events, and give all figures by metric name.

    The holdout begins after the champion's training data: what it has learned by heart is no test of it. See
    `parts_and_cases` for the exception, which the metric `holdout_overlaps_champion` (0 or 1) tells.
    """
    window = champion.manifest.data_window if champion is not None else None
    parts, cases = parts_and_cases(dataset, trainer.holdout_fraction, window, gate.min_users)
    ours = score(trainer.fit(parts.history).ranker(), cases)
    theirs = score(champion.ranker, cases) if champion is not None else None
    popularity = score(popularity_of(parts.history, trainer.half_life_days), cases)
    metrics = {
        "holdout_users": float(len(cases)),
        "holdout_events": float(len(parts.holdout)),
        "holdout_overlaps_champion": float(window is not None and parts.cut_ms <= window.end_ms),
        **ours.figures(),
        **(theirs.figures("champion_") if theirs is not None else {}),
        **popularity.figures("popularity_"),
    }
    return judge(ours, theirs, popularity, gate), metrics


def parts_and_cases(
    dataset: Dataset, holdout_fraction: float, champion: DataWindow | None, min_users: int
) -> tuple[Split, list[Case]]:
    """The split that a candidate is judged on, and its cases.

    The holdout begins after the newest of the champion's events. One event dated far ahead would so hold up every later
    candidate: with fewer than `min_users` cases it begins after as many of the oldest events as the champion was
    trained on. Then it may hold some that the champion knows, which favours the champion. Without new events there are
    no cases either way.
    """
    if champion is None:
        parts = split(dataset, holdout_fraction)
        return parts, unaided_cases(parts, min_users)
    parts = split(dataset, holdout_fraction, champion.end_ms + 1)
    cases = unaided_cases(parts, min_users)
    if len(cases) < min_users and champion.events > 0:
        known_ms = int(np.sort(dataset.ts_ms)[min(champion.events, len(dataset)) - 1])
        parts = split(dataset, holdout_fraction, min(champion.end_ms, known_ms) + 1)
        cases = unaided_cases(parts, min_users)
    return parts, cases


def make_candidate(
    job: RetrainJob,
    trainer: Trainer,
    dataset: Dataset,
    interactions: Interactions,
    metrics: Mapping[str, float],
) -> Candidate:
    """The judged settings refitted on all data: what is published."""
    model = trainer.fit(dataset)
    return Candidate(
        kind=trainer.kind,
        files=model.files(),
        hyperparameters=model.hyperparameters,
        metrics=metrics,
        data_window=window_of(interactions),
        sketches=reference_sketches(
            interactions,
            job.model,
            trainer.features,
            trainer.half_life_days,
            model.places(dataset),
            trainer.pane_seconds,
        ),
        golden=model.golden(dataset),
    )
