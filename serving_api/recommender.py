"""One request: assignment -> the user's state -> retrieval -> titles -> impressions -> answer.

- The first of these that exists gives the list: the stream's vector for the version, the user's factor in the
  artifact, a fold-in of the history, popularity. A list that is short is filled up by popularity.
- Redis away means less knowledge, not an error: the artifact or popularity answers, marked `degraded`.
- An answer that neither arm of a rollout gave (popularity, or a version standing in for one not loaded) is logged
  as `fallback` and without the rollout, so that it counts for no arm.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from online_models import als, history
from online_models.contracts.events import Event, EventType, Item
from online_models.contracts.ids import ModelName, ModelVersion, UserId, hash64
from online_models.errors import PenstockError, StoreError, StoreUnavailable
from online_models.ports import EventLog, UserReads, UserState, Vector
from serving_api.assignment import Variant, variant
from serving_api.instruments import Instruments
from serving_api.reader import ModelState, Reader, ServedVersion
from serving_api.retrieval import Hashes, RankedList, best_items

log: Final = logging.getLogger(__name__)

POPULARITY: Final = "popularity"
NOTHING_KNOWN: Final = UserState(None, history.EMPTY)


@dataclass(frozen=True, slots=True)
class Ask:
    """A request for k recommendations; `ts_ms` is its event time, epoch milliseconds."""

    model: ModelName
    user_id: UserId
    k: int
    ts_ms: int


class RecommendedItem(msgspec.Struct, frozen=True):
    """One item of an answer; `rank` counts from 1, `score` is null where popularity placed the item."""

    item_id: str
    title: str
    categories: list[str]
    score: float | None
    rank: int


class Answer(msgspec.Struct, frozen=True):
    """The answer to a request, as it goes over the wire."""

    request_id: str
    user_id: str
    domain: str
    model_version: str | None
    variant: Variant
    source: str
    rollout_id: int | None
    stage: int
    degraded: bool
    items: list[RecommendedItem]


@dataclass(frozen=True, slots=True)
class Choice:
    """Who answers: the version (None: no version is loaded) and the arm it stands for."""

    served: ServedVersion | None
    variant: Variant


@dataclass(frozen=True, slots=True)
class Ranking:
    """Items with their scores, best first, and what gave them."""

    source: str
    items: list[tuple[str, float | None]]


def choose(state: ModelState, user_id: str) -> Choice:
    """The version for a user under the pinned route; another loaded one stands in when it is not there."""
    if state.route is None:
        return Choice(_any(state), Variant.FALLBACK)
    arm = variant(user_id, state.route)
    wanted = state.route.canary if arm is Variant.CANARY and state.route.canary else state.route.stable
    served = state.versions.get(wanted)
    if served is not None:
        return Choice(served, arm)
    return Choice(state.versions.get(state.route.stable) or _any(state), Variant.FALLBACK)


def _any(state: ModelState) -> ServedVersion | None:
    """The version held longest, of those that can serve."""
    return next(iter(state.versions.values()), None)


def rank(state: ModelState, served: ServedVersion | None, user_id: str, user: UserState, k: int) -> Ranking:
    """The k best unseen items for a user, filled up by popularity."""
    seen: Hashes = user.history.seen["item"]
    source, vector = _user_vector(served, user_id, user)
    if served is None or vector is None:
        return Ranking(POPULARITY, _fill_up([], state, served, seen, k))
    best: list[tuple[str, float | None]] = list(best_items(served.loaded, served.new_items, vector, seen, k))
    return Ranking(source, best if len(best) == k else _fill_up(best, state, served, seen, k))


def _user_vector(served: ServedVersion | None, user_id: str, user: UserState) -> tuple[str, Vector | None]:
    if served is None:
        return POPULARITY, None
    loaded = served.loaded
    if user.vector is not None and user.vector.shape == (loaded.k,) and np.isfinite(user.vector).all():
        return "vector", user.vector
    factor = loaded.user_factor(user_id)
    if factor is not None and user.history.version_ms <= loaded.manifest.data_window.end_ms:
        return "factors", factor
    # What happened after the training counts: the same solve as the stream's, a moment earlier than the stream.
    folded = als.fold_in_history(user.history, loaded.index, loaded.item_factors, loaded.item_gramian, loaded.fold_in)
    if folded.any():
        return "fold_in", folded
    return ("factors", factor) if factor is not None else (POPULARITY, None)


def _fill_up(
    best: list[tuple[str, float | None]],
    state: ModelState,
    served: ServedVersion | None,
    seen: Hashes,
    k: int,
) -> list[tuple[str, float | None]]:
    filled, placed = list(best), {item for item, _ in best}
    for item in _by_popularity(state, served, seen):
        if len(filled) == k:
            break
        if item not in placed:
            placed.add(item)
            filled.append((item, None))
    return filled


def _by_popularity(state: ModelState, served: ServedVersion | None, seen: Hashes) -> Iterator[str]:
    """Unseen items: the stream's list (else the artifact's), then the whole catalogue."""
    popular = state.popular
    if not popular.ids and served is not None:
        popular = RankedList.of(served.loaded.popular)
    yield from popular.unseen(seen)
    known = set(seen.tolist())
    yield from (item for item in state.catalogue if hash64(item) not in known)


class Recommender:
    """The use case behind `GET /v1/recommendations/{user_id}`."""

    def __init__(
        self,
        reader: Reader,
        users: UserReads,
        event_log: EventLog,
        instruments: Instruments,
        new_id: Callable[[], str],
    ) -> None:
        """new_id : a fresh UUID on each call"""
        self._reader = reader
        self._users = users
        self._event_log = event_log
        self._instruments = instruments
        self._new_id = new_id

    async def recommend(self, ask: Ask) -> Answer:
        """The best unseen items, logged as impressions. Never fails because a store does.

        Raises KeyError for a model that is not served.
        """
        state = self._reader.state(ask.model)  # pinned: one route and one set of versions for this request
        choice = choose(state, ask.user_id)
        version = choice.served.loaded.version if choice.served else None
        user = await self._user(ask, version)
        ranking = rank(state, choice.served, ask.user_id, user or NOTHING_KNOWN, ask.k)
        answer = self._answer(ask, state, choice, ranking, degraded=user is None)
        self._log_impressions(ask, state, answer)
        self._instruments.answers.labels(ask.model, answer.variant, answer.source).inc()
        return answer

    async def _user(self, ask: Ask, version: ModelVersion | None) -> UserState | None:
        """What Redis knows of the user; None when it does not answer."""
        if self._reader.redis_answers:
            try:
                return await self._users.user(ask.model, version, ask.user_id)
            except (StoreUnavailable, StoreError) as error:
                log.warning("user_state_missing model=%s error=%s", ask.model, error)
        self._instruments.degraded.labels(ask.model).inc()
        return None

    def _answer(self, ask: Ask, state: ModelState, choice: Choice, ranking: Ranking, *, degraded: bool) -> Answer:
        by_model = ranking.source != POPULARITY and choice.served is not None
        arm = choice.variant if by_model else Variant.FALLBACK
        route = state.route
        # Nobody is exposed to a rollout before its first stage.
        in_rollout = route is not None and route.stage >= 0 and arm is not Variant.FALLBACK
        return Answer(
            request_id=self._new_id(),
            user_id=ask.user_id,
            domain=ask.model,
            model_version=choice.served.loaded.version if choice.served and by_model else None,
            variant=arm,
            source=ranking.source,
            rollout_id=route.rollout_id if route and in_rollout else None,
            stage=route.stage if route else -1,
            degraded=degraded,
            items=self._titled(state, ranking.items),
        )

    def _titled(self, state: ModelState, ranked: Sequence[tuple[str, float | None]]) -> list[RecommendedItem]:
        if any(item not in state.catalogue for item, _ in ranked):
            self._reader.want_titles(state.model)
        items = []
        for place, (item, score) in enumerate(ranked, start=1):
            entry = state.catalogue.get(item) or Item(item, state.model, title=item)
            items.append(RecommendedItem(item, entry.title, entry.categories, score, place))
        return items

    def _log_impressions(self, ask: Ask, state: ModelState, answer: Answer) -> None:
        """One event per item in one append. A log that refuses costs the impressions, not the answer."""
        lines = [msgspec.json.encode(event) for event in self._impressions(ask, state, answer)]
        if not lines:
            return
        try:
            self._event_log.append(lines)
        except (OSError, PenstockError) as error:
            log.error("impressions_lost model=%s count=%d error=%s", ask.model, len(lines), error)
            self._instruments.impressions_lost.labels(ask.model).inc(len(lines))
        else:
            self._instruments.impressions.labels(ask.model).inc(len(lines))

    def _impressions(self, ask: Ask, state: ModelState, answer: Answer) -> Iterator[Event]:
        weight_bp = state.route.weight_bp if state.route else 0
        for item in answer.items:
            yield Event(
                event_id=self._new_id(),
                type=EventType.IMPRESSION,
                user_id=ask.user_id,
                item_id=item.item_id,
                ts=ask.ts_ms,
                domain=ask.model,
                request_id=answer.request_id,
                position=item.rank - 1,
                model_version=answer.model_version,
                rollout_id=answer.rollout_id,
                propensity=1.0,
                features={
                    "stage": float(answer.stage),
                    "weight_bp": float(weight_bp),
                    "variant": str(answer.variant),
                },
            )
