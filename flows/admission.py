"""The door of the stream job: chunks are parsed, repeated events turned away, and totals begin to be exact.

- Duplicates are dead letters too, with their own reason, so that a log with repeats gives the windows of the clean one.
- One key holds the memory of seen events: duplicates across files and partitions meet there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import bytewax.operators as op
import msgspec
import numpy as np
from bytewax.dataflow import Stream, operator
from bytewax.operators import StatefulBatchLogic

from flows.chunks import Chunk, Parsed, raw_row, reject
from flows.deduplicate import SeenEvents
from flows.parse import parse
from online_models.contracts.events import EventBatch, Reject, TimeBounds


@dataclass(frozen=True, slots=True)
class Admitted:
    """One chunk's valid, first-seen events; its invalid rows; its repeated ones; the partition that it was read from."""

    partition: str
    batch: EventBatch
    rejects: list[Reject]
    duplicates: list[Reject]


def admit(seen: SeenEvents, chunk: Chunk, parsed: Parsed) -> Admitted:
    """Split a parsed chunk by whether its events were seen before."""
    first = seen.admit(parsed.batch.event_hash)
    if first.all():
        return Admitted(chunk.partition, parsed.batch, parsed.rejects, [])
    repeated = [_duplicate(chunk, parsed.batch, row) for row in np.flatnonzero(~first).tolist()]
    return Admitted(chunk.partition, parsed.batch.take(first), parsed.rejects, repeated)


def _duplicate(chunk: Chunk, batch: EventBatch, row: int) -> Reject:
    event, offset = batch.events[row], int(batch.offset[row])
    raw = raw_row(chunk.content, offset) or msgspec.json.encode(event)
    return reject(f"duplicate event_id {event.event_id}", chunk.path, offset, raw)


class AdmitLogic(StatefulBatchLogic[tuple[Chunk, Parsed], Admitted, tuple[Any, ...]]):
    """The Bytewax shell around `SeenEvents`."""

    def __init__(self, seen: SeenEvents) -> None:
        self._seen = seen

    def on_batch(self, values: list[tuple[Chunk, Parsed]]) -> tuple[list[Admitted], bool]:
        return [admit(self._seen, chunk, parsed) for chunk, parsed in values], False

    def snapshot(self) -> tuple[Any, ...]:
        return self._seen.snapshot()


@operator
def admit_events(
    step_id: str,
    up: Stream[Chunk],
    bounds: Callable[[], TimeBounds],
    capacity: int,
    names: Sequence[str] = (),
) -> Stream[Admitted]:
    """Chunks -> valid events seen for the first time, with what was turned away.

    bounds : asked per chunk
    names : the features that will be asked for, see `parse`
    """

    def build(resume: tuple[Any, ...] | None) -> AdmitLogic:
        seen = SeenEvents(capacity)
        if resume is not None:
            seen.restore(resume)
        return AdmitLogic(seen)

    parsed = op.map("parse", up, lambda chunk: ("admission", (chunk, parse(chunk, bounds(), names))))
    return op.key_rm("unkey", op.stateful_batch("admit", parsed, build))
