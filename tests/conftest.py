"""The real Redis and PostgreSQL that the tests share: started once, and fresh for each test that asks.

A server that cannot start fails the tests that need it; nothing is skipped.
"""

import itertools
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import psycopg2
import psycopg2.extensions
import pytest
import redis

from online_models.stores import postgres as postgres_store
from online_models.stores.embedded import Endpoints, embedded
from online_models.stores.postgres import Database

TEMPLATE = "penstock_template"
REDIS_DATABASES = 16
LEAST_MEMORY_BYTES = 4 * 2**30

_numbers = itertools.count()
_to_drop: deque[str] = deque()


def administer(dsn: str, statement: str) -> None:
    with closing(psycopg2.connect(dsn)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)


def in_database(dsn: str, name: str) -> str:
    return psycopg2.extensions.make_dsn(dsn, dbname=name)


@pytest.fixture(scope="session")
def stores() -> Iterator[Endpoints]:
    """The servers of this session; their default database is empty. Tests take `postgres`, `redis_url` or `fresh_stores`."""
    # pytest's own directories are closed to the account that runs PostgreSQL, and too long for a unix socket.
    home = Path(tempfile.mkdtemp(prefix="penstock-tests-", dir=_roomy()))
    home.chmod(0o711)
    try:
        with embedded(home) as endpoints:
            # Dropping a database waits for a checkpoint; these servers need not survive a power cut.
            administer(endpoints.postgres_dsn, "ALTER SYSTEM SET fsync = off")
            administer(endpoints.postgres_dsn, "SELECT pg_reload_conf()")
            administer(endpoints.postgres_dsn, f"CREATE DATABASE {TEMPLATE}")
            postgres_store.migrate(in_database(endpoints.postgres_dsn, TEMPLATE))
            yield endpoints
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def empty_postgres(stores: Endpoints) -> Iterator[str]:
    """DSN of a database of this test alone, not migrated."""
    yield from _database(stores.postgres_dsn, "template1")


@pytest.fixture
def postgres(stores: Endpoints) -> Iterator[str]:
    """DSN of a migrated database of this test alone."""
    yield from _database(stores.postgres_dsn, TEMPLATE)


@pytest.fixture
def database(postgres: str) -> Iterator[Database]:
    """A connection to it, for the stores on it to share."""
    with closing(Database(postgres)) as database:
        yield database


@pytest.fixture
def redis_url(stores: Endpoints) -> str:
    """URL of an empty logical Redis database; handed out in turn, so that only the 16th next test shares it."""
    url = f"{stores.redis_url}?db={next(_numbers) % REDIS_DATABASES}"
    with closing(redis.Redis.from_url(url)) as client:
        client.flushdb()
    return url


@pytest.fixture
def fresh_stores(redis_url: str, postgres: str) -> Endpoints:
    """An empty Redis and a migrated PostgreSQL of this test alone."""
    return Endpoints(redis_url, postgres)


@pytest.fixture
def twin_stores(stores: Endpoints, fresh_stores: Endpoints) -> Iterator[Endpoints]:
    """A second pair, for a test that compares two runs."""
    url = f"{stores.redis_url}?db={next(_numbers) % REDIS_DATABASES}"
    assert url != fresh_stores.redis_url
    with closing(redis.Redis.from_url(url)) as client:
        client.flushdb()
    for dsn in _database(stores.postgres_dsn, TEMPLATE):
        yield Endpoints(url, dsn)


def _roomy() -> Path | None:
    """Memory, where there is enough of it: a test's database is copied in and thrown away. None for the usual place.

    A session that is killed leaves its directory there.
    """
    memory = Path("/dev/shm")
    if not memory.is_dir():
        return None
    free = min(shutil.disk_usage(memory).free, psutil.virtual_memory().available)
    return memory if free >= LEAST_MEMORY_BYTES else None


def _database(dsn: str, template: str) -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    administer(dsn, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    yield in_database(dsn, name)
    # Not yet, but after the next: PostgreSQL takes 0.1 s to end connections, and what a test left open goes with its variables.
    _to_drop.append(name)
    if len(_to_drop) > 1:
        administer(dsn, f"DROP DATABASE {_to_drop.popleft()} WITH (FORCE)")
