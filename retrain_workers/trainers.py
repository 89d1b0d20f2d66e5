"""What kinds of models there are to train: one `Trainer` for each type of job.

- A `Trainer` fits one kind of model; reading data, judging against the champion and writing the artifact are not its business.
- Job types are a closed set. What brings torch is imported where it is asked for: an ALS job needs none of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, assert_never

from online_models.contracts.artifacts import GoldenQuery
from online_models.contracts.features import DEFAULT_FEATURES, FeatureSpec
from online_models.contracts.jobs import JobKind, JobPayload, Start, TrainAls, TrainLora, TrainTwoTower, kind_of
from online_models.errors import TrainingError
from retrain_workers.als import AlsTrainer
from retrain_workers.attempt import Attempt
from retrain_workers.champions import Champion
from retrain_workers.data.datasets import Dataset
from retrain_workers.data.references import Places
from retrain_workers.data.training_data import TrainingData
from retrain_workers.job_rules import TrainerRules
from retrain_workers.validation.evaluation import Ranker
from retrain_workers.validation.gate import Check, Gate


class TrainedModel(Protocol):
    """What a trainer gives back: something to judge and to publish."""

    @property
    def start(self) -> Start:
        """What the training began with."""

    @property
    def hyperparameters(self) -> Mapping[str, float]:
        """What the files need to be used, and how they were made."""

    def files(self) -> dict[str, bytes]:
        """The artifact's files, without the manifest."""

    def ranker(self) -> Ranker:
        """The model at work."""

    def checks(self, gate: Gate) -> Sequence[Check]:
        """What the gate asks of this kind of model beside what it asks of all."""

    def golden(self, dataset: Dataset) -> list[GoldenQuery]:
        """Queries of known answer, from the data that the model was trained on."""

    def places(self, dataset: Dataset) -> Places:
        """Where the dataset's events lie in the model's space."""


class Trainer(Protocol):
    """One kind of model under one job's settings. The same data give the same model."""

    @property
    def job(self) -> JobPayload:
        """What is asked for."""

    def from_nothing(self) -> "Trainer | None":
        """The same training without the champion to go on from, to be tried where the gate refuses this one; None where this is
        it."""

    def rival(self, recommender: Ranker, data: TrainingData) -> Ranker:
        """What the model is ranked beside, given the champion's recommender: that, with its language model for another."""

    def fit(self, data: TrainingData, attempt: Attempt) -> TrainedModel:
        """Train on all of the data."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a job of any kind says of data, judgement and reference.

    half_life_days : of an event's weight, in event time
    holdout_fraction : share of the positive events that the model is judged on
    features : what the stream job monitors, and so needs a reference of; pane_seconds : of its windows, 0 for the usual ones
    """

    kind: JobKind
    half_life_days: float
    holdout_fraction: float
    features: Sequence[FeatureSpec]
    pane_seconds: int
    seed: int

    @classmethod
    def of(cls, payload: JobPayload) -> Self:
        """Of a job; towers have those of the factors beside them."""
        said = payload.als if isinstance(payload, TrainTwoTower) else payload
        features = said.features or DEFAULT_FEATURES
        return cls(
            kind_of(payload), said.half_life_days, said.holdout_fraction, features, said.pane_seconds, payload.seed
        )

    @property
    def refits(self) -> bool:
        """Whether the judged settings are trained again on all data before they are published, the judged events among them.

        An adapter is published as it was judged.
        """
        return self.kind is not JobKind.LORA


def trainer_for(payload: JobPayload, champion: Champion | None, rules: TrainerRules) -> Trainer:
    """The trainer of a job. Raises TrainingError when its settings cannot give a model, or it lacks the champion it needs."""
    match payload:
        case TrainAls():
            return AlsTrainer(payload, rules.recency_half_life_events)
        case TrainTwoTower():
            from retrain_workers.two_tower.trainer import TwoTowerTrainer

            factors = AlsTrainer(payload.als, rules.recency_half_life_events)
            return TwoTowerTrainer(payload, factors, champion, rules.device)
        case TrainLora():
            if champion is None:
                raise TrainingError("expected a champion whose recommender a language model stands beside, got none")
            import torch

            from retrain_workers.lora.trainer import LoraTrainer

            torch.set_num_threads(rules.threads)
            return LoraTrainer(payload, champion, rules.base_model_dir, device_of(rules.device))
        case _:
            assert_never(payload)


def device_of(name: str) -> str:
    """`cpu` or `cuda` of a setting that may be `auto`. Raises TrainingError when it asks for a device that is not there."""
    import torch

    if name != "cpu" and torch.cuda.is_available():
        return "cuda"
    if name == "cuda":
        raise TrainingError("expected a CUDA device, as the setting `device` says; got none")
    return "cpu"
