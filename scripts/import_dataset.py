#!/usr/bin/env python3
"""Turns public data sets into event logs: `movielens`, `online-retail`, `open-bandit`.

- The log is NDJSON (plain, .gz, .zst) or Parquet by its ending, sorted by time, ties in source order; beside it stands
  the catalogue `<name>.items.ndjson`.
- Event ids are UUIDv5 of what identifies the row, so that importing twice gives the same bytes.
- Both files are written aside and renamed: they are whole or absent.
"""

import argparse
import gzip
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import zstandard

from flows.formats import NDJSON_ENDINGS, ending_of
from online_models.contracts.events import Event, EventType, FeatureValue, Item
from online_models.contracts.ids import hash64
from online_models.errors import PenstockError, SourceError

NAMESPACE = uuid.UUID("6f0b1d0e-52a4-5a7e-9a43-7d5f7c1d2b11")
ROWS_AT_ONCE = 8192
CLICK_DELAY_MS = 1000
PARQUET_SCHEMA = pa.schema(
    [
        *[(name, pa.string()) for name in ("event_id", "type", "user_id", "item_id", "domain")],
        ("ts", pa.int64()),
        ("value", pa.float64()),
        ("request_id", pa.string()),
        ("position", pa.int32()),
        ("propensity", pa.float64()),
        ("features", pa.string()),
    ]
)
QUALIFIERS = frozenset(
    {
        *(
            "black",
            "blue",
            "brown",
            "cream",
            "gold",
            "green",
            "grey",
            "ivory",
            "pink",
            "red",
            "silver",
            "white",
            "yellow",
        ),
        *("assorted", "design", "designs", "finish", "large", "medium", "mini", "set", "small", "vintage"),
        *("london", "paisley", "polkadot", "retrospot", "spaceboy", "woodland"),
    }
)
"""Words at the end of a product's title that do not say what it is."""


@dataclass(frozen=True)
class Import:
    """A data set as events: how many rows were read, and why some gave none."""

    events: Iterator[Event]
    items: Sequence[Item]
    rows: int
    left_out: Counter[str] = field(default_factory=Counter)


def main(arguments: Sequence[str] | None = None) -> int:
    """Import a data set; 0 when it is written, 1 with a message when it cannot be."""
    options = parser().parse_args(arguments)
    try:
        catalogue = catalogue_beside(options.dst)
        found = DATASETS[options.dataset](options.src)
        options.dst.parent.mkdir(parents=True, exist_ok=True)
        with open_log(options.dst) as write:
            written = copy(islice(found.events, options.limit), write)
        with open_log(catalogue) as write_items:
            copy(iter(found.items), write_items)
    except (PenstockError, OSError) as error:
        print(f"import_dataset: {error}", file=sys.stderr)
        return 1
    print(f"read      {found.rows:>9} rows of {options.src}")
    print(f"written   {written:>9} events to {options.dst}")
    print(f"catalogue {len(found.items):>9} items to {catalogue}")
    for reason, count in found.left_out.most_common():
        print(f"left out  {count:>9} rows: {reason}")
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="import_dataset.py",
        description=__doc__,
        epilog="example: scripts/import_dataset.py movielens ml-latest-small ml.ndjson",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("dataset", choices=sorted(DATASETS))
    top.add_argument("src", type=Path, metavar="SRC", help="directory or file of the data set")
    top.add_argument("dst", type=Path, metavar="DST", help="log to write: .ndjson, .ndjson.gz, .ndjson.zst or .parquet")
    top.add_argument("--limit", type=int, metavar="N", help="write only the first N events")
    return top


def movielens(src: Path) -> Import:
    """Ratings of `ratings.csv` with titles and genres of `movies.csv`; user and movie ids are kept as they are."""
    ratings = read_csv(
        src / "ratings.csv",
        {"userId": pa.string(), "movieId": pa.string(), "rating": pa.float64(), "timestamp": pa.int64()},
    )
    movies = read_csv(
        src / "movies.csv", {"movieId": pa.string(), "title": pa.string(), "genres": pa.string()}
    ).to_pylist()
    genres = {row["movieId"]: _genres(row["genres"]) for row in movies}
    items = [Item(row["movieId"], "movies", row["title"], genres[row["movieId"]]) for row in movies]

    def events() -> Iterator[Event]:
        for row in rows_in_time_order(ratings, ratings["timestamp"]):
            user, movie, second = row["userId"], row["movieId"], row["timestamp"]
            features: dict[str, FeatureValue] = {"genres": genres.get(movie, [])}
            yield Event(
                event_id=stable_id("movielens", user, movie, second),
                type=EventType.RATING,
                user_id=user,
                item_id=movie,
                ts=second * 1000,
                domain="movies",
                value=row["rating"],
                features=features if features["genres"] else None,
            )

    return Import(events(), items, ratings.num_rows)


def _genres(cell: str) -> list[str]:
    return [] if cell == "(no genres listed)" else cell.split("|")


def online_retail(src: Path) -> Import:
    """Invoice lines as purchases; an invoice is a customer's lines of one minute where the file has no `InvoiceNo`.

    The shop's clock is taken as UTC. An item is its description; its category is the last telling word of that.
    """
    path = src / "online_retail.parquet" if src.is_dir() else src
    try:
        lines = pq.read_table(path)
    except pa.ArrowException as error:
        raise SourceError(f"{path}: not a Parquet file: {error}") from error
    lines, left_out = _sold(lines.append_column("row", pa.array(range(lines.num_rows), pa.int64())))
    titles = {title.strip() for title in pc.unique(lines["Description"]).to_pylist()}
    known = {title: Item(_slug(title), "products", title, [_category(title)]) for title in sorted(titles)}

    def events() -> Iterator[Event]:
        for row in rows_in_time_order(lines, lines["InvoiceDate"]):
            customer, item = str(int(row["CustomerID"])), known[row["Description"].strip()]
            ts = round(row["InvoiceDate"].timestamp() * 1000)
            features: dict[str, FeatureValue] = {
                "category": item.categories[0], "quantity": float(row["Quantity"]), "country": row["Country"],
            }  # fmt: skip
            yield Event(
                event_id=stable_id("online-retail", row["row"], customer, item.title, ts),
                type=EventType.PURCHASE,
                user_id=customer,
                item_id=item.item_id,
                ts=ts,
                domain="products",
                value=round(row["Quantity"] * row["UnitPrice"], 2),
                request_id=stable_id("online-retail/invoice", row.get("InvoiceNo", ts), customer),
                features=features,
            )

    items = list({item.item_id: item for item in known.values()}.values())
    return Import(events(), items, lines.num_rows + left_out.total(), left_out)


def _sold(lines: pa.Table) -> tuple[pa.Table, Counter[str]]:
    """The lines that are a known customer's purchase, and how many are not, by reason."""
    reasons = {
        "cancelled or returned (quantity not positive)": pc.less_equal(lines["Quantity"], 0),
        "no CustomerID": pc.is_null(lines["CustomerID"], nan_is_null=True),
        "no description": pc.equal(pc.utf8_trim_whitespace(pc.fill_null(lines["Description"], "")), ""),
    }
    left_out: Counter[str] = Counter()
    keep = np.ones(lines.num_rows, np.bool_)
    for reason, refused in reasons.items():
        refused_rows = refused.fill_null(True).to_numpy(zero_copy_only=False) & keep
        if refused_rows.any():
            left_out[reason] = int(refused_rows.sum())
        keep &= ~refused_rows
    utc_time = lines["InvoiceDate"].cast(pa.timestamp("ms"), safe=False).cast(pa.timestamp("ms", "UTC"))
    at = lines.schema.get_field_index("InvoiceDate")
    return lines.set_column(at, "InvoiceDate", utc_time).filter(pa.array(keep)), left_out


def _slug(title: str) -> str:
    words = "".join(letter if letter.isalnum() else " " for letter in title.lower()).split()
    return "-".join(words) or "unnamed"


def _category(title: str) -> str:
    words = _slug(title).split("-")
    return next((word for word in reversed(words) if word not in QUALIFIERS and len(word) > 1), words[-1])


def open_bandit(src: Path) -> Import:
    """Impressions with position (from 0), propensity and policy; a click is a second event one second later.

    The data set has no users: those with the same four user features are taken as one.
    """
    paths = sorted(src.glob("*.csv")) if src.is_dir() else [src]
    if not paths:
        raise SourceError(f"{src}: expected CSV files of the Open Bandit Dataset, found none")
    shown = pa.concat_tables([_impressions(path) for path in paths])
    ts_ms = shown["timestamp"].cast(pa.timestamp("ms", "UTC"), safe=False).cast(pa.int64()).to_numpy()
    clicked = np.flatnonzero(shown["click"].to_numpy())
    rows = np.concatenate([np.arange(len(ts_ms)), clicked])
    times = np.concatenate([ts_ms, ts_ms[clicked] + CLICK_DELAY_MS])
    order = np.argsort(times, kind="stable")
    items = [
        Item(item, "fashion", f"Fashion item {item}") for item in sorted(set(shown["item_id"].to_pylist()), key=int)
    ]

    def events() -> Iterator[Event]:
        # place < number of impressions: the impression itself; beyond: the click of one
        for start in range(0, len(order), ROWS_AT_ONCE):
            part = order[start : start + ROWS_AT_ONCE]
            for place, row in zip(part.tolist(), shown.take(rows[part]).to_pylist(), strict=True):
                yield _bandit_event(row, int(times[place]), is_click=place >= len(ts_ms))

    return Import(events(), items, shown.num_rows)


def _bandit_event(row: dict[str, Any], ts_ms: int, is_click: bool) -> Event:
    kind = EventType.CLICK if is_click else EventType.IMPRESSION
    user = "|".join(row[f"user_feature_{number}"] for number in range(4))
    return Event(
        event_id=stable_id("open-bandit", row["policy"], row[""], kind),
        type=kind,
        user_id=f"{hash64(user):016x}",
        item_id=row["item_id"],
        ts=ts_ms,
        domain="fashion",
        request_id=stable_id("open-bandit/request", row["policy"], row[""]),
        position=int(row["position"]) - 1,
        propensity=None if is_click else float(row["propensity_score"]),
        features={"policy": row["policy"]},
    )


def _impressions(path: Path) -> pa.Table:
    texts = ("", "item_id", *(f"user_feature_{number}" for number in range(4)))
    columns = {
        **{name: pa.string() for name in texts},
        "timestamp": pa.timestamp("us", "UTC"),
        "position": pa.int32(),
        "click": pa.int8(),
        "propensity_score": pa.float64(),
    }
    table = read_csv(path, columns)
    return table.append_column("policy", pa.array([path.stem] * table.num_rows, pa.string()))


DATASETS: dict[str, Callable[[Path], Import]] = {
    "movielens": movielens,
    "online-retail": online_retail,
    "open-bandit": open_bandit,
}


def stable_id(*parts: object) -> str:
    """The UUIDv5 of what identifies a row."""
    return str(uuid.uuid5(NAMESPACE, "/".join(map(str, parts))))


def read_csv(path: Path, columns: dict[str, pa.DataType]) -> pa.Table:
    """The named columns of a CSV file; an error when one is missing, mistyped or has an empty cell.

    Raises
    ------
    SourceError
        Naming the file.
    """
    convert = pyarrow.csv.ConvertOptions(column_types=columns, include_columns=list(columns))
    try:
        table = pyarrow.csv.read_csv(path, convert_options=convert)
    except (pa.ArrowException, KeyError) as error:
        raise SourceError(f"{path}: expected the columns {', '.join(columns)}: {error}") from error
    for name in columns:
        if table[name].null_count:
            raise SourceError(f"{path}: expected a {name} in every row, {table[name].null_count} rows have none")
    return table


def rows_in_time_order(table: pa.Table, times: pa.ChunkedArray) -> Iterator[dict[str, Any]]:
    order = np.argsort(times.cast(pa.int64()).to_numpy(), kind="stable")
    for start in range(0, len(order), ROWS_AT_ONCE):
        yield from table.take(order[start : start + ROWS_AT_ONCE]).to_pylist()


def catalogue_beside(dst: Path) -> Path:
    """Where a log's catalogue goes; an error when the log's own name has no ending that can be written."""
    ending = ending_of(dst)
    if ending != ".parquet" and not ending.startswith(NDJSON_ENDINGS):
        raise SourceError(f"{dst}: expected a name ending in {', '.join(NDJSON_ENDINGS)} (.gz, .zst) or .parquet")
    return dst.with_name(dst.name[: -len(ending)] + ".items.ndjson")


def copy(rows: Iterator[msgspec.Struct], write: Callable[[Sequence[msgspec.Struct]], None]) -> int:
    """Write rows some thousand at a time; returns how many."""
    count = 0
    while batch := list(islice(rows, ROWS_AT_ONCE)):
        write(batch)
        count += len(batch)
    return count


@contextmanager
def open_log(path: Path) -> Iterator[Callable[[Sequence[msgspec.Struct]], None]]:
    """A function that appends rows to a new file, which takes its name once all are written."""
    ending = ending_of(path)
    aside = path.with_name(path.name + ".partial")
    try:
        with ExitStack() as stack:
            if ending == ".parquet":
                table = stack.enter_context(pq.ParquetWriter(aside, PARQUET_SCHEMA, compression="zstd"))
                yield lambda rows: table.write_table(_table(rows))
            else:
                text = stack.enter_context(_open_text(aside, ending, stack))
                encoder = msgspec.json.Encoder()
                yield lambda rows: _append(text, encoder.encode_lines(rows))
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _append(text: IO[bytes], lines: bytes) -> None:
    text.write(lines)


def _open_text(path: Path, ending: str, stack: ExitStack) -> IO[bytes]:
    file = stack.enter_context(path.open("wb"))
    if ending.endswith(".gz"):  # without name and time: the same rows are the same bytes
        return gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0)  # type: ignore[return-value]
    if ending.endswith(".zst"):
        return zstandard.ZstdCompressor().stream_writer(file)
    return file


def _table(events: Sequence[msgspec.Struct]) -> pa.Table:
    """Events as a table; features are JSON text, because their types differ."""
    rows = []
    for event in events:
        row = msgspec.to_builtins(event)
        if "features" in row:
            row["features"] = msgspec.json.encode(row["features"]).decode()
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=PARQUET_SCHEMA)


if __name__ == "__main__":
    sys.exit(main())
