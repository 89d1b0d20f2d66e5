"""What a source hands to the stream job: one chunk of a log, not yet parsed.

- A chunk is text lines, a piece of a table, or rows with the event's field names; it never spans two files.
- What the reader itself cannot accept (a line without end, a torn stream) travels along as rejects.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec
import pyarrow as pa

from online_models.contracts.events import MAX_LINE_BYTES, EventBatch, Reject, timestamp_ms

FEATURE_PREFIX = "features."
"""A column of a table or CSV file whose name starts so is one feature of the event."""

KEPT_BYTES = 64 * 1024
"""A reject keeps at most this much of its row."""


MOST_TABLE_ROWS = 2**15
"""Each row of a chunk may be of a domain of its own, and so many fit into the codes of an `EventBatch`."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How large one chunk may be.

    chunk_bytes : text read at once; a chunk holds the whole lines in it
    line_bytes : a longer line (CSV: record) is rejected, so memory stays bounded whatever the file holds
    rows : most rows in a chunk, or None for all that fit
    table_rows : most rows in a chunk of a table when `rows` is None, and never more than `MOST_TABLE_ROWS`; decoding Parquet is
        cheaper the more there are

    Raises
    ------
    ValueError
        When a chunk could not hold the longest line.
    """

    chunk_bytes: int = 512 * 1024
    line_bytes: int = MAX_LINE_BYTES
    rows: int | None = None
    table_rows: int = MOST_TABLE_ROWS

    def __post_init__(self) -> None:
        if not 0 < self.line_bytes < self.chunk_bytes:
            raise ValueError(f"expected 0 < line_bytes < chunk_bytes, got {self.line_bytes} and {self.chunk_bytes}")
        if self.rows is not None and self.rows < 1:
            raise ValueError(f"rows: expected at least 1, got {self.rows}")
        if self.table_rows < 1:
            raise ValueError(f"table_rows: expected at least 1, got {self.table_rows}")


@dataclass(frozen=True, slots=True)
class Lines:
    """NDJSON text whose first byte is byte `offset` of the decompressed file.

    terminated : False when the file ends without a newline: the last line may be cut
    """

    blob: bytes
    offset: int
    terminated: bool = True


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of CSV or Vowpal Wabbit text: `rows[i]` maps event fields to values, absent ones left out.

    offsets : byte of the decompressed file at which each row stands
    raws : the bytes of each row, or None where a row has no text of its own
    terminated : False when the file ends without a newline: the last row may be cut
    """

    rows: Sequence[dict[str, object]]
    offsets: Sequence[int]
    raws: Sequence[bytes] | None = None
    terminated: bool = True


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of Parquet or Arrow as they were read; the first is row `offset` of the file. A table's last row is never cut."""

    batch: pa.RecordBatch
    offset: int

    @property
    def terminated(self) -> bool:
        """True, as of all rows that have a length."""
        return True


Content = Lines | Rows | Table


@dataclass(frozen=True, slots=True)
class Piece:
    """What a reader gives at once: its rows, the offset in the file where it ends, and the rows it had to refuse."""

    content: Content
    end: int
    rejects: tuple[Reject, ...] = ()


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a chunk holds: its acceptable events in order, and a reject for every other row, in order of offset."""

    batch: EventBatch
    rejects: list[Reject]


class Reader(Protocol):
    """Reads one file forward."""

    def read(self) -> Piece | None:
        """The next piece, or None at the end."""

    def close(self) -> None:
        """Close the file."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """One stream item.

    partition : what is read in one order and has one watermark: all files of a log, or all live segments
    path : the file; position : the offset at which the chunk ends there, above the offsets of all its rows
    rejects : rows the reader had to refuse, in file order
    """

    partition: str
    path: str
    position: int
    content: Content
    rejects: tuple[Reject, ...] = ()


class _Moment(msgspec.Struct):
    ts: int | str


_MOMENT = msgspec.json.Decoder(_Moment)


def first_time_ms(content: Content) -> int | None:
    """Event time of the first row, epoch ms, or None when it has none that can be read.

    >>> first_time_ms(Lines(b'{"ts":5}', 0)), first_time_ms(Lines(b"broken", 0))
    (5, None)
    """
    try:
        match content:
            case Lines(blob=blob):
                return timestamp_ms(_MOMENT.decode(blob[: blob.find(b"\n") + 1] or blob).ts)
            case Rows(rows=rows):
                return timestamp_ms(msgspec.convert(rows[0], _Moment).ts) if rows else None
            case Table(batch=batch):
                return timestamp_ms(msgspec.convert({"ts": _first_cell(batch, "ts")}, _Moment).ts)
    except (msgspec.DecodeError, ValueError, OverflowError, RecursionError):
        return None


def _first_cell(batch: pa.RecordBatch, name: str) -> object:
    """A cell that a time may stand in; an Arrow timestamp as epoch ms, a whole float as an integer."""
    if name not in batch.schema.names or not batch.num_rows:
        return None
    cells = batch.column(name).slice(0, 1)
    if pa.types.is_timestamp(cells.type):
        cells = cells.cast(pa.timestamp("ms", cells.type.tz), safe=False).cast(pa.int64())
    (cell,) = cells.to_pylist()
    return int(cell) if isinstance(cell, float) and cell.is_integer() else cell


def raw_row(content: Content, offset: int) -> bytes | None:
    """The bytes of the row at an offset of the source; None where rows have no text of their own.

    >>> raw_row(Lines(b"one\\ntwo\\n", 100), 104)
    b'two'
    """
    match content:
        case Lines(blob=blob, offset=first):
            start = offset - first
            end = blob.find(b"\n", start)
            return blob[start : end if end >= 0 else len(blob)]
        case Rows(offsets=offsets, raws=raws):
            return None if raws is None else raws[offsets.index(offset)]
        case Table():
            return None


def reject(reason: str, path: str, offset: int, raw: bytes, length: int | None = None) -> Reject:
    """A reject whose reason and bytes are cut to a bounded size."""
    return Reject(reason[:300], path, offset, raw[:KEPT_BYTES], len(raw) if length is None else length)
