"""Seeded logs of millions of rows, made by columns: flat JSON lines, wide Parquet tables, and bare matrices of features.

- Words follow Zipf's law with exponent 1.05 over 2 to 100,000 of them, spaced evenly on a logarithmic scale.
- Missing values of the wide log are missing at random; a few of its features tell a click, so that a ranking has something to
  find, and its last numeric feature moves, so that there is a drift to find.
"""

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

START_MS: Final = 1_767_225_600_000
"""2026-01-01: the first event."""

BLOCK_ROWS: Final = 131_072
ZIPF: Final = 1.05
FEWEST_WORDS: Final = 2
MOST_WORDS: Final = 100_000
USERS: Final = 50_000
ITEMS: Final = 10_000

MISSING: Final = 0.2
CLICKED: Final = 0.1
TELLING: Final = 5
"""Every so many numeric features, one is half a standard deviation higher in clicks."""
MOVED_FROM: Final = 0.7
"""From this share of the wide log on, its last numeric feature is half a standard deviation higher."""

_GENRES: Final = (
    "Action",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Horror",
    "Romance",
    "Thriller",
    "Western",
)
_DEVICES: Final = ("phone", "tablet", "television", "desktop", "console")

Words = npt.NDArray[np.uint32]


def zipf_tables(features: int) -> list[npt.NDArray[np.float64]]:
    """Cumulative shares of the words of each categorical feature, fewest words first."""
    tables = []
    for words in np.geomspace(FEWEST_WORDS, MOST_WORDS, features).round().astype(int):
        shares = np.arange(1, words + 1) ** -ZIPF
        tables.append(np.cumsum(shares / shares.sum()))
    return tables


def draw_words(table: npt.NDArray[np.float64], rows: int, rng: np.random.Generator) -> Words:
    """Ranks (rows,) of words, 0 the most frequent."""
    return np.minimum(np.searchsorted(table, rng.random(rows)), len(table) - 1).astype(np.uint32)


def matrix(rows: int, numeric: int, words: int, seed: int) -> tuple[npt.NDArray[np.float64], Words]:
    """Numbers float64 (numeric, rows), normal and log-normal in turn, and words uint32 (words, rows); none missing."""
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(numeric, rows))
    numbers[1::2] = np.exp(numbers[1::2])
    drawn = np.array([draw_words(table, rows, rng) for table in zipf_tables(words)], np.uint32)
    return numbers, drawn.reshape(words, rows)


def write_flat_json(path: Path, rows: int, seed: int, rows_per_hour: int = 100_000) -> None:
    """NDJSON events of twelve fields, five of them features, about 250 bytes each, in time order."""
    rng = np.random.default_rng(seed)
    with path.open("wb") as log:
        for start in range(0, rows, BLOCK_ROWS):
            lines = _json_lines(start, min(BLOCK_ROWS, rows - start), rng, rows_per_hour)
            log.write(b"".join(lines.to_pylist()))


def _json_lines(start: int, rows: int, rng: np.random.Generator, rows_per_hour: int) -> pa.Array:
    kinds = pa.array(["watch", "purchase", "click", "rating"])
    parts: list[str | pa.Array] = [
        '{"event_id":"',
        uuids(rows, rng),
        '","type":"',
        kinds.take(pa.array(rng.integers(0, len(kinds), rows))),
        '","user_id":"user-',
        _digits(rng.integers(0, USERS, rows)),
        '","item_id":"item-',
        _digits(rng.integers(0, ITEMS, rows)),
        '","ts":',
        _digits(times_ms(start, rows, rows_per_hour)),
        ',"domain":"movies","value":',
        _thousandths(rng.gamma(2.0, 300.0, rows)),
        ',"features":{"price":',
        _thousandths(rng.lognormal(3.0, 0.6, rows)),
        ',"age_days":',
        _thousandths(rng.exponential(90.0, rows)),
        ',"score":',
        _thousandths(rng.random(rows)),
        ',"genre":"',
        pa.array(_GENRES).take(pa.array(np.minimum(rng.geometric(0.3, rows) - 1, len(_GENRES) - 1))),
        '","device":"',
        pa.array(_DEVICES).take(pa.array(rng.integers(0, len(_DEVICES), rows))),
        '"}}\n',
    ]
    texts = [part if isinstance(part, str) else part.cast(pa.string()) for part in parts]
    return pc.binary_join_element_wise(*texts, "").cast(pa.binary())


def _digits(numbers: npt.NDArray[np.int64]) -> pa.Array:
    return pa.array(numbers).cast(pa.string())


def _thousandths(numbers: npt.NDArray[np.float64]) -> pa.Array:
    """Numbers as JSON with three decimals, exactly so on every machine."""
    whole, rest = np.divmod(np.round(numbers * 1000).astype(np.int64), 1000)
    return pc.binary_join_element_wise(_digits(whole), pc.utf8_lpad(_digits(rest), 3, "0"), ".")


def uuids(rows: int, rng: np.random.Generator) -> pa.Array:
    """Texts (rows,) of random UUIDs, version 4."""
    raw = rng.integers(0, 256, (rows, 16), np.uint8)
    raw[:, 6] = raw[:, 6] & 0x0F | 0x40
    raw[:, 8] = raw[:, 8] & 0x3F | 0x80
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    nibbles = digits[np.stack([raw >> 4, raw & 15], axis=2).reshape(rows, 32)]
    text = np.full((rows, 36), ord("-"), np.uint8)
    for to, (first, last) in zip((0, 9, 14, 19, 24), ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32)), strict=True):
        text[:, to : to + last - first] = nibbles[:, first:last]
    offsets = np.arange(0, 36 * (rows + 1), 36, dtype=np.int32)
    return pa.StringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(text))


def times_ms(start: int, rows: int, rows_per_hour: int) -> npt.NDArray[np.int64]:
    """Event times (rows,) of evenly spaced events, the first of them number `start` of the log."""
    return START_MS + np.arange(start, start + rows) * 3_600_000 // rows_per_hour


def wide_names(numeric: int, words: int) -> tuple[list[str], list[str]]:
    """Names of the numeric and of the categorical features of the wide log."""
    return [f"n{feature:03}" for feature in range(numeric)], [f"c{feature:03}" for feature in range(words)]


def write_wide_parquet(
    path: Path, rows: int, numeric: int, words: int, seed: int, rows_per_hour: int = 100_000
) -> None:
    """A Parquet log of impressions and clicks with so many features: float32 columns, and dictionary-encoded texts."""
    rng = np.random.default_rng(seed)
    tables = zipf_tables(words)
    vocabularies = [pa.array([f"w{word}" for word in range(len(table))]) for table in tables]
    writer: pq.ParquetWriter | None = None
    for start in range(0, rows, BLOCK_ROWS):
        events = _wide_events(start, min(BLOCK_ROWS, rows - start), rng, rows_per_hour)
        columns = {**events, **_wide_numbers(events["type"], numeric, rng, start >= MOVED_FROM * rows)}
        block = pa.table(columns | _wide_words(len(events["type"]), tables, vocabularies, rng))
        if writer is None:
            named = [name for name in block.schema.names if not name.startswith("features.n")]
            writer = pq.ParquetWriter(path, block.schema, use_dictionary=named)
        writer.write_table(block, row_group_size=BLOCK_ROWS)
    if writer is not None:
        writer.close()


def _wide_events(start: int, rows: int, rng: np.random.Generator, rows_per_hour: int) -> dict[str, pa.Array]:
    return {
        "event_id": uuids(rows, rng),
        "type": _encoded((rng.random(rows) < CLICKED).astype(np.int32), pa.array(["impression", "click"])),
        "user_id": pc.binary_join_element_wise("user-", _digits(rng.integers(0, USERS, rows)), ""),
        "item_id": pc.binary_join_element_wise("item-", _digits(rng.integers(0, ITEMS, rows)), ""),
        "ts": pa.array(times_ms(start, rows, rows_per_hour)),
        "domain": _encoded(np.zeros(rows, np.int32), pa.array(["movies"])),
    }


def _wide_numbers(
    kinds: pa.DictionaryArray, numeric: int, rng: np.random.Generator, moved: bool
) -> dict[str, pa.Array]:
    half = np.float32(0.5)
    clicked = half * kinds.indices.to_numpy().astype(np.float32)
    columns = {}
    for place, name in enumerate(wide_names(numeric, 0)[0]):
        numbers = rng.standard_normal(len(kinds), np.float32)
        if place % TELLING == 0:
            numbers += clicked
        if moved and place == numeric - 1:
            numbers += half
        columns[f"features.{name}"] = pa.array(numbers, mask=rng.random(len(kinds), np.float32) < MISSING)
    return columns


def _wide_words(
    rows: int, tables: list[npt.NDArray[np.float64]], vocabularies: list[pa.Array], rng: np.random.Generator
) -> dict[str, pa.Array]:
    columns = {}
    for name, table, vocabulary in zip(wide_names(0, len(tables))[1], tables, vocabularies, strict=True):
        missing = rng.random(rows, np.float32) < MISSING
        columns[f"features.{name}"] = _encoded(draw_words(table, rows, rng).astype(np.int32), vocabulary, missing)
    return columns


def _encoded(codes: npt.NDArray[np.int32], words: pa.Array, missing: npt.NDArray[np.bool_] | None = None) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes, mask=missing), words)
