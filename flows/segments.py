"""The Bytewax source of the live event log: a directory of segments, followed while they grow.

- All segments are one partition: a finished one must not hold the watermark back.
- Several writers append at once, so segments are read by the event time of their next line: what answers an impression
  comes after it, and a backlog of one writer does not make the other's events late. (In steps of a chunk.)
- It goes by sweeps over what was there as the sweep began: a busy segment cannot starve the others.
- A resumed job may see other chunks, and these in another order, than before the crash. Each segment alone keeps its
  order, so what was applied of it is told by its path and offset.
"""

import threading
from datetime import datetime, timedelta
from pathlib import Path

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from flows.chunks import Chunk, Limits, Lines, first_time_ms
from flows.formats import open_reader
from flows.sources import Clock, wall_clock
from online_models.errors import SourceError

SEGMENT_PARTITION = "segments"
SEGMENT_PATTERN = "*.ndjson"

LOOK_INTERVAL = timedelta(milliseconds=20)
"""From one look at what has grown to the next, however much the first one found: an event waits no longer for being read, and a
steady stream is not cut into chunks of a few events, which cost hardly less than chunks of hundreds."""

_SCHEMA_VERSION = 2

SegmentState = tuple[int, dict[str, int]]
"""Schema version, segment name -> offset."""


class SegmentSource(FixedPartitionedSource[Chunk, SegmentState]):
    """A directory of growing NDJSON segments as the one partition `segments`.

    Segments may appear and vanish while it runs. Only whole lines are read: what follows the last newline waits.
    """

    def __init__(
        self,
        directory: Path,
        *,
        stop: threading.Event | None = None,
        limits: Limits = Limits(),  # noqa: B008 (frozen)
        clock: Clock = wall_clock,
    ) -> None:
        # A resumed job may have been started elsewhere, and a segment's path is its identity.
        self._directory = directory.resolve()
        self._stop = stop or threading.Event()
        self._limits = limits
        self._clock = clock

    def list_parts(self) -> list[str]:
        """The one partition."""
        return [SEGMENT_PARTITION]

    def build_part(self, step_id: str, for_part: str, resume_state: SegmentState | None) -> "SegmentPartition":
        """The partition, at its beginning or where the state says."""
        state = resume_state or (_SCHEMA_VERSION, {})
        if state[0] != _SCHEMA_VERSION:
            raise SourceError(f"segment state: expected schema version {_SCHEMA_VERSION}, got {state[0]}")
        return SegmentPartition(self._directory, state, self._limits, self._stop, self._clock)


class SegmentPartition(StatefulSourcePartition[Chunk, SegmentState]):
    """Polls the directory."""

    def __init__(
        self, directory: Path, state: SegmentState, limits: Limits, stop: threading.Event, clock: Clock
    ) -> None:
        _, self._offsets = state
        self._directory = directory
        self._limits = limits
        self._stop = stop
        self._clock = clock
        self._sweep: dict[str, int] = {}  # segment -> size up to which it is read before the next look
        self._exhausted: dict[str, int] = {}  # segment -> size at which it held no further whole line
        self._next_ms: dict[str, int] = {}  # segment -> event time of its next line, where that is known
        self._next_look: datetime | None = None

    def next_batch(self) -> list[Chunk]:
        """The next chunk of the segment whose next line happened first.

        Raises
        ------
        StopIteration
            When told to stop.
        SourceError
            When a segment is shorter than what was read of it.
        """
        if self._stop.is_set():
            raise StopIteration
        if not self._sweep:
            self._next_look = self._clock() + LOOK_INTERVAL
            self._look()
        while self._sweep:
            name = min(self._sweep, key=lambda name: (self._time_ms(name), name))
            chunk = self._read(name)
            if chunk is not None:
                return [chunk]
        return []

    def next_awake(self) -> datetime | None:
        """None for at once while there is more to read, else the time of the next look."""
        return None if self._sweep else self._next_look

    def snapshot(self) -> SegmentState:
        """Where the last chunk that was handed out ends, in each segment."""
        return (_SCHEMA_VERSION, self._offsets)

    def _look(self) -> None:
        """Begin a sweep over the segments that have grown; forget those that are gone."""
        sizes: dict[str, int] = {}
        for path in self._directory.glob(SEGMENT_PATTERN):
            try:
                sizes[path.name] = path.stat().st_size
            except FileNotFoundError:  # it vanished while we looked
                continue
        self._offsets = {name: offset for name, offset in self._offsets.items() if name in sizes}
        self._exhausted = {name: size for name, size in self._exhausted.items() if name in sizes}
        self._sweep = {
            name: size
            for name, size in sizes.items()
            if size not in (self._offsets.get(name, 0), self._exhausted.get(name))
        }
        self._next_ms = {}

    def _time_ms(self, name: str) -> int:
        """Event time of a segment's next line, epoch ms; 0 when it has none that can be read, so that it is read soon."""
        if name not in self._next_ms:
            try:
                with (self._directory / name).open("rb") as file:
                    file.seek(self._offsets.get(name, 0))
                    line = file.readline(self._limits.line_bytes)
            except FileNotFoundError:
                line = b""
            self._next_ms[name] = first_time_ms(Lines(line, 0)) or 0
        return self._next_ms[name]

    def _read(self, name: str) -> Chunk | None:
        """The segment's next chunk; it leaves the sweep when it has none, or none further in this sweep."""
        path, offset, size = self._directory / name, self._offsets.get(name, 0), self._sweep.pop(name)
        self._next_ms.pop(name)
        if size < offset:
            raise SourceError(f"{path}: expected at least the {offset} bytes that were read of it, got {size}")
        try:
            reader = open_reader(path, offset, self._limits)
        except SourceError:
            if path.exists():
                raise
            return None  # retention took it between the look and the opening
        try:
            piece = reader.read()
        finally:
            reader.close()
        if piece is None or not piece.content.terminated:
            self._exhausted[name] = size
            return None
        if piece.end < size:
            self._sweep[name] = size
        self._offsets = {**self._offsets, name: piece.end}
        return Chunk(SEGMENT_PARTITION, str(path), piece.end, piece.content, piece.rejects)
