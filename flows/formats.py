"""File formats of an event log, by ending, as readers that cut a file into pieces of whole rows.

- NDJSON (`.ndjson .jsonl .json`), CSV (`.csv`) and Vowpal Wabbit text (`.vw`), each plain, `.gz` or `.zst`;
  Parquet (`.parquet`); Arrow IPC (`.arrow .ipc .feather`, file or stream).
- Where a piece ends depends only on where it starts, so a resumed job sees the pieces of an uninterrupted one.
- A CSV header names the columns: event fields, `features` (JSON) or `features.<name>` (a number, a JSON list of
  texts, or text); an empty cell is an absent value, other columns are ignored.
"""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from flows.chunks import FEATURE_PREFIX, Limits, Lines, Piece, Reader, Rows, reject
from flows.streams import ByteStream
from flows.tables import TABLE_ENDINGS, TableReader
from flows.vowpal_wabbit import VwMapping, vw_rows
from online_models.contracts.events import Event, Reject
from online_models.errors import SourceError

NDJSON_ENDINGS = (".ndjson", ".jsonl", ".json")
COMPRESSIONS = ("", ".gz", ".zst")
ENDINGS = tuple(text + packed for text in (*NDJSON_ENDINGS, ".csv", ".vw") for packed in COMPRESSIONS) + TABLE_ENDINGS
_BOM = b"\xef\xbb\xbf"

Cell = str | int | float | list[str] | dict[str, object]


def ending_of(path: Path) -> str:
    """The known ending of a log's name.

    Raises
    ------
    SourceError
        When the name ends otherwise.

    >>> ending_of(Path("events.ndjson.gz"))
    '.ndjson.gz'
    """
    for ending in sorted(ENDINGS, key=len, reverse=True):
        if path.name.lower().endswith(ending):
            return ending
    raise SourceError(f"{path}: expected a name ending in {', '.join(ENDINGS)}")


def open_reader(
    path: Path,
    offset: int = 0,
    limits: Limits = Limits(),  # noqa: B008 (frozen)
    vw: VwMapping = VwMapping(),  # noqa: B008 (frozen)
) -> Reader:
    """A reader of a log file that starts at an offset an earlier piece ended at; `vw` says what namespaces mean.

    Raises
    ------
    SourceError
        When the file cannot be opened, its ending is not known, or a CSV header cannot be read.
    """
    ending = ending_of(path)
    try:
        if ending in TABLE_ENDINGS:
            return TableReader(path, offset, limits)
        if ending.startswith(".csv"):
            return CsvReader(path, offset, limits)
        if ending.startswith(".vw"):
            return VwReader(path, offset, limits, vw)
        return NdjsonReader(path, offset, limits)
    except OSError as error:
        raise SourceError(f"{path}: cannot be opened: {error}") from error


class TextReader:
    """Pieces of whole rows of a text; what a row is, subclasses say."""

    def __init__(self, path: Path, offset: int, limits: Limits) -> None:
        self._path = str(path)
        self._limits = limits
        self._stream = ByteStream(path)
        self._buffer = b""
        self._offset = offset
        self._ended = not self._stream.skip(offset)

    def read(self) -> Piece | None:
        """The next piece, or None at the end."""
        if not self._ended:
            self._buffer += self._stream.read(self._limits.chunk_bytes - len(self._buffer))
        if not self._buffer:
            return self._damage()
        end = self._whole_rows()
        if end:
            return self._take(end)
        newline = self._buffer.find(b"\n")
        if newline > self._limits.line_bytes or (newline < 0 and len(self._buffer) > self._limits.line_bytes):
            return self._skip_long_line()
        if newline >= 0:
            return self._refuse("row: a quoted field is not closed", newline + 1)
        if self._stream.error is not None:
            return self._damage()
        return self._take(len(self._buffer), terminated=False)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _whole_rows(self) -> int:
        """Where the last whole row in the buffer ends that comes before any row too long; 0 when there is none."""
        raise NotImplementedError

    def _content(self, blob: bytes, terminated: bool) -> tuple[Lines | Rows, tuple[Reject, ...]]:
        raise NotImplementedError

    def _take(self, end: int, terminated: bool = True) -> Piece:
        content, rejects = self._content(self._buffer[:end], terminated)
        self._advance(end)
        return Piece(content, self._offset, rejects)

    def _advance(self, count: int) -> None:
        self._buffer = self._buffer[count:]
        self._offset += count

    def _refuse(self, reason: str, end: int) -> Piece:
        row = self._buffer[:end]
        refused = reject(reason, self._path, self._offset, row.rstrip(b"\r\n"))
        self._advance(end)
        return Piece(Lines(b"", self._offset), self._offset, (refused,))

    def _damage(self) -> Piece | None:
        """One reject for the rest of a broken stream. It ends one byte on, so that a resumed reader is past it."""
        if self._ended or self._stream.error is None:
            return None
        self._ended = True
        piece = self._refuse(self._stream.error, len(self._buffer))
        return Piece(piece.content, piece.end + 1, piece.rejects)

    def _skip_long_line(self) -> Piece:
        """Reject a line of any length, holding no more of it than a chunk."""
        start, kept, length = self._offset, self._buffer[: self._limits.line_bytes], 0
        while (newline := self._buffer.find(b"\n")) < 0 and self._buffer:
            length += len(self._buffer)
            self._advance(len(self._buffer))
            self._buffer = self._stream.read(self._limits.chunk_bytes)
        if newline >= 0:
            length += newline
            self._advance(newline + 1)
        reason = f"line: expected at most {self._limits.line_bytes} bytes, got {length}"
        refused = reject(reason, self._path, start, kept, length)
        return Piece(Lines(b"", self._offset, newline >= 0), self._offset, (refused,))


class LineReader(TextReader):
    """Pieces of whole lines, of which each is a row."""

    def _whole_rows(self) -> int:
        buffer, limit = self._buffer, self._limits.line_bytes
        end = buffer.rfind(b"\n") + 1
        # A line longer than the limit covers one window of half the limit wholly.
        half = max(limit // 2, 1)
        if self._limits.rows is None and all(buffer.find(b"\n", at, at + half) >= 0 for at in range(0, end, half)):
            return end
        start = 0
        for _ in range(self._limits.rows or end):
            newline = buffer.find(b"\n", start, end)
            if newline < 0 or newline - start > limit:
                break
            start = newline + 1
        return start


class NdjsonReader(LineReader):
    """Pieces of whole NDJSON lines; a line is not looked into."""

    def _content(self, blob: bytes, terminated: bool) -> tuple[Lines, tuple[Reject, ...]]:
        if self._offset == 0 and blob.startswith(_BOM):
            blob = b"   " + blob[len(_BOM) :]  # white space of the same length: offsets stay right
        return Lines(blob, self._offset, terminated), ()


class VwReader(LineReader):
    """Pieces of whole lines of Vowpal Wabbit text as typed fields."""

    def __init__(self, path: Path, offset: int, limits: Limits, mapping: VwMapping) -> None:
        self._mapping = mapping
        super().__init__(path, offset, limits)

    def _content(self, blob: bytes, terminated: bool) -> tuple[Rows, tuple[Reject, ...]]:
        if self._offset == 0 and blob.startswith(_BOM):
            blob = b"   " + blob[len(_BOM) :]
        return vw_rows(blob, self._offset, terminated, self._path, self._mapping)


class CsvReader(TextReader):
    """Pieces of whole CSV records as typed cells."""

    def __init__(self, path: Path, offset: int, limits: Limits) -> None:
        header, columns = read_header(path, limits)
        self._columns = [(name, _CONVERSIONS.get(name, _as_text)) for name in columns]
        self._ends: list[int] = []
        super().__init__(path, max(offset, header), limits)

    def _whole_rows(self) -> int:
        self._ends = []
        end = 0
        while self._limits.rows is None or len(self._ends) < self._limits.rows:
            stop = record_end(self._buffer, end, self._limits.line_bytes)
            if stop == 0:
                break
            self._ends.append(stop)
            end = stop
        return end

    def _content(self, blob: bytes, terminated: bool) -> tuple[Rows, tuple[Reject, ...]]:
        ends = self._ends or [len(blob)]
        raws = [blob[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        offsets = [self._offset + start for start in [0, *ends[:-1]]]
        rows: list[dict[str, object]] = []
        kept: list[int] = []
        rejects: list[Reject] = []
        for index, cells in enumerate(split_records(raws)):
            reason = cells if isinstance(cells, str) else self._unfit(cells)
            if reason is not None:
                cut = "" if terminated else "truncated last line: "
                raw = raws[index].rstrip(b"\r\n")
                rejects.append(reject(cut + reason, self._path, offsets[index], raw))
            elif cells:
                rows.append(self._row(cells))
                kept.append(index)
        content = Rows(rows, [offsets[k] for k in kept], [raws[k].rstrip(b"\r\n") for k in kept], terminated)
        return content, tuple(rejects)

    def _unfit(self, cells: Sequence[str]) -> str | None:
        if cells and len(cells) != len(self._columns):
            return f"row: expected {len(self._columns)} cells, got {len(cells)}"
        return None

    def _row(self, cells: Sequence[str]) -> dict[str, object]:
        row: dict[str, object] = {}
        features: dict[str, object] = {}
        for (name, convert), cell in zip(self._columns, cells, strict=True):
            if cell == "":
                continue
            if name.startswith(FEATURE_PREFIX):
                features[name.removeprefix(FEATURE_PREFIX)] = _as_feature(cell)
            elif name in Event.__struct_fields__:
                row[name] = convert(cell)
        if features:
            given = row.get("features", {})
            row["features"] = {**given, **features} if isinstance(given, dict) else given
        return row


def read_header(path: Path, limits: Limits) -> tuple[int, list[str]]:
    """Length in bytes of a CSV file's header record, and the columns it names.

    Raises
    ------
    SourceError
        When the first record is not a header of distinct names in UTF-8.
    """
    stream = ByteStream(path)
    try:
        start = stream.read(limits.chunk_bytes)
    finally:
        stream.close()
    length = record_end(start, 0, limits.line_bytes) or len(start)
    cells = split_records([start[:length].removeprefix(_BOM)])[0]
    if isinstance(cells, str):
        raise SourceError(f"{path}: expected a CSV header, got a first line with {cells}")
    columns = [cell.strip() for cell in cells]
    if len(set(columns)) < len(columns):
        raise SourceError(f"{path}: expected distinct column names, got {columns}")
    return length, columns


def record_end(text: bytes, start: int, limit: int) -> int:
    r"""Where the CSV record at `start` ends, newline included; 0 when it does not within `limit` bytes.

    >>> record_end(b'1,"a\nb"\n2,c\n', 0, 100)
    8
    """
    quotes, stop = 0, start
    while (newline := text.find(b"\n", stop)) >= 0 and newline - start <= limit:
        quotes += text.count(b'"', stop, newline)
        stop = newline + 1
        if quotes % 2 == 0:
            return stop
    return 0


def split_records(raws: Sequence[bytes]) -> list[list[str] | str]:
    """The cells of each record, or why it has none. An empty line has no cells."""
    try:
        whole = list(csv.reader([raw.decode() for raw in raws], strict=True))
        if len(whole) == len(raws):
            return [*whole]
    except (UnicodeDecodeError, csv.Error):
        pass
    return [_cells(raw) for raw in raws]


def _cells(raw: bytes) -> list[str] | str:
    try:
        records = list(csv.reader([raw.decode()], strict=True))
    except UnicodeDecodeError as error:
        return f"not UTF-8: byte {raw[error.start]:#04x} at {error.start}"
    except csv.Error as error:
        return f"row: {error}"
    return records[0] if records else []


def _as_text(cell: str) -> Cell:
    return cell


def _as_integer(cell: str) -> Cell:
    """The integer a cell spells, or the cell itself, which the contract then refuses or reads as a time."""
    digits = cell.removeprefix("-")
    return int(cell) if digits.isascii() and digits.isdigit() and len(digits) < 20 else cell


def _as_number(cell: str) -> Cell:
    try:
        return float(cell) if "_" not in cell else cell
    except ValueError:
        return cell


def _as_json(cell: str) -> Cell:
    try:
        return msgspec.json.decode(cell, type=dict[str, object])
    except (msgspec.DecodeError, RecursionError):
        return cell


def _as_feature(cell: str) -> Cell:
    if cell[0] not in "[-0123456789":
        return cell
    try:
        return msgspec.json.decode(cell, type=float | list[str])
    except msgspec.DecodeError:
        return cell


_CONVERSIONS: dict[str, Callable[[str], Cell]] = {
    "ts": _as_integer,
    "value": _as_number,
    "position": _as_integer,
    "rollout_id": _as_integer,
    "propensity": _as_number,
    "features": _as_json,
}
