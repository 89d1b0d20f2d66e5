"""The ports of the registry: versions and their aliases, what happened to them, and what waits to be mirrored.

`online_models.ports` names them with the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from online_models.contracts.artifacts import Manifest
from online_models.contracts.ids import JobId, ModelName, ModelVersion
from online_models.contracts.registry import Alias, Origin, Pointer, RegistryEvent


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    """One row of `model_versions`."""

    model: ModelName
    version: ModelVersion
    manifest_sha256: str
    manifest: Manifest
    created_at: datetime


class ModelRegistry(Protocol):
    """Versions (immutable), aliases (moved by `RolloutStore`), and the append-only record of what happened to them."""

    def new_version(self) -> ModelVersion:
        """A fresh version name for a candidate that no job made (an import)."""

    def register(self, manifest: Manifest, manifest_sha256: str, actor: str) -> None:
        """Register a candidate that no job made; refused when the version exists. Adds a registry event."""

    def version(self, model: ModelName, version: ModelVersion) -> RegisteredVersion | None:
        """One version."""

    def versions(self, model: ModelName) -> list[RegisteredVersion]:
        """All versions, oldest first."""

    def champion(self, model: ModelName) -> ModelVersion | None:
        """The version behind the alias `champion`: what a candidate has to beat and drift is measured against."""

    def models(self) -> list[ModelName]:
        """Models with at least one version."""

    def aliases(self, model: ModelName) -> dict[Alias, Pointer]:
        """Where the model's aliases point; one that is not there points nowhere."""

    def events(self, model: ModelName) -> list[RegistryEvent]:
        """All that happened to the model's versions, oldest first."""

    def origins(self, model: ModelName) -> dict[JobId, Origin]:
        """The jobs that have made versions of the model."""

    def collected_at(self, model: ModelName, version: ModelVersion) -> datetime | None:
        """When the removal of the version's artifact began: nobody may begin to use it since. None while it is kept."""

    def begin_collection(self, model: ModelName, versions: Sequence[ModelVersion], last_event: int, actor: str) -> None:
        """Note that these versions' files are about to be removed: compare-and-set on the model's youngest event. Raises
        StaleEpoch."""

    def end_collection(self, model: ModelName, version: ModelVersion, actor: str) -> None:
        """Note that the version's files are gone. Idempotent."""


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """A registry event that the mirror has not taken, and how often in a row it refused it or was away."""

    event: RegistryEvent
    failures: int


@dataclass(frozen=True, slots=True)
class OutboxState:
    """How many entries of a model wait, the most failures of one of them, and the error of the last of those."""

    model: ModelName
    entries: int
    failures: int
    error: str | None


class RegistryOutbox(Protocol):
    """Registry events that wait for the mirror; delivered at least once. Written by whoever writes the event."""

    def claim(self, lease: timedelta, count: int) -> list[OutboxEntry]:
        """The oldest entries (at most `count`) of the model that has waited longest, held for the lease; empty when none is
        due."""

    def sent(self, entries: Sequence[OutboxEntry]) -> None:
        """Forget entries that are delivered. Idempotent."""

    def postpone(self, entries: Sequence[OutboxEntry], after: timedelta, failures: int, error: str) -> None:
        """Keep entries that could not be delivered for later, with their failures so far and the reason. Idempotent."""

    def give_back(self, entries: Sequence[OutboxEntry]) -> None:
        """Keep entries that were not tried, due at once. Idempotent."""

    def trim(self, keep: int) -> int:
        """Forget all entries but the youngest; how many. Idempotent."""

    def refill(self, model: ModelName | None = None) -> int:
        """Put all events of a model, or of all, into the outbox again, due at once; how many. Idempotent."""

    def waiting(self) -> list[OutboxState]:
        """What waits, by model."""
