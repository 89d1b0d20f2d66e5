"""Tables as columns: the verdict, the reason and the values of every row are those that it has alone."""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings

from flows.arrow_events import BLOCK_ROWS
from flows.chunks import Chunk, Parsed, Rows, Table, first_time_ms, raw_row
from flows.parse import parse
from flows.tables import table_rows
from online_models.contracts.columns import Column, FeatureColumns
from tests.log_files import as_table
from tests.strategies import BOUNDS, sample_log

FIRST = 1000
"""Row number of a piece's first row in its file."""

GOOD_TIME = BOUNDS.earliest_ms + 12_345_678


def parse_fast(batch: pa.RecordBatch) -> Parsed:
    return parse(Chunk("log", "a.parquet", FIRST + batch.num_rows, Table(batch, FIRST)), BOUNDS)


def parse_slowly(batch: pa.RecordBatch) -> Parsed:
    """The oracle: every row as an object."""
    rows = Rows(table_rows(batch), range(FIRST, FIRST + batch.num_rows))
    return parse(Chunk("log", "a.parquet", FIRST + batch.num_rows, rows), BOUNDS)


def spelled(column: Column, length: int) -> tuple[list[tuple[int, float]], list[tuple[int, int, str]]]:
    """A column as pairs of row and number, and triples of row, hash and text."""
    number_rows = np.arange(length) if column.number_rows is None else column.number_rows
    word_rows = np.arange(length) if column.word_rows is None else column.word_rows
    texts = [column.text(place) for place in range(len(column.words))]
    numbers = list(zip(number_rows.tolist(), column.numbers.tolist(), strict=True))
    return numbers, list(zip(word_rows.tolist(), column.words.tolist(), texts, strict=True))


def assert_same_features(fast: FeatureColumns, slow: FeatureColumns, length: int) -> None:
    assert set(slow.names()) <= set(fast.names())
    for name in fast.names():
        assert spelled(fast.column(name), length) == spelled(slow.column(name), length), name


def assert_same(batch: pa.RecordBatch) -> Parsed:
    fast, slow = parse_fast(batch), parse_slowly(batch)
    assert fast.rejects == slow.rejects
    length = len(fast.batch)
    for name in ("event_hash", "user_hash", "item_hash", "type", "ts_ms", "offset", "requested"):
        assert getattr(fast.batch, name).tolist() == getattr(slow.batch, name).tolist(), name
        assert getattr(fast.batch, name).dtype == getattr(slow.batch, name).dtype, name
    np.testing.assert_array_equal(fast.batch.value, slow.batch.value)
    assert (fast.batch.domain.tolist(), fast.batch.domains) == (slow.batch.domain.tolist(), slow.batch.domains)
    assert list(fast.batch.events) == list(slow.batch.events) == [fast.batch.events[row] for row in range(length)]
    assert_same_features(fast.batch.features, slow.batch.features, length)
    odd = np.arange(length) % 2 == 1
    assert_same_features(fast.batch.features.take(odd), slow.batch.features.take(odd), int(odd.sum()))
    return fast


Make = Callable[[Sequence[object]], pa.Array]
"""Cells -> a column of one Arrow type."""


def typed(kind: pa.DataType) -> Make:
    return lambda cells: pa.array(cells, kind)


def texts_typed(kind: pa.DataType, raw: pa.DataType) -> Make:
    """Bytes that Arrow believes to be UTF-8."""
    return lambda cells: pa.array(cells, raw).view(kind)


@dataclass(frozen=True)
class Kind:
    """A way to write a field: its cells, and the column they make."""

    cells: st.SearchStrategy[object]
    make: Make


def as_dictionary(cells: Sequence[object]) -> pa.Array:
    """Texts as the codes of a dictionary that lists them backwards, with a word that nobody uses."""
    values = [*dict.fromkeys(cell for cell in reversed(cells) if cell is not None), b"unused"]
    codes = [None if cell is None else values.index(cell) for cell in cells]
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int8()), pa.array(values, pa.binary()).view(pa.string()))


def mostly(good: st.SearchStrategy[Any], bad: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """A bad cell now and then, so that whole rows can be good."""
    return st.integers(0, 24).flatmap(lambda chance: bad if chance == 24 else good)


def text_kinds(*good: str, wrong: Sequence[str] = ()) -> list[Kind]:
    bad = [*(text.encode() for text in wrong), None, b"", b"\xff\xfe", b"nul\x00", "ü".encode() * 200, b"x" * 257]
    cells = mostly(st.sampled_from([text.encode() for text in good]), st.sampled_from(bad))
    makes: list[Make] = [
        texts_typed(pa.string(), pa.binary()),
        texts_typed(pa.large_string(), pa.large_binary()),
        as_dictionary,
    ]
    return [Kind(cells, make) for make in makes] + [Kind(st.none() | st.integers(0, 3), typed(pa.int64()))]


def as_datetime(ms: Any) -> datetime | None:
    return None if ms is None else datetime.fromtimestamp(ms / 1e3, UTC)


IDS = [str(uuid.UUID(int=number)) for number in (1, 2, 0xABCDEF << 90, 2**128 - 1)]
ODD_IDS = [IDS[2].upper(), f"{{{IDS[3]}}}", IDS[3].replace("-", "")]
NO_IDS = ["-" * 36, "g" * 36, IDS[1][:-1] + "\n", "ab"]
numbers = mostly(st.sampled_from([None, 0.0, -1.5, 1e300, 3.0, 2.0]), st.sampled_from([np.nan, np.inf, 2.0**31, 2.5]))
integers = mostly(st.sampled_from([None, 0, 5, 2**31 - 1]), st.sampled_from([-1, -5, 2**31, 2**53 + 1]))
moments = mostly(st.sampled_from([GOOD_TIME, GOOD_TIME + 1]), st.sampled_from([BOUNDS.latest_ms + 1, -5, None]))
spelled_moments = mostly(
    st.sampled_from(["2020-01-01T00:00:00Z", "2020-01-01T00:00:00.0005+01:00"]),
    st.sampled_from(["2020-01-01", "no", None]),
)
decimals = Kind(st.none() | st.decimals(-9, 9, places=2), typed(pa.decimal128(9, 2)))
truths = Kind(st.none() | st.booleans(), typed(pa.bool_()))
number_kinds = [Kind(numbers, typed(pa.float64())), Kind(integers, typed(pa.int64())), decimals, truths]
integer_kinds = [
    *number_kinds,
    Kind(st.none() | st.integers(0, 2**31), typed(pa.uint32())),
    Kind(st.none() | st.integers(-9, 9), typed(pa.int8())),
]
FIELDS: dict[str, list[Kind]] = {
    "event_id": text_kinds(*IDS, *ODD_IDS, wrong=NO_IDS),
    "type": text_kinds("click", "impression", "rating", wrong=["view", "Click"]),
    "user_id": text_kinds("u1", "u2", "Ünal"),
    "item_id": text_kinds("i1", "i2", "x" * 256),
    "ts": [
        Kind(moments, typed(pa.int64())),
        Kind(moments.map(lambda ms: None if ms is None else ms + 0.0), typed(pa.float64())),
        Kind(moments.map(as_datetime), typed(pa.timestamp("us", "UTC"))),
        Kind(moments.map(lambda ms: None if ms is None else ms * 1_000_001), typed(pa.timestamp("ns"))),
        Kind(st.sampled_from([None, 0, 2**62, 10**9]), typed(pa.timestamp("s"))),
        Kind(spelled_moments, typed(pa.string())),
        truths,
    ],
    "domain": text_kinds("movies", "products", "books"),
}  # fmt: skip
OPTIONAL: dict[str, list[Kind]] = {
    "value": [*integer_kinds, Kind(numbers, typed(pa.float32())), *text_kinds("4")],
    "propensity": number_kinds,
    "request_id": [*text_kinds("r1", ""), Kind(st.none(), typed(pa.null()))],
    "model_version": text_kinds("v1"),
    "position": integer_kinds,
    "rollout_id": integer_kinds,
}
words = mostly(st.sampled_from(["war", "drama", "ü", "war"]), st.sampled_from([None, "a\x00"]))
word_lists = st.none() | st.lists(words, max_size=5)
FEATURES: list[Kind] = [
    *integer_kinds,
    *text_kinds("a", "b", "c"),
    Kind(numbers, typed(pa.float16())),
    Kind(word_lists, typed(pa.list_(pa.string()))),
    Kind(word_lists, typed(pa.large_list(pa.large_string()))),
    Kind(word_lists, typed(pa.list_(pa.dictionary(pa.int8(), pa.string())))),
    Kind(st.none() | st.lists(st.integers(0, 1), max_size=2), typed(pa.list_(pa.int8()))),
    Kind(st.sampled_from([None, 3.0, 4.0]), lambda cells: pa.array(cells, pa.float64()).dictionary_encode()),
    Kind(st.sampled_from([None, datetime(2020, 1, 1), datetime(1, 1, 1)]), typed(pa.timestamp("us"))),  # noqa: DTZ001
    Kind(st.none(), typed(pa.null())),
    Kind(st.sampled_from([None, b"raw"]), typed(pa.binary())),
]
STRUCT = pa.struct({"n": pa.float64(), "w": pa.string(), "many": pa.list_(pa.string())})
struct_cells = st.none() | st.fixed_dictionaries(
    {"n": numbers, "w": mostly(st.sampled_from([None, "x", "y"]), st.just("\x00")), "many": word_lists}
)
WHOLE: list[Kind] = [
    Kind(struct_cells, typed(STRUCT)),
    Kind(st.sampled_from([None, '{"a":1}', '{"w":["x","y","x"],"n":2}', "{", '{"a":null}', "[]"]), typed(pa.string())),
    Kind(st.sampled_from([None, [("a", 1.0)], [("a", np.nan)], []]), typed(pa.map_(pa.string(), pa.float64()))),
    Kind(st.sampled_from([None, [1], []]), typed(pa.list_(pa.int64()))),
]


@st.composite
def batches(draw: st.DrawFn) -> pa.RecordBatch:
    """Rows of every type that a field may have, some of it bad, cut out of a longer table."""
    size = draw(st.integers(0, 9))
    kinds = {
        name: FIELDS[name][0 if draw(st.integers(0, 3)) else draw(st.integers(0, len(FIELDS[name]) - 1))]
        for name in FIELDS
    }
    kinds |= {
        name: draw(st.sampled_from(OPTIONAL[name]))
        for name in draw(st.sets(st.sampled_from(sorted(OPTIONAL)), max_size=2))
    }
    kinds |= {
        f"features.{name}": draw(st.sampled_from(FEATURES))
        for name in draw(st.sets(st.sampled_from("nab\x00"), max_size=3))
    }
    if draw(st.integers(0, 3)) == 0:
        kinds["features"] = draw(st.sampled_from(WHOLE))
    if draw(st.integers(0, 19)) == 0:
        del kinds[draw(st.sampled_from(sorted(FIELDS)))]
    names = draw(st.permutations(sorted(kinds)))
    columns = [kinds[name].make(draw(st.lists(kinds[name].cells, min_size=size, max_size=size))) for name in names]
    start = draw(st.integers(0, size))
    return pa.RecordBatch.from_arrays(columns, names).slice(start)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(batches())
def test_a_table_is_judged_as_each_row_alone(batch: pa.RecordBatch) -> None:
    assert_same(batch)


def wide_table(rows: int, seed: int, bad: int) -> pa.Table:
    """Mostly good rows with features of every usual type, a fifth of them null; `bad` cells are spoiled."""
    rng = np.random.default_rng(seed)

    def nulls(cells: list[object]) -> list[object]:
        return [None if missing else cell for cell, missing in zip(cells, rng.random(rows) < 0.2, strict=True)]

    log = sample_log(rows, seed)
    genres = [rng.choice(["war", "drama", "war", "comedy"], rng.integers(0, 5)).tolist() for _ in range(rows)]
    table = as_table(log).drop_columns(["features", "more"])
    columns: dict[str, list[object]] = {
        "features.amount": nulls(rng.normal(size=rows).tolist()),
        "features.clicks": nulls(rng.integers(0, 9, rows).tolist()),
        "features.country": nulls(rng.choice(["at", "ch", "de"], rows).tolist()),
        "features.page": nulls([f"page {k}" for k in rng.integers(0, 10 * rows, rows)]),
        "features.genres": nulls(genres),
        "features.whole": rng.random(rows).tolist(),
        "features.words": rng.choice(["a", "b"], rows).tolist(),
    }
    for row in rng.choice(rows, bad, replace=False).tolist():
        columns["features.amount" if row % 2 else "features.whole"][row] = np.inf
    for name, cells in columns.items():
        table = table.append_column(name, pa.array(cells))
    at = table.schema.get_field_index("features.country")
    return table.set_column(at, "features.country", table.column(at).combine_chunks().dictionary_encode())


@pytest.mark.parametrize("seed", range(3))
def test_a_wide_table_gives_what_its_rows_give_and_only_bad_rows_are_lost(seed: int) -> None:
    (batch,) = wide_table(3000, seed, bad=17).to_batches()
    parsed = assert_same(batch)
    assert (len(parsed.batch), len(parsed.rejects)) == (2983, 17)
    assert {row.reason.partition(":")[0] for row in parsed.rejects} == {"features.amount", "features.whole"}


def test_a_piece_of_a_table_is_what_the_whole_says_there() -> None:
    (batch,) = wide_table(2000, seed=4, bad=9).to_batches()
    assert_same(batch.slice(701, 800))


def test_a_table_without_rows_and_one_without_known_columns_are_no_events() -> None:
    (batch,) = wide_table(10, seed=1, bad=0).to_batches()
    assert len(assert_same(batch.slice(0, 0)).batch) == 0
    parsed = assert_same(batch.select([]))
    assert (len(parsed.batch), len(parsed.rejects)) == (0, batch.select([]).num_rows)


def test_events_are_the_same_in_whatever_order_they_are_asked_for() -> None:
    size = 2 * BLOCK_ROWS + 500
    (batch,) = wide_table(size, seed=2, bad=0).to_batches()
    events = parse_fast(batch).batch.events
    whole = list(events)
    assert len(whole) == size
    rows = [*range(0, size, 7), 5, -1, 4, 3, *np.random.default_rng(0).integers(0, size, 50).tolist()]
    assert [events[row] for row in rows] == [whole[row] for row in rows]
    assert list(events[10:2000:3]) == whole[10:2000:3]
    with pytest.raises(IndexError):
        events[size]


def test_a_long_list_holds_each_word_once() -> None:
    words = [f"w{k % 700}" for k in range(3000)]
    row = {"event_id": IDS[0], "type": "click", "user_id": "u", "item_id": "i", "ts": GOOD_TIME, "domain": "d"}
    batch = pa.RecordBatch.from_pylist([{**row, "features.w": words}, {**row, "features.w": words[:2]}])
    assert len(assert_same(batch).batch.features.column("w").words) == 702


def test_more_domains_than_a_small_code_holds_are_all_told_apart() -> None:
    row = {"event_id": IDS[0], "type": "click", "user_id": "u", "item_id": "i", "ts": GOOD_TIME}
    batch = pa.RecordBatch.from_pylist([{**row, "domain": f"d{k}"} for k in range(2**15)])
    found = parse_fast(batch).batch
    assert [found.domains[code] for code in found.domain.tolist()] == [f"d{k}" for k in range(2**15)]


def test_the_first_time_of_a_piece_is_read_from_any_type() -> None:
    times = {
        pa.int64(): GOOD_TIME,
        pa.float64(): float(GOOD_TIME),
        pa.timestamp("us", "UTC"): as_datetime(GOOD_TIME),
        pa.string(): as_datetime(GOOD_TIME).isoformat(),  # type: ignore[union-attr]  # of a time that is one
    }
    for kind, time in times.items():
        table = Table(pa.RecordBatch.from_arrays([pa.array([time], kind)], ["ts"]), 0)
        assert first_time_ms(table) == GOOD_TIME
        assert raw_row(table, 0) is None
    assert first_time_ms(Table(pa.RecordBatch.from_pylist([{"ts": None}]), 0)) is None
    assert first_time_ms(Table(pa.RecordBatch.from_pylist([{"time": 5}]), 0)) is None
