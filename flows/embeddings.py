"""Online ALS: every batch folds its users into every live version and writes them to Redis as one transaction.

- Users: exact fold-in of their recency-weighted recent events over the trained items (Hu, Koren, Volinsky 2008).
- Items newer than a version: normal equations, one event after the other, over what their users were just before the event.
  All results depend on the order of events only, never on where a chunk ends.
- Redis owns the state. A batch's position is part of its transaction, so a replayed batch is skipped: effects happen once.
- The learning happens in the sink, on one thread of its own, a batch after those before it are written: no read overtakes
  a write, and Redis works while the flow parses the next chunk.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, cast

import bytewax.operators as op
import numpy as np
import numpy.typing as npt
from bytewax.dataflow import Stream, operator
from bytewax.operators import KeyedStream
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from flows.admission import Admitted
from flows.background import BackgroundWriter
from flows.live import LiveVersion, LiveVersions
from flows.tally import Tally
from online_models import als
from online_models import history as histories
from online_models.contracts.events import EVENT_TYPES, EventBatch, EventType
from online_models.contracts.ids import ItemId, ModelName, UserId
from online_models.history import ENTRY, SEEN, UserHistory
from online_models.ports import EmbeddingStore, EmbeddingUpdate, VersionUpdate

POPULAR_ITEMS: Final = 500
"""Length of the list that unknown users are served from."""

_LANDMARK_HALF_LIVES: Final = 256
"""A landmark moves after so many half-lives: 2^256 is far from overflow."""

_IMPRESSION: Final = EVENT_TYPES.index(EventType.IMPRESSION)
_DAY_MS: Final = 86_400_000.0


@dataclass(frozen=True, slots=True)
class Grouped:
    """A model's events of one batch by user: user u owns rows starts[u]:starts[u + 1], in order of (user, time, event).

    place : int64 (n,), where in the batch each row stood
    """

    users: list[UserId]
    starts: npt.NDArray[np.int64]
    entries: npt.NDArray[np.void]
    items: list[ItemId]
    place: npt.NDArray[np.int64]

    def rows(self, user: int) -> slice:
        """The rows of the u-th user."""
        return slice(int(self.starts[user]), int(self.starts[user + 1]))

    def owner(self) -> npt.NDArray[np.int64]:
        """Which user each row (n,) belongs to."""
        return np.repeat(np.arange(len(self.users)), np.diff(self.starts))

    def in_order(self, rows: npt.NDArray[np.bool_]) -> list[int]:
        """The marked rows (n,) in the order of the batch."""
        marked = np.flatnonzero(rows)
        ordered: list[int] = marked[np.argsort(self.place[marked])].tolist()
        return ordered


def group_by_user(batch: EventBatch) -> Grouped:
    """A batch's engagements by user, with their preference strength (0: seen, but not a sign of preference)."""
    order = np.lexsort((batch.event_hash, batch.ts_ms, batch.user_hash))
    hashes = batch.user_hash[order]
    first = np.flatnonzero(np.r_[True, hashes[1:] != hashes[:-1]])
    entries = np.empty(len(order), ENTRY)
    entries["ts_ms"] = batch.ts_ms[order]
    entries["event"] = batch.event_hash[order]
    entries["item"] = batch.item_hash[order]
    entries["strength"] = als.event_strength(batch.type, batch.value)[order]
    rows = order.tolist()
    return Grouped(
        users=[UserId(batch.events[rows[at]].user_id) for at in first.tolist()],
        starts=np.r_[first, len(order)],
        entries=entries,
        items=cast(list[ItemId], [batch.events[row].item_id for row in rows]),
        place=order,
    )


class Popularity:
    """Exponentially decayed interaction counts per item: an interaction of age a counts 2^(-a / half-life).

    Counts are kept forward-decayed (Cormode et al. 2009): each interaction adds 2^((t - landmark) / half-life), and a landmark
    moves by whole powers of two. So sums depend on the order of events alone, to the last bit.

    Parameters
    ----------
    half_life_days : time after which an interaction counts half
    counts : item id -> (count, epoch ms of its landmark)
    """

    def __init__(self, half_life_days: float, counts: Mapping[ItemId, tuple[float, int]]) -> None:
        self._half_life_ms = half_life_days * _DAY_MS
        self._stride_ms = round(_LANDMARK_HALF_LIVES * self._half_life_ms)
        self._rows = _Rows(counts)
        self._count = np.array([count for count, _ in counts.values()], np.float64)
        self._at_ms = np.array([at_ms for _, at_ms in counts.values()], np.int64)

    def add(self, items: Sequence[ItemId], times_ms: npt.NDArray[np.int64]) -> dict[ItemId, tuple[float, int]]:
        """Count interactions at times (n,); returns the touched items' new state."""
        rows = np.fromiter(map(self._rows.__getitem__, items), np.int64, len(items))
        self._grow()
        touched = np.unique(rows)
        old_ms = self._at_ms[touched]
        landmark_ms = times_ms // self._stride_ms * self._stride_ms
        np.maximum.at(self._at_ms, rows, landmark_ms)
        self._count[touched] = self._moved(self._count[touched], old_ms, self._at_ms[touched])
        # Each weight by its own landmark, then moved as the counts are: rounding does not know which landmark was the latest.
        weight = np.exp2((times_ms - landmark_ms) / self._half_life_ms)
        np.add.at(self._count, rows, self._moved(weight, landmark_ms, self._at_ms[rows]))
        state = zip(self._count[touched].tolist(), self._at_ms[touched].tolist(), strict=True)
        return {self._rows.order[row]: each for row, each in zip(touched.tolist(), state, strict=True)}

    def best(self, limit: int) -> list[ItemId]:
        """The most popular items now, best first; ties by id."""
        # log2 of the count at a common time: no under- or overflow over decades.
        known = slice(len(self._rows.order))
        score = np.log2(np.maximum(self._count[known], 1e-300)) + self._at_ms[known] / self._half_life_ms
        least = np.partition(score, -limit)[-limit] if len(score) > limit else -np.inf
        leading = np.flatnonzero(score >= least).tolist()
        return [
            self._rows.order[row]
            for row in sorted(leading, key=lambda row: (-score[row], self._rows.order[row]))[:limit]
        ]

    def _moved(
        self, counts: npt.NDArray[np.float64], from_ms: npt.NDArray[np.int64], to_ms: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float64]:
        """Counts (n,) by a later landmark: times a whole power of two, which rounds nothing."""
        moved: npt.NDArray[np.float64] = np.ldexp(counts, _LANDMARK_HALF_LIVES * ((from_ms - to_ms) // self._stride_ms))
        return moved

    def _grow(self) -> None:
        """Room for all items; a new item's count is 0 at the beginning of time."""
        if len(self._rows) > len(self._count):
            extra = max(1024, 2 * len(self._rows)) - len(self._count)
            self._count = np.append(self._count, np.zeros(extra))
            self._at_ms = np.append(self._at_ms, np.zeros(extra, np.int64))


class _Rows(dict[ItemId, int]):
    """Item -> its row; an unknown item gets the next one. `order` is the reverse."""

    def __init__(self, items: Iterable[ItemId]) -> None:
        self.order = list(items)
        super().__init__(zip(self.order, range(len(self.order)), strict=True))

    def __missing__(self, item: ItemId) -> int:
        self[item] = row = len(self.order)
        self.order.append(item)
        return row


class OnlineAls:
    """Keeps one model's users, new items and popularity fresh in the embedding store."""

    def __init__(
        self,
        model: ModelName,
        run_id: str,
        store: EmbeddingStore,
        live: LiveVersions,
        popularity_half_life_days: float,
    ) -> None:
        self.model = model
        self._run_id = run_id
        self._store = store
        self._live = live
        self._popularity = Popularity(popularity_half_life_days, store.popularity(model))
        self._applied: dict[str, int] = {}

    def learn(self, batch: EventBatch) -> int:
        """Apply one batch of the model's engagements; returns vectors written. Idempotent by the rows' offsets in their file."""
        # By row: the chunks of a live segment end where it ended as it was read, and so elsewhere after a crash.
        new_rows = batch.offset >= self._applied_position(batch.source)
        if not new_rows.any():
            return 0
        if not new_rows.all():
            batch = batch.take(new_rows)
        grouped = group_by_user(batch)
        old = self._store.histories(self.model, grouped.users)
        new = dict(zip(grouped.users, merged(grouped, old), strict=True))
        fresh = fresh_rows(grouped, old)
        update = EmbeddingUpdate(
            model=self.model,
            run_id=self._run_id,
            source=batch.source,
            position=batch.position,
            histories=new,
            versions=[fold_in_version(live, grouped, old, new, fresh) for live in self._live.of(self.model)],
            popularity=self._count(grouped, fresh),
            popular=self._popularity.best(POPULAR_ITEMS),
        )
        written = self._store.apply(update)
        self._applied[batch.source] = batch.position
        return written

    def _applied_position(self, source: str) -> int:
        if source not in self._applied:
            self._applied[source] = self._store.applied_position(self.model, self._run_id, source)
        return self._applied[source]

    def _count(self, grouped: Grouped, fresh: npt.NDArray[np.bool_]) -> dict[ItemId, tuple[float, int]]:
        rows = grouped.in_order(fresh)
        return self._popularity.add([grouped.items[row] for row in rows], grouped.entries["ts_ms"][rows])


def merged(grouped: Grouped, old: list[UserHistory]) -> list[UserHistory]:
    """Each user's old history with their events of the batch."""
    entries, owner = grouped.entries, grouped.owner()
    seen = np.empty(len(entries), SEEN)
    seen["ts_ms"] = entries["ts_ms"]
    seen["item"] = entries["item"]
    positive = entries["strength"] > 0
    return histories.merge_all(old, entries[positive], owner[positive], seen, owner)


def fresh_rows(grouped: Grouped, old: list[UserHistory]) -> npt.NDArray[np.bool_]:
    """Rows (n,) that are positive and new to their user's history: a log read twice counts once.

    What is older than a full history cannot be told from a repeat, and counts as one.
    """
    events = grouped.entries["event"]
    fresh: npt.NDArray[np.bool_] = grouped.entries["strength"] > 0
    anywhere = np.isin(events, np.concatenate([known.recent["event"] for known in old]))
    for user in np.unique(grouped.owner()[fresh & anywhere]).tolist():
        rows = grouped.rows(user)
        fresh[rows] &= histories.fresh(old[user], events[rows])
    for user, known in enumerate(old):
        if len(known.recent) == histories.RECENT_EVENTS:
            rows = grouped.rows(user)
            fresh[rows] &= grouped.entries["ts_ms"][rows] >= known.recent["ts_ms"][0]
    return fresh


def fold_in_version(
    live: LiveVersion,
    grouped: Grouped,
    old: list[UserHistory],
    new: dict[UserId, UserHistory],
    fresh: npt.NDArray[np.bool_],
) -> VersionUpdate:
    """All touched users folded into one version, and the new items that they met."""
    vectors = live.fold_in([new[user] for user in grouped.users])
    known = np.flatnonzero(np.abs(vectors).max(axis=1, initial=0.0) > 0).tolist()
    times_ms = _learn_new_items(live, grouped, old, fresh)
    return VersionUpdate(
        version=live.version,
        users={grouped.users[row]: (new[grouped.users[row]].version_ms, vectors[row]) for row in known},
        items={item: (ts_ms, live.new_item(item)) for item, ts_ms in times_ms.items()},
        equations={item: live.equations[item] for item in times_ms},
    )


def _learn_new_items(
    live: LiveVersion, grouped: Grouped, old: list[UserHistory], fresh: npt.NDArray[np.bool_]
) -> dict[ItemId, int]:
    """Add each fresh event with an item the version was not trained on to that item's equations; item -> newest time."""
    rows = grouped.in_order(fresh & (live.index.rows(grouped.entries["item"]) < 0))
    owner = grouped.owner()
    before = [_history_before(grouped, old[user], user, row) for row in rows for user in (int(owner[row]),)]
    vectors = live.fold_in(before)
    times_ms: dict[ItemId, int] = {}
    for row, vector in zip(rows, vectors, strict=True):
        # A user of whom nothing is known says nothing about an item.
        if vector.any():
            item = grouped.items[row]
            live.add_to_new_item(item, vector, float(grouped.entries["strength"][row]))
            times_ms[item] = max(times_ms.get(item, 0), int(grouped.entries["ts_ms"][row]))
    return times_ms


def _history_before(grouped: Grouped, old: UserHistory, user: int, row: int) -> UserHistory:
    """What was known of a user just before one of their events in this batch came."""
    mine = grouped.rows(user)
    # By the order of the log, not of time: what an earlier batch has brought does not depend on its time either.
    earlier = grouped.entries[mine][grouped.place[mine] < grouped.place[row]]
    return histories.merge(old, earlier[earlier["strength"] > 0], np.empty(0, SEEN))


class EmbeddingPartition(StatefulSinkPartition[EventBatch, int]):
    """Learns batch by batch; its snapshot is the number of vectors written since the run began."""

    def __init__(self, make: "OnlineAlsFactory", tally: Tally, written: int) -> None:
        self._make = make
        self._models: dict[ModelName, OnlineAls] = {}
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
        return self._tally.vectors_written

    def close(self) -> None:
        self._writer.close()


@dataclass(frozen=True, slots=True)
class OnlineAlsFactory:
    """Makes the learner of a model when its first event arrives."""

    run_id: str
    store: EmbeddingStore
    live: LiveVersions
    popularity_half_life_days: float

    def __call__(self, model: ModelName) -> OnlineAls:
        return OnlineAls(model, self.run_id, self.store, self.live, self.popularity_half_life_days)


class EmbeddingSink(FixedPartitionedSink[EventBatch, int]):
    """One partition owns all embeddings of this job."""

    def __init__(self, make: OnlineAlsFactory, tally: Tally) -> None:
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
