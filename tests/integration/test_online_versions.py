"""Online learning while two versions are live, on a real Redis: a canary is kept as fresh as the stable version."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import redis as redis_client

from flows.live import LiveVersions
from flows.online_learning import OnlineLearner
from online_models.blend import Blend
from online_models.contracts import keys
from online_models.contracts.events import Event, EventBatch, EventType
from online_models.contracts.ids import ModelVersion
from online_models.contracts.rollouts import Route
from online_models.stores import redis
from online_models.stores.filesystem import FilesystemArtifacts
from online_models.stores.redis import RedisEmbeddings, RedisRoutes, decode_vector
from online_models.stores.redis_reads import RedisStreamReads
from tests.artifacts import SmallModel, small_model
from tests.engagements import START_MS, busy_log, engagement, pieces_of
from tests.online_learners import SECOND_DAYS
from tests.oracles import online_learning as oracle
from tests.samples import MOVIES

V1, V2, V3 = (ModelVersion(f"v{number}") for number in (1, 2, 3))
MODELS = {version: small_model(number, items=20) for number, version in enumerate((V1, V2, V3), 1)}
LOG = busy_log(300, seed=3, users=8, first_item=10, items=40)


@dataclass
class World:
    """One learner, whose route can be changed; it asks for the route with every batch."""

    client: redis_client.Redis
    store: RedisEmbeddings
    routes: RedisRoutes
    learner: OnlineLearner
    epoch: int = 0

    def route(self, stable: ModelVersion, canary: ModelVersion | None = None) -> None:
        self.epoch += 1
        assert self.routes.put_route(MOVIES, Route(self.epoch, stable, canary))

    def blend(self, version: ModelVersion) -> Blend:
        raw = self.store.blend(MOVIES, version)
        assert raw is not None
        return Blend.decode(raw)

    def keys_of(self, version: ModelVersion) -> set[str]:
        """What follows the version in the names of its keys."""
        prefix = keys.user_vector(MOVIES, version, "").removesuffix("u:")
        found: list[bytes] = list(self.client.scan_iter(prefix + "*"))
        return {key.decode().removeprefix(prefix) for key in found}


@pytest.fixture
def world(redis_url: str, tmp_path: Path) -> Iterator[World]:
    with closing(redis.connect(redis_url)) as client:
        store, routes, artifacts = RedisEmbeddings(client), RedisRoutes(client), FilesystemArtifacts(tmp_path)
        for version, made in MODELS.items():
            artifacts.write(made.manifest(MOVIES, version, [0, 2]), made.files())
        live = LiveVersions(routes, artifacts, store, poll_seconds=0.0)
        yield World(client, store, routes, OnlineLearner(MOVIES, "run", store, live, SECOND_DAYS, 1e9))


def check(world: World, version: ModelVersion, log: Sequence[Event]) -> None:
    """Every user of the log and every item that it moved, by the version's own factors."""
    made: SmallModel = MODELS[version]
    for user in {one.user_id for one in log}:
        raw = world.client.get(keys.user_vector(MOVIES, version, user))
        assert isinstance(raw, bytes)
        exact = oracle.vectors(made, oracle.recent_of(log, user))
        np.testing.assert_allclose(decode_vector(raw)[1], exact, rtol=2e-4, atol=2e-5)
    found, expected = world.store.moved_items(MOVIES, version), oracle.moved_items(made, log)
    assert set(found) == set(expected)
    for item, moved in found.items():
        np.testing.assert_allclose(moved.vector, expected[item][2], rtol=1e-3, atol=1e-4)


def test_both_live_versions_get_vectors_items_and_a_blend(world: World) -> None:
    world.route(V1, V2)
    for piece in pieces_of(LOG, [100, 200]):
        world.learner.learn(piece)
    for version in (V1, V2):
        check(world, version, LOG)
        users = {f"u:u{user}" for user in range(8)}
        assert world.keys_of(version) == {*users, "items", "item_vectors", "blend"}
    assert world.blend(V1).steps.sum() > 50
    assert world.blend(V1).tried.tolist() == world.blend(V2).tried.tolist()
    assert world.blend(V1).weights.tobytes() != world.blend(V2).weights.tobytes()


def test_a_canary_s_blend_begins_like_the_stable_one_s(world: World) -> None:
    first, again = pieces_of([*LOG, *retaken(LOG)], [len(LOG)])
    world.route(V1)
    world.learner.learn(first)
    assert world.store.blend(MOVIES, V2) is None
    learned = world.blend(V1)
    assert learned.steps.sum() > 50
    world.route(V1, V2)
    world.learner.learn(again)  # of which no blend learns anything
    assert world.blend(V1).weights.tobytes() == learned.weights.tobytes()
    assert world.blend(V2).encode() == world.blend(V1).encode()


def retaken(log: Sequence[Event]) -> list[Event]:
    """Every user takes again what they had met."""
    return [
        engagement(10_000 + n, START_MS + 10**9 + n, int(one.user_id[1:]), int(one.item_id[1:]), EventType.CLICK)
        for n, one in enumerate(log)
    ]


def test_from_then_on_each_blend_learns_for_itself(world: World) -> None:
    pieces = pieces_of(LOG, [150])
    world.route(V1)
    world.learner.learn(pieces[0])
    world.route(V1, V2)
    world.learner.learn(pieces[1])
    stable, canary = world.blend(V1), world.blend(V2)
    assert canary.steps.sum() > 0
    assert canary.weights.tobytes() != stable.weights.tobytes()


def test_a_version_keeps_what_it_learned_when_it_comes_back(world: World) -> None:
    pieces = pieces_of(LOG, [100, 200])
    world.route(V1, V2)
    world.learner.learn(pieces[0])
    canary, items = world.blend(V2), world.store.moved_items(MOVIES, V2)
    world.route(V1)
    world.learner.learn(pieces[1])
    assert world.blend(V2).encode() == canary.encode()
    assert {item: moved.ts_ms for item, moved in world.store.moved_items(MOVIES, V2).items()} == {
        item: moved.ts_ms for item, moved in items.items()
    }
    world.route(V1, V2)
    world.learner.learn(pieces[2])
    later = world.store.moved_items(MOVIES, V2)
    assert set(items) <= set(later)
    assert all(later[item].weight >= moved.weight for item, moved in items.items())
    assert world.blend(V2).steps.sum() >= canary.steps.sum()


def test_all_keys_of_a_dropped_version_are_gone_and_no_batch_brings_them_back(world: World) -> None:
    pieces: list[EventBatch] = pieces_of(LOG, [60, 120, 180, 240])
    for piece, route in zip(pieces, ((V1, V2), (V1,), (V1, V3), (V3,), (V3,)), strict=True):
        world.route(*route)
        world.learner.learn(piece)
    # v2 left first, and went when v1 left too
    assert world.keys_of(V2) == set()
    assert {"items", "blend"} <= world.keys_of(V1)
    assert {"items", "blend"} <= world.keys_of(V3)
    assert set(RedisStreamReads(world.client).published(MOVIES, [V1, V2, V3]).blends) == {V1, V3}
