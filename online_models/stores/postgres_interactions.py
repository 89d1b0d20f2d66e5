"""Events, users and the catalogue in PostgreSQL.

- A call is one transaction: one COPY straight into each event table, rows in key order. COPY's text is built column by
  column, without a Python statement per field. It is twice as fast as COPY into a staging table and INSERT ... SELECT.
- COPY knows no ON CONFLICT: when a call meets an event that is stored already (a log read again), it is rolled back and
  repeated through the staging table, and so are the calls after it until one meets no such event.
- Commits do not wait for the disk. WAL is flushed in order, so the one synchronous commit of `flush` covers
  them all.
- A broken connection may mean that the server crashed and forgot commits that were not flushed. The store
  then refuses to go on: the caller restarts from its last flushed position and writes again, which event_id
  makes harmless.
"""

import io
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import psycopg2.errors
from psycopg2.extras import execute_values

from online_models.contracts.events import EVENT_TYPES, TYPE_CODES, Event, EventBatch, EventType, Item
from online_models.contracts.ids import UserId
from online_models.errors import StoreError, StoreUnavailable
from online_models.interactions import EventView, Interactions
from online_models.stores.postgres import Cursor, Database, query
from online_models.stores.postgres_view import PostgresView, items_of

# The event tables, in the order in which every call writes them: two writers cannot then deadlock.
_COPY = ("copy_watch_history", "copy_purchase_history", "copy_impressions", "copy_feedback")
_INSERT = ("insert_watch_history", "insert_purchase_history", "insert_impressions", "insert_feedback")
_FEEDBACK = len(_COPY) - 1

_TABLE_OF = np.full(len(EVENT_TYPES), _FEEDBACK)  # event type code -> index of its table
_TABLE_OF[[TYPE_CODES[kind] for kind in (EventType.WATCH, EventType.PURCHASE, EventType.IMPRESSION)]] = [0, 1, 2]

_COPY_BLOCK_BYTES = 1 << 20
_READ_ROWS = 50_000
_LATEST_MS = 2**63 - 1

# COPY's text format: tab between fields, newline between rows, \N for NULL, backslash before what would mean
# something else.
_NULL = "\\N"
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


T = TypeVar("T")


class PostgresInteractions:
    """`InteractionStore` on PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._unflushed: int | None = None  # session whose commits may not be on disk
        self._repeating = False  # whether the last call met events that were stored already

    def write(self, batches: Sequence[EventBatch]) -> int:
        """COPY the events into their tables; idempotent by event_id. Returns rows added.

        Raises
        ------
        StoreUnavailable
            When the server cannot be reached, or the connection broke after a write that was not flushed.
        """
        if not any(map(len, batches)):
            return 0
        rows = Rows.of(batches)
        if not self._repeating:
            try:
                return self._run(rows, _copy)
            except StoreError as error:
                # A stored event, or a spelling of its id that Python reads and PostgreSQL does not ("urn:uuid:...").
                if not isinstance(error.__cause__, psycopg2.errors.UniqueViolation | psycopg2.errors.DataError):
                    raise
        added = self._run(rows, _copy_and_insert)
        self._repeating = added < len(rows.events)
        return added

    def flush(self) -> None:
        """Return when everything written so far is durable.

        Raises
        ------
        StoreUnavailable
            When that cannot be promised: unreachable server, or a connection lost since the last flush.
        """
        if self._unflushed is None:
            return

        def work(cursor: Cursor) -> None:
            self._refuse_lost_session()
            cursor.execute(query("flush_wal"))

        self._database.run(work, idempotent=True)
        self._unflushed = None

    def interactions(self, domain: str, until_ms: int | None = None) -> Interactions:
        """All interactions and feedback of a domain up to an event time (inclusive), ordered by (time, event
        id)."""
        last = _LATEST_MS if until_ms is None else until_ms
        columns = self._database.run(lambda cursor: _fetch(cursor, domain, last), idempotent=True)
        users, items, kinds, times, values, recommended, features = columns
        return Interactions(
            user_id=users,
            item_id=items,
            type=np.array([TYPE_CODES[kind] for kind in kinds], np.int8),
            ts_ms=np.array(times, np.int64),
            value=np.array(values, np.float64),  # None becomes NaN
            recommended=np.array(recommended, np.bool_),
            features=features,
        )

    def view(self, domain: str, until_ms: int | None, work: Callable[[EventView], T]) -> T:
        """What `work` makes of one consistent view of a domain's events up to an event time (inclusive) and of its catalogue, in
        one transaction.

        The server ends the transaction when `work` pauses for `IDLE_TIMEOUT` outside of `copy`. It is repeated once when the
        connection was dead, so it must be idempotent.
        """
        last = _LATEST_MS if until_ms is None else until_ms

        def transaction(cursor: Cursor) -> T:
            cursor.execute(query("read_one_moment"))
            return work(PostgresView(cursor, domain, last))

        return self._database.run(transaction, idempotent=True)

    def put_items(self, items: Sequence[Item]) -> None:
        """Insert or replace catalogue entries; the last of equal ids wins. Idempotent."""
        latest = {(item.domain, item.item_id): item for item in items}
        rows = [
            (i.domain, i.item_id, i.title, i.categories, i.price, i.min_age, i.available_ms)
            for _, i in sorted(latest.items())
        ]
        if rows:
            self._database.run(
                lambda cursor: execute_values(
                    cursor, query("upsert_items"), rows, "(%s, %s, %s, %s::text[], %s, %s, %s)", page_size=1000
                ),
                idempotent=True,
            )

    def items(self, domain: str) -> list[Item]:
        """The catalogue of a domain, by item id."""
        return self._database.run(lambda cursor: items_of(cursor, domain), idempotent=True)

    def users(self, after: UserId | None, count: int) -> list[UserId]:
        """The next users of all domains, in the order of their ids: those behind `after`, at most `count`."""

        def work(cursor: Cursor) -> list[UserId]:
            cursor.execute(query("select_users"), {"after": after or "", "count": count})
            return [UserId(user) for (user,) in cursor]

        return self._database.run(work, idempotent=True)

    def _run(self, rows: "Rows", write: Callable[[Cursor, "Rows"], int]) -> int:
        def work(cursor: Cursor) -> int:
            self._refuse_lost_session()
            cursor.execute(query("commit_without_waiting"))
            cursor.execute(query("insert_users"), {"users": sorted({event.user_id for event in rows.events})})
            added = write(cursor, rows)
            self._unflushed = self._database.session
            return added

        return self._database.run(work, idempotent=True)

    def _refuse_lost_session(self) -> None:
        if self._unflushed not in (None, self._database.session):
            raise StoreUnavailable(
                "PostgreSQL: the connection broke before a flush, so that earlier writes may be lost: "
                "resume from the last flushed position"
            )


@dataclass(frozen=True, slots=True)
class Rows:
    """Events with their times (n,), epoch ms, and the table (n,) that each belongs to."""

    events: list[Event]
    ts_ms: npt.NDArray[np.int64]
    table: npt.NDArray[np.int64]

    @classmethod
    def of(cls, batches: Sequence[EventBatch]) -> "Rows":
        """The rows of some batches, in their order."""
        return cls(
            [event for batch in batches for event in batch.events],
            np.concatenate([batch.ts_ms for batch in batches]),
            _TABLE_OF[np.concatenate([batch.type for batch in batches])],
        )

    def of_table(self, table: int) -> "Rows":
        """The rows that belong to one table."""
        wanted = self.table == table
        if wanted.all():
            return self
        events = [self.events[row] for row in np.flatnonzero(wanted).tolist()]
        return Rows(events, self.ts_ms[wanted], self.table[wanted])


def _copy(cursor: Cursor, rows: Rows) -> int:
    """COPY new events into their tables; a UniqueViolation when one is not new."""
    for table in np.unique(rows.table).tolist():
        lines = copy_lines(rows.of_table(table), typed=table == _FEEDBACK)
        # Lines begin with the event id: in key order, two writers wait for each other instead of deadlocking.
        _send(cursor, _COPY[table], sorted(lines))
    return len(rows.events)


def _copy_and_insert(cursor: Cursor, rows: Rows) -> int:
    """Add those of the events that are not stored yet."""
    cursor.execute(query("create_staging"))
    _send(cursor, "copy_staging", copy_lines(rows, typed=True, canonical_ids=True))
    added = 0
    for table in np.unique(rows.table).tolist():
        cursor.execute(query(_INSERT[table]))
        added += cursor.rowcount
    return added


def _send(cursor: Cursor, name: str, lines: Iterable[str]) -> None:
    cursor.copy_expert(query(name), io.BytesIO("\n".join(lines).encode()), size=_COPY_BLOCK_BYTES)


def copy_lines(rows: Rows, *, typed: bool, canonical_ids: bool = False) -> Iterable[str]:
    """Each event in COPY's text format, in the column order of the tables.

    Parameters
    ----------
    typed : with a column of the event's type, as in the tables `feedback` and `staging`
    canonical_ids : write every event id as `str(uuid.UUID(event_id))`
    """
    ids, kinds, users, items, _, domains, *scalars, features = zip(
        *map(msgspec.structs.astuple, rows.events), strict=True
    )
    values, requests, positions, versions, rollouts, propensities = scalars
    columns: list[Iterable[str]] = [
        [str(uuid.UUID(text)) for text in ids] if canonical_ids else _text(ids),
        _number(rows.ts_ms.tolist()),
        *([[kind._value_ for kind in kinds]] if typed else []),
        _text(users),
        _text(items),
        _text(domains),
        _number(values),
        _optional_text(requests),
        _number(positions),
        _optional_text(versions),
        _number(rollouts),
        _number(propensities),
        _json(features),
    ]
    return map("\t".join, zip(*columns, strict=True))


def _text(column: Sequence[str]) -> Sequence[str]:
    # Four scans of the joined column are far cheaper than one translation per field, and hardly ever is one
    # needed.
    joined = "\n".join(column)
    if "\\" in joined or "\t" in joined or "\r" in joined or joined.count("\n") != len(column) - 1:
        return [text.translate(_ESCAPES) for text in column]
    return column


def _optional_text(column: Sequence[str | None]) -> Iterable[str]:
    if column.count(None) == len(column):
        return repeat(_NULL, len(column))
    present = iter(_text([text for text in column if text is not None]))
    return [_NULL if text is None else next(present) for text in column]


def _number(column: Sequence[float | int | None]) -> Iterable[str]:
    """Finite numbers as text: the JSON encoder writes a whole column at once, ten times as fast as `str` for each."""
    if column.count(None) == len(column):
        return repeat(_NULL, len(column))
    return _lines(column).replace("null", _NULL).split("\n")


def _json(column: Sequence[object]) -> Iterable[str]:
    # JSON has no raw tab or newline; only its backslashes mean something to COPY.
    documents = _lines(column).replace("\\", "\\\\").split("\n")
    return documents if None not in column else [_NULL if text == "null" else text for text in documents]


def _lines(column: Sequence[object]) -> str:
    return msgspec.json.Encoder().encode_lines(column).decode().removesuffix("\n")


def _fetch(cursor: Cursor, domain: str, until_ms: int) -> tuple[list[Any], ...]:
    """The columns user, item, type, time, value, recommended and features; the result is streamed, not held twice."""
    columns: tuple[list[Any], ...] = ([], [], [], [], [], [], [])
    with cursor.connection.cursor("interactions") as stream:
        stream.execute(query("select_interactions"), {"domain": domain, "until_ms": until_ms})
        while rows := stream.fetchmany(_READ_ROWS):
            *scalars, documents = zip(*rows, strict=True)
            features = msgspec.json.decode("[" + ",".join(text or "null" for text in documents) + "]")
            for column, part in zip(columns, (*scalars, features), strict=True):
                column.extend(part)
    return columns
