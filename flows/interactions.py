"""Interactions: every admitted event as a row in PostgreSQL, once by event_id.

- Rows go by COPY, one transaction for all chunks that wait, on a thread of its own: PostgreSQL works while the flow
  parses the next chunk.
- Commits do not wait for the disk; `snapshot` does, so a recovery point never runs ahead of what is durable.
"""

import bytewax.operators as op
from bytewax.dataflow import Stream, operator
from bytewax.operators import KeyedStream
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from flows.admission import Admitted
from flows.background import BackgroundWriter
from flows.tally import Tally
from online_models.contracts.events import EventBatch
from online_models.ports import InteractionStore


class InteractionPartition(StatefulSinkPartition[EventBatch, int]):
    """Writes batches in order in the background; its snapshot is the number of rows added since the run began."""

    def __init__(self, store: InteractionStore, tally: Tally, rows: int) -> None:
        self._store = store
        self._tally = tally
        self._tally.rows_written = rows
        self._writer = BackgroundWriter[list[EventBatch]]("interactions", self._write)

    def write_batch(self, values: list[EventBatch]) -> None:
        self._writer.submit(values)

    def _write(self, waiting: list[list[EventBatch]]) -> None:
        self._tally.rows_written += self._store.write([batch for batches in waiting for batch in batches])

    def snapshot(self) -> int:
        self._writer.drain()
        self._store.flush()
        return self._tally.rows_written

    def close(self) -> None:
        self._writer.close()
        self._store.flush()


class InteractionSink(FixedPartitionedSink[EventBatch, int]):
    """One partition: one writer keeps the rows of a chunk in one transaction."""

    def __init__(self, store: InteractionStore, tally: Tally) -> None:
        self._store = store
        self._tally = tally

    def list_parts(self) -> list[str]:
        return ["interactions-0"]

    def part_fn(self, item_key: str) -> int:
        return 0

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> InteractionPartition:
        return InteractionPartition(self._store, self._tally, resume_state or 0)


@operator
def store_interactions(step_id: str, up: Stream[Admitted]) -> KeyedStream[EventBatch]:
    """Admitted chunks -> their events, for an `InteractionSink`."""
    batches = op.map("batch", up, lambda admitted: ("interactions-0", admitted.batch))
    return op.filter("not_empty", batches, lambda item: len(item[1]) > 0)
