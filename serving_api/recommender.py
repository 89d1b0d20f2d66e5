"""One request: assignment -> the user's state -> ranking, or a precomputed list -> titles -> impressions -> answer.

- Redis away means older knowledge, not an error: what was last read of the user answers, or the artifact, or popularity,
  marked `degraded`.
- An answer that no arm of a rollout gave (popularity, or a version standing in for one that is not loaded or raised) is a
  `fallback`. In a stage that shows people the canary it is logged with the rollout, and the arm that was asked, all the same: it
  counts for that arm, so that arms are compared by all of their users and not by those whom they can answer.
- Every answer is a page of a `Session`: of one that is made for it and forgotten, or of one that is kept for the pages to come.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

import msgspec

from online_models import history
from online_models.contracts.events import (
    ARM_PROPENSITY_FEATURE,
    ASKED_VARIANT_FEATURE,
    ASKED_VERSION_FEATURE,
    STAGE_FEATURE,
    VARIANT_FEATURE,
    WEIGHT_FEATURE,
    FeatureValue,
)
from online_models.contracts.ids import ModelName, hashes_of
from online_models.contracts.rollouts import Variant
from online_models.errors import StoreError, StoreUnavailable
from online_models.ports import ServingStore, UserReads, UserState
from serving_api.answers import Answer, Ask, titled
from serving_api.assignment import splits_users
from serving_api.choice import Choice, choose, shadow_of
from serving_api.impressions import ImpressionLog, Shown
from serving_api.instruments import Instruments
from serving_api.last_known import LastKnown
from serving_api.list_maker import ListMaker, Lists
from serving_api.ranking import POPULARITY, Visit
from serving_api.reader import ModelState, Reader
from serving_api.served import Outcome, ServedCounts, in_stage, shows_arms
from serving_api.sessions import PageToken, Session, decoded, encode
from serving_api.shadow import Shadow, Shadowed
from serving_api.suggesting import readable

log: Final = logging.getLogger(__name__)

NOTHING_KNOWN: Final = UserState(None, history.EMPTY)

READ_TOGETHER: Final = 250
"""Users of one request for many that are read with one command, and held at once."""


class Request(NamedTuple):
    """A request under way: the one state that it goes by, who answers it, and since when it is, in seconds of `perf_counter`."""

    ask: Ask
    state: ModelState
    choice: Choice
    begun: float

    @classmethod
    def of(cls, ask: Ask, state: ModelState) -> Self:
        """One that begins now."""
        return cls(ask, state, choose(state, ask.user_id), time.perf_counter())


@dataclass(frozen=True, slots=True)
class Kept:
    """What a process keeps and counts of requests: users as last read, impressions, sums of a rollout, and the shadow."""

    last_known: LastKnown
    impressions: ImpressionLog
    served: ServedCounts
    shadow: Shadow


class Recommender:
    """The use cases behind `/v1/recommendations`."""

    def __init__(
        self,
        reader: Reader,
        users: UserReads,
        store: ServingStore,
        kept: Kept,
        instruments: Instruments,
        new_id: Callable[[], str],
        lists: Lists,
        draw: Callable[[], float],
    ) -> None:
        """new_id : a fresh UUID on each call; draw : a number evenly from [0, 1) on each call"""
        self._reader = reader
        self._users = users
        self._store = store
        self._kept = kept
        self._instruments = instruments
        self._new_id = new_id
        self._lists = lists
        self._maker = ListMaker(lists, instruments, draw)

    async def recommend(self, ask: Ask) -> Answer:
        """The best unseen items, logged as impressions. Never fails because a store does.

        Raises KeyError for a model that is not served.
        """
        request = Request.of(ask, self._reader.state(ask.model))  # pinned: one route and one set of versions
        user, degraded = await self._user(request)
        session = self._session(request, user, ask.k, degraded=degraded)
        answer = self._answer(ask, request.state, session, PageToken(self._new_id(), 0))
        await self._log_first(request, user, session, answer)
        return answer

    async def begin(self, ask: Ask) -> Answer:
        """The first page of a list that is kept for the next ones; without a `page_token` where Redis does not take it.

        A degraded answer's list is not offered to Redis: requests would wait for it one after the other, each on a thread.
        """
        request = Request.of(ask, self._reader.state(ask.model))
        user, degraded = await self._user(request)
        session = self._session(request, user, max(ask.k, self._lists.session_items), degraded=degraded)
        answer = self._answer(ask, request.state, session, PageToken(self._new_id(), 0))
        kept = answer.page_token is not None and not degraded
        if not kept or not await self._keep(ask.model, answer.request_id, session):
            answer = msgspec.structs.replace(answer, page_token=None)
        await self._log_first(request, user, session, answer)
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
            requests = [Request.of(ask, state) for ask in some]
            users = await asyncio.gather(*map(self._user, requests))
            reading = time.perf_counter() - requests[0].begun
            for request, (user, degraded) in zip(requests, users, strict=True):
                # a request's time is that of the reading and its own, not that of those before it
                own = request._replace(begun=time.perf_counter() - reading)
                session = self._session(own, user, own.ask.k, degraded=degraded)
                answer = self._answer(own.ask, state, session, PageToken(self._new_id(), 0))
                if log_impressions:
                    await self._log_first(own, user, session, answer)
                yield answer
                await asyncio.sleep(0)

    async def _user(self, request: Request) -> tuple[UserState, bool]:
        """What Redis knows of the user, and whether that is what it knew some time ago, or nothing, for want of an answer."""
        ask, version, language_model = request.ask, request.choice.version, request.choice.language_model
        try:
            user = await self._users.user(ask.model, version, ask.user_id, language_model)
        except StoreError as error:
            if not isinstance(error, StoreUnavailable):  # which is told once, where it is found out
                self._maker.torn("user_state", ask.model, error)
            self._instruments.degraded.labels(ask.model).inc()
            return self._kept.last_known.get(ask.model, version, ask.user_id) or NOTHING_KNOWN, True
        user, torn = readable(user)
        if torn is not None:
            self._maker.torn("language_scores", ask.model, torn)
        self._kept.last_known.put(ask.model, version, ask.user_id, user)
        return user, False

    def _session(self, request: Request, user: UserState, most: int, *, degraded: bool) -> Session:
        """At most so many items for the user, and on whose account they are; counted for the arm that was asked."""
        route, asked = request.state.route, request.choice.asked
        made = self._maker.make(request.ask, request.state, request.choice, user, most)
        by_model = made.ranking.source != POPULARITY and made.choice.served is not None
        arm = made.choice.variant if by_model else Variant.FALLBACK
        if route is not None and asked is not None and in_stage(route):
            took = time.perf_counter() - request.begun
            stood_in = made.failed or request.choice.variant is Variant.FALLBACK
            outcome = Outcome(made.failed, not made.ranking.items, arm is Variant.FALLBACK, took, stood_in)
            self._kept.served.add(request.ask.model, route, asked, request.ask.user_id, outcome)
        exposed = route is not None and shows_arms(route)
        in_place_of = asked if exposed and arm is Variant.FALLBACK else None
        return Session(
            user_id=request.ask.user_id,
            model_version=made.choice.version if by_model else None,
            variant=arm,
            source=made.ranking.source,
            # Nobody is exposed to a rollout before its first stage, or by what is in the shadow.
            rollout_id=route.rollout_id if route and exposed else None,
            stage=route.stage if route else -1,
            weight_bp=route.weight_bp if route else 0,
            degraded=degraded,
            items=made.ranking.items,
            language_model=made.choice.language_model,
            arm_propensity=asked.propensity if route and asked and splits_users(route) else None,
            asked_variant=in_place_of.variant if in_place_of else None,
            asked_version=in_place_of.version if in_place_of else None,
        )

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
        shown, known = titled(items, state.catalogue, first)
        if not known:
            self._reader.want_titles(state.model)
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
            items=shown,
            page_token=following,
        )

    async def _log(self, ask: Ask, session: Session, answer: Answer, first: int) -> None:
        """Log the impressions of an answer, and count them for exposure."""
        if answer.items:
            self._expose(ask, answer)
            await self._kept.impressions.put(_shown(ask, session, answer, first))

    async def _log_first(self, request: Request, user: UserState, session: Session, answer: Answer) -> None:
        """`_log` a first page, once it is scored where a version is in the shadow of the answer."""
        ask, state, view = request.ask, request.state, shadow_of(request.state)
        if view is None or state.route is None or session.degraded or not answer.items:
            await self._log(ask, session, answer, 0)
            return
        self._expose(ask, answer)
        shown, visit = _shown(ask, session, answer, 0), Visit(ask.user_id, ask.k, ask.ts_ms, ask.age)
        now = time.monotonic()
        if not self._kept.shadow.offer(
            Shadowed(state.route, view, state.popular, state.facts, visit, user, shown, now)
        ):
            await self._kept.impressions.put(shown)

    def _expose(self, ask: Ask, answer: Answer) -> None:
        exposure = self._maker.exposure(ask.model)
        if exposure is not None:
            exposure.add(hashes_of([item.item_id for item in answer.items]), ask.ts_ms / 1000)


def _shown(ask: Ask, session: Session, answer: Answer, first: int) -> Shown:
    items = session.items[first : first + len(answer.items)]
    features: dict[str, FeatureValue] = {
        STAGE_FEATURE: float(session.stage),
        WEIGHT_FEATURE: float(session.weight_bp),
        VARIANT_FEATURE: str(session.variant),
    }
    if session.asked_variant is not None and session.asked_version is not None:
        features[ASKED_VARIANT_FEATURE] = str(session.asked_variant)
        features[ASKED_VERSION_FEATURE] = session.asked_version
    if session.arm_propensity is not None:
        features[ARM_PROPENSITY_FEATURE] = session.arm_propensity
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
        features=features,
        first=first,
    )
