"""Rollouts as users and the controller meet them: arms, a canary that raises, what is counted in Redis, a shadow, a bandit."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from flows.open_requests import Outcome
from online_models.contracts.events import (
    ARM_PROPENSITY_FEATURE,
    ASKED_VARIANT_FEATURE,
    ASKED_VERSION_FEATURE,
    SHADOW_PLACE_FEATURE,
    SHADOW_VERSION_FEATURE,
    Event,
)
from online_models.contracts.ids import ModelVersion, RolloutId, hash64
from online_models.contracts.rollouts import FULL_WEIGHT_BP, Arm, Route, Served
from online_models.stores import postgres as postgres_store
from online_models.stores.filesystem import FilesystemArtifacts
from online_models.stores.postgres_registry import PostgresRegistry
from online_models.stores.redis import RedisRoutes
from serving_api.assignment import assigned
from serving_api.reader import versions_of
from tests.api_process import FAST, Api, eventually, item_ids, logged_events, started_api
from tests.artifacts import publish, small_model
from tests.damage import raising
from tests.outcome_events import found, last_shadows, later, outcomes
from tests.served_world import MOVIES, World

OTHER = small_model(2, users=40)
USERS = [f"user-{n}" for n in range(40)]
ROLLOUT = RolloutId(7)


def published(world: World) -> ModelVersion:
    """Another version of the world's model."""
    with closing(postgres_store.connect(world.settings.postgres_dsn or "")) as database:
        return publish(FilesystemArtifacts(world.settings.artifacts), PostgresRegistry(database), MOVIES, OTHER)


@pytest.fixture
def other(world: World) -> ModelVersion:
    """A second version, and users of whom something is known."""
    for user in USERS:
        world.learn(user, ["i1", "i3"])
    return published(world)


def canary_route(world: World, canary: ModelVersion, weight_bp: int, epoch: int = 2) -> Route:
    return Route(epoch, world.version, canary, weight_bp, "salt", rollout_id=int(ROLLOUT), stage=1, slow_ms=10_000.0)


def route(world: World, api: Api, to: Route) -> Route:
    """Put a route, and wait until the API holds its versions."""
    RedisRoutes(world.client).put_route(MOVIES, to)

    def holds() -> bool:
        state = api.reader.state(MOVIES)
        return state.route == to and set(versions_of(to)) <= set(state.versions)

    eventually(holds, f"{to} is served")
    return to


def damage(api: Api, version: ModelVersion) -> None:
    """Break a version that is being served."""

    def broken() -> bool:
        state = api.reader._states[MOVIES]
        if len(state.versions[version].weights):
            views = {**state.versions, version: raising(state.versions[version])}
            api.reader._states[MOVIES] = replace(state, versions=views)
            return False
        return True

    eventually(broken, "the version is broken, and the poller has not replaced it meanwhile")


def served(world: World, stage: int = 1) -> dict[str, Served]:
    """What readers say of the rollout in Redis, by variant."""
    found = RedisRoutes(world.client).served(MOVIES, ROLLOUT)
    return {variant: each for (of, variant), each in found.items() if of == stage}


def told(world: World, requests: int, stage: int = 1) -> dict[str, Served]:
    """That, once it is of so many requests."""
    eventually(lambda: sum(each.requests for each in served(world, stage).values()) == requests, f"{requests} are told")
    return served(world, stage)


def test_a_canary_that_raises_costs_nobody_anything_and_redis_knows_within_a_second(
    world: World, api: Api, other: ModelVersion
) -> None:
    route(world, api, Route(2, world.version))
    by_stable = {user: item_ids(api.recommend(user)) for user in USERS}
    route(world, api, canary_route(world, other, FULL_WEIGHT_BP, epoch=3))
    damage(api, other)
    responses = api.together([f"/v1/recommendations/{user}?domain=movies" for user in USERS])
    start = time.monotonic()
    said = told(world, len(USERS))["canary"]
    assert time.monotonic() - start < 1.0
    assert {response.status_code for response in responses} == {200}
    for user, answer in zip(USERS, [response.json() for response in responses], strict=True):
        assert item_ids(answer) == by_stable[user]
        assert (answer["model_version"], answer["variant"], answer["rollout_id"]) == (
            world.version,
            "fallback",
            ROLLOUT,
        )
        assert (answer["source"], answer["degraded"]) == ("fold_in", False)
    assert (said.requests, said.errors, said.fallbacks, said.stood_in, said.empty) == (len(USERS),) * 4 + (0,)
    assert (said.users, said.user_errors, said.user_fallbacks) == (len(USERS),) * 3
    metric = {"model": MOVIES, "variant": "canary"}
    assert api.parts.instruments.registry.get_sample_value("penstock_version_errors_total", metric) == len(USERS)
    events = [each for each in logged_events(world.settings.home, 20 * len(USERS)) if each.user_id in USERS][-400:]
    assert {(each.model_version, each.rollout_id) for each in events} == {(world.version, ROLLOUT)}
    assert {asked_of(each) for each in events} == {("fallback", "canary", other, 1.0)}


def asked_of(event: Event) -> tuple[object, object, object, object]:
    """What an impression says of who answered, and of the arm of its user."""
    said = event.features or {}
    names = ("variant", ASKED_VARIANT_FEATURE, ASKED_VERSION_FEATURE, ARM_PROPENSITY_FEATURE)
    who, arm, version, propensity = (said.get(name) for name in names)
    return who, arm, version, propensity


def test_lists_of_pages_and_of_many_users_are_made_by_stable_too(world: World, api: Api, other: ModelVersion) -> None:
    route(world, api, canary_route(world, other, FULL_WEIGHT_BP))
    damage(api, other)
    first = api.recommend(USERS[0], "domain=movies&k=5&paged=true")
    second = api.recommend(USERS[0], f"domain=movies&k=5&page_token={first['page_token']}")
    assert (first["model_version"], first["variant"]) == (second["model_version"], "fallback")
    assert not set(item_ids(first)) & set(item_ids(second))
    many = api.send("POST", "/v1/recommendations/batch", {"domain": "movies", "user_ids": USERS, "k": 5})
    assert {(each["model_version"], each["variant"]) for each in many.json()["answers"]} == {
        (world.version, "fallback")
    }
    pages = logged_events(world.settings.home, 10)
    assert {(*asked_of(each), each.rollout_id) for each in pages} == {("fallback", "canary", other, 1.0, ROLLOUT)}
    said = told(world, 1 + len(USERS))["canary"]  # a page is no request of a version
    assert (said.errors, said.users) == (1 + len(USERS), len(USERS))


def test_where_every_version_raises_popularity_answers(world: World, api: Api, other: ModelVersion) -> None:
    route(world, api, canary_route(world, other, FULL_WEIGHT_BP // 2))
    damage(api, other)
    damage(api, world.version)
    responses = api.together([f"/v1/recommendations/{user}?domain=movies" for user in USERS])
    assert {response.status_code for response in responses} == {200}
    found = [response.json() for response in responses]
    assert {(answer["source"], answer["variant"], answer["model_version"]) for answer in found} == {
        ("popularity", "fallback", None)
    }
    said = told(world, len(USERS))
    assert {variant: each.errors == each.requests > 0 for variant, each in said.items()} == {
        "stable": True,
        "canary": True,
    }


def test_the_champion_against_itself_counts_by_variant(world: World, api: Api, other: ModelVersion) -> None:
    to = route(world, api, canary_route(world, world.version, FULL_WEIGHT_BP // 2))
    damage(api, world.version)
    for user in USERS:
        api.recommend(user)
    arms = Counter(str(assigned(user, to).variant) for user in USERS)
    said = told(world, len(USERS))
    assert {variant: each.errors for variant, each in said.items()} == dict(arms)


def test_what_arms_came_to_is_told_by_variant_and_impressions_say_how_likely_the_arm_was(
    world: World, api: Api, other: ModelVersion
) -> None:
    to = route(world, api, canary_route(world, other, 2_500))
    for user in [*USERS, *USERS[:10], "nobody"]:
        api.recommend(user)
    said = told(world, len(USERS) + 11)
    asked = Counter(str(assigned(user, to).variant) for user in [*USERS, *USERS[:10], "nobody"])
    first = Counter(str(assigned(user, to).variant) for user in [*USERS, "nobody"])
    assert {variant: each.requests for variant, each in said.items()} == dict(asked)
    assert {variant: each.users for variant, each in said.items()} == dict(first)
    assert sum(each.fallbacks for each in said.values()) == 1  # nobody's, by popularity
    assert {each.stood_in for each in said.values()} == {0}  # for which no version is to blame
    assert {each.errors for each in said.values()} == {0}
    assert {sum(each.latency) - each.requests for each in said.values()} == {0}
    shares = {"canary": 0.25, "stable": 0.75}
    for event in logged_events(world.settings.home, 10 * (len(USERS) + 11)):
        arm = assigned(str(event.user_id), to)
        assert event.rollout_id == ROLLOUT
        stood_in = event.user_id == "nobody"
        who = ("fallback", arm.variant, arm.version) if stood_in else (arm.variant, None, None)
        assert asked_of(event) == (*who, shares[arm.variant])
        assert event.model_version == (None if stood_in else arm.version)


def test_a_rollout_that_prepares_and_none_at_all_count_nothing(world: World, api: Api, other: ModelVersion) -> None:
    route(world, api, replace_route(canary_route(world, other, 0), stage=-1))
    api.recommend(USERS[0])
    time.sleep(0.2)
    assert RedisRoutes(world.client).served(MOVIES, ROLLOUT) == {}
    api.recommend("nobody")
    for event in logged_events(world.settings.home, 20):
        assert (event.rollout_id, *asked_of(event)[1:]) == (None, None, None, None)


def replace_route(to: Route, **changes: object) -> Route:
    """The route with other values."""
    return Route(**{**{name: getattr(to, name) for name in Route.__struct_fields__}, **changes})


def test_a_bandit_s_users_are_answered_by_their_arms(world: World, api: Api, other: ModelVersion) -> None:
    third = published(world)
    shares = {world.version: 0.5, other: 0.3, third: 0.2}
    arms = tuple(Arm(version, round(share * FULL_WEIGHT_BP)) for version, share in shares.items())
    to = route(
        world, api, Route(2, world.version, salt="salt", rollout_id=int(ROLLOUT), stage=0, arms=arms, slow_ms=1_000.0)
    )

    def ready() -> bool:
        said = RedisRoutes(world.client).statuses(MOVIES, third, api.parts.clock())
        return [status.ready for status in said.values() if status] == [True]

    eventually(ready, "the third arm is reported")
    for user in USERS:
        answer = api.recommend(user)
        version = assigned(user, to).version
        assert answer["model_version"] == version
        assert (answer["variant"], answer["rollout_id"]) == ("stable" if version == world.version else "arm", ROLLOUT)
    assert {assigned(user, to).version for user in USERS} == set(shares)
    for event in logged_events(world.settings.home, 10 * len(USERS)):
        assert event.features is not None
        assert event.features[ARM_PROPENSITY_FEATURE] == shares[ModelVersion(event.model_version or "")]
    said = told(world, len(USERS), stage=0)
    asked = Counter(assigned(user, to).version for user in USERS)
    assert {variant: each.requests for variant, each in said.items()} == {
        "stable": asked[world.version], f"arm:{other}": asked[other], f"arm:{third}": asked[third],
    }  # fmt: skip


def test_who_is_answered_by_another_version_because_theirs_is_not_held_is_counted_so(world: World, api: Api) -> None:
    world.learn(USERS[0], ["i1", "i3"])
    to = canary_route(world, ModelVersion("v999"), FULL_WEIGHT_BP)
    RedisRoutes(world.client).put_route(MOVIES, to)
    eventually(lambda: api.reader.state(MOVIES).route == to, "the route is known")
    for user in (USERS[0], "nobody"):
        assert api.recommend(user)["variant"] == "fallback"
    said = told(world, 2)["canary"]
    assert (said.requests, said.errors, said.fallbacks, said.stood_in) == (2, 0, 2, 2)


def test_a_bandit_s_arm_that_raises_and_a_stranger_keep_their_trials(
    world: World, api: Api, other: ModelVersion
) -> None:
    arms = (Arm(world.version, 5_000), Arm(other, 5_000))
    to = route(world, api, Route(2, world.version, salt="salt", rollout_id=int(ROLLOUT), stage=0, arms=arms))
    damage(api, other)
    strangers = [f"stranger-{n}" for n in range(10)]
    for user in [*USERS, *strangers]:
        api.recommend(user)
    asked = {user: assigned(user, to) for user in [*USERS, *strangers]}
    for event in logged_events(world.settings.home, 10 * len(asked)):
        arm = asked[event.user_id]
        answered = arm.version == world.version and event.user_id in USERS
        assert event.rollout_id == ROLLOUT
        assert asked_of(event) == (
            ("stable", None, None, 0.5) if answered else ("fallback", arm.variant, arm.version, 0.5)
        )


def test_in_a_shadow_who_stands_in_counts_for_no_rollout(world: World, api: Api, other: ModelVersion) -> None:
    route(world, api, shadow_route(world, other))
    assert api.recommend("nobody")["rollout_id"] is None
    (event, *_) = logged_events(world.settings.home, 10)
    assert (event.rollout_id, asked_of(event)) == (None, ("fallback", None, None, None))


def shadow_route(world: World, canary: ModelVersion) -> Route:
    return replace_route(canary_route(world, canary, 0), stage=0, shadow=True)


def test_a_shadow_is_shown_to_nobody_and_scored_for_everybody(world: World, api: Api, other: ModelVersion) -> None:
    route(world, api, Route(2, world.version))
    by_stable = {user: item_ids(api.recommend(user)) for user in USERS}
    route(world, api, Route(3, other))
    by_canary = {user: item_ids(api.recommend(user, "domain=movies&k=27")) for user in USERS}
    before = len(logged_events(world.settings.home, 37 * len(USERS)))
    route(world, api, replace_route(shadow_route(world, other), epoch=4))
    for user in USERS:
        answer = api.recommend(user)
        assert (answer["variant"], answer["model_version"]) == ("stable", world.version)
        assert answer["rollout_id"] is None  # nobody is exposed
        assert item_ids(answer) == by_stable[user]
    said = told(world, 2 * len(USERS), stage=0)
    assert (said["stable"].requests, said["stable"].users) == (len(USERS), 0)
    canary = said["canary"]
    assert (canary.requests, canary.compared, canary.errors, canary.dropped) == (len(USERS), len(USERS), 0, 0)
    shared = [len(set(by_stable[user]) & set(by_canary[user][:10])) / 10 for user in USERS]
    assert canary.overlap == pytest.approx(sum(shared))
    assert canary.first_same == sum(by_stable[user][0] == by_canary[user][0] for user in USERS)
    events = logged_events(world.settings.home, before + 10 * len(USERS))[before:]
    for event in events:
        assert event.features is not None
        assert event.features[SHADOW_VERSION_FEATURE] == other
        assert event.features[SHADOW_PLACE_FEATURE] == by_canary[str(event.user_id)].index(str(event.item_id))
    # what the flow makes of it
    logged = [msgspec.convert(msgspec.structs.asdict(event), Event) for event in events]
    story = [Outcome(event, int(event.ts), hash64(event.user_id)) for event in logged]
    (counts,) = last_shadows(found(outcomes(), story, later(story[-1].ts_ms + 60_000)))
    shown, taken = np.frombuffer(counts.counts, "<u4").reshape(2, 20, 61)
    places = Counter((at, by_canary[user].index(item)) for user in USERS for at, item in enumerate(by_stable[user]))
    assert (counts.version, taken.sum()) == (other, 0)
    assert {(at, place): shown[at, place] for at, place in np.argwhere(shown).tolist()} == places


def test_a_shadow_that_raises_costs_nothing_and_redis_knows_within_a_second(
    world: World, api: Api, other: ModelVersion
) -> None:
    route(world, api, shadow_route(world, other))
    damage(api, other)
    assert {api.recommend(user)["variant"] for user in USERS} == {"stable"}
    start = time.monotonic()
    eventually(lambda: served(world, 0).get("canary", Served()).errors == len(USERS), "errors are told")
    assert time.monotonic() - start < 1.0
    events = logged_events(world.settings.home, 10 * len(USERS))
    assert len(events) == 10 * len(USERS)
    assert {SHADOW_VERSION_FEATURE in (each.features or {}) for each in events} == {False}


@contextmanager
def stopped_soon(world: World, to: Route) -> Iterator[Api]:
    with started_api(world.settings, FAST.model_copy(update={"poll_seconds": 30.0})) as api:
        assert api.reader.state(MOVIES).route == to
        yield api


def test_a_reader_that_ends_has_logged_what_it_showed_and_told_what_it_counted(
    world: World, other: ModelVersion
) -> None:
    to = shadow_route(world, other)
    RedisRoutes(world.client).put_route(MOVIES, to)
    asked = USERS * 3
    with stopped_soon(world, to) as api:
        responses = api.together([f"/v1/recommendations/{user}?domain=movies" for user in asked])
        assert {response.status_code for response in responses} == {200}
    assert len(logged_events(world.settings.home)) == 10 * len(asked)
    said = served(world, 0)
    assert said["stable"].requests == len(asked)
    assert said["canary"].requests + said["canary"].dropped == len(asked)
