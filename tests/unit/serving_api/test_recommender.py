"""Which version answers a user: the arm that they are in, or one that stands in for it and counts for no arm."""

import numpy as np
import pytest

from online_models.contracts.ids import ModelVersion
from online_models.contracts.rollouts import FULL_WEIGHT_BP, Route
from serving_api.assignment import Variant, variant
from serving_api.reader import ModelState
from serving_api.recommender import Choice, choose
from tests.drawn_learner import drawn_trained
from tests.samples import MOVIES
from tests.serving_views import V1, V2, loaded_of, views_over

V3 = ModelVersion("v3")
TRAINED = drawn_trained(np.random.default_rng(1))
BUILT = views_over({version: loaded_of(TRAINED, version) for version in (V1, V2, V3)}).built
HALF = Route(epoch=1, stable=V1, canary=V2, weight_bp=FULL_WEIGHT_BP // 2, salt="s", rollout_id=1, stage=2)
USERS = [f"u{number}" for number in range(50)]


def state(route: Route | None, *held: ModelVersion) -> ModelState:
    return ModelState(MOVIES, route, {version: BUILT[version] for version in held})


def test_everybody_gets_the_version_of_their_arm() -> None:
    arms = {user: variant(user, HALF) for user in USERS}
    assert set(arms.values()) == {Variant.STABLE, Variant.CANARY}
    for user, arm in arms.items():
        wanted = V2 if arm is Variant.CANARY else V1
        assert choose(state(HALF, V1, V2, V3), user) == Choice(BUILT[wanted], arm)


def test_a_version_that_is_not_there_is_stood_in_for_and_that_counts_for_no_arm() -> None:
    for user in USERS:
        canary = variant(user, HALF) is Variant.CANARY
        without_canary = choose(state(HALF, V3, V1), user)
        assert without_canary == Choice(BUILT[V1], Variant.FALLBACK if canary else Variant.STABLE)
        without_stable = choose(state(HALF, V3, V2), user)
        assert without_stable == (Choice(BUILT[V2], Variant.CANARY) if canary else Choice(BUILT[V3], Variant.FALLBACK))


@pytest.mark.parametrize("route", [None, HALF, Route(epoch=1, stable=V1)])
def test_without_any_version_nobody_is_served_by_one(route: Route | None) -> None:
    assert {choose(state(route), user) for user in USERS} == {Choice(None, Variant.FALLBACK)}


def test_before_there_is_a_route_the_version_held_longest_answers_for_no_arm() -> None:
    assert choose(state(None, V2, V1), "u1") == Choice(BUILT[V2], Variant.FALLBACK)
