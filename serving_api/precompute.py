"""Lists made before anybody asks: the best items of every known user, by the same ranking as a request's.

- Users come in batches, in the order of their ids, and nothing is kept of a batch: memory does not grow with users.
- Each user is ranked for by the version that the route gives them now. A list says so in its key: when the route gives them
  another one, they are ranked for anew on request.
- Users of whom nothing is known get no list: what is popular is at hand anyway. Nor do those of whom torn bytes are kept, who
  are counted.
- Nothing is drawn for exploration and nothing capped by exposure: both belong to the moment of a request.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Final, Protocol, Self

import pyarrow as pa
import pyarrow.parquet as pq

from online_models.contracts.ids import ModelName, ModelVersion, UserId
from online_models.contracts.preferences import PrecomputedList
from online_models.errors import ArtifactError
from online_models.ports import InteractionStore, ServingStore
from serving_api.choice import choose
from serving_api.ranking import POPULARITY, Visit, rank
from serving_api.reader import ModelState, Reader
from serving_api.rules import Reranking
from serving_api.suggesting import readable

log: Final = logging.getLogger(__name__)

BATCH_USERS: Final = 1_000

SCHEMA: Final = pa.schema(
    [
        ("user_id", pa.string()),
        ("rank", pa.int32()),
        ("item_id", pa.string()),
        ("score", pa.float32()),
        ("version", pa.string()),
    ]
)
"""Of a Parquet file of lists: one row for each item, rank from 1; score is null where no model placed the item."""

Listed = tuple[UserId, ModelVersion, PrecomputedList]


class ListSink(Protocol):
    """Where lists go."""

    def write(self, model: ModelName, lists: Sequence[Listed]) -> None:
        """Take the lists of a batch of users."""


@dataclass(frozen=True, slots=True)
class RedisLists:
    """Into Redis, for the modes `hybrid` and `precomputed`."""

    store: ServingStore
    ttl: timedelta

    def write(self, model: ModelName, lists: Sequence[Listed]) -> None:
        """Overwrite the users' lists. Raises StoreError."""
        self.store.put_lists(model, lists, self.ttl)


class ParquetLists:
    """Into one Parquet file of `SCHEMA`, which stands under its name once it is whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._aside = path.with_name(f".{path.name}.part")
        self._writer = pq.ParquetWriter(self._aside, SCHEMA, compression="zstd")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._writer.close()
        if kind is None:
            self._aside.replace(self._path)
        else:
            self._aside.unlink()

    def write(self, model: ModelName, lists: Sequence[Listed]) -> None:
        """Append the lists."""
        rows = [
            {"user_id": user, "rank": place, "item_id": item, "score": score, "version": version}
            for user, version, listed in lists
            for place, (item, score) in enumerate(zip(listed.items, listed.scores, strict=True), start=1)
        ]
        self._writer.write_table(pa.Table.from_pylist(rows, SCHEMA))


@dataclass(frozen=True, slots=True)
class Progress:
    """Users gone through, lists made of them, seconds since the start, users left out as what is kept of them is torn."""

    users: int
    lists: int
    seconds: float
    torn: int = 0

    @property
    def users_per_second(self) -> float:
        """How fast.

        >>> Progress(10, 8, 0.5).users_per_second
        20.0
        """
        return self.users / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class Precompute:
    """A settled reader, and the stores of users and of what is known of them.

    reranking : without exploration; clock : the present, which is the lists' event time
    """

    reader: Reader
    kept: ServingStore
    interactions: InteractionStore
    reranking: Reranking
    clock: Callable[[], datetime]

    def all_users(self) -> Iterator[UserId]:
        """Every user that has had an event in any domain, by id; read a batch at a time."""
        after: UserId | None = None
        while users := self.interactions.users(after, BATCH_USERS):
            yield from users
            after = users[-1]

    def run(self, model: ModelName, users: Iterable[UserId], top: int, sink: ListSink) -> Iterator[Progress]:
        """Make the lists of users, `top` items long, batch by batch; says after each how far it is.

        Raises
        ------
        ArtifactError
            When no version is loaded.
        StoreError
            When a store does not answer.
        """
        state = self.reader.state(model)
        if not state.versions:
            raise ArtifactError(f"{model}: expected a version that is routed to and loaded, got none")
        start, done, made, torn, left = time.perf_counter(), 0, 0, 0, iter(users)
        while batch := list(islice(left, BATCH_USERS)):
            lists, skipped = self._lists(state, batch, top, round(self.clock().timestamp() * 1000))
            sink.write(model, lists)
            done, made, torn = done + len(batch), made + len(lists), torn + skipped
            yield Progress(done, made, time.perf_counter() - start, torn)

    def _lists(self, state: ModelState, users: Sequence[UserId], top: int, now_ms: int) -> tuple[list[Listed], int]:
        """The lists of a batch, and how many users are torn."""
        served = [(user, view) for user in users if (view := choose(state, user).served) is not None]
        asked = [(user, view.loaded.version, view.loaded.manifest.language_model) for user, view in served]
        known = self.kept.states(state.model, asked)
        made = []
        for (user, view), of in zip(served, known, strict=True):
            if of is None:
                continue
            of, error = readable(of)
            if error is not None:
                log.warning("language_scores_torn model=%s user=%s error=%s", state.model, user, error)
            ranking = rank(view, state.popular, state.facts, Visit(user, top, now_ms), of, self.reranking)
            if ranking.source != POPULARITY and ranking.items:
                items, scores = [item.item_id for item in ranking.items], [item.score for item in ranking.items]
                made.append((user, view.loaded.version, PrecomputedList(now_ms, items, scores)))
        return made, known.count(None)
