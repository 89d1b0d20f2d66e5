"""What a worker without a job does from time to time: removes what nothing needs any more, and tells others what has happened."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from online_models.job_queue import JobQueue
from online_models.model_registry import ModelRegistry, RegistryOutbox
from online_models.ports import ArtifactStore
from retrain_workers.checkpoints import drop_finished
from retrain_workers.publish import remove_orphans
from retrain_workers.registry.collection import collect
from retrain_workers.registry.garbage import Retention
from retrain_workers.registry.mirror import Tracker, mirror

TIDY_EVERY: Final = timedelta(hours=1)
MIRROR_EVERY: Final = timedelta(minutes=1)

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Chore:
    """work : does it, as of a time (aware), until it is asked to stop, and logs what it has done
    every : least time between two times
    """

    name: str
    every: timedelta
    work: Callable[[datetime, Callable[[], bool]], None]


class Chores:
    """Chores that are done when they are due; one that fails is logged and due again after its pause."""

    def __init__(self, chores: Sequence[Chore]) -> None:
        self._chores = chores
        self._done: dict[str, datetime] = {}

    @property
    def names(self) -> list[str]:
        """Of the chores, in their order."""
        return [chore.name for chore in self._chores]

    def run_due(self, now: datetime, stopped: Callable[[], bool]) -> None:
        """Do what is due at a time (aware), until `stopped`."""
        for chore in self._chores:
            done = self._done.get(chore.name)
            if not stopped() and (done is None or now >= done + chore.every):
                self._done[chore.name] = now
                try:
                    chore.work(now, stopped)
                except Exception:  # noqa: BLE001  a chore is a boundary: the next job must not wait for it
                    _LOG.exception("chore.failed name=%s", chore.name)


def tidying(
    artifacts: ArtifactStore,
    registry: ModelRegistry,
    queue: JobQueue,
    checkpoints: Path,
    retention: Retention,
    actor: str,
) -> Chore:
    """Removes artifacts and checkpoints that killed workers left, and artifacts that nothing needs any more."""

    def work(now: datetime, _: Callable[[], bool]) -> None:
        for model in registry.models():
            for version in remove_orphans(artifacts, registry, queue, model, now, retention.grace):
                _LOG.info("artifact.removed model=%s version=%s reason='written and never registered'", model, version)
        for job in drop_finished(checkpoints, queue.finished, now):
            _LOG.info("checkpoints.removed job_id=%s reason='of a finished job, or long untouched'", job)
        collect(artifacts, registry, now, retention, actor)

    return Chore("tidying", TIDY_EVERY, work)


def mirroring(outbox: RegistryOutbox, registry: ModelRegistry, tracker: Tracker | None) -> Chore:
    """Tells a tracking server what has happened in the registry, where one is known; keeps the outbox from growing."""
    return Chore("mirroring", MIRROR_EVERY, lambda _, stopped: _mirrored(outbox, registry, tracker, stopped))


def _mirrored(
    outbox: RegistryOutbox, registry: ModelRegistry, tracker: Tracker | None, stopped: Callable[[], bool]
) -> None:
    done = mirror(outbox, registry, tracker, stopped=stopped)
    if done.error:
        _LOG.warning("mirror.failed error=%r", done.error)
