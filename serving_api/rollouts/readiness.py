"""What the readers say of the versions of a rollout, and the stores that rollouts are read from and written to."""

from dataclasses import dataclass
from datetime import datetime

from online_models.contracts.ids import ModelName, ModelVersion
from online_models.contracts.rollouts import Rollout
from online_models.ports import ArtifactStore, ModelRegistry, RolloutStore, RouteStore
from serving_api.rollouts.transitions import Readiness, Ready, Refused, Waiting, readiness


@dataclass(frozen=True, slots=True)
class RolloutStores:
    """What the controller and operators' calls read and write."""

    registry: ModelRegistry
    rollouts: RolloutStore
    routes: RouteStore
    artifacts: ArtifactStore


def readiness_of(stores: RolloutStores, rollout: Rollout, now: datetime) -> Readiness:
    """What the readers say of the versions that are to be shown beside stable, the gravest first. Raises StoreUnavailable."""
    versions = [arm.version for arm in rollout.arms if arm.version != rollout.stable] or [rollout.canary]
    said = [said_of(stores, rollout.model, version, now) for version in versions]
    refused: list[Readiness] = [each for each in said if isinstance(each, Refused)]
    waiting: list[Readiness] = [each for each in said if isinstance(each, Waiting)]
    return (*refused, *waiting, Ready())[0]


def said_of(stores: RolloutStores, model: ModelName, version: ModelVersion, now: datetime) -> Readiness:
    """What the readers say of one version. Raises StoreUnavailable."""
    registered = stores.registry.version(model, version)
    if registered is None:
        return Waiting(f"{version} is not in the registry")
    return readiness(stores.routes.statuses(model, version, now), registered.manifest_sha256)
