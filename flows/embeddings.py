"""The branch that learns from engagements, a batch after the other, and writes what it has learned to Redis.

- The learning happens in the sink, on one thread of its own, a batch after those before it are written: no read overtakes
  a write, and Redis works while the flow parses the next chunk.
- See `online_learning` for what is learned.
"""

from dataclasses import dataclass
from itertools import chain
from typing import Final

import bytewax.operators as op
import numpy as np
import numpy.typing as npt
from bytewax.dataflow import Stream, operator
from bytewax.operators import KeyedStream
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from flows.admission import Admitted
from flows.background import BackgroundWriter
from flows.live import LiveVersions
from flows.online_learning import OnlineLearner
from flows.tally import Tally
from online_models.contracts.events import EVENT_TYPES, EventBatch, EventType
from online_models.contracts.ids import ModelName
from online_models.ports import EmbeddingStore

_IMPRESSION: Final = EVENT_TYPES.index(EventType.IMPRESSION)


class EmbeddingPartition(StatefulSinkPartition[EventBatch, int]):
    """Learns batch by batch; its snapshot is the number of vectors written since the run began."""

    def __init__(self, make: "OnlineLearnerFactory", tally: Tally, written: int) -> None:
        self._make = make
        self._models: dict[ModelName, OnlineLearner] = {}
        self._tally = tally
        self._tally.vectors_written = written
        self._writer = BackgroundWriter[list[EventBatch]]("embeddings", self._learn)

    def write_batch(self, values: list[EventBatch]) -> None:
        self._writer.submit(values)

    def _learn(self, waiting: list[list[EventBatch]]) -> None:
        for batch in chain.from_iterable(waiting):
            model = ModelName(batch.domains[0])
            if model not in self._models:
                self._models[model] = self._make(model)
            self._tally.vectors_written += self._models[model].learn(batch)

    def snapshot(self) -> int:
        self._writer.drain()
        for learner in self._models.values():
            learner.publish()
        return self._tally.vectors_written

    def close(self) -> None:
        self._writer.close()
        for learner in self._models.values():
            learner.publish(at_once=True)


@dataclass(frozen=True, slots=True)
class OnlineLearnerFactory:
    """Makes the learner of a model when its first event arrives."""

    run_id: str
    store: EmbeddingStore
    live: LiveVersions
    popularity_half_life_days: float
    publish_seconds: float

    def __call__(self, model: ModelName) -> OnlineLearner:
        return OnlineLearner(
            model, self.run_id, self.store, self.live, self.popularity_half_life_days, self.publish_seconds
        )


class EmbeddingSink(FixedPartitionedSink[EventBatch, int]):
    """One partition owns all embeddings of this job."""

    def __init__(self, make: OnlineLearnerFactory, tally: Tally) -> None:
        self._make = make
        self._tally = tally

    def list_parts(self) -> list[str]:
        return ["als-0"]

    def part_fn(self, item_key: str) -> int:
        return 0

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> EmbeddingPartition:
        return EmbeddingPartition(self._make, self._tally, resume_state or 0)


def engagements(admitted: Admitted) -> list[tuple[str, EventBatch]]:
    """A chunk's events that say something about users, one batch per domain, keyed by shard."""
    batch = admitted.batch
    batches = []
    for code, domain in enumerate(batch.domains):
        rows = (batch.domain == code) & (batch.type != _IMPRESSION)
        if rows.any():
            batches.append(("als:0", _of_domain(batch, rows, domain)))
    return batches


def _of_domain(batch: EventBatch, rows: npt.NDArray[np.bool_], domain: str) -> EventBatch:
    taken = batch if rows.all() else batch.take(rows)
    if taken.domains == (domain,):
        return taken
    return EventBatch(
        **{name: getattr(taken, name) for name in EventBatch.__slots__ if name not in ("domain", "domains")},
        domain=np.zeros(len(taken), np.int16),
        domains=(domain,),
    )


@operator
def learn_embeddings(step_id: str, up: Stream[Admitted]) -> KeyedStream[EventBatch]:
    """Admitted chunks -> engagements per domain, for an `EmbeddingSink`."""
    return op.flat_map("engagements", up, engagements)
