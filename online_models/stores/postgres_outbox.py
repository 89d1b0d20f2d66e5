"""What the registry still has to tell its mirror, in PostgreSQL: one entry per registry event, written with the event.

- At least once: an entry is claimed for a time and deleted when it is delivered; a worker that dies leaves it to the next.
- A model's entries are claimed together and by one worker at a time, so that two never make the same thing twice at once.
- Times are the database's own.
"""

from collections.abc import Sequence
from datetime import timedelta

from online_models.contracts.ids import ModelName
from online_models.ports import OutboxEntry, OutboxState
from online_models.stores.postgres import Cursor, Database, query
from online_models.stores.postgres_registry import registry_event


class PostgresOutbox:
    """`RegistryOutbox` on PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(self, lease: timedelta, count: int) -> list[OutboxEntry]:
        """The oldest entries (at most `count`) of the model that has waited longest, held for the lease; empty when none is due.
        Repeated after a broken connection: a claim nobody heard of ends with its lease."""

        def work(cursor: Cursor) -> list[OutboxEntry]:
            cursor.execute(query("lock_outbox"))
            cursor.execute(query("claim_outbox"), {"lease": lease, "count": count})
            entries = [OutboxEntry(registry_event(tuple(event)), failures) for failures, *event in cursor]
            return sorted(entries, key=lambda entry: entry.event.id)

        return self._database.run(work, idempotent=True)

    def sent(self, entries: Sequence[OutboxEntry]) -> None:
        """Forget entries that are delivered. Idempotent."""
        self._write("delete_outbox", {"events": _ids(entries)})

    def postpone(self, entries: Sequence[OutboxEntry], after: timedelta, failures: int, error: str) -> None:
        """Keep entries that could not be delivered for later, with their failures so far and the reason. Idempotent."""
        values = {"events": _ids(entries), "after": after, "failures": failures, "error": error}
        self._write("postpone_outbox", values)

    def give_back(self, entries: Sequence[OutboxEntry]) -> None:
        """Keep entries that were not tried, due at once. Idempotent."""
        self._write("give_back_outbox", {"events": _ids(entries)})

    def trim(self, keep: int) -> int:
        """Forget all entries but the youngest; how many. Idempotent."""
        return self._write("trim_outbox", {"keep": keep})

    def refill(self, model: ModelName | None = None) -> int:
        """Put all events of a model, or of all, into the outbox again, due at once; how many. Idempotent."""
        return self._write("refill_outbox", {"model": model})

    def waiting(self) -> list[OutboxState]:
        """What waits, by model."""

        def work(cursor: Cursor) -> list[OutboxState]:
            cursor.execute(query("select_outbox"))
            return [OutboxState(*row) for row in cursor]

        return self._database.run(work, idempotent=True)

    def _write(self, name: str, values: dict[str, object]) -> int:
        return self._database.execute(query(name), values)


def _ids(entries: Sequence[OutboxEntry]) -> list[int]:
    return [entry.event.id for entry in entries]
