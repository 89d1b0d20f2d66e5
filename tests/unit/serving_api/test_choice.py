"""Which version answers a user: that of the arm that they are in, or one that stands in for it."""

import numpy as np
import pytest

from online_models.contracts.ids import ModelVersion
from online_models.contracts.rollouts import FULL_WEIGHT_BP, Arm, Route, Variant
from serving_api.assignment import assigned
from serving_api.choice import Choice, choose, instead, shadow_of
from serving_api.reader import ModelState, versions_of
from tests.drawn_learner import drawn_trained
from tests.samples import MOVIES
from tests.serving_views import V1, V2, loaded_of, views_over

V3 = ModelVersion("v3")
TRAINED = drawn_trained(np.random.default_rng(1))
BUILT = views_over({version: loaded_of(TRAINED, version) for version in (V1, V2, V3)}).built
HALF = Route(epoch=1, stable=V1, canary=V2, weight_bp=FULL_WEIGHT_BP // 2, salt="s", rollout_id=1, stage=2)
BANDIT = Route(
    epoch=1, stable=V1, salt="s", rollout_id=1, stage=0, arms=(Arm(V1, 4_000), Arm(V2, 3_000), Arm(V3, 3_000))
)
SHADOW = Route(epoch=1, stable=V1, canary=V2, salt="s", rollout_id=1, stage=0, shadow=True)
USERS = [f"u{number}" for number in range(50)]


def state(route: Route | None, *held: ModelVersion) -> ModelState:
    return ModelState(MOVIES, route, {version: BUILT[version] for version in held})


def test_everybody_gets_the_version_of_their_arm() -> None:
    asked = {user: assigned(user, HALF) for user in USERS}
    assert {each.variant for each in asked.values()} == {Variant.STABLE, Variant.CANARY}
    for user, each in asked.items():
        assert choose(state(HALF, V1, V2, V3), user) == Choice(BUILT[each.version], each.variant, each)


def test_a_bandit_s_users_get_its_versions() -> None:
    found = {choose(state(BANDIT, V1, V2, V3), user).version for user in USERS}
    assert found == {V1, V2, V3}
    assert {choose(state(BANDIT, V1), user).version for user in USERS} == {V1}


def test_a_version_that_is_not_there_is_stood_in_for_by_no_arm() -> None:
    for user in USERS:
        asked = assigned(user, HALF)
        canary = asked.variant is Variant.CANARY
        without_canary = choose(state(HALF, V3, V1), user)
        assert without_canary == Choice(BUILT[V1], Variant.FALLBACK if canary else Variant.STABLE, asked)
        without_stable = choose(state(HALF, V3, V2), user)
        version, variant = (V2, Variant.CANARY) if canary else (V3, Variant.FALLBACK)
        assert without_stable == Choice(BUILT[version], variant, asked)


@pytest.mark.parametrize("route", [None, HALF, Route(epoch=1, stable=V1)])
def test_without_any_version_nobody_is_served_by_one(route: Route | None) -> None:
    found = {choose(state(route), user) for user in USERS}
    assert {(choice.served, choice.variant) for choice in found} == {(None, Variant.FALLBACK)}


def test_before_there_is_a_route_the_version_held_longest_answers_for_no_arm() -> None:
    assert choose(state(None, V2, V1), "u1") == Choice(BUILT[V2], Variant.FALLBACK)


def test_stable_stands_in_for_a_version_that_failed_and_nobody_for_stable() -> None:
    held = state(HALF, V1, V2)
    for failed in (choose(held, user) for user in USERS):
        in_place = instead(held, failed)
        assert (in_place.variant, in_place.asked) == (Variant.FALLBACK, failed.asked)
        assert in_place.version == (V1 if failed.version == V2 else None)
    against_itself = Route(epoch=1, stable=V1, canary=V1, weight_bp=5_000, salt="s", rollout_id=1, stage=0)
    itself = state(against_itself, V1)
    assert {instead(itself, choose(itself, user)).version for user in USERS} == {None}


def test_the_shadow_is_the_canary_of_a_shadow_stage_where_it_is_loaded() -> None:
    assert shadow_of(state(SHADOW, V1, V2)) is BUILT[V2]
    assert shadow_of(state(SHADOW, V1)) is None
    assert shadow_of(state(HALF, V1, V2)) is None
    assert shadow_of(state(None, V1, V2)) is None
    assert {choose(state(SHADOW, V1, V2), user).variant for user in USERS} == {Variant.STABLE}


def test_a_route_names_each_of_its_versions_once_stable_first() -> None:
    assert versions_of(HALF) == versions_of(SHADOW) == [V1, V2]
    assert versions_of(BANDIT) == [V1, V2, V3]
    assert versions_of(Route(epoch=1, stable=V1, canary=V1, weight_bp=5_000)) == [V1]
    assert versions_of(None) == []
