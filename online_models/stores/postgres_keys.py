"""Operators' API keys in PostgreSQL: what a key may do and since when it may not, never its secret."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from online_models.errors import StoreError
from online_models.rollout_store import ApiKey
from online_models.stores.postgres import Cursor, Database, query


class PostgresKeys:
    """`KeyStore` on PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put_key(self, key: ApiKey) -> None:
        """Insert. Raises StoreError when the prefix is taken, or the role or the hash is none."""

        def work(cursor: Cursor) -> None:
            cursor.execute(query("insert_key"), asdict(key))
            if cursor.rowcount == 0:
                raise StoreError(f"key {key.prefix!r}: expected a new prefix, found a key of it")

        self._database.run(work)

    def key(self, prefix: str) -> ApiKey | None:
        """The key of a prefix, revoked and expired ones too."""
        found = self._select("select_key", {"prefix": prefix})
        return found[0] if found else None

    def keys(self) -> list[ApiKey]:
        """All keys, oldest first."""
        return self._select("select_keys", {})

    def revoke_key(self, prefix: str, now: datetime) -> bool:
        """Revoke a key. Idempotent: the first time stays; False when there is none."""
        return self._database.execute(query("revoke_key"), {"prefix": prefix, "now": now}) > 0

    def _select(self, name: str, values: Mapping[str, object]) -> list[ApiKey]:
        def work(cursor: Cursor) -> list[ApiKey]:
            cursor.execute(query(name), values)
            return [_key(*row) for row in cursor]

        return self._database.run(work, idempotent=True)


def _key(prefix: str, sha256: memoryview, *columns: Any) -> ApiKey:
    return ApiKey(prefix, bytes(sha256), *columns)
