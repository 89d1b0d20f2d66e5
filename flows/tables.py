"""Logs that are tables: Parquet and Arrow IPC (file or stream), read batch by batch.

- Columns are the event's fields, `features` (JSON text, struct or map) and `features.<name>`; a null is an absent value.
- Timestamps become epoch milliseconds (without a zone: UTC), whole floats in integer columns become integers.
- A file that breaks gives the rows before the damage, then one reject with the reason.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from flows.chunks import FEATURE_PREFIX, Limits, Piece, Rows, reject
from online_models.contracts.events import Event

TABLE_ENDINGS = (".parquet", ".arrow", ".ipc", ".feather")
TABLE_ROWS = 8192
_FILE_MAGIC = b"ARROW1"
_INTEGERS = frozenset({"ts", "position", "rollout_id"})


class TableReader:
    """Pieces of at most `limits.rows` rows; an offset is a row number."""

    def __init__(self, path: Path, offset: int, limits: Limits) -> None:
        self._path = str(path)
        self._offset = offset
        self._row = 0  # rows passed so far: where damage, if any, is
        self._ended = False
        self._most_rows = limits.rows or TABLE_ROWS
        self._file = pa.OSFile(self._path)
        self._batches = self._parquet() if path.suffix.lower() == ".parquet" else self._ipc()

    def read(self) -> Piece | None:
        """The next piece, or None at the end."""
        if self._ended:
            return None
        try:
            for batch in self._batches:
                first, self._row = self._row, self._row + batch.num_rows
                if first >= self._offset:
                    return Piece(Rows(table_rows(batch), range(first, self._row)), self._row)
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            return self._damage(str(error))
        self._ended = True
        return None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _damage(self, reason: str) -> Piece | None:
        """One reject for the rest of a broken table. It ends one row on, so that a resumed reader is past it."""
        self._ended = True
        if self._row < self._offset:
            return None
        refused = reject(f"table is corrupt: {reason}", self._path, self._row, b"")
        return Piece(Rows([], []), self._row + 1, (refused,))

    def _parquet(self) -> Iterator[pa.RecordBatch]:
        table = pq.ParquetFile(self._file)
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            if self._row + rows <= self._offset:
                self._row += rows
                continue
            yield from table.iter_batches(self._most_rows, row_groups=[group])

    def _ipc(self) -> Iterator[pa.RecordBatch]:
        for batch in _ipc_batches(self._file):
            for start in range(0, batch.num_rows, self._most_rows):
                yield batch.slice(start, self._most_rows)


def _ipc_batches(file: pa.NativeFile) -> Iterator[pa.RecordBatch]:
    magic = file.read(len(_FILE_MAGIC))
    file.seek(0)
    if magic != _FILE_MAGIC:
        yield from pyarrow.ipc.open_stream(file)
        return
    reader = pyarrow.ipc.open_file(file)
    for index in range(reader.num_record_batches):
        yield reader.get_batch(index)


def table_rows(batch: pa.RecordBatch) -> list[dict[str, object]]:
    """The rows of a batch with event fields as keys, nulls left out and features gathered."""
    names = [name for name in batch.schema.names if name in Event.__struct_fields__]
    columns = [_values(name, batch.column(name)) for name in names]
    rows: list[dict[str, object]] = [
        {name: entry for name, entry in zip(names, row, strict=True) if entry is not None}
        for row in zip(*columns, strict=True)
    ] or [{} for _ in range(batch.num_rows)]
    for name in batch.schema.names:
        if name.startswith(FEATURE_PREFIX):
            _add_feature(rows, name.removeprefix(FEATURE_PREFIX), batch.column(name).to_pylist())
    return rows


def _add_feature(rows: list[dict[str, object]], name: str, entries: list[object]) -> None:
    for row, entry in zip(rows, entries, strict=True):
        features = row.get("features", {})
        if entry is not None and isinstance(features, dict):
            row["features"] = {**features, name: entry}


def _values(name: str, column: pa.Array) -> list[object]:
    kind = column.type
    if pa.types.is_timestamp(kind):
        column = column.cast(pa.timestamp("ms", kind.tz), safe=False).cast(pa.int64())
    elif name in _INTEGERS and pa.types.is_floating(kind):
        column = _whole(column)
    values: list[object] = column.to_pylist()
    return [_features(entry) for entry in values] if name == "features" else values


def _whole(column: pa.Array) -> pa.Array:
    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid:  # a fraction, NaN or infinity: each row alone is then refused for its type
        return column


def _features(entry: object) -> object:
    """Features of one row: JSON text, a struct (nulls left out) or a map; what is none of these is left to be refused."""
    match entry:
        case str():
            try:
                return msgspec.json.decode(entry)
            except (msgspec.DecodeError, RecursionError):
                return entry
        case dict():
            return {name: value for name, value in entry.items() if value is not None}
        case list():
            return dict(entry)
        case _:
            return entry
