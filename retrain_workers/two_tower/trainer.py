"""A two-tower job: fresh ALS factors and, over the same items, the towers beside them; one whole recommender."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
from safetensors.numpy import load

from online_models.contracts.artifacts import GoldenQuery
from online_models.contracts.jobs import Start, TrainTwoTower
from online_models.two_tower import UserTower
from retrain_workers.als import AlsModel, AlsTrainer
from retrain_workers.attempt import Attempt
from retrain_workers.champions import Champion
from retrain_workers.data.datasets import Dataset
from retrain_workers.data.references import Places
from retrain_workers.data.training_data import TrainingData
from retrain_workers.two_tower import fitting
from retrain_workers.two_tower.examples import TowerData
from retrain_workers.two_tower.fitting import TrainedTowers
from retrain_workers.validation.evaluation import Ranker
from retrain_workers.validation.gate import Check, Gate
from retrain_workers.validation.served_ranker import ServedRanker


@dataclass(frozen=True, slots=True)
class TwoTowerModel:
    """Factors and towers over the same items; see `trainers.TrainedModel`."""

    factors: AlsModel
    towers: TrainedTowers
    job: TrainTwoTower

    @property
    def start(self) -> Start:
        """What the towers began with."""
        return self.towers.start

    @property
    def hyperparameters(self) -> Mapping[str, float]:
        """Those of the factors, and what the towers are made of."""
        job = self.job
        towers = {
            "members": job.members,
            "dimensions": job.dimensions,
            "hidden": job.hidden,
            "recent": job.recent,
            "epochs": job.warm_epochs if self.start is Start.WARM else job.epochs,
            "batch_size": job.batch_size,
            "learning_rate": job.learning_rate,
            "replay_share": job.replay_share if self.start is Start.WARM else 0.0,
        }
        return {**self.factors.hyperparameters, **{f"two_tower_{name}": each for name, each in towers.items()}}

    def files(self) -> dict[str, bytes]:
        """The artifact's files."""
        return {**self.factors.files(), **self.towers.files()}

    def ranker(self) -> ServedRanker:
        """Both at work, as they would be served."""
        return self.factors.ranker(UserTower.of(self.towers.serving))

    def places(self, dataset: Dataset) -> Places:
        """In the space of the factors."""
        return self.factors.places(dataset)

    def checks(self, gate: Gate) -> Sequence[Check]:
        """Nothing beside what is asked of all."""
        return ()

    def golden(self, dataset: Dataset) -> list[GoldenQuery]:
        """Of the factors."""
        return self.factors.golden(dataset)


@dataclass(frozen=True, slots=True)
class TwoTowerTrainer:
    """See `trainers.Trainer`; champion : what a warm start goes on from, if it has towers."""

    job: TrainTwoTower
    als: AlsTrainer
    champion: Champion | None
    device: str

    def from_nothing(self) -> "TwoTowerTrainer | None":
        """The same with a cold start; None where this is one."""
        if self.job.start is Start.COLD:
            return None
        return TwoTowerTrainer(
            msgspec.structs.replace(self.job, start=Start.COLD), self.als, self.champion, self.device
        )

    def rival(self, recommender: Ranker, data: TrainingData) -> Ranker:
        """Recommender beside recommender."""
        return recommender

    def fit(self, data: TrainingData, attempt: Attempt) -> TwoTowerModel:
        """Train on all of the data."""
        factors = self.als.fit(data, attempt)
        warm, items, since_ms = self._champion()
        towers = fitting.train(
            TowerData.of(data.dataset, factors.items, data.catalogue),
            self.job,
            warm,
            items,
            attempt,
            self.device,
            since_ms=since_ms,
        )
        return TwoTowerModel(factors, towers, self.job)

    def _champion(self) -> tuple[fitting.Tensors | None, list[str] | None, int | None]:
        """All parameters of the champion's towers, its items, and the end of its data; nothing without towers."""
        if self.champion is None or fitting.TRAINING_FILE not in self.champion.files:
            return None, None, None
        files = self.champion.files
        items = msgspec.json.decode(files["items.json"], type=list[str])
        return load(files[fitting.TRAINING_FILE]), items, self.champion.manifest.known_until_ms
