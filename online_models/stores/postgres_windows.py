"""What the flow found out, in PostgreSQL: window reports, drift events, and the counts of versions in
windows."""

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

from psycopg2.extras import execute_values

from online_models.contracts.rollouts import VariantWindow
from online_models.ports import DriftRow, WindowRow
from online_models.stores.postgres import Database, query

T = TypeVar("T")


class PostgresWindows:
    """`WindowStore` on PostgreSQL. Of rows with one key in one call the last wins."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put_window_reports(self, reports: Sequence[WindowRow]) -> None:
        """Insert or replace; idempotent by (model, window start, window end)."""
        latest = _last_per_key(reports, lambda row: (row.model, row.window_start_ms, row.window_end_ms))
        self._insert(
            "upsert_window_reports",
            [(row.model, row.window_start_ms, row.window_end_ms, row.report.decode()) for row in latest],
            "(%s, %s, %s, %s::jsonb)",
        )

    def put_drift_events(self, events: Sequence[DriftRow]) -> None:
        """Insert; idempotent by id."""
        self._insert(
            "insert_drift_events",
            [
                (
                    row.id, row.kind, row.model, row.detector, row.feature,
                    row.window_start_ms, row.window_end_ms, row.statistic, row.threshold, row.reason,
                )
                for row in events
            ],
        )  # fmt: skip

    def put_variant_windows(self, windows: Sequence[VariantWindow]) -> None:
        """Insert or replace in `model_metrics`; idempotent by (model, version, rollout, stage, window
        start)."""
        latest = _last_per_key(
            windows, lambda row: (row.model, row.version, row.rollout_id, row.stage, row.window_start_ms)
        )
        self._insert(
            "upsert_variant_windows",
            [
                (
                    row.model, row.version, row.rollout_id, row.stage, row.window_start_ms, row.window_end_ms,
                    row.users, row.successes, row.requests, row.hits, row.impressions, row.clicks,
                )
                for row in latest
            ],
        )  # fmt: skip

    def _insert(self, name: str, rows: Sequence[tuple[object, ...]], template: str | None = None) -> None:
        if rows:
            self._database.run(
                lambda cursor: execute_values(cursor, query(name), rows, template, page_size=1000),
                idempotent=True,
            )


def _last_per_key(rows: Sequence[T], key: Callable[[T], Hashable]) -> list[T]:
    # ON CONFLICT DO UPDATE refuses to touch a row twice in one statement.
    return list({key(row): row for row in rows}.values())
