"""Features declared from a log: kinds, ranges, who carries them, and TOML that the settings load."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.declare import bins_of, declare, main_declare, toml_of
from flows.offline import Log, parse_log
from flows.ranges import TimeRange
from flows.settings import FlowSettings
from online_models.contracts.events import EventType
from online_models.contracts.features import DEFAULT_FEATURES, NUMERIC_BINS, FeatureKind, FeatureSpec
from online_models.errors import SourceError
from tests.log_files import WRITERS
from tests.strategies import BOUNDS, sample_log

LOG = sample_log(4000, seed=8)
RNG = np.random.default_rng(5)


def write_table(path: Path, rows: int, columns: dict[str, Sequence[object]]) -> None:
    """A Parquet log whose events, of two types and two domains in turn, carry the columns."""
    required: dict[str, Sequence[object]] = {
        "event_id": [f"00000000-0000-0000-0000-{row:012}" for row in range(rows)],
        "type": ["impression", "click"] * (rows // 2),
        "user_id": ["u"] * rows,
        "item_id": ["i"] * rows,
        "ts": [BOUNDS.earliest_ms] * rows,
        "domain": ["movies", "movies", "products", "products"] * (rows // 4),
    }
    pq.write_table(pa.table({**required, **columns}), path)


def log_at(path: Path) -> Log:
    return parse_log(str(path))


def declared(path: Path) -> dict[str, FeatureSpec]:
    return {spec.name: spec for spec in declare([log_at(path)])}


@pytest.mark.parametrize("name", ["a.ndjson.gz", "a.csv", "a.parquet", "a.arrow"])
def test_the_same_features_are_declared_from_every_format(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name, LOG)
    found = declared(tmp_path / name)
    assert {spec.name: (spec.kind.value, spec.source) for spec in found.values()} == {
        "rating": ("numeric", "value"),
        "watch_seconds": ("numeric", "value"),
        "amount": ("numeric", "value"),
        **{f"{kind}_value": ("numeric", "value") for kind in ("impression", "click", "skip")},
        "genres": ("multi-valued", "features.genres"),
        "weight": ("numeric", "features.weight"),
        "word": ("categorical", "features.word"),
    }
    assert found["rating"].types == (EventType.RATING,)
    assert found["weight"].types == tuple(EventType)
    assert found["weight"].low == 0.0
    assert 1.0 < found["weight"].high < 1.1


def test_one_value_in_a_thousand_may_lie_outside(tmp_path: Path) -> None:
    numbers = RNG.normal(50, 3, 40_000)
    write_table(tmp_path / "a.parquet", 40_000, {"features.n": numbers.tolist()})
    spec = declared(tmp_path / "a.parquet")["n"]
    outside = np.mean((numbers < spec.low) | (numbers > spec.high))
    assert 0 < outside < 0.001
    assert spec.edges == ()
    assert spec.high - spec.low < 30


def test_crowded_values_get_bins_between_quantiles(tmp_path: Path) -> None:
    numbers = np.exp(RNG.normal(0, 3, 40_000))
    write_table(tmp_path / "a.parquet", 40_000, {"features.n": numbers.tolist()})
    edges = declared(tmp_path / "a.parquet")["n"].edges
    counts, _ = np.histogram(numbers, edges)
    assert len(counts) == 64
    assert counts.min() > 0.8 * 40_000 / 64
    assert counts.max() < 1.2 * 40_000 / 64


@pytest.mark.parametrize(
    "numbers",
    [[7.0] * 9, [0.0] * 9, [0.0] * 1000 + [1.0], [1.7e12, 1.7e12 + 1], [-1e308, 1e308], [0.0, 5e-324], [-3.0]],
)
def test_there_are_bins_for_any_values(numbers: list[float]) -> None:
    low, high, bins, edges = bins_of(np.array(numbers))
    assert 0 < bins <= NUMERIC_BINS or (bins == 0 and edges)
    borders = edges or (low, high)
    assert all(np.isfinite(borders))
    assert all(np.diff(borders) > 0)
    inside = [borders[0] <= number <= borders[-1] for number in numbers]
    assert sum(inside) >= len(numbers) - 2 if max(numbers) > 1e300 else sum(inside) >= len(numbers) - 1


def test_who_carries_a_feature_is_declared_with_it(tmp_path: Path) -> None:
    only_clicks = [None, 1.5] * 2000
    only_products = [None, None, "a", "b"] * 1000
    stray: list[object] = [None] * 4000
    for row in range(1, 2000, 2):
        stray[row] = "x"
    stray[0] = "x"  # one impression among two thousand
    columns: dict[str, Sequence[object]] = {
        "features.clicked": only_clicks,
        "features.sold": only_products,
        "features.stray": stray,
    }
    write_table(tmp_path / "a.parquet", 4000, columns)
    found = declared(tmp_path / "a.parquet")
    assert (found["clicked"].types, found["clicked"].domains) == ((EventType.CLICK,), ())
    assert set(found["sold"].types) == {EventType.IMPRESSION, EventType.CLICK}
    assert found["sold"].domains == ("products",)
    assert found["stray"].types == (EventType.CLICK,)


def test_texts_are_sets_of_words_and_ids_are_ghosts(tmp_path: Path) -> None:
    words = np.array(["red", "green", "blue", "fast", "slow", "old"])
    titles = [" ".join(RNG.choice(words, 5)) + f" {row}" for row in range(1000)]
    columns: dict[str, Sequence[object]] = {
        "features.title": titles,
        "features.session": [f"s{row}" for row in range(1000)],
        "features.color": RNG.choice(words, 1000).tolist(),
        "features.a*b": ["x"] * 1000,
    }
    write_table(tmp_path / "a.parquet", 1000, columns)
    found = declared(tmp_path / "a.parquet")
    assert (found["title"].kind, found["title"].source) == (FeatureKind.MULTI_VALUED, "tokens:features.title")
    assert (found["session"].kind, found["session"].ghost) == (FeatureKind.CATEGORICAL, True)
    assert (found["color"].kind, found["color"].ghost) == (FeatureKind.CATEGORICAL, False)
    assert "a*b" not in found


def test_a_feature_called_like_a_value_keeps_its_own_name_apart(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", 8, {"value": [1.0] * 8, "features.click_value": [2.0] * 8})
    assert {"click_value", "features.click_value"} < set(declared(tmp_path / "a.parquet"))


def test_what_is_printed_is_what_the_settings_load(tmp_path: Path) -> None:
    odd = FeatureSpec(
        'a"b\\\n\x7fü', FeatureKind.NUMERIC, "value", (EventType.CLICK,), edges=(1e-9, 2.0, 1e20), ghost=True
    )
    write_table(
        tmp_path / "a.parquet", 400, {"features.n": RNG.normal(size=400).tolist(), "features.w": ["x", "y"] * 200}
    )
    specs = declare([log_at(tmp_path / "a.parquet")])
    config = tmp_path / "penstock.toml"
    config.write_text(toml_of([*specs, odd, *DEFAULT_FEATURES]))
    assert FlowSettings.load(config).features == (*specs, odd, *DEFAULT_FEATURES)
    config.write_text(main_declare([log_at(tmp_path / "a.parquet")]))
    assert FlowSettings.load(config).features == tuple(specs)


def test_only_the_first_events_of_each_log_are_looked_at(tmp_path: Path) -> None:
    columns: dict[str, Sequence[object]] = {
        "features.early": [1.0] * 100 + [None] * 100,
        "features.late": [None] * 100 + [1.0] * 100,
    }
    write_table(tmp_path / "a.parquet", 200, columns)
    write_table(tmp_path / "b.parquet", 200, {"features.second": [1.0] * 200})
    one, other = log_at(tmp_path / "a.parquet"), log_at(tmp_path / "b.parquet")
    together = parse_log(str(tmp_path / "*.parquet"))
    assert [spec.name for spec in declare([together], 100)] == ["early"]
    assert [spec.name for spec in declare([together], 201)] == ["early", "late", "second"]
    assert [spec.name for spec in declare([one, other], 100)] == ["early", "second"]


def test_only_events_of_the_stretch_are_looked_at(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", 200, {"features.first": [1.0] * 200})
    write_table(tmp_path / "b.parquet", 200, {"features.then": [1.0] * 200, "ts": [BOUNDS.earliest_ms + 9] * 200})
    both, at = str(tmp_path / "*.parquet"), BOUNDS.earliest_ms
    paths = parse_log(both).paths
    assert [spec.name for spec in declare([Log(paths, TimeRange(at, at + 9))])] == ["first"]
    assert [spec.name for spec in declare([Log(paths, TimeRange(at + 1, at + 99))])] == ["then"]
    with pytest.raises(SourceError, match=r"but there are none in 1970-01-01\.\."):
        declare([Log(paths, TimeRange(0, 1))])


def test_a_log_without_events_is_an_error_that_says_why(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_bytes(b"broken\n")
    with pytest.raises(SourceError, match=r"a\.ndjson: expected events .* but JSON is malformed"):
        declare([log_at(tmp_path / "a.ndjson")])
