"""Writes a log in each of the formats that the stream job reads, the ways other programs would."""

import csv
import gzip
import io
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import zstandard

from online_models.contracts.events import Event
from tests.strategies import ndjson


def write_csv(path: Path, log: Sequence[Event]) -> None:
    rows = [msgspec.to_builtins(event) for event in log]
    for row in rows:
        row["features"] = json.dumps(row["features"]) if "features" in row else ""
    path.write_bytes(csv_text(rows, Event.__struct_fields__))


def csv_text(rows: Sequence[dict[str, object]], columns: Sequence[str]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [*columns, "ignored"], restval="")
    writer.writeheader()
    writer.writerows([{**row, "ignored": 'quoted "cell"\nof two lines'} for row in rows])
    return text.getvalue().encode()


def as_table(log: Sequence[Event]) -> pa.Table:
    """Features as JSON text, times as Arrow timestamps, optional integers as floats, the way data frames write them."""
    rows = [msgspec.to_builtins(event) for event in log]
    for row in rows:
        row["ts"] = datetime.fromtimestamp(row["ts"] / 1000, UTC)
        if "features" in row:
            row["features"] = json.dumps(row["features"])
    texts = ("event_id", "type", "user_id", "item_id", "domain", "request_id", "model_version", "features")
    fields = [(name, pa.string()) for name in texts]
    fields += [(name, pa.float64()) for name in ("value", "position", "rollout_id", "propensity")]
    return pa.Table.from_pylist(
        rows, schema=pa.schema([*fields, ("ts", pa.timestamp("us", "UTC")), ("more", pa.int8())])
    )


def write_ipc_file(path: Path, log: Sequence[Event]) -> None:
    table = as_table(log)
    with pyarrow.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=3000)


def write_ipc_stream(path: Path, log: Sequence[Event]) -> None:
    table = as_table(log)
    with pyarrow.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=8500)


def packed(write: Callable[[Path, Sequence[Event]], None]) -> Callable[[Path, Sequence[Event]], None]:
    """The same text, compressed by the ending of the name."""

    def write_packed(path: Path, log: Sequence[Event]) -> None:
        plain = path.with_name("plain")
        write(plain, log)
        half = plain.stat().st_size // 2
        pack = gzip.compress if path.suffix == ".gz" else zstandard.ZstdCompressor().compress
        text = plain.read_bytes()
        path.write_bytes(pack(text[:half]) + pack(text[half:]))  # as two members or frames

    return write_packed


def write_ndjson(path: Path, log: Sequence[Event]) -> None:
    path.write_bytes(ndjson(log))


WRITERS: dict[str, Callable[[Path, Sequence[Event]], None]] = {
    "a.ndjson": write_ndjson,
    "a.jsonl": write_ndjson,
    "a.json": write_ndjson,
    "a.ndjson.gz": packed(write_ndjson),
    "a.ndjson.zst": packed(write_ndjson),
    "a.csv": write_csv,
    "a.csv.gz": packed(write_csv),
    "a.csv.zst": packed(write_csv),
    "a.parquet": lambda path, log: pq.write_table(as_table(log), path, row_group_size=8500),
    "a.arrow": write_ipc_file,
    "a.feather": write_ipc_file,
    "a.ipc": write_ipc_stream,
}
