"""What processes ask of rollouts, of their counts, and of the operators who move them. Re-exported by `ports`."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import numpy as np
import numpy.typing as npt

from online_models.contracts.ids import Epoch, ModelName, ModelVersion
from online_models.contracts.rollouts import (
    GROUPS,
    Arm,
    Kind,
    Plan,
    Rollout,
    RolloutEvent,
    StageCounts,
    VariantWindow,
)

Grouped = npt.NDArray[np.int64]
"""int64 (4, GROUPS): requests, hits, impressions and clicks of each group of users."""

Shadowed = npt.NDArray[np.int64]
"""int64 (2, SHADOW_POSITIONS, SHADOW_PLACES + 1): see `ShadowCounts.counts`."""


@dataclass(frozen=True, slots=True)
class VariantCounts:
    """What one version did as one variant in one stage: its sums, and those by group of users (4, GROUPS)."""

    stage: int
    variant: str
    version: ModelVersion
    counts: StageCounts
    grouped: Grouped

    @classmethod
    def none(cls, stage: int, variant: str, version: ModelVersion) -> "VariantCounts":
        """Of a variant that nobody has met."""
        return cls(stage, variant, version, StageCounts(), np.zeros((4, GROUPS), np.int64))


@dataclass(frozen=True, slots=True)
class NewRollout:
    """A rollout to begin.

    automatic : the controller begins it, which it does once for a version, and never where somebody has tried it
    """

    model: ModelName
    stable: ModelVersion
    canary: ModelVersion
    plan: Plan
    kind: Kind = Kind.CANARY
    arms: tuple[Arm, ...] = ()
    automatic: bool = True


@dataclass(frozen=True, slots=True)
class Act:
    """Who changes a rollout, why, and by what.

    evidence : what the actor went by, ready for JSON
    request : an operator's idempotency key and the SHA-256 of what was asked, or None. A request seen before changes nothing, and
        gives what it gave.
    """

    actor: str
    reason: str
    evidence: Mapping[str, object]
    request: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a model's people did lately: different users a day, and the share of their first requests of a day with something
    taken; zeros where nothing is known."""

    users_per_day: float
    success_rate: float


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An operator's key: `prefix` finds it, its secret is known by its SHA-256 alone; `name` stands in audit trails."""

    prefix: str
    sha256: bytes
    role: str
    name: str
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None


class RolloutStore(Protocol):
    """Rollouts and their append-only events; every change is compare-and-set on `epoch` and one transaction."""

    def open_rollout(self, model: ModelName) -> Rollout | None:
        """The model's rollout that is not final."""

    def latest(self, model: ModelName) -> Rollout | None:
        """The model's youngest rollout, open or final."""

    def last_promotion(self, model: ModelName) -> Rollout | None:
        """The rollout by which the champion became that, of kind `canary` or `rollback`; None of one that was adopted."""

    def history(self, model: ModelName, limit: int) -> list[Rollout]:
        """The model's rollouts, youngest first."""

    def events(self, rollout: Rollout) -> list[RolloutEvent]:
        """A rollout's audit trail, oldest first."""

    def candidates(self, model: ModelName) -> list[ModelVersion]:
        """Recommenders younger than each that has served or was tried, oldest first."""

    def adapters(self, model: ModelName) -> list[ModelVersion]:
        """Language models that no rollout has tried and that came with the champion's recommender, oldest first."""

    def adopt(self, model: ModelName, version: ModelVersion, actor: str) -> Epoch:
        """Make the first version of a model its champion, without a rollout: there is nothing to compare it with.
        Raises StaleEpoch when the model has a champion."""

    def create(self, new: NewRollout, act: Act, rollout_epoch: Epoch | None = None) -> Rollout:
        """A new rollout in phase `preparing`. Raises StaleEpoch when the model has an open one, when `stable` is not its
        champion, when it is automatic and the canary has been tried before, or when the youngest rollout is not at
        `rollout_epoch`, where one is given; RequestReused."""

    def transition(self, old: Rollout, new: Rollout, act: Act) -> Rollout:
        """Replace `old` by `new` (its phase, stage, weight, arms and stage start) if its epoch is unchanged, add the event, move
        the aliases when it ends; returns `new` with its fresh epoch. Raises StaleEpoch; RequestReused."""

    def restore(
        self,
        model: ModelName,
        version: ModelVersion,
        champion_epoch: Epoch,
        act: Act,
        rollout_epoch: Epoch | None = None,
    ) -> Rollout:
        """Make a retained version the champion at once: an open rollout is aborted, and a rollout of kind `rollback` in its
        final phase tells of it. Raises StaleEpoch when the champion is not the one of that epoch, or is that version, or the
        youngest rollout is not at `rollout_epoch`, where one is given; StoreError when the version is not registered or its
        artifact is collected; RequestReused."""

    def overtake(self, model: ModelName, epoch: Epoch, act: Act) -> None:
        """Give the open rollout, or without one the champion, an epoch above one that this database has not given: a route
        document of it is of a time that the database has lost. Idempotent: nothing where the epoch is above already."""

    def repeated(self, actor: str, request: tuple[str, str]) -> Rollout | None:
        """What an operator's request did, as the rollout was after it, when it has been seen before. Raises RequestReused when
        its key was another request's."""

    def rollouts_of(self, model: ModelName, version: ModelVersion) -> list[Rollout]:
        """The rollouts that a version took part in, as canary, stable version or arm, oldest first."""

    def champion_epoch(self, model: ModelName) -> tuple[ModelVersion, Epoch] | None:
        """The champion and the epoch at which it became that."""

    def measured(self, rollout: Rollout) -> list[VariantCounts]:
        """What each variant and version did in each stage of a rollout, where there is something; by stage, variant, version."""

    def windows(self, rollout: Rollout) -> list[VariantWindow]:
        """A rollout's windows, oldest first."""

    def shadowed(self, model: ModelName, version: ModelVersion) -> Shadowed:
        """Where a version has had what others were shown while it was in the shadow, in whatever rollouts; zeros where nothing is
        known."""

    def traffic(self, model: ModelName, now_ms: int) -> Traffic:
        """What people did in the seven days of event time before the newest window, outside rollouts and in them."""


class KeyStore(Protocol):
    """Operators' API keys."""

    def put_key(self, key: ApiKey) -> None:
        """Insert. Raises StoreError when the prefix is taken."""

    def key(self, prefix: str) -> ApiKey | None:
        """The key of a prefix, revoked and expired ones too."""

    def keys(self) -> list[ApiKey]:
        """All keys, oldest first."""

    def revoke_key(self, prefix: str, now: datetime) -> bool:
        """Revoke a key. Idempotent; False when there is none."""
