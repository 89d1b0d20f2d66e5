"""A candidate scored on live requests and shown to nobody: its list is made by one thread, behind the answers' backs.

- The candidate has its own vector of the user and its own language scores, read for many requests together, and the request's
  history, preferences and time. Nothing is drawn for exploration and nothing capped by exposure: both belong to what is shown.
- The thread ranks on scratch of its own, for the requests' thread may rank by the same version.
- Impressions of a shadowed request wait for its score, to be logged with it. Where the queue is full, or a request has waited
  for `PATIENCE_SECONDS`, they are logged without one, and the request counts as dropped. None are lost on the way.
- Its latency is CPU time of the thread, which gives way to requests, so that waiting for them is not held against the candidate.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Final

from online_models.contracts.ids import ModelVersion, UserId, hash64
from online_models.contracts.rollouts import Route
from online_models.evidence import scratch_for
from online_models.ports import ServingStore, UserState
from serving_api.facts import Facts
from serving_api.impressions import ImpressionLog, Shown
from serving_api.quiet import Quiet
from serving_api.ranked_list import RankedList
from serving_api.ranking import POPULARITY, Ranking, Visit, rank
from serving_api.retrieval import VersionView
from serving_api.rules import Reranking
from serving_api.served import Agreement, Outcome, ServedCounts
from serving_api.suggesting import readable

log: Final = logging.getLogger(__name__)

QUEUE: Final = 256
"""Requests that wait for their scores at most."""

TOGETHER: Final = 32
"""Requests whose users are read with one command."""

GATHER_SECONDS: Final = 0.005
"""Until then the answer has gone out, and others have come to be read together."""

PATIENCE_SECONDS: Final = 1.0
CLOSE_SECONDS: Final = 5.0

PLACES: Final = 3
"""The shadow's list has so many times the items that are shown: more of what was shown has a place in it."""


@dataclass(frozen=True, slots=True)
class Shadowed:
    """An answered request whose candidate is to be scored.

    view : of the candidate; popular, facts : as the request had them
    visit : as ranking saw it, of the k items that were shown; user : what was read for the version that answered
    shown : what was shown, to be logged; offered_at : monotonic seconds
    """

    route: Route
    view: VersionView
    popular: RankedList
    facts: Facts
    visit: Visit
    user: UserState
    shown: Shown
    offered_at: float


class Shadow:
    """Scores candidates from a thread that lives until `close`; `offer` is for one event loop.

    Parameters
    ----------
    share : of requests that are scored, drawn by their ids
    """

    def __init__(
        self,
        kept: ServingStore,
        impressions: ImpressionLog,
        counts: ServedCounts,
        reranking: Reranking,
        share: float,
        capacity: int = QUEUE,
    ) -> None:
        self._kept = kept
        self._impressions = impressions
        self._counts = counts
        self._reranking = reranking.model_copy(update={"explore_probability": 0.0})
        self._share = share
        self._capacity = capacity
        self._queue: SimpleQueue[Shadowed | None] = SimpleQueue()
        self._closed = Event()
        self._quiet = Quiet()
        self._apart: tuple[VersionView, VersionView] | None = None
        self._thread = Thread(target=self._run, name="shadow", daemon=True)
        self._thread.start()

    def offer(self, one: Shadowed) -> bool:
        """Take a request, and its impressions with it; False where it is not taken, and they are still to be logged."""
        if self._closed.is_set() or not self._drawn(one.shown.request_id):
            return False
        if self._queue.qsize() >= self._capacity:
            self._counts.drop_shadow(one.shown.model, one.route)
            return False
        self._queue.put(one)
        return True

    def close(self) -> None:
        """Log the impressions of what was taken, and end the thread."""
        self._closed.set()
        self._queue.put(None)
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            log.error("shadow_not_closed requests=%d", self._queue.qsize())

    def _drawn(self, request_id: str) -> bool:
        return self._share >= 1.0 or hash64(request_id) < self._share * 2**64

    def _run(self) -> None:
        while not (self._closed.is_set() and self._queue.empty()):
            taken = self._taken()
            for one, user in zip(taken, self._users(taken), strict=True):
                self._impressions.hand_over(self._scored(one, user))
                time.sleep(0)  # a request that waits for the interpreter comes first

    def _taken(self) -> list[Shadowed]:
        """At least one request, unless this is the end, and those that are there beside it."""
        taken = [self._queue.get()]
        if self._queue.qsize() < TOGETHER:
            self._closed.wait(GATHER_SECONDS)
        try:
            while len(taken) < TOGETHER:
                taken.append(self._queue.get_nowait())
        except Empty:
            pass
        return [one for one in taken if one is not None]

    def _users(self, taken: Sequence[Shadowed]) -> list[UserState]:
        """What the candidates know of the users; where a store does not tell, what is known of them to any version."""
        try:
            found: dict[int, UserState | None] = {}
            for model in {one.shown.model for one in taken}:
                places = [place for place, one in enumerate(taken) if one.shown.model == model]
                found |= zip(places, self._kept.states(model, [_asked(taken[place]) for place in places]), strict=True)
        except Exception as error:  # noqa: BLE001 - nothing of a shadow may cost a request its impressions
            if self._quiet.tells("users", time.monotonic()):
                log.warning("shadow_users_not_read error=%r", error)
            found = {}
        return [_known(one.user, found.get(place)) for place, one in enumerate(taken)]

    def _scored(self, one: Shadowed, user: UserState) -> Shown:
        """What was shown, with what the candidate would have done, once that is counted."""
        if self._closed.is_set() or time.monotonic() - one.offered_at > PATIENCE_SECONDS:
            self._counts.drop_shadow(one.shown.model, one.route)
            return one.shown
        begun = time.thread_time()
        try:
            ranking = self._ranked(one, user)
        except Exception as error:  # noqa: BLE001 - a candidate that raises costs nobody anything, and itself the rollout
            self._failed(one, error, time.thread_time() - begun)
            return one.shown
        outcome = Outcome(False, not ranking.items, ranking.source == POPULARITY, time.thread_time() - begun)
        ids = [item.item_id for item in ranking.items]
        self._counts.add_shadow(one.shown.model, one.route, outcome, agreement(one.shown.items, ids))
        return with_places(one.shown, one.view.loaded.version, ids)

    def _ranked(self, one: Shadowed, user: UserState) -> Ranking:
        if self._apart is None or self._apart[0] is not one.view:
            self._apart = one.view, replace(one.view, scratch=scratch_for(len(one.view.sources.items)))
        longer = replace(one.visit, k=PLACES * one.visit.k)
        return rank(self._apart[1], one.popular, one.facts, longer, user, self._reranking)

    def _failed(self, one: Shadowed, error: Exception, seconds: float) -> None:
        model, version = one.shown.model, one.view.loaded.version
        self._counts.add_shadow(model, one.route, Outcome(True, False, True, seconds), None)
        if self._quiet.tells(f"shadow {model}", time.monotonic()):
            log.warning("shadow_raised model=%s version=%s error=%r", model, version, error, exc_info=error)


def agreement(shown: Sequence[str], shadow: Sequence[str]) -> Agreement | None:
    """How a list that was shown and a shadow's agree, as far as the first goes; None where nothing was shown.

    >>> agreement(["a", "b", "c", "d"], ["a", "d", "x", "y", "b"])
    Agreement(overlap=0.5, first_same=True)
    """
    if not shown:
        return None
    return Agreement(
        len(set(shown).intersection(shadow[: len(shown)])) / len(shown), bool(shadow) and shown[0] == shadow[0]
    )


def with_places(shown: Shown, version: str, shadow: Sequence[str]) -> Shown:
    """What was shown, each item with its place in a shadow's list."""
    places = {item: place for place, item in enumerate(shadow)}
    return replace(shown, shadow_version=version, shadow_places=[places.get(item) for item in shown.items])


def _asked(one: Shadowed) -> tuple[UserId, ModelVersion, ModelVersion | None]:
    manifest = one.view.loaded.manifest
    return one.shown.user_id, one.view.loaded.version, manifest.language_model


def _known(answered: UserState, found: UserState | None) -> UserState:
    """The request's history and preferences with what the candidate itself has of the user."""
    found, _ = readable(found or UserState(None, answered.history))
    return UserState(found.vector, answered.history, answered.preferences, language=found.language)
