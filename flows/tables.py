"""Logs that are tables: Parquet and Arrow IPC (file or stream), read batch by batch.

- Columns are the event's fields, `features` (JSON text, struct or map) and `features.<name>`; a null is an absent value,
  other columns are not read.
- `table_rows` says what a row means: timestamps become epoch milliseconds (without a zone: UTC), whole floats in integer
  columns become integers, and a cell that Python cannot hold becomes bytes, which no field accepts.
- A file that breaks gives the rows before the damage, then one reject with the reason.
- Parquet decodes on all cores. A text column whose dictionary is small is handed on as a dictionary, so that each distinct
  text is looked at once. Large row groups are read in buffers, so that memory does not grow with them.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from flows.chunks import FEATURE_PREFIX, MOST_TABLE_ROWS, Limits, Piece, Rows, Table, reject
from online_models.contracts.events import Event

TABLE_ENDINGS = (".parquet", ".arrow", ".ipc", ".feather")
INTEGER_FIELDS = frozenset({"ts", "position", "rollout_id"})

_FILE_MAGIC = b"ARROW1"
_WHOLE_GROUP_BYTES = 64 * 1024 * 1024
"""A row group is read at once up to this size, a larger one in buffers per column."""
_BUFFER_BYTES = 256 * 1024


class TableReader:
    """Pieces of at most `limits.rows`, else `limits.table_rows` rows; an offset is a row number."""

    def __init__(self, path: Path, offset: int, limits: Limits) -> None:
        self._path = str(path)
        self._offset = offset
        self._row = 0  # rows decoded so far: where damage, if any, is
        self._ended = False
        self._most_rows = min(limits.rows or limits.table_rows, MOST_TABLE_ROWS)
        self._file = pa.OSFile(self._path)
        self._batches = self._counted(self._parquet() if path.suffix.lower() == ".parquet" else self._ipc())
        # One batch is decoded ahead: Arrow needs no interpreter for that.
        self._ahead = ThreadPoolExecutor(1, "read-ahead")
        self._coming = self._ahead.submit(next, self._batches, None)

    def read(self) -> Piece | None:
        """The next piece, or None at the end."""
        if self._ended:
            return None
        try:
            while (found := self._coming.result()) is not None:
                self._coming = self._ahead.submit(next, self._batches, None)
                first, batch = found
                if first >= self._offset:
                    return Piece(Table(batch, first), first + batch.num_rows)
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            return self._damage(str(error))
        self._ended = True
        return None

    def close(self) -> None:
        """Close the file."""
        self._ahead.shutdown()
        self._file.close()

    def _damage(self, reason: str) -> Piece | None:
        """One reject for the rest of a broken table. It ends one row on, so that a resumed reader is past it."""
        self._ended = True
        if self._row < self._offset:
            return None
        refused = reject(f"table is corrupt: {reason}", self._path, self._row, b"")
        return Piece(Rows([], []), self._row + 1, (refused,))

    def _counted(self, batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Batches with the number of their first row."""
        for batch in batches:
            first, self._row = self._row, self._row + batch.num_rows
            yield first, batch

    def _parquet(self) -> Iterator[pa.RecordBatch]:
        table = open_parquet(self._file)
        columns = used_columns(table.schema_arrow)
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            if self._row + rows <= self._offset:
                self._row += rows
                continue
            for batch in table.iter_batches(self._most_rows, row_groups=[group], columns=columns or None):
                yield batch.select(columns)

    def _ipc(self) -> Iterator[pa.RecordBatch]:
        for batch in _ipc_batches(self._file):
            whole = batch.select(used_columns(batch.schema))
            for column in whole.columns:
                check_bounds(column)
            for start in range(0, batch.num_rows, self._most_rows):
                yield whole.slice(start, self._most_rows)


def open_parquet(file: pa.NativeFile, whole_group_bytes: int = _WHOLE_GROUP_BYTES) -> pq.ParquetFile:
    """A Parquet file that gives columns of few distinct texts as dictionaries, and reads larger row groups in buffers."""
    metadata = pq.read_metadata(file)
    groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
    largest = max((group.total_byte_size for group in groups), default=0)
    few = [
        metadata.schema.column(place).path
        for place in range(metadata.num_columns)
        if _is_text(metadata.schema.column(place)) and _has_small_dictionary(groups, place)
    ]
    return pq.ParquetFile(
        file,
        metadata=metadata,
        read_dictionary=few,
        pre_buffer=False,
        buffer_size=_BUFFER_BYTES if largest > whole_group_bytes else 0,
    )


def _is_text(column: pq.ColumnSchema) -> bool:
    return bool(column.max_repetition_level == 0 and column.logical_type.type == "STRING")


def _has_small_dictionary(groups: list[pq.RowGroupMetaData], place: int) -> bool:
    """Whether the distinct texts take less than a byte a row, and are all in dictionaries as far as that can be told."""
    chunks = [group.column(place) for group in groups]
    if not all(chunk.has_dictionary_page for chunk in chunks):
        return False
    dictionary_bytes = sum(each.data_page_offset - each.dictionary_page_offset for each in chunks)
    return bool(dictionary_bytes < sum(each.num_values for each in chunks))


def used_columns(schema: pa.Schema) -> list[str]:
    """Names of the columns that an event is made of.

    Raises
    ------
    pyarrow.ArrowInvalid
        When two columns share such a name.

    >>> used_columns(pa.schema({"ts": pa.int64(), "features.age": pa.int8(), "page": pa.string()}))
    ['ts', 'features.age']
    """
    names = [name for name in schema.names if name in Event.__struct_fields__ or name.startswith(FEATURE_PREFIX)]
    if len(set(names)) < len(names):
        raise pa.ArrowInvalid(f"expected distinct column names, got {', '.join(schema.names)[:200]}")
    return names


def check_bounds(column: pa.Array) -> None:
    """Raise `ArrowInvalid` when offsets or dictionary codes lie outside: what Parquet decodes is right, IPC is the file's word.

    That texts are UTF-8 is each row's own matter, so texts are checked as bytes.
    """
    if pa.types.is_string(column.type):
        column = column.view(pa.binary())
    elif pa.types.is_large_string(column.type):
        column = column.view(pa.large_binary())
    column.validate(full=True)


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
    """The rows of a batch with event fields as keys, nulls left out and features gathered.

    >>> table_rows(pa.RecordBatch.from_pydict({"ts": [5.0, None], "features.age": [None, 7]}))
    [{'ts': 5}, {'features': {'age': 7}}]
    """
    names = [name for name in batch.schema.names if name in Event.__struct_fields__]
    columns = [_values(name, batch.column(name)) for name in names]
    rows: list[dict[str, object]] = [
        {name: entry for name, entry in zip(names, row, strict=True) if entry is not None}
        for row in zip(*columns, strict=True)
    ] or [{} for _ in range(batch.num_rows)]
    named = [name for name in batch.schema.names if name.startswith(FEATURE_PREFIX)]
    if named:
        _add_features(
            rows, [name.removeprefix(FEATURE_PREFIX) for name in named], [batch.column(name) for name in named]
        )
    return rows


def rows_at(batch: pa.RecordBatch, rows: npt.NDArray[np.intp]) -> list[dict[str, object]]:
    """Some of the rows of a batch, as `table_rows` gives them."""
    if len(rows) == batch.num_rows:
        return table_rows(batch)
    try:
        return table_rows(batch.take(pa.array(rows)))
    except pa.ArrowNotImplementedError:  # a column of a type that Arrow cannot pick rows of
        return [given for row in rows.tolist() for given in table_rows(batch.slice(row, 1))]


def _add_features(rows: list[dict[str, object]], names: list[str], columns: list[pa.Array]) -> None:
    for row, entries in zip(rows, zip(*map(cells, columns), strict=True), strict=True):
        found = {name: cell for name, cell in zip(names, entries, strict=True) if cell is not None}
        features = row.get("features", {})
        if found and isinstance(features, dict):
            row["features"] = {**features, **found}


def _values(name: str, column: pa.Array) -> list[object]:
    if pa.types.is_timestamp(column.type):
        column = milliseconds(column)
    values = cells(column)
    if name in INTEGER_FIELDS and pa.types.is_floating(column.type):
        return [int(cell) if isinstance(cell, float) and cell.is_integer() else cell for cell in values]
    return [_features(cell) for cell in values] if name == "features" else values


def milliseconds(column: pa.Array) -> pa.Array:
    """Epoch milliseconds of Arrow timestamps, int64 (n,); a time beyond these is as it was."""
    try:
        return column.cast(pa.timestamp("ms", column.type.tz), safe=False).cast(pa.int64())
    except pa.ArrowInvalid:
        return column


def cells(column: pa.Array) -> list[object]:
    """The cells as Python objects; bytes where there is none, as of a text that is not UTF-8."""
    try:
        found: list[object] = column.to_pylist()
    except (ValueError, OverflowError):
        return [_cell(scalar) for scalar in column]
    return found


def _cell(scalar: pa.Scalar) -> object:
    try:
        return scalar.as_py()
    except (ValueError, OverflowError):
        return scalar.as_buffer().to_pybytes() if isinstance(scalar, pa.StringScalar) else b""


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
            return _of_map(entry)
        case _:
            return entry


def _of_map(entries: list[object]) -> object:
    """A map's entries as a mapping; a list that is no map is left to be refused."""
    if all(isinstance(entry, tuple) for entry in entries):
        return dict(entries)  # type: ignore[arg-type]  # of pairs
    return entries
