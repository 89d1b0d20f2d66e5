"""The model registry in PostgreSQL: immutable versions, the alias `champion`, and an append-only record of
both."""

from typing import Any

import msgspec

from online_models.contracts.artifacts import Manifest, decode_manifest, encode_manifest
from online_models.contracts.ids import FencingToken, ModelName, ModelVersion
from online_models.contracts.jobs import version_of
from online_models.errors import StoreError
from online_models.ports import RegisteredVersion
from online_models.stores.postgres import Cursor, Database, one, query


class PostgresRegistry:
    """`ModelRegistry` on PostgreSQL. The alias is moved by `PostgresRollouts`, with the rollout that earned
    it."""

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


def insert_version(cursor: Cursor, manifest: Manifest, manifest_sha256: str, actor: str) -> None:
    """Register a version and note the event, in the caller's transaction. Raises StoreError when the version
    exists."""
    values = {
        "model": manifest.model,
        "version": manifest.version,
        "manifest_sha256": manifest_sha256,
        "manifest": encode_manifest(manifest).decode(),
    }
    cursor.execute(query("insert_version"), values)
    if cursor.rowcount == 0:
        raise StoreError(f"{manifest.model} {manifest.version}: expected a new version, but it is registered already")
    record_event(cursor, manifest.model, manifest.version, "registered", actor, manifest_sha256=manifest_sha256)


def record_event(
    cursor: Cursor, model: ModelName, version: ModelVersion, event: str, actor: str, **detail: object
) -> None:
    """Note what happened to a version, in the caller's transaction."""
    cursor.execute(
        query("insert_registry_event"),
        {
            "model": model,
            "version": version,
            "event": event,
            "actor": actor,
            "detail": msgspec.json.encode(detail).decode(),
        },
    )


def _registered(row: tuple[Any, ...]) -> RegisteredVersion:
    model, version, manifest_sha256, manifest, created_at = row
    return RegisteredVersion(model, version, manifest_sha256, decode_manifest(manifest.encode()), created_at)
