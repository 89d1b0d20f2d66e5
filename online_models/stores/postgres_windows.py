"""What the flow found out, in PostgreSQL: window reports, features in windows, drift events, and the counts of
versions in windows."""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final, TypeVar

import msgspec
from psycopg2.extras import execute_values

from online_models.contracts.ids import ModelName
from online_models.contracts.rollouts import GroupedCounts, ShadowCounts, VariantWindow
from online_models.ports import DriftRow, FeatureWindowRow, FeatureWord, WindowRow
from online_models.stores.postgres import Cursor, Database, query

T = TypeVar("T")

PAGE_ROWS: Final = 1_000
"""Most rows of features in one statement."""


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
        latest = sorted(_last_per_key(rows, _feature_key), key=_feature_key)
        for first in range(0, len(latest), PAGE_ROWS):
            self._put_page(latest[first : first + PAGE_ROWS])

    def _put_page(self, rows: Sequence[FeatureWindowRow]) -> None:
        # The server takes JSON apart: literals of SQL take this process five times as long to write, 0.13 ms a row.
        page = msgspec.json.encode([_document(row) for row in rows]).decode()
        self._database.run(
            lambda cursor: cursor.execute(query("upsert_feature_windows"), (page,)),
            idempotent=True,
        )

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
        """Insert or replace in `model_metrics`; idempotent by (model, version, rollout, stage, variant, window start)."""
        latest = _last_per_key(
            windows, lambda row: (row.model, row.version, row.rollout_id, row.stage, row.variant, row.window_start_ms)
        )
        self._insert(
            "upsert_variant_windows",
            [
                (
                    row.model, row.version, row.rollout_id, row.stage, row.window_start_ms, row.window_end_ms,
                    row.users, row.successes, row.requests, row.hits, row.impressions, row.clicks,
                    row.variant, row.stage_users, row.first_items, row.repeats,
                )
                for row in latest
            ],
        )  # fmt: skip

    def put_grouped_counts(self, counts: Sequence[GroupedCounts]) -> None:
        """Insert or replace in `grouped_metrics`; idempotent by (rollout, stage, variant, version, since). Raises StoreError
        when a row's counts are not uint32 (4, GROUPS)."""
        latest = _last_per_key(counts, lambda row: (row.rollout_id, row.stage, row.variant, row.version, row.since_ms))
        self._insert(
            "upsert_grouped_counts",
            [
                (row.model, row.version, row.rollout_id, row.stage, row.variant, row.since_ms, row.counts)
                for row in latest
            ],
        )

    def put_shadow_counts(self, counts: Sequence[ShadowCounts]) -> None:
        """Insert or replace in `shadow_metrics`; idempotent by (model, version, since). Raises StoreError when a row's counts are
        not uint32 (2, SHADOW_POSITIONS, SHADOW_PLACES + 1)."""
        latest = _last_per_key(counts, lambda row: (row.model, row.version, row.since_ms))
        self._insert("upsert_shadow_counts", [(row.model, row.version, row.since_ms, row.counts) for row in latest])

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


def _document(row: FeatureWindowRow) -> dict[str, object]:
    """The row by column of `feature_windows`, as JSON can hold it."""
    return {
        "model": row.model, "window_start_ms": row.window_start_ms, "window_end_ms": row.window_end_ms,
        "feature": row.feature, "kind": row.kind, "champion": row.champion, "events": row.events,
        "missing": row.missing, "verdict": row.verdict, "why": _storable(row.why),
        "mean": _number(row.mean), "sd": _number(row.sd),
        "minimum": _number(row.minimum), "maximum": _number(row.maximum),
        "quantiles": [_number(each) for each in row.quantiles],
        "cardinality": _number(row.cardinality), "new_share": _number(row.new_share),
        "heavy_fingerprints": [fingerprint for fingerprint, _ in row.heavy],
        "heavy_counts": [count for _, count in row.heavy],
        "statistics": row.statistics, "p_value": _number(row.p_value), "effect": _number(row.effect),
        "detectable": _number(row.detectable), "information": _number(row.information), "rank": row.rank,
        "bins": [_storable(label) for label in row.bins], "counts": row.counts, "reference": row.reference,
    }  # fmt: skip


def _number(given: float | None) -> float | str | None:
    """A number as JSON can hold it: the text of one that is not finite, which PostgreSQL reads too."""
    return given if given is None or math.isfinite(given) else str(given)


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
