"""Recorded event logs as columns, for whoever looks at a whole log at once: NDJSON, CSV, Parquet, Arrow IPC.

- NDJSON and CSV are plain, `.gz` or `.zst`; what an event is, the contract says, as it does for the stream job.
- A bad row is counted by the kind of its reason, with the first one in full; it never stops the reading. So are damaged ends.
- Features are judged in NDJSON only, where they are part of the line; in tables and CSV no column of theirs is read.
"""

import csv
import io
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from online_models.contracts.events import (
    MAX_LINE_BYTES,
    TYPE_CODES,
    Event,
    TimeBounds,
    reason_to_reject,
    timestamp_ms,
)
from online_models.errors import SourceError
from online_models.stores.compressed import CORRUPT, opened

I64 = npt.NDArray[np.int64]

NDJSON_ENDINGS: Final = (".ndjson", ".jsonl", ".json")
TEXT_ENDINGS: Final = (*NDJSON_ENDINGS, ".csv")
IPC_ENDINGS: Final = (".arrow", ".ipc", ".feather")
COMPRESSIONS: Final = ("", ".gz", ".zst")
ENDINGS: Final = (*(text + packed for text in TEXT_ENDINGS for packed in COMPRESSIONS), ".parquet", *IPC_ENDINGS)

ANY_TIME: Final = TimeBounds(-(2**53), 2**53)
FIELDS: Final = tuple(name for name in Event.__struct_fields__ if name != "features")

_INTEGERS: Final = frozenset({"ts", "position", "rollout_id"})
_NUMBERS: Final = frozenset({"value", "propensity"})
_ROWS_AT_ONCE: Final = 8192
_BOM: Final = b"\xef\xbb\xbf"
_FILE_MAGIC: Final = b"ARROW1"
_PARTICULARS: Final = re.compile(r"'[^']*'|\"[^\"]*\"|(?<![\w-])-?\d+(\.\d+)?(e[+-]?\d+)?")
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

Row: TypeAlias = Event | str
"""An event, or why a row is none."""


@dataclass(slots=True)
class Refused:
    """Rows refused for one kind of reason: how many, and the first one's place and reason in full."""

    count: int
    first: str


@dataclass(frozen=True, slots=True)
class Recorded:
    """The valid events of a log, in its order, as columns of one length n.

    users, items, domains : ids, in order of appearance
    user, item, domain : int64 (n,), index into these; type : int8 (n,), index into `EVENT_TYPES`
    ts_ms : int64 (n,), UTC epoch milliseconds; value : float64 (n,), NaN where absent
    refused : kind of reason -> the rows that are no events
    """

    users: list[str]
    items: list[str]
    domains: list[str]
    user: I64
    item: I64
    domain: I64
    type: npt.NDArray[np.int8]
    ts_ms: I64
    value: npt.NDArray[np.float64]
    refused: dict[str, Refused]

    def __len__(self) -> int:
        return len(self.ts_ms)


@dataclass(slots=True)
class _Columns:
    """`Recorded` as it grows."""

    users: dict[str, int] = field(default_factory=dict)
    items: dict[str, int] = field(default_factory=dict)
    domains: dict[str, int] = field(default_factory=dict)
    user: "array[int]" = field(default_factory=lambda: array("q"))
    item: "array[int]" = field(default_factory=lambda: array("q"))
    domain: "array[int]" = field(default_factory=lambda: array("q"))
    type: "array[int]" = field(default_factory=lambda: array("b"))
    ts_ms: "array[int]" = field(default_factory=lambda: array("q"))
    value: "array[float]" = field(default_factory=lambda: array("d"))
    refused: dict[str, Refused] = field(default_factory=dict)

    def add(self, event: Event, ts_ms: int) -> None:
        self.user.append(self.users.setdefault(event.user_id, len(self.users)))
        self.item.append(self.items.setdefault(event.item_id, len(self.items)))
        self.domain.append(self.domains.setdefault(event.domain, len(self.domains)))
        self.type.append(TYPE_CODES[event.type])
        self.ts_ms.append(ts_ms)
        self.value.append(np.nan if event.value is None else event.value)

    def recorded(self) -> Recorded:
        return Recorded(
            list(self.users),
            list(self.items),
            list(self.domains),
            np.array(self.user, np.int64),
            np.array(self.item, np.int64),
            np.array(self.domain, np.int64),
            np.array(self.type, np.int8),
            np.array(self.ts_ms, np.int64),
            np.array(self.value, np.float64),
            self.refused,
        )


def read_log(paths: Iterable[Path], bounds: TimeBounds = ANY_TIME) -> Recorded:
    """The events of log files, one after the other.

    Raises
    ------
    SourceError
        When a file cannot be opened, its ending or its columns are not known, or its compression needs what is not installed.
    """
    columns = _Columns()
    for event, ts_ms in read_events(paths, columns.refused, bounds):
        columns.add(event, ts_ms)
    return columns.recorded()


def read_events(
    paths: Iterable[Path], refused: dict[str, Refused], bounds: TimeBounds = ANY_TIME
) -> Iterator[tuple[Event, int]]:
    """The valid events of log files, one after the other, with their times in epoch milliseconds; counts the others in `refused`.

    Raises as `read_log` does.
    """
    for path in paths:
        read = _reader_of(path)
        try:
            for number, row in read(path):
                found = _valid(row, bounds)
                if isinstance(found, str):
                    kind = _PARTICULARS.sub("…", found)
                    refused.setdefault(kind, Refused(0, f"{path}, row {number}: {found}")).count += 1
                else:
                    yield found
        except OSError as error:
            raise SourceError(f"{path}: cannot be read: {error}") from error


def _valid(row: Row, bounds: TimeBounds) -> tuple[Event, int] | str:
    """The event and its time, or why it is none."""
    if isinstance(row, str):
        return row
    try:
        ts_ms = timestamp_ms(row.ts)
    except (ValueError, OverflowError) as error:
        return f"ts: {error}"
    return reason_to_reject(row, ts_ms, bounds) or (row, ts_ms)


def _reader_of(path: Path) -> Callable[[Path], Iterator[tuple[int, Row]]]:
    name = path.name.lower()
    if not name.endswith(ENDINGS):
        raise SourceError(f"{path}: expected a name ending in {', '.join(ENDINGS)}")
    if name.endswith(".parquet"):
        return _parquet_rows
    if name.endswith(IPC_ENDINGS):
        return _ipc_rows
    plain = name.removesuffix(".gz").removesuffix(".zst")
    return _csv_rows if plain.endswith(".csv") else _ndjson_rows


def _ndjson_rows(path: Path) -> Iterator[tuple[int, Row]]:
    decode = msgspec.json.Decoder(Event).decode
    number = 0
    with opened(path) as lines:
        try:
            for number, line in enumerate(lines, 1):
                text = line.removeprefix(_BOM) if number == 1 else line
                if len(line) > MAX_LINE_BYTES + 1:
                    yield number, f"line: expected at most {MAX_LINE_BYTES} bytes, got {len(line)}"
                elif text.strip():
                    try:
                        yield number, decode(text)
                    except _UNREADABLE as error:
                        yield number, str(error)
        except CORRUPT as error:
            yield number + 1, f"compressed stream ends early or is corrupt: {error}"


def _csv_rows(path: Path) -> Iterator[tuple[int, Row]]:
    number = 1
    with opened(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        records = csv.reader(text, strict=True)
        try:
            header = _header(path, records)
            while True:
                number += 1
                try:
                    cells = next(records)
                except StopIteration:
                    return
                except csv.Error as error:
                    yield number, f"row: {error}"
                    continue
                if cells:
                    yield number, _csv_row(header, cells)
        except CORRUPT as error:
            yield number, f"compressed stream ends early or is corrupt: {error}"


def _header(path: Path, records: Iterator[list[str]]) -> list[str]:
    try:
        header = [cell.strip() for cell in next(records, [])]
    except csv.Error as error:
        raise SourceError(f"{path}: expected a CSV header, got a first line with {error}") from error
    if len(set(header)) < len(header) or not set(header) & set(FIELDS):
        raise SourceError(f"{path}: expected a CSV header of distinct names of event fields, got {header}")
    return header


def _csv_row(header: Sequence[str], cells: Sequence[str]) -> Row:
    if len(cells) != len(header):
        return f"row: expected {len(header)} cells, got {len(cells)}"
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return "row: not UTF-8"
    given = {name: _typed(name, cell) for name, cell in zip(header, cells, strict=True) if cell and name in FIELDS}
    return _event_of(given)


def _typed(name: str, cell: str) -> str | int | float:
    """The number that a cell spells, or the cell itself, which the contract then refuses or reads as a time."""
    if "_" in cell or name not in _INTEGERS | _NUMBERS:
        return cell
    try:
        return int(cell) if name in _INTEGERS else float(cell)
    except ValueError:
        return cell


def _parquet_rows(path: Path) -> Iterator[tuple[int, Row]]:
    with path.open("rb") as file:
        try:
            table = pq.ParquetFile(file)
        except pa.ArrowException as error:
            raise SourceError(f"{path}: not a Parquet file: {error}") from error
        wanted = _wanted(path, table.schema_arrow)
        yield from _table_rows(table.iter_batches(_ROWS_AT_ONCE, columns=wanted), wanted)


def _ipc_rows(path: Path) -> Iterator[tuple[int, Row]]:
    with pa.OSFile(str(path)) as file:
        is_file = file.read(len(_FILE_MAGIC)) == _FILE_MAGIC
        file.seek(0)
        try:
            reader = pyarrow.ipc.open_file(file) if is_file else pyarrow.ipc.open_stream(file)
        except pa.ArrowException as error:
            raise SourceError(f"{path}: not an Arrow IPC file or stream: {error}") from error
        batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else iter(reader)
        yield from _table_rows(batches, _wanted(path, reader.schema))


def _wanted(path: Path, schema: pa.Schema) -> list[str]:
    names = [name for name in schema.names if name in FIELDS]
    if not names or len(set(names)) < len(names):
        raise SourceError(f"{path}: expected distinct columns named like event fields, got {', '.join(schema.names)}")
    return names


def _table_rows(batches: Iterator[pa.RecordBatch], names: Sequence[str]) -> Iterator[tuple[int, Row]]:
    number = 0
    while True:
        try:
            batch = next(batches, None)
            columns = [] if batch is None else [_cells(name, batch.column(name)) for name in names]
        except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
            yield number + 1, f"table is corrupt: {error}"
            return
        if batch is None:
            return
        for cells in zip(*columns, strict=True):
            number += 1
            yield (
                number,
                _event_of({name: cell for name, cell in zip(names, cells, strict=True) if cell is not None}),
            )


def _cells(name: str, column: pa.Array) -> list[Any]:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("ms", column.type.tz), safe=False).cast(pa.int64())
    cells: list[Any] = column.to_pylist()
    if name in _INTEGERS and pa.types.is_floating(column.type):
        return [int(cell) if cell is not None and cell.is_integer() else cell for cell in cells]
    return cells


def _event_of(given: dict[str, Any]) -> Row:
    try:
        return msgspec.convert(given, Event)
    except msgspec.ValidationError as error:
        return str(error)
