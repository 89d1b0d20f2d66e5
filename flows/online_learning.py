"""Online learning of one model: every batch moves users, items, sources and blends, and goes to Redis as one transaction.

- Users: exact fold-in of their recency-weighted recent events over the trained items (Hu, Koren, Volinsky 2008), in every live
  version.
- Items are pulled towards the users who take them; rules, companions and popularity are counted; the blend learns from choices.
  All event by event over what was known just before: results depend on the order of events, never on where a chunk ends.
- Rare items move with every event, well-known ones with every fourth; the blend learns from every choice at first, then from
  every 32nd. What decides that are counts of the stream itself, never the clock.
- Redis owns the state. A batch's position is part of its transaction, so a replayed batch is skipped: effects happen once.
"""

import logging
import time
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from flows.grouping import Grouped, fresh_rows, group_by_user, merged
from flows.live import LiveVersion, LiveVersions
from flows.popular import Popularity
from online_models import pacing
from online_models.contexts import Contexts, contexts_of
from online_models.contracts.events import EventBatch
from online_models.contracts.ids import ItemId, ModelName, ModelVersion, UserId
from online_models.history import RECENT_EVENTS, UserHistory
from online_models.learner import MovedItem, VersionLearner
from online_models.ports import EmbeddingStore, EmbeddingUpdate, VersionUpdate
from online_models.sources import Sources, Steps, encode_steps, restored, steps_of

I64 = npt.NDArray[np.int64]

log: Final = logging.getLogger(__name__)

POPULAR_ITEMS: Final = 500
"""Length of the list that unknown users are served from."""

MOST_PUBLISHED_BYTES: Final = 400 << 20
"""Redis takes 512 MB as one value."""

PUBLISH_SHARE: Final = 20
"""A publication is followed by a pause of so many times what it took."""


class OnlineLearner:
    """Keeps one model's users, items, sources and blends fresh in the embedding store."""

    def __init__(
        self,
        model: ModelName,
        run_id: str,
        store: EmbeddingStore,
        live: LiveVersions,
        popularity_half_life_days: float,
        publish_seconds: float,
    ) -> None:
        self.model = model
        self._run_id = run_id
        self._store = store
        self._live = live
        self._popularity = Popularity(popularity_half_life_days, store.popularity(model))
        state = store.sources(model)
        self.sources = restored(state.published, state.steps)
        self._number = state.number
        self._known_items = len(self.sources.items)
        self._learners: dict[ModelVersion, tuple[LiveVersion, VersionLearner]] = {}
        self._applied: dict[str, int] = {}
        self._publish_seconds = publish_seconds
        self._publish_at = 0.0
        self._unpublished: tuple[str, int] | None = None
        """Source and position of the last batch, while readers have not got what was learned from it."""

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
        rows = grouped.in_order(fresh_rows(grouped, old))
        contexts = contexts_of(old, grouped.owner()[rows], grouped.entries[rows])
        rows, contexts = rows[contexts.joined], contexts.taken(contexts.joined)
        learners = self._live_learners()
        steps, moved = self._advance(learners, grouped, old, rows, contexts)
        # after the learning, that a version's items are published with what they have just become
        begun = time.monotonic()
        publish = begun >= self._publish_at
        self._number += 1
        update = EmbeddingUpdate(
            model=self.model,
            run_id=self._run_id,
            source=batch.source,
            position=batch.position,
            histories=new,
            versions=[
                version_update(version, learner, grouped, new, moved[version], publish)
                for version, learner in learners.items()
            ],
            popularity=self._popularity.add(
                [grouped.items[row] for row in rows.tolist()], grouped.entries["ts_ms"][rows]
            ),
            popular=self._popularity.best(POPULAR_ITEMS),
            number=self._number,
            steps=encode_steps(self.sources.items.ids[self._known_items :], steps),
            sources=self._encoded() if publish else None,
        )
        written = self._store.apply(update)
        self._unpublished = (batch.source, batch.position)
        if publish:
            self._pause(begun)
        self._known_items = len(self.sources.items)
        self._applied[batch.source] = batch.position
        return written

    def publish(self, at_once: bool = False) -> None:
        """Let readers have what the last batches taught, when it is time or at once: the next batch may be long in coming.

        Nothing is learned by it: a restart goes on alike with and without.
        """
        begun = time.monotonic()
        if self._unpublished is None or not (at_once or begun >= self._publish_at):
            return
        source, position = self._unpublished
        live = {version.version for version in self._live.of(self.model)}
        update = EmbeddingUpdate(
            model=self.model,
            run_id=self._run_id,
            source=source,
            position=position,
            histories={},
            versions=[
                VersionUpdate(version, item_vectors=learner.encode_moved())
                for version, (_, learner) in self._learners.items()
                if version in live
            ],
            popularity={},
            popular=self._popularity.best(POPULAR_ITEMS),
            number=self._number,
            sources=self._encoded(),
        )
        self._store.apply(update)
        self._pause(begun)

    def _encoded(self) -> bytes | None:
        """The sources as they are published; None, and a log line, when Redis would not take that much as one value."""
        encoded = self.sources.encode()
        if len(encoded) <= MOST_PUBLISHED_BYTES:
            return encoded
        log.error("sources_too_large model=%s bytes=%d items=%d", self.model, len(encoded), len(self.sources.items))
        return None

    def _pause(self, begun: float) -> None:
        """A publication is done that began then; the next is due in a while."""
        now = time.monotonic()
        self._publish_at = now + max(self._publish_seconds, PUBLISH_SHARE * (now - begun))
        self._unpublished = None

    def _applied_position(self, source: str) -> int:
        if source not in self._applied:
            self._applied[source] = self._store.applied_position(self.model, self._run_id, source)
        return self._applied[source]

    def _live_learners(self) -> dict[ModelVersion, VersionLearner]:
        """A learner of each live version, stable first; a version's goes on with what Redis holds of it."""
        versions = self._live.of(self.model)
        for live in versions:
            if self._learners.get(live.version, (None,))[0] is not live:
                # what is known of the sources holds for another version too
                learned = next((learner.blend for _, learner in self._learners.values()), None)
                self._learners[live.version] = (live, live.learner(self.sources, learned))
        self._learners = {live.version: self._learners[live.version] for live in versions}
        return {version: learner for version, (_, learner) in self._learners.items()}

    def _advance(
        self,
        learners: dict[ModelVersion, VersionLearner],
        grouped: Grouped,
        old: list[UserHistory],
        rows: I64,
        contexts: Contexts,
    ) -> tuple[Steps, dict[ModelVersion, dict[int, int]]]:
        """Take in the fresh positive events (rows of the group) in the order of the log.

        Returns them as steps, and the items that moved in each version: row -> time of the last event that moved it.
        """
        events = grouped.entries[rows]
        item = self.sources.rows_of([grouped.items[row] for row in rows.tolist()])
        steps = steps_of(item, events["ts_ms"], contexts, self.sources.items)
        moving = moves(item, self.sources)
        users = {version: users_of(learner, contexts, moving) for version, learner in learners.items()}
        chosen = choices(learners, len(item))
        done = 0
        for at in [*chosen, len(item)]:
            for version, learner in learners.items():
                learner.move_items(item[done:at], events["strength"][done:at], users[version][done:at])
            self.sources.learn(steps.slice(done, at))
            done = at
            if at < len(item):
                self._choose(learners, grouped, old, contexts, steps, rows, at)
        for learner in learners.values():
            learner.blend.tried += len(chosen)
        return steps, {version: moved_at(steps, users[version]) for version in learners}

    def _choose(
        self,
        learners: dict[ModelVersion, VersionLearner],
        grouped: Grouped,
        old: list[UserHistory],
        contexts: Contexts,
        steps: Steps,
        rows: I64,
        at: int,
    ) -> None:
        """Let the blends learn that the user took this item, of all that they had not met."""
        row = int(rows[at])
        user = int(np.searchsorted(grouped.starts, row, side="right")) - 1
        mine = grouped.rows(user)
        earlier = grouped.entries["item"][mine][grouped.place[mine] < grouped.place[row]]
        met = np.concatenate([old[user].seen["item"], earlier])
        if (met == grouped.entries["item"][row]).any():
            return
        known = contexts.entries[contexts.ptr[at] : contexts.until[at]]
        context = self.sources.items.rows(known["item"])
        excluded = self.sources.items.rows(met)
        for learner in learners.values():
            queries = learner.fold_ins.queries(known, np.array([len(known)]))[0]
            taken = steps.item[at : at + 1]
            tower = learner.fold_ins.tower_query(known)
            learner.learn_choice(context, len(known), queries, int(steps.ts_ms[at]), excluded, taken, tower)


def moves(item: I64, sources: Sources) -> npt.NDArray[np.bool_]:
    """Which events (n,) move their item: all of rare ones, every fourth of the others, by the item's own count."""
    count = sources.popularity.counts(item) + earlier_of_same(item)
    return pacing.moves(count)


def earlier_of_same(item: I64) -> I64:
    """How many earlier events of the batch (n,) have the same item.

    >>> earlier_of_same(np.array([7, 8, 7, 7])).tolist()
    [0, 0, 1, 2]
    """
    order = np.argsort(item, kind="stable")
    first = np.flatnonzero(np.r_[True, item[order][1:] != item[order][:-1]]) if len(item) else np.empty(0, np.int64)
    earlier = np.empty(len(item), np.int64)
    earlier[order] = np.arange(len(item)) - np.repeat(first, np.diff(np.r_[first, len(item)]))
    return earlier


def users_of(learner: VersionLearner, contexts: Contexts, wanted: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """The users (n, k) just before the wanted events, as training knows them; zeros for the others."""
    chosen = np.flatnonzero(wanted)
    many = np.diff(contexts.ptr)
    entries = contexts.entries[np.repeat(wanted, many)]
    users = np.zeros((len(many), learner.fold_ins.k), np.float32)
    users[chosen] = learner.fold_ins.users(entries, many[chosen])
    return users


def moved_at(steps: Steps, users: npt.NDArray[np.float32]) -> dict[int, int]:
    """Items (rows) that events of known users (n, k) moved -> time of the last event that did."""
    known = np.flatnonzero(users.any(axis=1))
    return dict(zip(steps.item[known].tolist(), steps.ts_ms[known].tolist(), strict=True))


def choices(learners: Mapping[ModelVersion, VersionLearner], events: int) -> list[int]:
    """Which of a batch's events the blends learn from: all until the stable one has had its first, then by the stream's count."""
    if not learners:
        return []
    stable = next(iter(learners.values()))
    seen = int(stable.sources.popularity.arrays.events[0])
    return pacing.choices(int(stable.blend.tried[0]), seen, events, stable.fold_ins.items)


def version_update(
    version: ModelVersion,
    learner: VersionLearner,
    grouped: Grouped,
    new: dict[UserId, UserHistory],
    moved: dict[int, int],
    publish: bool,
) -> VersionUpdate:
    """All touched users folded into one version, its moved items and its blend."""
    histories = [new[user] for user in grouped.users]
    vectors = learner.fold_ins.of_histories(histories).reshape(len(histories), -1)  # (users, 2 k)
    # a full history may have lost the last item that the version knows: zeros take the place of what was known by it
    full = np.array([len(history.recent) == RECENT_EVENTS for history in histories], np.bool_)
    known = np.flatnonzero(vectors.any(axis=1) | full).tolist()
    ids = learner.sources.items.ids
    return VersionUpdate(
        version=version,
        users={grouped.users[row]: (histories[row].version_ms, vectors[row]) for row in known},
        items={
            ItemId(ids[row]): MovedItem(ts_ms, float(learner.weights[row]), learner.vectors[row].copy())
            for row, ts_ms in moved.items()
        },
        blend=learner.blend.encode(),
        item_vectors=learner.encode_moved() if publish else None,
    )
