"""What training reads and writes, and what every job is held to."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from online_models.ports import ArtifactStore, InteractionStore, LanguageScoreWrites, ModelRegistry
from retrain_workers.validation.gate import Gate


@dataclass(frozen=True, slots=True)
class TrainingStores:
    """What training reads and writes. It registers nothing: that is fenced, and the worker's. snapshots : a directory"""

    interactions: InteractionStore
    artifacts: ArtifactStore
    registry: ModelRegistry
    language: LanguageScoreWrites
    snapshots: Path


@dataclass(frozen=True, slots=True)
class TrainerRules:
    """What trainers are told beside the job; see `settings.WorkerSettings`.

    threads : that a language model scores with on a CPU
    """

    recency_half_life_events: float
    base_model_dir: Path | None
    device: str
    threads: int


@dataclass(frozen=True, slots=True)
class TrainingRules:
    """What every job is held to; see `settings.WorkerSettings`.

    smoke : how long the smoke test of an artifact may take
    scored_users : users with the newest events, whose candidates a language model scores; scores_ttl : how long that counts
    """

    gate: Gate
    trainers: TrainerRules
    min_positive_events: int
    min_items: int
    smoke: timedelta
    scored_users: int
    scores_ttl: timedelta
