"""A version that raises costs nobody a list: stable makes it, or popularity, and the failure is counted and told."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from online_models.contracts.ids import UserId
from online_models.contracts.rollouts import FULL_WEIGHT_BP, Route, Variant
from online_models.history import EMPTY
from online_models.ports import UserState
from serving_api.answers import Ask
from serving_api.choice import choose
from serving_api.instruments import Instruments
from serving_api.list_maker import ListMaker, Lists, Made
from serving_api.modes import Modes
from serving_api.ranked_list import RankedList
from serving_api.ranking import POPULARITY
from serving_api.reader import ModelState
from serving_api.retrieval import VersionView
from serving_api.rules import Reranking
from tests.damage import raising
from tests.drawn_learner import drawn_trained
from tests.samples import MOVIES
from tests.serving_views import V1, V2, history_of, loaded_of, views_over

RNG = np.random.default_rng(3)
TRAINED = {V1: drawn_trained(RNG), V2: drawn_trained(RNG)}
BUILT = views_over({version: loaded_of(trained, version) for version, trained in TRAINED.items()}).built
K = 3
ASK = Ask(MOVIES, UserId("u1"), K, 5_000)
KNOWN = UserState(None, history_of(list(TRAINED[V1].ids)[:2]))
LISTS = Lists(Reranking(), Modes("realtime", timedelta(minutes=30)), 200, timedelta(minutes=30))


def route(weight_bp: int = FULL_WEIGHT_BP, canary: object = V2) -> Route:
    return Route(1, V1, V2 if canary == V2 else V1, weight_bp, "salt", rollout_id=7, stage=0)


def state(stable: VersionView, canary: VersionView, to: Route, popular: Sequence[str] = ()) -> ModelState:
    return ModelState(MOVIES, to, {V1: stable, V2: canary}, RankedList.of(popular))


class Maker:
    """A list maker and what it counts."""

    def __init__(self) -> None:
        self.instruments = Instruments()
        self.maker = ListMaker(LISTS, self.instruments, lambda: 0.5)

    def make(self, held: ModelState, user: UserState = KNOWN) -> Made:
        return self.maker.make(ASK, held, choose(held, ASK.user_id), user, K)

    def errors(self, variant: str) -> float:
        labels = {"model": MOVIES, "variant": variant}
        return self.instruments.registry.get_sample_value("penstock_version_errors_total", labels) or 0.0


def items(made: Made) -> list[str]:
    return [item.item_id for item in made.ranking.items]


def test_the_version_of_the_arm_makes_the_list() -> None:
    made = Maker().make(state(BUILT[V1], BUILT[V2], route()))
    assert (made.choice.version, made.choice.variant, made.failed) == (V2, Variant.CANARY, False)


def test_stable_makes_the_list_of_a_canary_that_raises() -> None:
    maker = Maker()
    made = maker.make(state(BUILT[V1], raising(BUILT[V2]), route()))
    assert (made.choice.version, made.choice.variant, made.failed) == (V1, Variant.FALLBACK, True)
    by_stable = maker.make(state(BUILT[V1], BUILT[V2], Route(1, V1)))
    assert items(made) == items(by_stable) != items(maker.make(state(BUILT[V1], BUILT[V2], route())))
    assert (maker.errors("canary"), maker.errors("stable"), maker.errors("fallback")) == (1, 0, 0)


def test_who_stands_in_does_not_go_by_a_vector_of_the_version_that_raised() -> None:
    vector = np.ones(2 * BUILT[V2].loaded.k, np.float32)
    made = Maker().make(state(BUILT[V1], raising(BUILT[V2]), route()), UserState(vector, KNOWN.history))
    assert made.ranking.source == "fold_in"
    assert items(made) == items(Maker().make(state(BUILT[V1], BUILT[V2], Route(1, V1))))


def test_where_stable_raises_too_the_list_is_popularity_s() -> None:
    maker = Maker()
    popular = list(TRAINED[V1].ids)[3:8]
    made = maker.make(state(raising(BUILT[V1]), raising(BUILT[V2]), route(), popular))
    assert (made.ranking.source, items(made)) == (POPULARITY, popular[:K])
    assert (made.choice.served, made.choice.variant, made.failed) == (None, Variant.FALLBACK, True)
    assert (maker.errors("canary"), maker.errors("fallback")) == (1, 1)


def test_without_a_popular_list_of_the_stream_it_is_that_of_the_training() -> None:
    made = Maker().make(state(raising(BUILT[V1]), raising(BUILT[V2]), route()))
    met = set(list(TRAINED[V1].ids)[:2])
    assert items(made) == [item for item in BUILT[V1].loaded.popular.ids if item not in met][:K]


@pytest.mark.parametrize("weight_bp", [0, FULL_WEIGHT_BP])
def test_the_champion_against_itself_is_not_asked_twice_and_counts_for_the_arm_that_was_asked(weight_bp: int) -> None:
    maker, itself = Maker(), raising(BUILT[V1])
    held = replace(state(itself, BUILT[V2], route(weight_bp, V1)), versions={V1: itself})
    made = maker.make(held)
    assert (made.ranking.source, made.choice.served, made.failed) == (POPULARITY, None, True)
    of = "canary" if weight_bp else "stable"
    assert [maker.errors(variant) for variant in ("stable", "canary", "fallback")] == [
        of == "stable",
        of == "canary",
        0,
    ]


def test_a_failure_is_told_with_its_version_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    maker = Maker()
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            maker.make(state(BUILT[V1], raising(BUILT[V2]), route()))
    (told,) = caplog.records
    assert told.getMessage().startswith("version_raised model=movies version=v2 variant=canary error=IndexError")
    assert told.exc_info is not None
    assert maker.errors("canary") == 5


def test_a_user_of_whom_nothing_is_known_needs_no_version() -> None:
    made = Maker().make(state(BUILT[V1], raising(BUILT[V2]), route()), UserState(None, EMPTY))
    assert (made.ranking.source, made.failed) == (POPULARITY, False)
