"""The Bytewax source of recorded logs, read to their end; live ones are in `segments`.

- All files are one partition, so that there is one order; one stream item is one `Chunk`.
- State is a plain tuple with a schema version. A resumed log must be the same one: identities are in the state.
- A stop flag ends a source after its current chunk; Bytewax then snapshots as at the end of a log.
"""

import dataclasses
import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from flows.chunks import Chunk, Limits, Piece, Reader, first_time_ms
from flows.formats import ending_of, open_reader
from flows.tables import TABLE_ENDINGS
from flows.vowpal_wabbit import VwMapping
from online_models.errors import SourceError

LOG_PARTITION = "log"

PACED_ROWS = 64
"""Rows in a chunk of a paced replay: small, because a chunk is released at once."""
LONGEST_PAUSE = timedelta(seconds=5)
"""A gap in event time holds a paced replay no longer than this: one far-future row must not stop it."""
POLL_INTERVAL = timedelta(milliseconds=50)

_SCHEMA_VERSION = 3
_IDENTITY_BYTES = 4096

Clock = Callable[[], datetime]

Identity = tuple[str, int, str]
"""A file of a log: path, size in bytes, and SHA-256 of its first 4 KiB (of as many as it had)."""

LogState = tuple[int, int, int, tuple[Identity, ...], tuple[int, int, int | None, int]]
"""Schema version, index of the file, offset in it, the files, and the limits that decide where chunks end."""


def wall_clock() -> datetime:
    """Now. Bytewax asks a source when to wake it by wall-clock time."""
    return datetime.now(UTC)  # noqa: TID251 (the edge: Bytewax's own clock)


class LogSource(FixedPartitionedSource[Chunk, LogState]):
    """Recorded logs, read in the order given as the one partition `log`.

    Parameters
    ----------
    paths : files of any known format; at least one
    speed : event seconds per wall second, or None for as fast as possible
    stop : ends the source after its current chunk once set
    limits : how much is read at once
    vw : what the namespaces of Vowpal Wabbit text mean

    Raises
    ------
    SourceError
        When a file is missing or its format unknown. A resumed source also when a file it has read from was changed,
        removed or reordered; a text that has only grown is no change unless it was already left behind.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        speed: float | None = None,
        stop: threading.Event | None = None,
        limits: Limits = Limits(),  # noqa: B008 (frozen)
        vw: VwMapping = VwMapping(),  # noqa: B008 (frozen)
        clock: Clock = wall_clock,
    ) -> None:
        if not paths:
            raise SourceError("expected at least one log, got none")
        for path in paths:
            ending_of(path)
        self._paths = tuple(paths)
        self._identities = tuple(identify(path) for path in paths)
        self._speed = speed
        self._stop = stop or threading.Event()
        self._limits = dataclasses.replace(limits, rows=PACED_ROWS) if speed else limits
        self._vw = vw
        self._clock = clock

    def list_parts(self) -> list[str]:
        """The one partition."""
        return [LOG_PARTITION]

    def build_part(self, step_id: str, for_part: str, resume_state: LogState | None) -> "LogPartition":
        """The partition, at its beginning or where the state says."""
        state = resume_state
        if state is None:
            state = (_SCHEMA_VERSION, 0, 0, self._identities, dataclasses.astuple(self._limits))
        else:
            check_unchanged(state, self._paths)
        return LogPartition(self._paths, state, Pace(self._speed, self._clock), self._stop, self._vw)


class LogPartition(StatefulSourcePartition[Chunk, LogState]):
    """Reads the files one after the other."""

    def __init__(
        self, paths: Sequence[Path], state: LogState, pace: "Pace", stop: threading.Event, vw: VwMapping
    ) -> None:
        _, self._index, self._offset, known, limits = state
        self._limits = Limits(*limits)
        self._paths = paths
        self._identities = (*known, *(identify(path) for path in paths[len(known) :]))
        self._pace = pace
        self._stop = stop
        self._vw = vw
        self._reader: Reader | None = None
        self._pending: Piece | None = None
        self._due: datetime | None = None

    def next_batch(self) -> list[Chunk]:
        """The next chunk if it is due.

        Raises
        ------
        StopIteration
            At the end of the last file, or when told to stop.
        """
        if self._stop.is_set():
            raise StopIteration
        if self._pending is None:
            self._pending = self._read()
            self._due = self._pace.due(first_time_ms(self._pending.content))
        if not self._pace.is_due(self._due):
            return []
        piece, self._pending, self._due = self._pending, None, None
        self._offset = piece.end
        path = str(self._paths[self._index])
        return [Chunk(LOG_PARTITION, path, piece.end, piece.content, piece.rejects)]

    def next_awake(self) -> datetime | None:
        """When the pending chunk is due; None for at once. Never later than the next look at the stop flag."""
        return None if self._due is None else min(self._due, self._pace.soon())

    def snapshot(self) -> LogState:
        """Where the last chunk that was handed out ends."""
        limits = dataclasses.astuple(self._limits)
        return (_SCHEMA_VERSION, self._index, self._offset, self._identities, limits)

    def close(self) -> None:
        """Close the file."""
        if self._reader is not None:
            self._reader.close()

    def _read(self) -> Piece:
        while True:
            if self._reader is None:
                self._reader = open_reader(self._paths[self._index], self._offset, self._limits, self._vw)
            piece = self._reader.read()
            if piece is not None:
                return piece
            self._refresh_identity()
            if self._index == len(self._paths) - 1:
                raise StopIteration
            self._reader.close()
            self._reader = None
            self._index, self._offset = self._index + 1, 0

    def _refresh_identity(self) -> None:
        """A file may have grown until its end was reached: only now is its size known."""
        at = self._index
        self._identities = (*self._identities[:at], identify(self._paths[at]), *self._identities[at + 1 :])


class Pace:
    """Releases chunks in event time divided by `speed`, or at once without one.

    A chunk waits for the event time that passed since the chunk before; backward steps do not wait.
    """

    def __init__(self, speed: float | None, clock: Clock) -> None:
        self._speed = speed
        self._clock = clock
        self._last_ms: int | None = None
        self._last_due: datetime | None = None

    def due(self, ts_ms: int | None) -> datetime | None:
        """When a chunk whose first event happened at `ts_ms` (epoch ms) is due; None for at once."""
        if self._speed is None or ts_ms is None:
            return None
        if self._last_ms is None or self._last_due is None:
            due = self._clock()
        else:
            milliseconds = min(max(ts_ms - self._last_ms, 0) / self._speed, LONGEST_PAUSE / timedelta(milliseconds=1))
            due = self._last_due + timedelta(milliseconds=milliseconds)
        self._last_ms, self._last_due = ts_ms, due
        return due

    def is_due(self, due: datetime | None) -> bool:
        """Whether that time has come."""
        return due is None or due <= self._clock()

    def soon(self) -> datetime:
        """When to look again at the latest."""
        return self._clock() + POLL_INTERVAL


def identify(path: Path, size: int | None = None) -> Identity:
    """What tells whether a file is still the same; of its first `size` bytes when given.

    Raises
    ------
    SourceError
        When it cannot be read.
    """
    try:
        with path.open("rb") as file:
            actual = os.fstat(file.fileno()).st_size
            start = file.read(min(_IDENTITY_BYTES, actual if size is None else size))
    except OSError as error:
        raise SourceError(f"{path}: cannot be opened: {error}") from error
    return (str(path), actual, hashlib.sha256(start).hexdigest())


def check_unchanged(state: LogState, paths: Sequence[Path]) -> None:
    """Raise `SourceError` when a resumed job would not read on in the log it was reading."""
    version, index, offset, known, _ = state
    if version != _SCHEMA_VERSION:
        raise SourceError(f"log state: expected schema version {_SCHEMA_VERSION}, got {version}")
    expected, given = [path for path, _, _ in known], [str(path) for path in paths]
    if given[: len(expected)] != expected:
        raise SourceError(f"cannot resume: expected the logs {expected} first, got {given}")
    for place, (was, path) in enumerate(zip(known, paths, strict=False)):
        now = identify(path, size=was[1])
        if now[1] < was[1] or now[2] != was[2]:
            raise SourceError(f"cannot resume: {path} was changed; expected {was[1]} bytes as before, got {now[1]}")
        finished = place < index
        begun_table = place == index and offset > 0 and ending_of(path) in TABLE_ENDINGS
        if (finished or begun_table) and now[1] > was[1]:
            raise SourceError(f"cannot resume: {path} grew from {was[1]} to {now[1]} bytes after it was read")
