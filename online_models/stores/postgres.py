"""PostgreSQL: the connection under the stores, their named queries, and the schema.

- One `Database` is one connection behind one lock. Stores may share it; a thread that must not wait for
  another one's query (a heartbeat) has a Database of its own.
- A connection that turns out dead is replaced, and the work repeated once: always when the server cannot have
  committed it, and after a commit of unknown outcome only where the work is idempotent. What ran into a limit of time is
  not repeated: its connection lives, and it would only take that long again.
- The server ends a session that has been idle inside a transaction for 10 s: a frozen process must not keep its
  rows locked, and a job whose row is locked is passed over by every worker.
- Nothing of psycopg2 leaves the stores: its errors become `StoreUnavailable` and `StoreError`.
"""

import functools
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from importlib import resources
from typing import Any, Final, TypeVar

import psycopg2
import psycopg2.errors
import psycopg2.extensions

from online_models.errors import StoreError, StoreUnavailable

MIGRATIONS: Final = ("schema.sql", "schema_2.sql", "schema_3.sql", "schema_4.sql", "schema_5.sql")
"""Files that bring an empty database to version 1, 2, ..., in order; a released one never changes."""

IDLE_TIMEOUT: Final = timedelta(seconds=10)
"""Longest pause between two statements of a transaction."""

CONNECT_TIMEOUT: Final = timedelta(seconds=10)

Connection = psycopg2.extensions.connection
Cursor = psycopg2.extensions.cursor

T = TypeVar("T")


class _CommitUnknown(StoreUnavailable):
    """The connection broke in COMMIT: the transaction may or may not have happened."""


class _OutOfTime(StoreUnavailable):
    """A statement was ended by its limit, or by somebody; its transaction has not happened."""


class Database:
    """One PostgreSQL connection, used by one thread at a time, opened on first use and again after it
    broke.

    idle_timeout : the server ends the connection when a transaction pauses for longer
    statement_timeout : the server ends a statement that takes longer, as if it were away; None for no limit
    connect_timeout : whole seconds
    """

    def __init__(
        self,
        dsn: str,
        idle_timeout: timedelta = IDLE_TIMEOUT,
        statement_timeout: timedelta | None = None,
        connect_timeout: timedelta = CONNECT_TIMEOUT,
    ) -> None:
        self._dsn = dsn
        self._statement_timeout = statement_timeout or timedelta(0)
        self._connect_timeout = connect_timeout
        self._idle_timeout = idle_timeout
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._pid = os.getpid()
        self.session = 0
        """Number of the current connection: a change tells that the server may have crashed in between."""

    @contextmanager
    def transaction(self) -> Iterator[Cursor]:
        """One transaction: committed at the end of the block, rolled back when an exception leaves it.

        Raises
        ------
        StoreUnavailable
            When the server cannot be reached or the connection breaks.
        StoreError
            When the server refuses a statement.
        """
        with self._lock, _translated():
            connection = self._opened()
            try:
                with connection.cursor() as cursor:
                    yield cursor
            except BaseException:
                self._roll_back(connection)
                raise
            self._commit(connection)

    def run(self, work: Callable[[Cursor], T], *, idempotent: bool = False) -> T:
        """The result of `work` in one transaction, repeated once as the module says when the connection was
        dead."""
        try:
            with self.transaction() as cursor:
                return work(cursor)
        except _OutOfTime:
            raise
        except _CommitUnknown:
            if not idempotent:
                raise
        except StoreUnavailable:
            pass
        with self.transaction() as cursor:
            return work(cursor)

    def execute(self, statement: str, values: Mapping[str, object]) -> int:
        """Rows touched by one idempotent statement, which the server commits by itself: wherever this process
        freezes, it leaves nothing locked. Repeated once when the connection was dead."""
        try:
            return self._execute(statement, values)
        except _OutOfTime:
            raise
        except StoreUnavailable:
            return self._execute(statement, values)

    def _execute(self, statement: str, values: Mapping[str, object]) -> int:
        with self._lock, _translated():
            connection = self._opened()
            connection.autocommit = True
            try:
                with connection.cursor() as cursor:
                    cursor.execute(statement, values)
                    return cursor.rowcount
            finally:
                if not connection.closed:
                    connection.autocommit = False

    def close(self) -> None:
        """Close the connection; the next use opens another."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _opened(self) -> Connection:
        # A forked child must not speak on its parent's connection.
        if self._connection is None or self._connection.closed or self._pid != os.getpid():
            self._connection = psycopg2.connect(
                self._dsn,
                connect_timeout=self._connect_timeout // timedelta(seconds=1),
                fallback_application_name="penstock",
            )
            self._pid = os.getpid()
            self.session += 1
            with self._connection.cursor() as cursor:
                cursor.execute("SET timezone = 'UTC'")
                milliseconds = self._idle_timeout // timedelta(milliseconds=1)
                cursor.execute("SET idle_in_transaction_session_timeout = %s", (milliseconds,))
                milliseconds = self._statement_timeout // timedelta(milliseconds=1)
                cursor.execute("SET statement_timeout = %s", (milliseconds,))
            self._connection.commit()
        return self._connection

    def _roll_back(self, connection: Connection) -> None:
        with suppress(psycopg2.Error):
            connection.rollback()
            return
        connection.close()

    def _commit(self, connection: Connection) -> None:
        try:
            connection.commit()
        except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
            self._roll_back(connection)
            if connection.closed:
                raise _CommitUnknown(f"PostgreSQL: the connection broke in COMMIT: {_first_line(error)}") from error
            raise


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (psycopg2.errors.QueryCanceled, psycopg2.errors.LockNotAvailable) as error:
        raise _OutOfTime(f"PostgreSQL: {_first_line(error)}") from error
    except (
        psycopg2.OperationalError,
        psycopg2.InterfaceError,
        psycopg2.errors.IdleInTransactionSessionTimeout,
    ) as error:
        raise StoreUnavailable(f"PostgreSQL: {_first_line(error)}") from error
    except psycopg2.Error as error:
        raise StoreError(f"PostgreSQL: {str(error).strip()}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def connect(dsn: str) -> Database:
    """A database whose server answers.

    Parameters
    ----------
    dsn : libpq key words or a `postgresql://` URL. No transaction pooler in between: the stores use temporary
    tables.

    Raises
    ------
    StoreUnavailable
        When the server cannot be reached.
    """
    database = Database(dsn)
    with database.transaction():
        return database


def migrate(dsn: str) -> None:
    """Bring a database's schema to this release's version. Idempotent, and safe when several processes start at once.

    Raises
    ------
    StoreUnavailable
        When the server cannot be reached.
    StoreError
        When a newer release has migrated the database already.
    """
    database = Database(dsn)
    try:
        database.run(_migrate, idempotent=True)
    finally:
        database.close()


def _migrate(cursor: Cursor) -> None:
    cursor.execute(query("lock_migration"))
    cursor.execute(query("create_schema_version"))
    cursor.execute(query("schema_version"))
    found = int(one(cursor)[0] or 0)
    if found > len(MIGRATIONS):
        raise StoreError(
            f"the database has schema version {found}, this release knows versions up to {len(MIGRATIONS)}: "
            "start the release that migrated it, or a newer one"
        )
    for version, name in enumerate(MIGRATIONS[found:], found + 1):
        cursor.execute(_read(name))
        cursor.execute(query("insert_schema_version"), {"version": version})


def query(name: str) -> str:
    """The text of a named query of `queries.sql`."""
    return _queries()[name]


@functools.cache
def _queries() -> Mapping[str, str]:
    return parse_queries(_read("queries.sql"))


def parse_queries(text: str) -> dict[str, str]:
    """Name -> statement of a file in which each is headed by `-- name: NAME` and one sentence.

    Raises
    ------
    ValueError
        When a name comes twice, or a query has no sentence.

    >>> parse_queries("-- name: now\\n-- What time is it.\\nSELECT now();\\n")
    {'now': 'SELECT now();'}
    """
    queries: dict[str, str] = {}
    for section in re.split(r"^-- name: ", text, flags=re.MULTILINE)[1:]:
        name, sentence, statement = (part.strip() for part in section.split("\n", 2))
        if name in queries or not sentence.startswith("-- ") or not sentence.endswith("."):
            raise ValueError(f"query {name!r}: expected a unique name and one sentence, got {sentence!r}")
        queries[name] = statement
    return queries


def _read(name: str) -> str:
    return resources.files("online_models.stores").joinpath(name).read_text(encoding="utf-8")


def one(cursor: Cursor) -> tuple[Any, ...]:
    """The row of a statement that always gives one."""
    row = cursor.fetchone()
    if row is None:
        raise StoreError(f"PostgreSQL: expected a row from {cursor.query!r}")
    return row
