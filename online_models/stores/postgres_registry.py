"""The model registry in PostgreSQL: immutable versions, their aliases, and an append-only record of both.

- All that changes what is in use of a model holds the lock of its champion's row, so that events of a model are committed in
  the order of their ids. Whoever has seen the last one has seen everything.
- The collection of an artifact is a compare-and-set on that: it begins only when nothing has happened since it was found
  useless, and from then on no rollout begins with it and no new version may need it.
- Every event is also put into the outbox of the mirror, in the same transaction.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from online_models.contracts.artifacts import Manifest, decode_manifest, encode_manifest
from online_models.contracts.ids import FencingToken, JobId, ModelName, ModelVersion
from online_models.contracts.jobs import Cost, version_of
from online_models.contracts.registry import Alias, Happening, Origin, Pointer, RegistryEvent
from online_models.errors import StaleEpoch, StoreError
from online_models.ports import RegisteredVersion
from online_models.stores.postgres import Cursor, Database, one, query


class PostgresRegistry:
    """`ModelRegistry` on PostgreSQL. Aliases are moved by `PostgresRollouts`, with the rollout that earned them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def new_version(self) -> ModelVersion:
        """A fresh version name, from the sequence of the fencing tokens: no job will ever publish under
        it."""

        def work(cursor: Cursor) -> ModelVersion:
            cursor.execute(query("next_version"))
            return version_of(FencingToken(one(cursor)[0]))

        return self._database.run(work, idempotent=True)

    def register(self, manifest: Manifest, manifest_sha256: str, actor: str) -> None:
        """Register a candidate that no job made, with a registry event. Raises StoreError when the version
        exists."""
        self._database.run(lambda cursor: insert_version(cursor, manifest, manifest_sha256, actor))

    def version(self, model: ModelName, version: ModelVersion) -> RegisteredVersion | None:
        """One version."""

        def work(cursor: Cursor) -> RegisteredVersion | None:
            cursor.execute(query("select_version"), {"model": model, "version": version})
            row = cursor.fetchone()
            return None if row is None else _registered(row)

        return self._database.run(work, idempotent=True)

    def versions(self, model: ModelName) -> list[RegisteredVersion]:
        """All versions, oldest first: by the number in their name, v9 before v10."""

        def work(cursor: Cursor) -> list[RegisteredVersion]:
            cursor.execute(query("select_versions"), {"model": model})
            return [_registered(row) for row in cursor]

        return self._database.run(work, idempotent=True)

    def champion(self, model: ModelName) -> ModelVersion | None:
        """The version behind the alias `champion`."""

        def work(cursor: Cursor) -> ModelVersion | None:
            cursor.execute(query("select_champion"), {"model": model})
            row = cursor.fetchone()
            return None if row is None else ModelVersion(row[0])

        return self._database.run(work, idempotent=True)

    def models(self) -> list[ModelName]:
        """Models with at least one version, by name."""

        def work(cursor: Cursor) -> list[ModelName]:
            cursor.execute(query("select_models"))
            return [ModelName(name) for (name,) in cursor]

        return self._database.run(work, idempotent=True)

    def aliases(self, model: ModelName) -> dict[Alias, Pointer]:
        """Where the model's aliases point; one that is not there points nowhere."""

        def work(cursor: Cursor) -> dict[Alias, Pointer]:
            cursor.execute(query("select_aliases"), {"model": model})
            return {Alias(alias): Pointer(version, epoch, since) for alias, version, epoch, since in cursor}

        return self._database.run(work, idempotent=True)

    def events(self, model: ModelName) -> list[RegistryEvent]:
        """All that happened to the model's versions, oldest first."""

        def work(cursor: Cursor) -> list[RegistryEvent]:
            cursor.execute(query("select_registry_events"), {"model": model})
            return [registry_event(row) for row in cursor]

        return self._database.run(work, idempotent=True)

    def origins(self, model: ModelName) -> dict[JobId, Origin]:
        """The jobs that have made versions of the model."""

        def work(cursor: Cursor) -> dict[JobId, Origin]:
            cursor.execute(query("select_origins"), {"model": model})
            return {row[0]: _origin(row) for row in cursor}

        return self._database.run(work, idempotent=True)

    def collected_at(self, model: ModelName, version: ModelVersion) -> datetime | None:
        """When the removal of the version's artifact began: nobody may begin to use it since. None while it is kept."""
        return self._database.run(lambda cursor: _collection(cursor, model, version), idempotent=True)

    def begin_collection(self, model: ModelName, versions: Sequence[ModelVersion], last_event: int, actor: str) -> None:
        """Note that these versions' files are about to be removed: compare-and-set on the model's youngest event.

        Raises
        ------
        StaleEpoch
            When something has happened to the model's versions since `last_event`. Nothing has changed then.
        """

        def work(cursor: Cursor) -> None:
            lock_champion(cursor, model)
            cursor.execute(query("select_last_registry_event"), {"model": model})
            found = one(cursor)[0]
            if found != last_event:
                raise StaleEpoch(f"{model}: expected nothing to have happened since event {last_event}, found {found}")
            for version in versions:
                _note_collection(cursor, model, version, Happening.COLLECTING, actor)

        self._database.run(work)

    def end_collection(self, model: ModelName, version: ModelVersion, actor: str) -> None:
        """Note that the version's files are gone. Idempotent."""

        def work(cursor: Cursor) -> None:
            lock_champion(cursor, model)
            _note_collection(cursor, model, version, Happening.COLLECTED, actor)

        self._database.run(work, idempotent=True)


def insert_version(cursor: Cursor, manifest: Manifest, manifest_sha256: str, actor: str) -> None:
    """Register a version and note the event, in the caller's transaction. Raises StoreError when the version exists, or
    the language model that it needs is collected."""
    lock_champion(cursor, manifest.model)
    if manifest.language_model not in (None, manifest.version):
        refuse_collected(cursor, manifest.model, manifest.language_model)
    values = {
        "model": manifest.model,
        "version": manifest.version,
        "manifest_sha256": manifest_sha256,
        "manifest": encode_manifest(manifest).decode(),
    }
    cursor.execute(query("insert_version"), values)
    if cursor.rowcount == 0:
        raise StoreError(f"{manifest.model} {manifest.version}: expected a new version, but it is registered already")
    record_event(cursor, manifest.model, manifest.version, Happening.REGISTERED, actor, manifest_sha256=manifest_sha256)


def lock_champion(cursor: Cursor, model: ModelName) -> ModelVersion | None:
    """Put the caller's transaction in sequence with all that changes what is in use of a model; its champion, if any."""
    cursor.execute(query("lock_champion"), {"model": model})
    row = cursor.fetchone()
    return None if row is None else ModelVersion(row[0])


def refuse_unkept(cursor: Cursor, model: ModelName, version: ModelVersion) -> None:
    """Raise StoreError when the version is not registered, or its artifact is collected or about to be."""
    cursor.execute(query("version_exists"), {"model": model, "version": version})
    if not one(cursor)[0]:
        raise StoreError(f"{model} {version}: expected a registered version, found none")
    refuse_collected(cursor, model, version)


def refuse_collected(cursor: Cursor, model: ModelName, version: ModelVersion) -> None:
    """Raise StoreError when the version's artifact is collected or about to be."""
    since = _collection(cursor, model, version)
    if since is not None:
        raise StoreError(
            f"{model} {version}: expected a version whose artifact is kept, but it was collected "
            f"at {since:%Y-%m-%dT%H:%M:%SZ}"
        )


def record_event(
    cursor: Cursor,
    model: ModelName,
    version: ModelVersion,
    happening: Happening,
    actor: str,
    **detail: str | int | float | None,
) -> None:
    """Note what happened to a version, in the caller's transaction."""
    cursor.execute(
        query("insert_registry_event"),
        {
            "model": model,
            "version": version,
            "event": happening,
            "actor": actor,
            "detail": msgspec.json.encode(detail).decode(),
        },
    )


def registry_event(row: tuple[Any, ...]) -> RegistryEvent:
    """An event from its row, in the order of the struct's fields."""
    event_id, model, version, happening, actor, detail, created_at = row
    return RegistryEvent(event_id, model, version, Happening(happening), actor, detail, created_at)


def _collection(cursor: Cursor, model: ModelName, version: ModelVersion) -> datetime | None:
    cursor.execute(query("select_collection"), {"model": model, "version": version})
    row = cursor.fetchone()
    since: datetime | None = None if row is None else row[0]
    return since


def _note_collection(cursor: Cursor, model: ModelName, version: ModelVersion, step: Happening, actor: str) -> None:
    values = {"model": model, "version": version, "event": step, "actor": actor}
    cursor.execute(query("insert_collection_event"), values)


def _origin(row: tuple[Any, ...]) -> Origin:
    job_id, trigger_id, reason, asked_at, finished_at, cost = row
    known = None if cost in (None, "null") else msgspec.json.decode(cost, type=Cost)
    return Origin(job_id, trigger_id, reason, asked_at, finished_at, known)


def _registered(row: tuple[Any, ...]) -> RegisteredVersion:
    model, version, manifest_sha256, manifest, created_at = row
    return RegisteredVersion(model, version, manifest_sha256, decode_manifest(manifest.encode()), created_at)
