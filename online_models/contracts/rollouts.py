"""Rollouts: how a candidate version reaches users in stages, and the counts it is judged by.

- The PostgreSQL row is the truth; the route document in Redis is its projection, larger epoch wins.
- Counts are kept per (rollout, stage, version) and never pooled across stages.
"""

import enum
from datetime import datetime

import msgspec

from online_models.contracts.ids import Epoch, ModelName, ModelVersion, RolloutId

FULL_WEIGHT_BP = 10_000
"""Weights are basis points: 500 is 5 %."""


class Phase(enum.StrEnum):
    """Where a rollout stands. `promoted`, `rolled_back` and `superseded` are final."""

    PREPARING = "preparing"  # weight 0 until every reader holds the candidate
    RAMPING = "ramping"
    PAUSED = "paused"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    SUPERSEDED = "superseded"


OPEN_PHASES = (Phase.PREPARING, Phase.RAMPING, Phase.PAUSED)


class Rollout(msgspec.Struct, frozen=True):
    """One candidate's way to all users.

    stage : index into the controller's stages; -1 while preparing
    weight_bp : share of users on the canary, in basis points
    epoch : compare-and-set counter, from one sequence for all rollouts, so that it also orders route documents
    """

    id: RolloutId
    model: ModelName
    stable: ModelVersion
    canary: ModelVersion
    phase: Phase
    stage: int
    weight_bp: int
    epoch: Epoch
    salt: str
    created_at: datetime
    stage_started_at: datetime


class Route(msgspec.Struct, frozen=True):
    """The route document of one model: which versions serve whom. Written only by the controller."""

    epoch: int
    stable: ModelVersion
    canary: ModelVersion | None = None
    weight_bp: int = 0
    salt: str = ""
    rollout_id: int | None = None
    stage: int = -1


class VariantWindow(msgspec.Struct, frozen=True):
    """What one version did in one event-time window of one stage.

    users : users first exposed in this rollout in this window; successes : those of them who clicked or consumed
    what that first request showed. The unit of every verdict is a user's first exposure.
    requests, hits, impressions, clicks : all traffic, for display and for hit rate and CTR.
    """

    model: ModelName
    version: ModelVersion
    rollout_id: int
    """0 outside a rollout."""
    stage: int
    window_start_ms: int
    window_end_ms: int
    users: int
    successes: int
    requests: int
    hits: int
    impressions: int
    clicks: int


class StageCounts(msgspec.Struct, frozen=True):
    """Sums of one version's windows within one stage of one rollout."""

    users: int = 0
    successes: int = 0
    requests: int = 0
    hits: int = 0
    impressions: int = 0
    clicks: int = 0


class ReaderStatus(msgspec.Struct, frozen=True):
    """What one serving process says about one version: ready with this manifest's SHA-256, or refused with an error."""

    version: ModelVersion
    ready: bool
    manifest_sha256: str = ""
    error: str = ""
