"""Removing the artifacts that nothing needs any more; rows and records of their versions stay for ever.

- In two steps, each of them in the registry before it shows on the disk: `collecting` closes the version to rollouts, then its
  directory goes, then `collected` says so. A worker that dies in between leaves what the next one finishes.
- The first step is a compare-and-set on all that has happened to the model: a promotion, rollout or registration meanwhile
  makes it void, and the next pass decides anew.
"""

import logging
from datetime import datetime

from online_models.contracts.ids import ModelName, ModelVersion
from online_models.errors import StaleEpoch
from online_models.model_registry import ModelRegistry
from online_models.ports import ArtifactStore
from retrain_workers.registry.garbage import Retention, garbage, interrupted

_LOG = logging.getLogger(__name__)


def collectable(registry: ModelRegistry, model: ModelName, now: datetime, retention: Retention) -> list[ModelVersion]:
    """The versions whose artifacts `collect` would remove now (aware), oldest first."""
    return _decide(registry, model, now, retention)[0]


def collect(
    artifacts: ArtifactStore, registry: ModelRegistry, now: datetime, retention: Retention, actor: str
) -> list[tuple[ModelName, ModelVersion]]:
    """Remove what is not needed at `now` (aware) of all models, and finish what others have begun. Idempotent.

    Returns what was removed. Raises StoreError, StoreUnavailable or OSError when a store fails; the next pass goes on.
    """
    return [
        (model, version)
        for model in registry.models()
        for version in collect_model(artifacts, registry, model, now, retention, actor)
    ]


def collect_model(
    artifacts: ArtifactStore,
    registry: ModelRegistry,
    model: ModelName,
    now: datetime,
    retention: Retention,
    actor: str,
) -> list[ModelVersion]:
    """`collect` of one model."""
    useless, half_done, last_event = _decide(registry, model, now, retention)
    if useless:
        try:
            registry.begin_collection(model, useless, last_event, actor)
        except StaleEpoch as stale:
            _LOG.info("collection.lost_race model=%s reason=%r", model, str(stale))
            useless = []
    removed = [*half_done, *useless]
    for version in removed:
        artifacts.discard(model, version)
        registry.end_collection(model, version, actor)
    return removed


def _decide(
    registry: ModelRegistry, model: ModelName, now: datetime, retention: Retention
) -> tuple[list[ModelVersion], list[ModelVersion], int]:
    """What may go, what is half gone, and the youngest event that the decision knows of."""
    # The record first: whatever is read after it and is younger makes the compare-and-set fail.
    events = registry.events(model)
    useless = garbage(registry.versions(model), registry.aliases(model), events, now, retention)
    return useless, interrupted(events), max((event.id for event in events), default=0)
