"""Reads whole logs the way the stream job does, without Bytewax, for tests that compare what came out."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from flows.chunks import Chunk, Parsed
from flows.deduplicate import SeenEvents
from flows.parse import parse
from flows.sources import LogSource, LogState
from online_models.contracts.events import Event, EventBatch, Reject, TimeBounds
from tests.strategies import BOUNDS

Row = tuple[Event, int, int, int, int, int, float, str]


def chunks_of(source: LogSource, state: LogState | None = None) -> list[tuple[Chunk, LogState]]:
    """Every chunk of an unpaced log from a state on, each with the state after it."""
    part = source.build_part("step", "log", state)
    found = []
    try:
        while True:
            found += [(chunk, part.snapshot()) for chunk in part.next_batch()]
    except StopIteration:
        return found
    finally:
        part.close()


def parse_log(paths: Sequence[Path] | Path, bounds: TimeBounds = BOUNDS) -> list[Parsed]:
    """Every chunk of a log, parsed."""
    source = LogSource([paths] if isinstance(paths, Path) else paths)
    return [parse(chunk, bounds) for chunk, _ in chunks_of(source)]


def rows_of(batches: Iterable[EventBatch]) -> list[Row]:
    """Batches as rows of all columns but those that tell where a row stood."""
    return [
        (event, *columns, batch.domains[domain])
        for batch in batches
        for event, *columns, domain in zip(
            batch.events,
            batch.event_hash.tolist(),
            batch.user_hash.tolist(),
            batch.item_hash.tolist(),
            batch.type.tolist(),
            batch.ts_ms.tolist(),
            map(repr, batch.value.tolist()),  # NaN is equal to itself
            batch.domain.tolist(),
            strict=True,
        )
    ]


def events_of(parsed: Iterable[Parsed]) -> list[Event]:
    """All accepted events in order."""
    return [event for part in parsed for event in part.batch.events]


def rejects_of(parsed: Iterable[Parsed]) -> list[Reject]:
    """All rejects in order."""
    return [row for part in parsed for row in part.rejects]


def admitted(parsed: Iterable[Parsed]) -> list[EventBatch]:
    """The batches without events seen before."""
    seen = SeenEvents()
    return [part.batch.take(seen.admit(part.batch.event_hash)) for part in parsed]
