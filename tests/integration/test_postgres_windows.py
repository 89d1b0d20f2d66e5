"""Window reports, drift events and variant windows: replaced or kept by their keys."""

from collections.abc import Sequence

import msgspec
import pytest

from online_models.contracts.ids import ModelVersion
from online_models.contracts.rollouts import VariantWindow
from online_models.ports import DriftRow, WindowRow
from online_models.stores.postgres import Database
from online_models.stores.postgres_windows import PostgresWindows
from tests.samples import MOVIES


@pytest.fixture
def database(postgres: str) -> Database:
    return Database(postgres)


def rows(database: Database, columns: str, table: str) -> Sequence[tuple[object, ...]]:
    with database.transaction() as cursor:
        cursor.execute(f"SELECT {columns} FROM {table} ORDER BY 1")
        return cursor.fetchall()


def drift(number: int, kind: str = "drift", reason: str = "") -> DriftRow:
    return DriftRow(f"d{number}", kind, MOVIES, "psi", "genres", 0, 10, 0.3, 0.2, reason)


def test_a_report_is_replaced_by_a_later_one_of_the_same_window(database: Database) -> None:
    store = PostgresWindows(database)
    report = msgspec.json.encode({"events": 10, "psi": {"genres": 0.25}})
    store.put_window_reports([])
    store.put_window_reports([WindowRow(MOVIES, 0, 10, b"{}"), WindowRow(MOVIES, 0, 10, report)])
    store.put_window_reports([WindowRow(MOVIES, 10, 20, b'{"events": 0}')])
    store.put_window_reports([WindowRow(MOVIES, 10, 20, b'{"events": 1}')])
    assert rows(database, "window_start_ms, window_end_ms, report", "window_reports") == [
        (0, 10, {"events": 10, "psi": {"genres": 0.25}}),
        (10, 20, {"events": 1}),
    ]


def test_a_drift_event_is_kept_as_it_was_first_written(database: Database) -> None:
    store = PostgresWindows(database)
    store.put_drift_events([drift(1), drift(2, "suppressed", "cooldown"), drift(1)])
    store.put_drift_events([drift(2, "trigger"), drift(3, "trigger", "x" * 10_000)])
    assert rows(database, "id, kind, length(reason)", "drift_events") == [
        ("d1", "drift", 0), ("d2", "suppressed", 8), ("d3", "trigger", 10_000),
    ]  # fmt: skip


def test_many_rows_go_in_one_call(database: Database) -> None:
    PostgresWindows(database).put_drift_events([drift(n) for n in range(2500)])
    assert rows(database, "count(*)", "drift_events") == [(2500,)]


def test_a_variant_window_is_replaced_by_its_key(database: Database) -> None:
    store = PostgresWindows(database)
    version = ModelVersion("v1")
    first = VariantWindow(MOVIES, version, 0, 0, 0, 10, 1, 1, 1, 1, 1, 1)
    again = VariantWindow(MOVIES, version, 0, 0, 0, 12, 2, 3, 4, 5, 6, 7)
    store.put_variant_windows([first])
    store.put_variant_windows([first, again])
    columns = "window_start_ms, window_end_ms, users, successes, requests, hits, impressions, clicks"
    assert rows(database, columns, "model_metrics") == [(0, 12, 2, 3, 4, 5, 6, 7)]
