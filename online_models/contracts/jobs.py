"""Retrain jobs: what a worker is asked to do, and where the request stands.

A job's payload is a tagged union by `type`; `trigger_id` makes a trigger's job unique under replay.
"""

import enum
import hashlib
from datetime import datetime

import msgspec

from online_models.contracts.features import FeatureSpec
from online_models.contracts.ids import FencingToken, JobId, ModelName, ModelVersion


class TrainAls(msgspec.Struct, frozen=True, tag="train_als", tag_field="type"):
    """Refit the item and user factors of one recommender by implicit-feedback ALS.

    half_life_days : an interaction this much older (event time) than the newest counts half
    until_ms : data up to this event time (epoch ms), or None for all there is
    features : what the flow monitors, for the reference sketches of the version; empty for `DEFAULT_FEATURES`
    pane_seconds : length of the panes of the flow's windows; 0 for the usual one
    """

    factors: int = 64
    iterations: int = 15
    regularization: float = 1.0
    alpha: float = 2.0
    half_life_days: float = 365.0
    holdout_fraction: float = 0.1
    until_ms: int | None = None
    seed: int = 0
    features: tuple[FeatureSpec, ...] = ()
    pane_seconds: int = 0


class TrainTwoTower(msgspec.Struct, frozen=True, tag="train_two_tower", tag_field="type"):
    """Train the two-tower network. Workers of this version bury it as `not supported yet`."""

    until_ms: int | None = None
    seed: int = 0


class TrainLora(msgspec.Struct, frozen=True, tag="train_lora", tag_field="type"):
    """Fine-tune the language-model scorer by LoRA. Workers of this version bury it as `not supported yet`."""

    rank: int = 16
    until_ms: int | None = None
    seed: int = 0


JobPayload = TrainAls | TrainTwoTower | TrainLora


class JobState(enum.StrEnum):
    """Where a job stands. `done`, `rejected` and `dead` are final; `rejected` means the gate refused the candidate."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    REJECTED = "rejected"
    DEAD = "dead"


class NewJob(msgspec.Struct, frozen=True):
    """A request to retrain `model`; inserted at most once per `trigger_id`, and only while no other job of the model is open."""

    model: ModelName
    trigger_id: str
    reason: str
    payload: JobPayload


class RetrainJob(msgspec.Struct, frozen=True):
    """A leased job. `token` fences every later write: heartbeat, finish and publication name it or are refused."""

    id: JobId
    model: ModelName
    trigger_id: str
    reason: str
    payload: JobPayload
    attempt: int
    max_attempts: int
    token: FencingToken
    lease_until: datetime


def trigger_id(model: str, detector: str, config_hash: str, window_end_ms: int) -> str:
    """Deterministic id of a trigger: the same under replay, so that its job is inserted once.

    >>> trigger_id("movies", "psi", "c0ffee", 0) == trigger_id("movies", "psi", "c0ffee", 0)
    True
    """
    return hashlib.sha256(f"{model}|{detector}|{config_hash}|{window_end_ms}".encode()).hexdigest()


def version_of(token: FencingToken) -> ModelVersion:
    """The version that the holder of a fencing token may publish: one lease, one version."""
    return ModelVersion(f"v{token}")
