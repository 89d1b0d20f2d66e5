"""What the flow knows of live versions and champions: refreshed by polling, and never stopped by a bad artifact."""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier

import msgspec
import numpy as np
import pytest
import redis as redis_client

from flows.levels import Champion
from flows.live import Champions, LiveVersion, LiveVersions, same_declaration
from online_models.blend import Blend
from online_models.contracts import keys
from online_models.contracts.artifacts import FeatureSketch
from online_models.contracts.features import DEFAULT_FEATURES
from online_models.contracts.ids import ItemId, ModelVersion, UserId
from online_models.contracts.rollouts import Route
from online_models.history import EMPTY
from online_models.learner import MovedItem, decode_item_vectors
from online_models.ports import EmbeddingUpdate, VersionUpdate
from online_models.sources import Sources
from online_models.stores import redis
from online_models.stores.embedded import Endpoints
from online_models.stores.filesystem import FilesystemArtifacts
from online_models.stores.postgres import Database
from online_models.stores.postgres_registry import PostgresRegistry
from online_models.stores.postgres_rollouts import PostgresRollouts
from online_models.stores.redis import RedisEmbeddings, RedisRoutes
from online_models.text import TEXT_MODEL_FILE, TextModel
from tests.artifacts import FACTORS, flip_one_byte, publish, small_model
from tests.samples import MOVIES, manifest

V1, V2, V3, V4 = (ModelVersion(f"v{number}") for number in (1, 2, 3, 4))


@dataclass
class World:
    """Live versions on real Redis and a real artifact directory; `ask` polls every time."""

    client: redis_client.Redis
    artifacts: FilesystemArtifacts
    routes: RedisRoutes
    embeddings: RedisEmbeddings
    live: LiveVersions
    epoch: int = 0

    def publish(self, *versions: ModelVersion) -> None:
        for version in versions:
            made = small_model(int(version[1:]))
            self.artifacts.write(made.manifest(MOVIES, version, [0, 2]), made.files())

    def route(self, stable: ModelVersion, canary: ModelVersion | None = None) -> list[ModelVersion]:
        """Put a route; the versions that are live then."""
        self.epoch += 1
        assert self.routes.put_route(MOVIES, Route(self.epoch, stable, canary))
        return self.ask()

    def ask(self) -> list[ModelVersion]:
        return [version.version for version in self.live.of(MOVIES)]

    def give_keys(self, *versions: ModelVersion) -> None:
        """A user vector, a new item that has moved and a blend of each version."""
        moved = {ItemId("new"): MovedItem(1, 2.5, np.ones(FACTORS, np.float32))}
        updates = [
            VersionUpdate(version, {UserId("u"): (1, np.ones(2 * FACTORS, np.float32))}, moved, learned().encode())
            for version in versions
        ]
        self.embeddings.apply(EmbeddingUpdate(MOVIES, "run", "log", 1, {UserId("u"): EMPTY}, updates, {}, []))

    def versions_with_keys(self) -> set[str]:
        found: list[bytes] = list(self.client.scan_iter(f"m:{{{MOVIES}}}:v:*"))
        return {key.decode().split(":")[3] for key in found}


@pytest.fixture
def world(redis_url: str, tmp_path: Path) -> Iterator[World]:
    client = redis.connect(redis_url)
    with closing(client):
        artifacts, routes, embeddings = FilesystemArtifacts(tmp_path), RedisRoutes(client), RedisEmbeddings(client)
        live = LiveVersions(routes, artifacts, embeddings, poll_seconds=0.0)
        yield World(client, artifacts, routes, embeddings, live)


def test_without_a_route_nothing_is_live(world: World) -> None:
    assert world.ask() == []


def test_stable_and_canary_are_live_stable_first(world: World) -> None:
    world.publish(V1, V2)
    assert world.route(V1) == [V1]
    assert world.route(V1, V2) == [V1, V2]
    assert world.route(V2) == [V2]


def test_a_version_stays_loaded_while_the_route_names_it(world: World) -> None:
    world.publish(V1, V2)
    world.route(V1)
    (loaded,) = world.live.of(MOVIES)
    flip_one_byte(world.artifacts.path(MOVIES, V1) / "factors.safetensors")
    world.route(V1, V2)
    assert world.live.of(MOVIES)[0] is loaded


def test_between_two_polls_redis_is_not_asked(world: World) -> None:
    world.publish(V1, V2)
    patient = LiveVersions(world.routes, world.artifacts, world.embeddings, poll_seconds=3_600.0)
    world.route(V1)
    assert [version.version for version in patient.of(MOVIES)] == [V1]
    assert world.route(V2) == [V2]
    assert [version.version for version in patient.of(MOVIES)] == [V1]


def test_two_threads_that_ask_at_once_get_the_same_version(world: World) -> None:
    """One that was loaded a second time would go on from what Redis held before the other had learned."""
    world.publish(V1)
    world.route(V1)
    for _ in range(20):
        fresh = LiveVersions(world.routes, world.artifacts, world.embeddings, poll_seconds=0.0)
        together = Barrier(2)

        def ask(live: LiveVersions = fresh, together: Barrier = together) -> LiveVersion:
            together.wait()
            return live.of(MOVIES)[0]

        with ThreadPoolExecutor(2) as pool:
            one, other = pool.submit(ask), pool.submit(ask)
            assert one.result() is other.result()


@pytest.mark.parametrize("name", ["factors.safetensors", "items.json", "manifest.json"])
def test_a_corrupt_artifact_is_refused_once_and_the_other_version_goes_on(
    world: World, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    world.publish(V1, V2)
    flip_one_byte(world.artifacts.path(MOVIES, V2) / name)
    caplog.set_level(logging.ERROR)
    assert world.route(V1, V2) == [V1]
    assert world.ask() == world.ask() == [V1]
    (message,) = caplog.messages
    assert message.startswith(f"version_refused model={MOVIES} version=v2 reason=")
    assert world.route(V1) == [V1]


def test_an_artifact_that_is_not_there_is_refused_and_the_flow_goes_on(world: World) -> None:
    assert world.route(V4) == []
    world.publish(V1)
    assert world.route(V1) == [V1]


def test_the_last_version_that_left_keeps_its_keys_for_a_rollback_and_the_one_before_loses_them(world: World) -> None:
    world.publish(V1, V2, V3, V4)
    world.route(V1)
    world.give_keys(V1, V2, V3, V4)
    world.route(V2)
    assert world.versions_with_keys() == {V1, V2, V3, V4}
    world.route(V3)
    assert world.versions_with_keys() == {V2, V3, V4}
    assert world.route(V2) == [V2]  # rolled back: what it had is still there
    assert moved_by(world.live.of(MOVIES)[0]) == {"new"}
    world.route(V4)
    assert {V2, V4} <= world.versions_with_keys()
    assert world.client.exists(keys.history(MOVIES, "u"))


def test_a_version_that_is_live_again_never_loses_its_keys(world: World) -> None:
    world.publish(V1, V2, V3)
    world.route(V1)
    world.give_keys(V1, V2, V3)
    world.route(V2)
    world.route(V1)
    world.route(V1, V3)
    world.route(V3)
    assert {V1, V3} <= world.versions_with_keys()


def learned() -> Blend:
    """A blend that has learned something."""
    blend = Blend.begin()
    blend.weights += 1
    blend.tried += 7
    return blend


def moved_by(version: LiveVersion) -> set[str]:
    """Items that a version at work begins with elsewhere than training left them."""
    begun = version.learner(Sources())
    return set(decode_item_vectors(begun.encode_moved())[0])


def test_a_loaded_version_goes_on_with_its_moved_items_and_its_blend(world: World) -> None:
    world.publish(V1)
    world.give_keys(V1)
    world.route(V1)
    (version,) = world.live.of(MOVIES)
    other = Blend.begin()
    sources = Sources()
    begun = version.learner(sources, like=other)
    (new,) = sources.rows_of(["new"]).tolist()
    assert (begun.vectors[new].tolist(), begun.weights[new]) == ([1.0] * FACTORS, 2.5)
    assert begun.blend.encode() == learned().encode()


def test_a_version_new_to_the_stream_begins_where_training_left_it_and_believes_like_another(world: World) -> None:
    world.publish(V1)
    world.route(V1)
    (version,) = world.live.of(MOVIES)
    made, sources, other = small_model(1), Sources(), learned()
    sources.rows_of(["met before", *made.items[:3]])
    begun = version.learner(sources, like=other)
    rows = sources.rows_of(list(made.items))
    np.testing.assert_array_equal(begun.vectors[rows], made.item_factors)
    np.testing.assert_array_equal(begun.weights[rows], made.item_weights)
    assert (begun.weights[0], moved_by(version)) == (0.0, set())
    assert begun.blend.encode() == other.encode()
    begun.blend.weights += 1
    assert other.encode() == learned().encode()  # each learns for itself from then on
    assert version.learner(sources).blend.encode() == Blend.begin().encode()


def test_a_version_with_vectors_of_another_length_is_refused_and_the_flow_goes_on(world: World) -> None:
    world.publish(V1)
    longer = VersionUpdate(V1, items={ItemId("new"): MovedItem(1, 2.5, np.ones(FACTORS + 1, np.float32))})
    world.embeddings.apply(EmbeddingUpdate(MOVIES, "run", "log", 1, {}, [longer], {}, []))
    world.route(V1)
    assert world.live.of(MOVIES) == []


def test_a_model_without_a_champion_has_no_reference(postgres: str) -> None:
    with closing(Database(postgres)) as database:
        registry = PostgresRegistry(database)
        registry.register(manifest(registry.new_version()), "0" * 64, "test")
        assert Champions(registry, 0.0).reference(MOVIES) is None


def test_the_champion_s_sketches_are_the_reference_until_another_version_is_champion(
    fresh_stores: Endpoints, tmp_path: Path
) -> None:
    spec = DEFAULT_FEATURES[0]
    with closing(Database(fresh_stores.postgres_dsn)) as database:
        registry, rollouts = PostgresRegistry(database), PostgresRollouts(database)
        champions, patient = Champions(registry, 0.0), Champions(registry, 3_600.0)
        assert champions.reference(MOVIES) is patient.reference(MOVIES) is None
        sketch = FeatureSketch(spec, list(range(spec.bins + 3)))
        version = registry.new_version()
        registry.register(msgspec.structs.replace(manifest(version), sketches=[sketch]), "0" * 64, "test")
        assert champions.reference(MOVIES) is None
        rollouts.adopt(MOVIES, version, "test")
        found = champions.reference(MOVIES)
        assert found is not None
        assert (found.version, found.sketches) == (version, (sketch,))
        assert champions.reference(MOVIES) is found
        assert patient.reference(MOVIES) is None
        publish(FilesystemArtifacts(tmp_path), registry, MOVIES, small_model(1))
        assert champions.reference(MOVIES) is found


def test_what_is_known_of_the_champion_comes_with_its_reference(fresh_stores: Endpoints) -> None:
    with closing(Database(fresh_stores.postgres_dsn)) as database:
        registry, rollouts = PostgresRegistry(database), PostgresRollouts(database)
        version = registry.new_version()
        registry.register(msgspec.structs.replace(manifest(version), start="warm"), "0" * 64, "test")
        rollouts.adopt(MOVIES, version, "test")
        found = Champions(registry, 0.0).reference(MOVIES)
        assert found is not None
        assert found.champion == Champion(version, cold=False, trained_until_ms=1)


def test_a_version_reads_texts_by_the_text_model_in_its_artifact(world: World) -> None:
    made = small_model(1)
    model = TextModel.of(["the red house", "the car"])
    world.artifacts.write(made.manifest(MOVIES, V1, [0, 2]), made.files() | {TEXT_MODEL_FILE: model.encode()})
    world.publish(V2)
    world.route(V1, V2)
    with_text, without = world.live.of(MOVIES)
    assert with_text.surprise is not None
    assert with_text.surprise.model.encode() == model.encode()
    assert without.surprise is None


def test_a_version_whose_text_model_is_none_is_refused(world: World) -> None:
    made = small_model(1)
    world.artifacts.write(
        made.manifest(MOVIES, V1, [0, 2]), made.files() | {TEXT_MODEL_FILE: made.files()["factors.safetensors"]}
    )
    assert world.route(V1) == []


def test_sketches_may_be_compared_only_under_one_declaration() -> None:
    spec = DEFAULT_FEATURES[0]
    assert same_declaration(spec, msgspec.structs.replace(spec))
    assert not same_declaration(spec, msgspec.structs.replace(spec, high=spec.high + 1))
