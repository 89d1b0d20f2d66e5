"""One partition of a snapshot: the events of some days in an immutable Parquet file, named after its own hash.

- Days are grouped by blocks of four weeks: a block of at most `FILE_EVENTS` events is one file, a busier one has a file a day. A
  file costs about 4 ms whatever it holds, and 22 years of a quiet log have four thousand days with events; in a busy log a
  late event costs the reading of one day. The rule knows nothing but the events, so equal events are grouped equally.
- Two hashes: of the file's bytes, which tells a torn file, and of the rows in it, which no version of Arrow can change.
- Row groups have a fixed length and are written as they fill: memory does not grow with the partition, and the bytes do not
  depend on how the rows arrived.
"""

import hashlib
import itertools
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from online_models.errors import ArtifactError, StoreError
from online_models.interactions import DAY_MS, VIEW_COLUMNS, EventDay

BLOCK_DAYS: Final = 28
FILE_EVENTS: Final = 50_000
ROW_GROUP: Final = 65_536
SUFFIX: Final = ".parquet"
ASIDE: Final = ".writing-"
"""Begins the name of a file that is not whole yet."""

SCHEMA: Final = pa.schema(
    [
        ("event_id", pa.string()),
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("type", pa.string()),
        ("ts_ms", pa.int64()),
        ("value", pa.float64()),
        ("request_id", pa.string()),
        ("position", pa.int32()),
        ("model_version", pa.string()),
        ("propensity", pa.float64()),
        ("features", pa.string()),
    ]
)
assert tuple(SCHEMA.names) == VIEW_COLUMNS

_HARDLY_REPEATED: Final = ("event_id", "ts_ms")


class Part(msgspec.Struct, frozen=True):
    """Which events a partition has: those of the days [first_day, first_day + days), told by number and checksum.

    The checksum is the sum of the days' own, see `EventDay`.
    """

    first_day: int
    days: int
    events: int
    checksum: int


class Partition(msgspec.Struct, frozen=True):
    """A partition as it lies on the disk.

    content_sha256 : of its rows; file_sha256 : of its bytes; start_ms, end_ms : event times of its first and last event
    """

    part: Part
    content_sha256: str
    file_sha256: str
    start_ms: int
    end_ms: int

    @property
    def name(self) -> str:
        """Its file in the directory of the snapshot."""
        first = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=self.part.first_day)
        return f"{first:%Y-%m-%d}-{self.part.days}d-{self.file_sha256}{SUFFIX}"


def parts_of(days: Sequence[EventDay]) -> list[Part]:
    """The days of a log, oldest first, grouped as the module says.

    >>> [part.days for part in parts_of([EventDay(28, 10, 1), EventDay(30, 10, 2), EventDay(56, 60_000, 3)])]
    [28, 1]
    """
    parts: list[Part] = []
    for block, grouped in itertools.groupby(days, lambda day: day.day // BLOCK_DAYS):
        members = list(grouped)
        events = sum(day.events for day in members)
        if events <= FILE_EVENTS:
            checksum = sum(day.checksum for day in members) % 2**64
            parts.append(Part(block * BLOCK_DAYS, BLOCK_DAYS, events, checksum))
        else:
            parts += [Part(day.day, 1, day.events, day.checksum) for day in members]
    return parts


class PartitionWriter:
    """Takes the rows of several parts, in order of time, and writes a file for each.

    directory : where; parts : oldest first
    """

    def __init__(self, directory: Path, parts: Sequence[Part]) -> None:
        self._directory = directory
        self._parts = list(parts)
        self._starts = np.array([part.first_day for part in parts], np.int64)
        self._written: list[Partition] = []
        self._open: _OpenFile | None = None

    def __enter__(self) -> "PartitionWriter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._open is not None:
            self._open.discard()

    def receive(self, rows: bytes) -> None:
        """Whole CSV rows of a view, see `EventView.copy`."""
        table = table_of(rows)
        # which part each row belongs to; rows are in order of time, so every part's rows lie together
        number = np.searchsorted(self._starts, table["ts_ms"].to_numpy() // DAY_MS, side="right") - 1
        cuts = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(number)]
        for start, end in itertools.pairwise(cuts):
            self._append(int(number[start]), table.slice(start, end - start))

    def partitions(self) -> list[Partition]:
        """All that was written, once every row is received.

        Raises
        ------
        StoreError
            When the rows of a part were others than its digest told.
        """
        while len(self._written) < len(self._parts):
            self._finish()
        return self._written

    def _append(self, number: int, rows: pa.Table) -> None:
        while len(self._written) < number:
            self._finish()
        if self._open is None:
            self._open = _OpenFile(self._directory)
        self._open.append(rows)

    def _finish(self) -> None:
        part = self._parts[len(self._written)]
        if self._open is None or self._open.events != part.events:
            found = 0 if self._open is None else self._open.events
            raise StoreError(f"expected {part.events} events from day {part.first_day} on, got {found}")
        self._written.append(self._open.finish(part))
        self._open = None


def table_of(rows: bytes) -> pa.Table:
    """CSV rows of a view as columns; an absent field is null, an empty text is none."""
    return pyarrow.csv.read_csv(
        pa.BufferReader(rows),
        pyarrow.csv.ReadOptions(column_names=SCHEMA.names, block_size=len(rows) + 1, use_threads=False),
        pyarrow.csv.ParseOptions(newlines_in_values=True),
        pyarrow.csv.ConvertOptions(
            column_types=SCHEMA, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
        ),
    )


class _OpenFile:
    """A file under a name of its own, until it is whole and its hash is known."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / f"{ASIDE}{os.getpid()}-{os.urandom(4).hex()}{SUFFIX}"
        self._writer = pq.ParquetWriter(
            self._path,
            SCHEMA,
            compression="zstd",
            compression_level=1,
            use_dictionary=[name for name in SCHEMA.names if name not in _HARDLY_REPEATED],
        )
        self._held: list[pa.Table] = []
        self._content = ContentHash()
        self._times: list[tuple[int, int]] = []
        self.events = 0

    def append(self, rows: pa.Table) -> None:
        self._held.append(rows)
        self.events += len(rows)
        held = sum(map(len, self._held))
        if held >= ROW_GROUP:
            table = pa.concat_tables(self._held)
            whole = held - held % ROW_GROUP
            self._write(table.slice(0, whole))
            self._held = [table.slice(whole)]

    def finish(self, part: Part) -> Partition:
        """Write the rest, bring it to the disk, and give it its name; idempotent: equal events have one name."""
        rest = pa.concat_tables(self._held)
        if len(rest):
            self._write(rest)
        self._writer.close()
        with self._path.open("rb+") as file:
            file_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        (start_ms, _), (_, end_ms) = self._times[0], self._times[-1]
        partition = Partition(part, self._content.hexdigest(), file_sha256, start_ms, end_ms)
        os.replace(self._path, self._path.with_name(partition.name))
        return partition

    def discard(self) -> None:
        with suppress(OSError):
            self._writer.close()
        self._path.unlink(missing_ok=True)

    def _write(self, rows: pa.Table) -> None:
        rows = rows.combine_chunks()
        times = rows["ts_ms"].to_numpy()
        self._times.append((int(times[0]), int(times[-1])))
        self._content.update(rows)
        self._writer.write_table(rows, row_group_size=ROW_GROUP)


class ContentHash:
    """SHA-256 of rows, column by column: the same however they are cut into pieces, stored or compressed."""

    def __init__(self) -> None:
        self._columns = {name: (hashlib.sha256(), hashlib.sha256()) for name in SCHEMA.names}

    def update(self, rows: pa.Table) -> None:
        """The next rows."""
        for name, digests in self._columns.items():
            for chunk in rows[name].chunks:
                for digest, part in zip(digests, _canonical(chunk), strict=True):
                    digest.update(part)

    def hexdigest(self) -> str:
        """Of all rows so far."""
        whole = hashlib.sha256()
        for digest in itertools.chain.from_iterable(self._columns.values()):
            whole.update(digest.digest())
        return whole.hexdigest()


def _canonical(column: pa.Array) -> Iterable[bytes | memoryview]:
    """Two streams of a column (n,): texts as lengths (-1 where absent) and bytes, numbers as presence and values."""
    if pa.types.is_string(column.type):
        lengths = pc.fill_null(pc.binary_length(column), -1)
        _, offsets, data = column.buffers()
        ends = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1] if len(column) else [0]
        return lengths.to_numpy().tobytes(), memoryview(data or b"")[ends[0] : ends[-1]]
    present = column.is_valid().to_numpy(zero_copy_only=False)
    return present.tobytes(), pc.fill_null(column, 0).to_numpy().tobytes()


def read(directory: Path, partition: Partition, columns: Sequence[str]) -> pa.Table:
    """Some columns of a partition, its bytes verified.

    Raises
    ------
    ArtifactError
        When the file is missing, torn or altered.
    """
    try:
        raw = (directory / partition.name).read_bytes()
    except OSError as error:
        raise ArtifactError(f"{directory / partition.name}: {error.strerror}") from error
    if (found := hashlib.sha256(raw).hexdigest()) != partition.file_sha256:
        raise ArtifactError(f"{directory / partition.name}: expected SHA-256 {partition.file_sha256}, got {found}")
    return pq.read_table(pa.BufferReader(raw), columns=list(columns))


def is_whole(directory: Path, partition: Partition) -> bool:
    """Whether the partition's file is there and unaltered; its age starts anew, so that nobody collects it."""
    try:
        with (directory / partition.name).open("rb") as file:
            os.utime(file.fileno())
            return hashlib.file_digest(file, "sha256").hexdigest() == partition.file_sha256
    except OSError:
        return False
