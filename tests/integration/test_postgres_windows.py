"""Window reports, features in windows, drift events and variant windows: replaced or kept by their keys."""

import dataclasses
import math
from collections.abc import Sequence

import msgspec

from online_models.contracts.ids import ModelName, ModelVersion
from online_models.contracts.rollouts import VariantWindow
from online_models.ports import DriftRow, FeatureWindowRow, FeatureWord, WindowRow
from online_models.stores.postgres import Database, query
from online_models.stores.postgres_windows import PostgresWindows
from tests.samples import MOVIES


def rows(database: Database, columns: str, table: str) -> Sequence[tuple[object, ...]]:
    with database.transaction() as cursor:
        cursor.execute(f"SELECT {columns} FROM {table} ORDER BY 1")
        return cursor.fetchall()


def drift(number: int, kind: str = "drift", reason: str = "") -> DriftRow:
    return DriftRow(f"d{number}", kind, MOVIES, "psi", "genres", 0, 10, 0.3, 0.2, reason)


def feature_row(feature: str, end_ms: int = 10, model: ModelName = MOVIES) -> FeatureWindowRow:
    """A row in which every field has a value."""
    return FeatureWindowRow(
        model=model,
        window_start_ms=end_ms - 10,
        window_end_ms=end_ms,
        feature=feature,
        kind="numeric",
        champion="v7",
        events=2**40,
        missing=3,
        verdict="drift",
        why="PSI 0.31 over 0.1: it lies higher — 'quoted' 100 %",
        mean=0.1 + 0.2,
        sd=1e-300,
        minimum=-1.5,
        maximum=1e300,
        quantiles=(0.0, 1.0, 2.5, 3.0, 1 / 3),
        cardinality=12.25,
        new_share=0.125,
        heavy=((2**32 - 1, 2**33), (0, 1)),
        statistics={"psi": 0.31, "ks": 2 / 3},
        p_value=5e-324,
        effect=0.25,
        detectable=0.01,
        information=0.004,
        rank=2,
        bins=("below 1", 'a "word", {braced}', "missing"),
        counts=(1, 2**40, 3),
        reference=(4, 5, 6),
    )


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


def test_a_feature_s_window_is_read_as_it_was_written(database: Database) -> None:
    store = PostgresWindows(database)
    bare = FeatureWindowRow(MOVIES, 0, 10, "a", "categorical", None, 0, 0, "unjudged")
    full = feature_row("b")
    store.put_feature_windows([])
    store.put_feature_windows([full, bare])
    assert store.feature_windows(MOVIES, 0, 10) == [bare, full]
    assert store.feature_windows(MOVIES, 0, 10, "b") == [full]


def test_a_feature_s_window_is_replaced_by_its_key(database: Database) -> None:
    store = PostgresWindows(database)
    first = feature_row("rating")
    again = dataclasses.replace(first, events=9, verdict="stable", statistics={}, heavy=(), bins=(), rank=None)
    store.put_feature_windows([first])
    store.put_feature_windows([first, again])
    longer = dataclasses.replace(again, window_start_ms=-50)
    store.put_feature_windows([longer])
    assert store.feature_windows(MOVIES, 0, 10) == [longer, again]


def test_windows_are_found_by_their_end_and_in_order(database: Database) -> None:
    store = PostgresWindows(database)
    products = ModelName("products")
    store.put_feature_windows([feature_row(name, end, model) for model in (MOVIES, products)
                               for end in (30, 10, 20) for name in ("rating", "genres")])  # fmt: skip
    store.put_feature_windows([feature_row("amount", 40, products)])
    found = store.feature_windows(MOVIES, 10, 30)
    assert [(row.window_end_ms, row.feature) for row in found] == [
        (20, "genres"), (20, "rating"), (30, "genres"), (30, "rating"),
    ]  # fmt: skip
    assert {row.model for row in found} == {MOVIES}
    assert store.latest_windows() == {MOVIES: 30, products: 40}


def test_a_store_without_windows_has_no_latest(database: Database) -> None:
    store = PostgresWindows(database)
    assert store.latest_windows() == {}
    assert store.feature_windows(MOVIES, 0, 2**62) == []
    assert store.feature_words(MOVIES) == {}


def test_a_statistic_that_is_not_finite_comes_back_as_nan(database: Database) -> None:
    store = PostgresWindows(database)
    store.put_feature_windows([dataclasses.replace(feature_row("a"), statistics={"kl": math.inf, "psi": 1.0})])
    statistics = store.feature_windows(MOVIES, 0, 10)[0].statistics
    assert math.isnan(statistics["kl"])
    assert statistics["psi"] == 1.0


def test_numbers_that_are_not_finite_come_back_as_they_were(database: Database) -> None:
    store = PostgresWindows(database)
    ends = dataclasses.replace(feature_row("a"), minimum=-math.inf, maximum=math.inf, quantiles=(-math.inf, 0.5))
    store.put_feature_windows([ends])
    assert store.feature_windows(MOVIES, 0, 10) == [ends]


def test_a_word_keeps_its_first_text(database: Database) -> None:
    store = PostgresWindows(database)
    other = FeatureWord(ModelName("products"), "genres", 7, "Lamp")
    store.put_feature_words([FeatureWord(MOVIES, "genres", 2**32 - 1, "Drama"), other])
    store.put_feature_words(
        [FeatureWord(MOVIES, "genres", 2**32 - 1, "War"), FeatureWord(MOVIES, "title", 7, "x\x00\ud800")]
    )
    assert store.feature_words(MOVIES) == {("genres", 2**32 - 1): "Drama", ("title", 7): "x\ufffd?"}


def test_reading_a_range_of_windows_walks_the_key(database: Database) -> None:
    store = PostgresWindows(database)
    store.put_feature_windows([feature_row(f"f{n}", end) for end in range(10, 2010, 10) for n in range(10)])
    with database.transaction() as cursor:
        cursor.execute("ANALYZE feature_windows")
        where = {"model": MOVIES, "start_ms": 1990, "end_ms": 2000, "feature": None}
        cursor.execute("EXPLAIN " + query("select_feature_windows"), where)
        plan = "\n".join(line for (line,) in cursor.fetchall())
    assert "feature_windows_pkey" in plan
    assert "Sort" not in plan
