"""A synthetic service to load: a published version of N items, what a stream has taught of them, and users whom Redis knows.

- Items and users lie around seeded tastes with a decaying spectrum, and users meet items of their taste: an index has neighbours
  to find, and can miss them.
- The version stands in both arms of the route, so that every request works out its variant and one version is in memory.
- All is written by the stores of the stream job and the trainers, as they write it.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from online_models import als, history
from online_models.blend import Blend
from online_models.contracts.artifacts import DataWindow, GoldenQuery, Manifest
from online_models.contracts.events import Item
from online_models.contracts.features import DEFAULT_FEATURES, spec_hash
from online_models.contracts.ids import ItemId, ModelName, ModelVersion, UserId, hash64
from online_models.contracts.rollouts import FULL_WEIGHT_BP, Route
from online_models.history import ENTRY, SEEN, UserHistory
from online_models.learner import FoldIns, Trained, encode_item_vectors
from online_models.ports import EmbeddingUpdate, Published, UserState, Vector, VersionUpdate
from online_models.settings import StoreSettings
from online_models.sources import Sources, Steps
from online_models.stores import postgres, redis
from online_models.stores.embedded import Endpoints
from online_models.stores.filesystem import FilesystemArtifacts
from online_models.stores.postgres_interactions import PostgresInteractions
from online_models.stores.postgres_registry import PostgresRegistry
from online_models.stores.redis import RedisEmbeddings, RedisRoutes

DOMAIN: Final = ModelName("movies")
TASTES: Final = 64
HOW: Final = als.FoldIn(alpha=10.0, regularization=0.05, half_life_events=10.0)
POPULAR: Final = 200
FILL_USERS: Final = 1_000
HOUR_MS: Final = 3_600_000

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class World:
    """item_factors : float32 (items, k)
    met : int64 (users, m), the rows of the items that each user has met, oldest first
    """

    item_factors: Vector
    met: Rows

    @property
    def item_ids(self) -> list[str]:
        """Item ids in row order."""
        return [f"i{row}" for row in range(len(self.item_factors))]

    @property
    def users(self) -> int:
        """How many there are."""
        return len(self.met)


@dataclass(frozen=True, slots=True)
class Known:
    """What the stream knows: of its users, in their order, and of all items."""

    states: list[UserState]
    published: Published


def drawn(items: int, users: int, k: int, met: int, seed: int) -> World:
    """A world of that many items and users, vectors of length k and histories of `met` items."""
    rng = np.random.default_rng(seed)
    spectrum = np.linspace(2.0, 0.2, k, dtype=np.float32)
    tastes = rng.normal(size=(TASTES, k)).astype(np.float32) * spectrum
    taste = rng.integers(0, TASTES, items)
    factors = tastes[taste] + rng.normal(size=(items, k)).astype(np.float32) * spectrum / 2
    factors /= np.linalg.norm(factors, axis=1, keepdims=True)
    # Items in order of their taste: each taste's are a run of them.
    by_taste = np.argsort(taste, kind="stable")
    many = np.bincount(taste, minlength=TASTES)
    starts = np.cumsum(many) - many
    of_user = rng.choice(taste, users)[:, np.newaxis]
    # Of a taste's items the first are met most.
    place = (rng.random((users, met)) ** 2 * many[of_user]).astype(np.int64)
    return World(np.ascontiguousarray(factors, np.float32), by_taste[starts[of_user] + place])


def publish(world: World, settings: StoreSettings, endpoints: Endpoints) -> ModelVersion:
    """Write and register the version, its titles and its route."""
    ids = world.item_ids
    with closing(postgres.connect(endpoints.postgres_dsn)) as database:
        registry = PostgresRegistry(database)
        version = registry.new_version()
        manifest, files = _manifest(world, ids, version), _files(world, ids)
        written, sha256 = FilesystemArtifacts(settings.artifacts).write(manifest, files)
        registry.register(written, sha256, "benchmark")
        titles = [Item(item, DOMAIN, f"Title of {item}", ["Drama", "Comedy"]) for item in ids]
        PostgresInteractions(database).put_items(titles)
    with closing(redis.connect(endpoints.redis_url)) as client:
        route = Route(1, version, version, FULL_WEIGHT_BP // 2, "salt", rollout_id=1, stage=2)
        RedisRoutes(client).put_route(DOMAIN, route)
    return version


def known(world: World, version: ModelVersion) -> Known:
    """What the stream job has learned when it has seen what the users met, one event an hour."""
    ids = world.item_ids
    hashes = np.fromiter(map(hash64, ids), np.uint64, len(ids))
    histories = [_history(hashes[met]) for met in world.met]
    vectors = _fold_ins(world, ids).of_histories(histories).reshape(world.users, -1)
    sources = Sources()
    sources.rows_of(ids)
    sources.learn(steps_of(world.met))
    moved = encode_item_vectors(ids[:POPULAR], world.item_factors[:POPULAR])
    published = Published(1, sources.encode(), {version: moved}, {version: Blend.begin().encode()})
    return Known([UserState(*pair) for pair in zip(vectors, histories, strict=True)], published)


def fill(stream: Known, version: ModelVersion, endpoints: Endpoints, popular: list[str]) -> None:
    """Write what the stream knows to Redis."""
    with closing(redis.connect(endpoints.redis_url)) as client:
        store = RedisEmbeddings(client)
        for position, users in enumerate(_batches(len(stream.states))):
            states = {user_id(user): stream.states[user] for user in users}
            vectors = {user: (1, state.vector) for user, state in states.items() if state.vector is not None}
            first = position == 0
            store.apply(
                EmbeddingUpdate(
                    model=DOMAIN,
                    run_id="benchmark",
                    source="log",
                    position=position,
                    histories={user: state.history for user, state in states.items()},
                    versions=[
                        VersionUpdate(
                            version,
                            vectors,
                            blend=stream.published.blends[version] if first else None,
                            item_vectors=stream.published.item_vectors[version] if first else None,
                        )
                    ],
                    popularity={},
                    popular=[ItemId(item) for item in popular],
                    number=stream.published.number,
                    sources=stream.published.sources if first else None,
                )
            )


def user_id(user: int) -> UserId:
    """The id of a user, as the load asks for it."""
    return UserId(f"u{user}")


def steps_of(met: Rows) -> Steps:
    """The events (users, m) one user after the other, each with what its user had met before.

    >>> steps = steps_of(np.array([[7, 8, 9]]))
    >>> steps.item.tolist(), steps.context.tolist(), steps.ptr.tolist()
    ([7, 8, 9], [7, 7, 8], [0, 0, 1, 3])
    """
    users, m = met.shape
    before = np.tril(np.ones((m, m), np.bool_), -1)
    context = np.broadcast_to(met[:, np.newaxis, :], (users, m, m))[:, before]
    ptr = np.concatenate([[0], np.cumsum(np.tile(np.arange(m), users))])
    ts_ms = np.tile(np.arange(1, m + 1) * HOUR_MS, users)
    return Steps(met.reshape(-1), ts_ms, context.astype(np.int32).reshape(-1), ptr)


def _batches(users: int) -> Iterator[range]:
    for start in range(0, users, FILL_USERS):
        yield range(start, min(start + FILL_USERS, users))


def _history(hashes: npt.NDArray[np.uint64]) -> UserHistory:
    recent = np.zeros(len(hashes), ENTRY)
    recent["ts_ms"] = np.arange(1, len(hashes) + 1) * HOUR_MS
    recent["event"] = np.arange(len(hashes))
    recent["item"] = hashes
    recent["strength"] = 1.0
    return history.merge(history.EMPTY, recent, recent[["ts_ms", "item"]].astype(SEEN))


def _fold_ins(world: World, ids: list[str]) -> FoldIns:
    gramian = als.gramian(world.item_factors)
    weights = np.ones(len(ids))
    return FoldIns(Trained(ids, world.item_factors, weights, gramian, gramian, world.users, HOW))


def _files(world: World, ids: list[str]) -> dict[str, bytes]:
    # Few users are trained; they are what an index measures its recall on.
    users = world.item_factors[world.met[:POPULAR]].mean(axis=1)
    tensors = {
        "item_factors": world.item_factors,
        "user_factors": users,
        "item_gramian": als.gramian(world.item_factors),
        "user_gramian": als.gramian(users),
    }
    return {
        "factors.safetensors": save(tensors),
        "items.json": msgspec.json.encode(ids),
        "users.json": msgspec.json.encode([f"trained {user}" for user in range(len(users))]),
        "popular.json": msgspec.json.encode(ids[:POPULAR]),
    }


def _manifest(world: World, ids: list[str], version: ModelVersion) -> Manifest:
    asked = np.array([0, 1])
    hashes = np.array([hash64(ids[row]) for row in asked.tolist()], np.uint64)
    gramian = als.gramian(world.item_factors)
    vector = als.fold_in_history(_history(hashes), als.ItemIndex.of(ids), world.item_factors, gramian, HOW)
    expected = als.top_k(world.item_factors @ vector, 3, asked)
    return Manifest(
        model=DOMAIN,
        version=version,
        kind="als",
        created_at="2026-01-01T00:00:00+00:00",
        files=[],
        hyperparameters={
            "factors": float(world.item_factors.shape[1]),
            "alpha": HOW.alpha,
            "regularization": HOW.regularization,
            "recency_half_life_events": HOW.half_life_events,
        },
        metrics={},
        data_window=DataWindow(0, 1, 1),
        sketches=[],
        feature_spec_hash=spec_hash(DEFAULT_FEATURES),
        golden=[GoldenQuery(asked.tolist(), expected.tolist())],
    )
