"""What the flow found out, in PostgreSQL: window reports, features in windows, drift events, and the counts of
versions in windows."""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import msgspec
from psycopg2.extras import execute_values

from online_models.contracts.ids import ModelName
from online_models.contracts.rollouts import VariantWindow
from online_models.ports import DriftRow, FeatureWindowRow, FeatureWord, WindowRow
from online_models.stores.postgres import Cursor, Database, query

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

    def put_feature_windows(self, rows: Sequence[FeatureWindowRow]) -> None:
        """Insert or replace; idempotent by (model, window start, window end, feature)."""
        latest = _last_per_key(rows, _feature_key)
        # An empty array does not say what it is an array of.
        template = f"({', '.join(['%s'] * 14)}, %s::float8[], %s, %s, %s::bigint[], %s::bigint[], %s::jsonb, "
        template += f"{', '.join(['%s'] * 5)}, %s::text[], %s::bigint[], %s::bigint[])"
        self._insert("upsert_feature_windows", [_to_columns(row) for row in sorted(latest, key=_feature_key)], template)

    def put_feature_words(self, words: Sequence[FeatureWord]) -> None:
        """Insert; idempotent by (model, feature, fingerprint): the first text of a fingerprint stays."""
        rows = [(word.model, word.feature, word.fingerprint, _storable(word.text)) for word in words]
        self._insert("insert_feature_words", sorted(rows))

    def feature_windows(
        self, model: ModelName, start_ms: int, end_ms: int, feature: str | None = None
    ) -> list[FeatureWindowRow]:
        """Rows of the windows that end in (start_ms, end_ms], by (window end, window start, feature)."""
        where = {"model": model, "start_ms": start_ms, "end_ms": end_ms, "feature": feature}
        return [_from_columns(columns) for columns in self._select("select_feature_windows", where)]

    def latest_windows(self) -> dict[ModelName, int]:
        """Model -> end (epoch ms) of its latest window with feature rows."""
        return dict(self._select("select_latest_windows", {}))

    def feature_words(self, model: ModelName) -> dict[tuple[str, int], str]:
        """(feature, fingerprint) -> the word's text."""
        rows = self._select("select_feature_words", {"model": model})
        return {(feature, fingerprint): text for feature, fingerprint, text in rows}

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

    def _select(self, name: str, values: dict[str, object]) -> list[tuple[Any, ...]]:
        def fetch(cursor: Cursor) -> list[tuple[Any, ...]]:
            cursor.execute(query(name), values)
            return cursor.fetchall()

        return self._database.run(fetch, idempotent=True)


def _feature_key(row: FeatureWindowRow) -> tuple[str, int, int, str]:
    return (row.model, row.window_end_ms, row.window_start_ms, row.feature)


def _to_columns(row: FeatureWindowRow) -> tuple[object, ...]:
    """The values of a row in the order of `upsert_feature_windows`."""
    return (
        row.model, row.window_start_ms, row.window_end_ms, row.feature, row.kind, row.champion,
        row.events, row.missing, row.verdict, _storable(row.why),
        row.mean, row.sd, row.minimum, row.maximum, list(row.quantiles), row.cardinality, row.new_share,
        [fingerprint for fingerprint, _ in row.heavy], [count for _, count in row.heavy],
        msgspec.json.encode(row.statistics).decode(), row.p_value, row.effect, row.detectable,
        row.information, row.rank, [_storable(label) for label in row.bins], list(row.counts), list(row.reference),
    )  # fmt: skip


def _from_columns(columns: tuple[Any, ...]) -> FeatureWindowRow:
    """The row of values in the order of `select_feature_windows`. JSON has no infinities: such a statistic is NaN."""
    (
        model, start_ms, end_ms, feature, kind, champion, events, missing, verdict, why,
        mean, sd, minimum, maximum, quantiles, cardinality, new_share, fingerprints, heavy_counts,
        statistics, p_value, effect, detectable, information, rank, bins, counts, reference,
    ) = columns  # fmt: skip
    return FeatureWindowRow(
        ModelName(model), start_ms, end_ms, feature, kind, champion, events, missing, verdict, why,
        mean, sd, minimum, maximum, tuple(quantiles), cardinality, new_share,
        tuple(zip(fingerprints, heavy_counts, strict=True)),
        {name: math.nan if given is None else float(given) for name, given in statistics.items()},
        p_value, effect, detectable, information, rank, tuple(bins), tuple(counts), tuple(reference),
    )  # fmt: skip


def _storable(text: str) -> str:
    """What PostgreSQL takes as text: no NUL, no lone surrogate."""
    return text.replace("\x00", "\ufffd").encode(errors="replace").decode()


def _last_per_key(rows: Sequence[T], key: Callable[[T], Hashable]) -> list[T]:
    # ON CONFLICT DO UPDATE refuses to touch a row twice in one statement.
    return list({key(row): row for row in rows}.values())
