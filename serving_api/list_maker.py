"""Lists for users: from a precomputed list or by ranking, and by whom where the version of their arm cannot.

- A version that raises on a request costs nobody an answer: the stable version makes the list in its place, and popularity where
  that one raises too. It is counted, and told once in a while.
- Who stands in goes by the user's history: the vector and the scores that were read are another version's.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from online_models.contracts.ids import ModelName
from online_models.contracts.rollouts import Variant
from online_models.errors import StoreError
from online_models.ports import UserState
from serving_api.answers import Ask
from serving_api.choice import Choice, instead
from serving_api.instruments import Instruments
from serving_api.modes import Allowed, Modes, ranking_of
from serving_api.quiet import Quiet
from serving_api.ranked_list import RankedList
from serving_api.ranking import Ranking, Visit, rank
from serving_api.reader import ModelState
from serving_api.reranking.exposure import Exposure
from serving_api.rules import Reranking

log: Final = logging.getLogger(__name__)


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
class Made:
    """A list and who made it; failed : the version of the user's arm was asked for it, and raised."""

    ranking: Ranking
    choice: Choice
    failed: bool = False


class ListMaker:
    """Makes the lists of one process, on one thread."""

    def __init__(self, lists: Lists, instruments: Instruments, draw: Callable[[], float]) -> None:
        """draw : a number evenly from [0, 1) on each call"""
        self._lists = lists
        self._instruments = instruments
        self._draw = draw
        self._exposures: dict[ModelName, Exposure] = {}
        self._quiet = Quiet()

    def make(self, ask: Ask, state: ModelState, choice: Choice, user: UserState, most: int) -> Made:
        """At most so many items for a user, of whom `user` was read for the choice."""
        listed = self._listed(ask, state, user, most)
        if listed is not None:
            return Made(listed, choice)
        try:
            return Made(self._ranked(ask, state, choice, user, most), choice)
        except Exception as error:  # noqa: BLE001 - a version is data: one that fails is judged by it, and serves nobody
            self._raised(ask.model, choice, error)
        history_alone = UserState(None, user.history, user.preferences)
        made = self._in_place(ask, state, instead(state, choice), history_alone, most)
        return Made(made.ranking, made.choice, failed=choice.variant is not Variant.FALLBACK)

    def exposure(self, model: ModelName) -> Exposure | None:
        """What was shown lately; None where nothing is capped."""
        config = self._lists.reranking
        if config.exposure_cap >= 1:
            return None
        return self._exposures.setdefault(model, Exposure(config.exposure_half_life_seconds))

    def torn(self, what: str, model: ModelName, error: StoreError) -> None:
        """Count what Redis holds and nobody can read, and say so once in a while."""
        self._instruments.torn.labels(what, model).inc()
        if self._quiet.tells(f"{what} {model}", time.monotonic()):
            log.warning("%s_torn model=%s error=%s", what, model, error)

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
            self.torn("list", ask.model, error)
            return None

    def _ranked(self, ask: Ask, state: ModelState, choice: Choice, user: UserState, most: int) -> Ranking:
        config = self._lists.reranking
        draw = self._draw() if config.explore_probability else 0.0
        visit = Visit(ask.user_id, most, ask.ts_ms, ask.age, draw)
        popular = state.popular if choice.served is not None else _popular(state)
        return rank(choice.served, popular, state.facts, visit, user, config, self.exposure(ask.model))

    def _in_place(self, ask: Ask, state: ModelState, choice: Choice, user: UserState, most: int) -> Made:
        """The list of one who stands in, or popularity's."""
        if choice.served is not None:
            try:
                return Made(self._ranked(ask, state, choice, user, most), choice)
            except Exception as error:  # noqa: BLE001 - as above
                self._raised(ask.model, choice, error)
        nobody = Choice(None, choice.variant, choice.asked)
        return Made(self._ranked(ask, state, nobody, user, most), nobody)

    def _raised(self, model: ModelName, choice: Choice, error: Exception) -> None:
        self._instruments.version_errors.labels(model, choice.variant).inc()
        if self._quiet.tells(f"raised {model} {choice.variant}", time.monotonic()):
            told = "version_raised model=%s version=%s variant=%s error=%r"
            log.error(told, model, choice.version, choice.variant, error, exc_info=error)


def _popular(state: ModelState) -> RankedList:
    """The stream's list; while it has none, what was popular when a version was trained."""
    if state.popular.ids or not state.versions:
        return state.popular
    return next(iter(state.versions.values())).loaded.popular
