"""The connection under the stores, and the schema, on a real server."""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from subprocess import PIPE

import psycopg2
import pytest

from online_models.errors import StoreError, StoreUnavailable
from online_models.stores import postgres as store
from online_models.stores.postgres import Cursor, Database

ROOT = Path(__file__).resolve().parents[2]
MIGRATE = """
import sys
from online_models.stores.postgres import migrate
print("ready", flush=True)
sys.stdin.read(1)
migrate(sys.argv[1])
"""
TABLES = {
    "users", "items", "watch_history", "purchase_history", "impressions", "feedback", "model_metrics", "drift_events",
    "window_reports", "retrain_jobs", "model_versions", "model_aliases", "registry_events", "rollouts",
    "rollout_events", "api_keys", "schema_version", "feature_windows", "feature_words",
    "registry_outbox", "grouped_metrics", "shadow_metrics", "operator_requests",
}  # fmt: skip
APPEND_ONLY = ("drift_events", "registry_events", "rollout_events", "model_versions", "operator_requests")


def backend_of(database: Database) -> int:
    with database.transaction() as cursor:
        return cursor.connection.info.backend_pid


def kill_backend(dsn: str, pid: int) -> None:
    with Database(dsn).transaction() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))


def test_four_processes_migrate_one_database_at_once(empty_postgres: str) -> None:
    command = [sys.executable, "-c", MIGRATE, empty_postgres]
    starting = [subprocess.Popen(command, cwd=ROOT, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True) for _ in range(4)]
    for process in starting:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in starting:
        assert process.stdin is not None
        process.stdin.write("g")
        process.stdin.flush()
    errors = [process.communicate()[1] for process in starting]
    assert [process.returncode for process in starting] == [0, 0, 0, 0], errors
    with Database(empty_postgres).transaction() as cursor:
        cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        assert {name for (name,) in cursor} == TABLES
        cursor.execute("SELECT count(*) FROM schema_version")
        assert store.one(cursor) == (len(store.MIGRATIONS),)


def test_a_schema_of_a_newer_release_is_refused(postgres: str) -> None:
    with Database(postgres).transaction() as cursor:
        cursor.execute("INSERT INTO schema_version (version) VALUES (99)")
    with pytest.raises(
        StoreError, match=f"schema version 99, this release knows versions up to {len(store.MIGRATIONS)}"
    ):
        store.migrate(postgres)


@pytest.mark.parametrize("table", APPEND_ONLY)
@pytest.mark.parametrize("change", ["UPDATE {} SET created_at = now()", "DELETE FROM {}", "TRUNCATE {} CASCADE"])
def test_an_append_only_table_refuses_changes(postgres: str, table: str, change: str) -> None:
    with pytest.raises(StoreError, match=f"{table} is append-only"), Database(postgres).transaction() as cursor:
        cursor.execute(change.format(table))


def test_every_query_is_used_once_named_and_described() -> None:
    text = (ROOT / "online_models/stores/queries.sql").read_text()
    sources = "".join(path.read_text() for path in (ROOT / "online_models/stores").glob("postgres*.py"))
    for name in store.parse_queries(text):
        assert f'"{name}"' in sources, name


@pytest.mark.parametrize("text", ["-- name: a\nSELECT 1;\n", "-- name: a\n-- One.\nSELECT 1;\n" * 2])
def test_a_query_without_a_sentence_or_with_a_second_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="query 'a'"):
        store.parse_queries(text)


def test_an_exception_rolls_back_and_the_connection_goes_on(postgres: str) -> None:
    database = Database(postgres)

    def fail(cursor: Cursor) -> None:
        cursor.execute("INSERT INTO users (user_id) VALUES ('u')")
        raise KeyError

    with pytest.raises(KeyError):
        database.run(fail)
    with pytest.raises(StoreError, match="syntax error"), database.transaction() as cursor:
        cursor.execute("SELEKT")
    with database.transaction() as cursor:
        cursor.execute("SELECT count(*) FROM users")
        assert store.one(cursor) == (0,)
    assert database.session == 1


def test_a_dead_connection_is_replaced_and_the_work_repeated(postgres: str) -> None:
    database = store.connect(postgres)
    kill_backend(postgres, backend_of(database))

    def work(cursor: Cursor) -> None:
        cursor.execute("INSERT INTO users (user_id) VALUES ('u')")

    database.run(work)
    assert database.session == 2


def test_a_statement_alone_commits_itself_and_survives_a_dead_connection(postgres: str) -> None:
    database = store.connect(postgres)
    kill_backend(postgres, backend_of(database))
    insert = "INSERT INTO users (user_id) VALUES (%(user)s) ON CONFLICT DO NOTHING"
    assert [database.execute(insert, {"user": "u"}) for _ in range(2)] == [1, 0]
    assert database.session == 2
    with pytest.raises(StoreError, match="syntax error"):
        database.execute("SELEKT", {})

    def fail(cursor: Cursor) -> None:
        cursor.execute(insert, {"user": "v"})
        raise KeyError

    with pytest.raises(KeyError):  # transactions are transactions again
        database.run(fail)
    with Database(postgres).transaction() as cursor:
        cursor.execute("SELECT user_id FROM users")
        assert cursor.fetchall() == [("u",)]


@pytest.mark.parametrize("limit", ["statement_timeout", "lock_timeout"])
def test_what_runs_into_its_limit_of_time_is_not_repeated(postgres: str, limit: str) -> None:
    calls = []

    def work(cursor: Cursor) -> None:
        calls.append(1)
        cursor.execute(f"SET LOCAL {limit} = '50ms'")
        cursor.execute("INSERT INTO users (user_id) VALUES ('u')")

    database = Database(postgres)
    with Database(postgres).transaction() as cursor:
        cursor.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(StoreUnavailable, match=limit.replace("_", " ")):
            database.run(work, idempotent=True)
    assert (len(calls), database.session) == (1, 1)
    database.run(work)
    assert (len(calls), database.session) == (2, 1)


def test_a_statement_alone_that_runs_into_its_limit_is_not_repeated(postgres: str) -> None:
    database = Database(postgres, statement_timeout=timedelta(milliseconds=100))
    database.execute("CREATE SEQUENCE tries", {})
    with pytest.raises(StoreUnavailable, match="statement timeout"):
        database.execute("SELECT pg_sleep(%(seconds)s) FROM nextval('tries')", {"seconds": 30})
    with database.transaction() as cursor:
        cursor.execute("SELECT last_value FROM tries")  # which no rollback takes back
        assert store.one(cursor) == (1,)


def test_work_of_unknown_outcome_is_repeated_only_when_idempotent(postgres: str) -> None:
    """The server dies as COMMIT is sent: a deferred trigger kills its own backend."""
    with Database(postgres).transaction() as cursor:
        cursor.execute(
            """
            CREATE TABLE attempts (n int);
            CREATE SEQUENCE tries;
            CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN IF nextval('tries') = 1 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF; RETURN NULL; END $$;
            CREATE CONSTRAINT TRIGGER die AFTER INSERT ON attempts DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION die();
            """
        )
    calls = []

    def work(cursor: Cursor) -> None:
        calls.append(1)
        cursor.execute("INSERT INTO attempts VALUES (1)")

    database = Database(postgres)
    with pytest.raises(StoreUnavailable, match="in COMMIT"):
        database.run(work)
    assert len(calls) == 1
    with database.transaction() as cursor:
        cursor.execute("SELECT setval('tries', 1, false)")
    database.run(work, idempotent=True)
    assert len(calls) == 3


def test_an_unreachable_server_is_unavailable_not_a_driver_error(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="PostgreSQL"):
        store.connect(f"host={tmp_path} dbname=none")
    with pytest.raises(psycopg2.OperationalError):
        psycopg2.connect(f"host={tmp_path} dbname=none")


def test_the_time_zone_of_a_session_is_utc(postgres: str) -> None:
    with Database(f"{postgres} options='-c timezone=Asia/Tokyo'").transaction() as cursor:
        cursor.execute("SHOW timezone")
        assert store.one(cursor) == ("UTC",)
