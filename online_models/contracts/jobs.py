"""Retrain jobs: what a worker is asked to do, and where the request stands.

A job's payload is a tagged union by `type`; `trigger_id` makes a trigger's job unique under replay.
"""

import enum
import hashlib
from datetime import datetime
from typing import Any, assert_never

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


class Start(enum.StrEnum):
    """What a training begins with: the champion's weights, or nothing."""

    WARM = "warm"
    COLD = "cold"


class TrainTwoTower(msgspec.Struct, frozen=True, tag="train_two_tower", tag_field="type"):
    """Train a two-tower network beside fresh ALS factors.

    als : how the factors beside it are fitted; its half-life, window, features and panes are those of the whole job
    start : `warm` goes on from the champion's towers where it has some, and from nothing when the gate refuses that
    members : towers that are trained side by side, and whose scores are averaged
    dimensions, hidden : length of a member's vector, and of the hidden layer of its user tower
    recent : newest items of a user that the user tower pools
    epochs, warm_epochs : passes over the data, from nothing and from the champion
    replay_share : old events among those of a warm start, as a share of the new ones
    """

    als: TrainAls = msgspec.field(default_factory=TrainAls)
    start: Start = Start.WARM
    members: int = 2
    dimensions: int = 64
    hidden: int = 128
    recent: int = 50
    epochs: int = 6
    warm_epochs: int = 3
    batch_size: int = 512
    learning_rate: float = 3e-3
    replay_share: float = 0.25
    seed: int = 0


class LoraProfile(enum.StrEnum):
    """Which layers have an adapter: all of them, for quality; the top ones over a frozen, cached rest, for time and memory."""

    ALL_LAYERS = "all_layers"
    TOP_LAYERS = "top_layers"


class TrainLora(msgspec.Struct, frozen=True, tag="train_lora", tag_field="type"):
    """Fine-tune the language-model scorer of (history, candidate) by a low-rank adapter (LoRA), beside the champion's own files.

    rank, alpha, dropout : of the adapter on q_proj and v_proj
    ranks : where given, each of these ranks is trained and the best on the validation events is kept
    profile, top_layers : see `LoraProfile`; 0 top layers: a quarter of all
    group_size : candidates of a choice, the taken one among them; recent : newest items of a user that the prompt tells
    choices : newest choices that are learned from; replay_share : older ones beside them, against forgetting, as a share of those
    candidates : items of a user that are scored for serving
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    ranks: tuple[int, ...] = ()
    profile: LoraProfile = LoraProfile.ALL_LAYERS
    top_layers: int = 0
    epochs: int = 2
    learning_rate: float = 5e-3
    group_size: int = 6
    groups_per_batch: int = 24
    recent: int = 8
    choices: int = 3_000
    replay_share: float = 0.25
    candidates: int = 50
    half_life_days: float = 365.0
    holdout_fraction: float = 0.1
    until_ms: int | None = None
    seed: int = 0
    features: tuple[FeatureSpec, ...] = ()
    pane_seconds: int = 0


JobPayload = TrainAls | TrainTwoTower | TrainLora


class JobKind(enum.StrEnum):
    """What a job trains, as `Manifest.kind` names it: workers take jobs by kind."""

    ALS = "als"
    TWO_TOWER = "two_tower"
    LORA = "lora"


def kind_of(payload: JobPayload) -> JobKind:
    """
    >>> kind_of(TrainAls())
    <JobKind.ALS: 'als'>
    """
    match payload:
        case TrainAls():
            return JobKind.ALS
        case TrainTwoTower():
            return JobKind.TWO_TOWER
        case TrainLora():
            return JobKind.LORA
        case _:
            assert_never(payload)


def level_of(payload: JobPayload) -> str:
    """How much of a model is trained anew, which is what its cost depends on: `warm` or `cold`, for an adapter its profile.

    >>> [str(level_of(payload)) for payload in (TrainAls(), TrainTwoTower(), TrainLora())]
    ['cold', 'warm', 'all_layers']
    """
    match payload:
        case TrainAls():
            return Start.COLD
        case TrainTwoTower():
            return payload.start
        case TrainLora():
            return payload.profile
        case _:
            assert_never(payload)


def until_of(payload: JobPayload) -> int | None:
    """Event time (epoch ms, inclusive) that a job's data end at; None for all there are."""
    return payload.als.until_ms if isinstance(payload, TrainTwoTower) else payload.until_ms


class Progress(msgspec.Struct, frozen=True):
    """How far an attempt is.

    phase : what it is doing, such as `reading`, `two_tower`, `gate`
    done, total : rows (or steps) of the phase; total 0 where it is not known
    loss : the training loss, smoothed; None in phases without one
    eta_seconds : until the phase ends; None while it is not known
    """

    phase: str
    done: int = 0
    total: int = 0
    loss: float | None = None
    eta_seconds: float | None = None


class Cost(msgspec.Struct, frozen=True):
    """What a job has cost so far, all of its attempts together.

    events : interactions that were there to train on
    cpu_seconds, wall_seconds : sums over the attempts, of the training processes
    peak_bytes : largest resident memory of a training process and its children
    """

    events: int = 0
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    peak_bytes: int = 0


class Estimate(msgspec.Struct, frozen=True):
    """What a job is expected to cost before it runs; see `Cost`.

    jobs : finished ones that it is derived from; 0 when it comes from nothing but the kind's usual figures
    """

    events: int
    cpu_seconds: float
    wall_seconds: float
    peak_bytes: int
    jobs: int = 0


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
    cost: Cost = Cost()
    """Of its earlier attempts."""


class JobStatus(msgspec.Struct, frozen=True):
    """A job as people see it.

    kind, level : see `kind_of` and `level_of`; kind is what the payload says where this release does not know it
    progress : of the last attempt; owner : the worker that holds it, or held it last; report : of the gate, where it has judged
    not_before : when a queued job is due
    """

    id: JobId
    model: ModelName
    kind: str
    level: str
    reason: str
    state: JobState
    attempt: int
    max_attempts: int
    owner: str | None
    progress: Progress | None
    estimate: Estimate | None
    cost: Cost | None
    report: dict[str, Any] | None
    error: str | None
    not_before: datetime
    created_at: datetime
    finished_at: datetime | None


def trigger_id(model: str, detector: str, config_hash: str, window_end_ms: int) -> str:
    """Deterministic id of a trigger: the same under replay, so that its job is inserted once.

    >>> trigger_id("movies", "psi", "c0ffee", 0) == trigger_id("movies", "psi", "c0ffee", 0)
    True
    """
    return hashlib.sha256(f"{model}|{detector}|{config_hash}|{window_end_ms}".encode()).hexdigest()


def version_of(token: FencingToken) -> ModelVersion:
    """The version that the holder of a fencing token may publish: one lease, one version."""
    return ModelVersion(f"v{token}")
