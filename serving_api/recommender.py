"""One request: assignment -> the user's state -> ranking, or a precomputed list -> titles -> impressions -> answer.

- Redis away means older knowledge, not an error: what was last read of the user answers, or the artifact, or popularity,
  marked `degraded`.
- An answer that neither arm of a rollout gave (popularity, or a version standing in for one not loaded) is logged
  as `fallback` and without the rollout, so that it counts for no arm.
- Every answer is a page of a `Session`: of one that is made for it and forgotten, or of one that is kept for the pages to come.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import msgspec

from online_models import history
from online_models.contracts.events import Item
from online_models.contracts.ids import ModelName, ModelVersion, UserId, hashes_of
from online_models.errors import StoreError, StoreUnavailable
from online_models.ports import ServingStore, UserReads, UserState
from serving_api.assignment import Variant, variant
from serving_api.impressions import ImpressionLog, Shown
from serving_api.instruments import Instruments
from serving_api.last_known import LastKnown
from serving_api.modes import Allowed, Modes, ranking_of
from serving_api.quiet import Quiet
from serving_api.ranking import POPULARITY, RankedItem, Ranking, Visit, rank
from serving_api.reader import ModelState, Reader
from serving_api.reranking.exposure import Exposure
from serving_api.retrieval import VersionView
from serving_api.rules import Reranking
from serving_api.sessions import PageToken, Session, decoded, encode
from serving_api.suggesting import readable

log: Final = logging.getLogger(__name__)

NOTHING_KNOWN: Final = UserState(None, history.EMPTY)

READ_TOGETHER: Final = 250
"""Users of one request for many that are read with one command, and held at once."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request for k recommendations; `ts_ms` is its event time, epoch milliseconds; `age` the user's, if it is told."""

    model: ModelName
    user_id: UserId
    k: int
    ts_ms: int
    age: float | None = None


class RecommendedItem(msgspec.Struct, frozen=True, gc=False):
    """One item of an answer; `rank` counts from 1, `score` is null where no model placed the item; `reason` is a code, about
    the item `because` of the user's history where there is one."""

    item_id: str
    title: str
    categories: list[str]
    score: float | None
    rank: int
    reason: str
    because: str | None


class Answer(msgspec.Struct, frozen=True, gc=False):
    """The answer to a request, as it goes over the wire; `page_token` asks for the next page, where there is one."""

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
    page_token: str | None = None


@dataclass(frozen=True, slots=True)
class Lists:
    """How lists are made.

    session_items : most items of all pages of a list; session_ttl : how long they can be turned
    """

    reranking: Reranking
    modes: Modes
    session_items: int
    session_ttl: timedelta


@dataclass(frozen=True, slots=True)
class Choice:
    """Who answers: the version (None: no version is loaded) and the arm it stands for."""

    served: VersionView | None
    variant: Variant

    @property
    def version(self) -> ModelVersion | None:
        """Its name."""
        return self.served.loaded.version if self.served else None

    @property
    def language_model(self) -> ModelVersion | None:
        """Under whose name the scores of its language model are kept; None without one."""
        return self.served.loaded.manifest.language_model if self.served else None


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


def _any(state: ModelState) -> VersionView | None:
    """The version held longest, of those that can serve."""
    return next(iter(state.versions.values()), None)


class Recommender:
    """The use cases behind `/v1/recommendations`."""

    def __init__(
        self,
        reader: Reader,
        users: UserReads,
        store: ServingStore,
        last_known: LastKnown,
        impressions: ImpressionLog,
        instruments: Instruments,
        new_id: Callable[[], str],
        lists: Lists,
        draw: Callable[[], float],
    ) -> None:
        """new_id : a fresh UUID on each call; draw : a number evenly from [0, 1) on each call"""
        self._reader = reader
        self._users = users
        self._store = store
        self._last_known = last_known
        self._impressions = impressions
        self._instruments = instruments
        self._new_id = new_id
        self._lists = lists
        self._draw = draw
        self._exposures: dict[ModelName, Exposure] = {}
        self._quiet = Quiet()

    async def recommend(self, ask: Ask) -> Answer:
        """The best unseen items, logged as impressions. Never fails because a store does.

        Raises KeyError for a model that is not served.
        """
        state = self._reader.state(ask.model)  # pinned: one route and one set of versions for this request
        choice = choose(state, ask.user_id)
        user, degraded = await self._user(ask, choice)
        session = self._session(ask, state, choice, user, ask.k, degraded=degraded)
        answer = self._answer(ask, state, session, PageToken(self._new_id(), 0))
        await self._log(ask, session, answer, 0)
        return answer

    async def begin(self, ask: Ask) -> Answer:
        """The first page of a list that is kept for the next ones; without a `page_token` where Redis does not take it.

        A degraded answer's list is not offered to Redis: requests would wait for it one after the other, each on a thread.
        """
        state = self._reader.state(ask.model)
        choice = choose(state, ask.user_id)
        user, degraded = await self._user(ask, choice)
        most = max(ask.k, self._lists.session_items)
        session = self._session(ask, state, choice, user, most, degraded=degraded)
        answer = self._answer(ask, state, session, PageToken(self._new_id(), 0))
        kept = answer.page_token is not None and not degraded
        if not kept or not await self._keep(ask.model, answer.request_id, session):
            answer = msgspec.structs.replace(answer, page_token=None)
        await self._log(ask, session, answer, 0)
        return answer

    async def turn(self, ask: Ask, token: PageToken) -> Answer | None:
        """The next page of a list; None when the list has expired or is not this user's.

        Raises StoreUnavailable when Redis does not say.
        """
        raw = await asyncio.to_thread(self._store.session, ask.model, token.request_id)
        session = None if raw is None else decoded(raw)
        if session is None or session.user_id != ask.user_id:
            return None
        answer = self._answer(ask, self._reader.state(ask.model), session, token)
        await self._log(ask, session, answer, token.offset)
        return answer

    async def recommend_many(self, asks: Sequence[Ask], *, log_impressions: bool) -> AsyncIterator[Answer]:
        """The answers to many requests for one model, in their order, as each would be answered alone.

        Users are read together, `READ_TOGETHER` at a time; between any two the event loop may do something else.
        """
        for start in range(0, len(asks), READ_TOGETHER):
            some = asks[start : start + READ_TOGETHER]
            state = self._reader.state(some[0].model)
            choices = [choose(state, ask.user_id) for ask in some]
            users = await asyncio.gather(*map(self._user, some, choices))
            for ask, choice, (user, degraded) in zip(some, choices, users, strict=True):
                session = self._session(ask, state, choice, user, ask.k, degraded=degraded)
                answer = self._answer(ask, state, session, PageToken(self._new_id(), 0))
                if log_impressions:
                    await self._log(ask, session, answer, 0)
                yield answer
                await asyncio.sleep(0)

    async def _user(self, ask: Ask, choice: Choice) -> tuple[UserState, bool]:
        """What Redis knows of the user, and whether that is what it knew some time ago, or nothing, for want of an answer."""
        version, language_model = choice.version, choice.language_model
        try:
            user = await self._users.user(ask.model, version, ask.user_id, language_model)
        except StoreError as error:
            if not isinstance(error, StoreUnavailable):  # which is told once, where it is found out
                self._torn("user_state", ask.model, error)
            self._instruments.degraded.labels(ask.model).inc()
            return self._last_known.get(ask.model, version, ask.user_id) or NOTHING_KNOWN, True
        user, torn = readable(user)
        if torn is not None:
            self._torn("language_scores", ask.model, torn)
        self._last_known.put(ask.model, version, ask.user_id, user)
        return user, False

    def _torn(self, what: str, model: ModelName, error: StoreError) -> None:
        """Count what Redis holds and nobody can read, and say so once in a while."""
        self._instruments.torn.labels(what, model).inc()
        if self._quiet.tells(f"{what} {model}", time.monotonic()):
            log.warning("%s_torn model=%s error=%s", what, model, error)

    def _session(
        self, ask: Ask, state: ModelState, choice: Choice, user: UserState, most: int, *, degraded: bool
    ) -> Session:
        """At most so many items for the user, and on whose account they are."""
        ranking = self._listed(ask, state, user, most) or self._ranked(ask, state, choice, user, most)
        by_model = ranking.source != POPULARITY and choice.served is not None
        arm = choice.variant if by_model else Variant.FALLBACK
        route = state.route
        # Nobody is exposed to a rollout before its first stage.
        in_rollout = route is not None and route.stage >= 0 and arm is not Variant.FALLBACK
        return Session(
            user_id=ask.user_id,
            model_version=choice.served.loaded.version if choice.served and by_model else None,
            variant=arm,
            source=ranking.source,
            rollout_id=route.rollout_id if route and in_rollout else None,
            stage=route.stage if route else -1,
            weight_bp=route.weight_bp if route else 0,
            degraded=degraded,
            items=ranking.items,
            language_model=choice.language_model,
        )

    def _listed(self, ask: Ask, state: ModelState, user: UserState, most: int) -> Ranking | None:
        """From the user's precomputed list, where one is to be used and has enough that is unseen and allowed."""
        known = user.history
        wanted = ask.age is None and self._lists.modes.prefers_list(known.version_ms, ask.ts_ms)
        if not wanted or user.precomputed is None:
            return None
        try:
            may = Allowed(state.facts, self._lists.reranking.stranger_age, ask.ts_ms)
            return ranking_of(user.precomputed, known.seen["item"], ask.k, most, may)
        except StoreError as error:
            self._torn("list", ask.model, error)
            return None

    def _ranked(self, ask: Ask, state: ModelState, choice: Choice, user: UserState, most: int) -> Ranking:
        config = self._lists.reranking
        draw = self._draw() if config.explore_probability else 0.0
        visit = Visit(ask.user_id, most, ask.ts_ms, ask.age, draw)
        return rank(choice.served, state.popular, state.facts, visit, user, config, self._exposure(ask.model))

    def _exposure(self, model: ModelName) -> Exposure | None:
        """What was shown lately; None where nothing is capped."""
        config = self._lists.reranking
        if config.exposure_cap >= 1:
            return None
        return self._exposures.setdefault(model, Exposure(config.exposure_half_life_seconds))

    async def _keep(self, model: ModelName, request_id: str, session: Session) -> bool:
        try:
            ttl = self._lists.session_ttl
            await asyncio.to_thread(self._store.put_session, model, request_id, encode(session), ttl)
        except StoreError as error:
            log.warning("session_not_kept model=%s error=%s", model, error)
            return False
        return True

    def _answer(self, ask: Ask, state: ModelState, session: Session, token: PageToken) -> Answer:
        """The k items of a session from the token's offset on."""
        first, end = token.offset, token.offset + ask.k
        items = session.items[first:end]
        following = str(PageToken(token.request_id, end)) if end < len(session.items) else None
        self._instruments.answers_of(ask.model, session.variant, session.source).inc()
        return Answer(
            request_id=token.request_id,
            user_id=ask.user_id,
            domain=ask.model,
            model_version=session.model_version,
            variant=session.variant,
            source=session.source,
            rollout_id=session.rollout_id,
            stage=session.stage,
            degraded=session.degraded,
            items=self._titled(state, items, first),
            page_token=following,
        )

    def _titled(self, state: ModelState, items: Sequence[RankedItem], first: int) -> list[RecommendedItem]:
        """The items as they are shown, of which `first` stand before them."""
        titled, untitled = [], False
        for place, each in enumerate(items, start=first + 1):
            entry = state.catalogue.get(each.item_id)
            if entry is None:
                entry, untitled = Item(each.item_id, state.model, title=each.item_id), True
            about = (each.reason, each.because)
            titled.append(RecommendedItem(each.item_id, entry.title, entry.categories, each.score, place, *about))
        if untitled:
            self._reader.want_titles(state.model)
        return titled

    async def _log(self, ask: Ask, session: Session, answer: Answer, first: int) -> None:
        """Log the impressions of an answer, and count them for exposure."""
        if not answer.items:
            return
        exposure = self._exposure(ask.model)
        if exposure is not None:
            exposure.add(hashes_of([item.item_id for item in answer.items]), ask.ts_ms / 1000)
        await self._impressions.put(_shown(ask, session, answer, first))


def _shown(ask: Ask, session: Session, answer: Answer, first: int) -> Shown:
    items = session.items[first : first + len(answer.items)]
    return Shown(
        model=ask.model,
        user_id=ask.user_id,
        ts_ms=ask.ts_ms,
        request_id=answer.request_id,
        items=[item.item_id for item in items],
        propensities=[item.propensity for item in items],
        language=[item.language for item in items],
        language_model=session.language_model,
        model_version=answer.model_version,
        rollout_id=answer.rollout_id,
        features={
            "stage": float(session.stage),
            "weight_bp": float(session.weight_bp),
            "variant": str(session.variant),
        },
        first=first,
    )
