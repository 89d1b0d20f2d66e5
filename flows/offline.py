"""Recorded logs read without stores: the events that the stream job would see, in its order.

- A log is named as a file or quoted glob, with `@A..B` for a stretch of its event time.
- Repeated and unacceptable events are left out, as in the stream job, and counted.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flows.chunks import Chunk, Limits
from flows.deduplicate import SeenEvents
from flows.formats import ending_of, open_reader
from flows.parse import parse
from flows.ranges import TimeRange, is_range, parse_range
from online_models.contracts.events import EventBatch, TimeBounds
from online_models.contracts.features import FeatureSpec
from online_models.errors import SourceError
from online_models.stores.log_files import log_paths


@dataclass(frozen=True, slots=True)
class Log:
    """Files read one after the other, and the event times that count."""

    paths: tuple[Path, ...]
    span: TimeRange

    def __str__(self) -> str:
        files = ", ".join(path.name for path in self.paths[:3]) + (", ..." if len(self.paths) > 3 else "")
        return files if self.span == TimeRange() else f"{files}, {self.span}"


def parse_log(text: str) -> Log:
    """The log that a command line names: `events.ndjson`, `'2026-*.parquet'`, `events.csv@2026-01-01..2026-02-01`.

    Raises
    ------
    SourceError
        When no file is there, one has no known ending, or the range is none.
    """
    name, at, stretch = text.rpartition("@")
    if not at or not is_range(stretch):
        name, stretch = text, ".."
    paths = tuple(log_paths(name))
    for path in paths:
        if not path.is_file():
            raise SourceError(f"no such file: {path}")
        ending_of(path)
    if not paths:
        raise SourceError(f"{name}: expected an event log, got a catalogue")
    return Log(paths, parse_range(stretch))


@dataclass(slots=True)
class Tallied:
    """What was read of a log: events that count, unacceptable rows and why the first of them is one, repeated events."""

    events: int = 0
    rejected: int = 0
    duplicates: int = 0
    refused: str = field(default="", compare=False)

    def nothing(self, log: Log) -> SourceError:
        """The error of a log without an event that counts."""
        why = f", the first row was refused: {self.refused}" if self.refused else ""
        return SourceError(f"{log}: no acceptable event{why}")


def batches(
    log: Log, bounds: TimeBounds, capacity: int, tally: Tallied, specs: Iterable[FeatureSpec] = ()
) -> Iterator[EventBatch]:
    """The acceptable events of a log, each once, in its order; `tally` counts along.

    capacity : events remembered to recognise a repeated event_id
    specs : features that will be asked for; others can be had too, but not fast
    """
    names = tuple(dict.fromkeys(name for spec in specs for name in spec.reads))
    seen = SeenEvents(capacity)
    for chunk in _chunks(log.paths):
        parsed = parse(chunk, bounds, names)
        first = seen.admit(parsed.batch.event_hash)
        tally.rejected += len(parsed.rejects)
        if parsed.rejects and not tally.refused:
            tally.refused = parsed.rejects[0].reason
        tally.duplicates += int((~first).sum())
        inside = (parsed.batch.ts_ms >= log.span.start_ms) & (parsed.batch.ts_ms < log.span.end_ms)
        kept = first & inside
        tally.events += int(kept.sum())
        if kept.any():
            yield parsed.batch if kept.all() else parsed.batch.take(kept)


def _chunks(paths: Sequence[Path]) -> Iterator[Chunk]:
    for path in paths:
        reader = open_reader(path, limits=Limits())
        try:
            while (piece := reader.read()) is not None:
                yield Chunk("log", str(path), piece.end, piece.content, piece.rejects)
        finally:
            reader.close()
