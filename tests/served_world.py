"""A small world to serve: one version routed to, titles and categories, and what a stream has taught of users and items."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import redis

from online_models.blend import Blend
from online_models.contracts.events import Item
from online_models.contracts.ids import ModelName, ModelVersion, UserId
from online_models.contracts.rollouts import Route
from online_models.ports import EmbeddingUpdate, VersionUpdate
from online_models.settings import StoreSettings
from online_models.sources import Sources, Steps
from online_models.stores import postgres as postgres_store
from online_models.stores import redis as redis_store
from online_models.stores.embedded import Endpoints
from online_models.stores.filesystem import FilesystemArtifacts
from online_models.stores.postgres_interactions import PostgresInteractions
from online_models.stores.postgres_registry import PostgresRegistry
from online_models.stores.redis import RedisEmbeddings, RedisRoutes
from tests.api_process import store_settings
from tests.artifacts import SmallModel, publish, small_model
from tests.serving_views import history_of

MOVIES = ModelName("movies")
MADE = small_model(1)
COLD = Item("cold", "movies", "Title of i3 again", ["War"])
"""An item that the version and the stream do not know."""


@dataclass
class World:
    """`i0` to `i29` in two tastes, the first ten dramas, the next comedies, the rest westerns."""

    settings: StoreSettings
    client: redis.Redis
    version: ModelVersion
    interactions: PostgresInteractions
    made: SmallModel = field(default_factory=lambda: MADE)
    batches: int = 0

    def learn(self, user: str, met: Sequence[str], newest_ms: int = 1_000, *, vector: bool = False) -> None:
        """What the stream job writes after a user met items, one a millisecond."""
        self.batches += 1
        rows = [self.made.items.index(item) for item in met if item in self.made.items]
        both = np.tile(self.made.vector(rows), 2) if vector else None
        RedisEmbeddings(self.client).apply(
            EmbeddingUpdate(
                model=MOVIES,
                run_id="run",
                source="log",
                position=self.batches,
                histories={UserId(user): history_of(met, newest_ms)},
                versions=[VersionUpdate(self.version, {} if both is None else {UserId(user): (5, both)})],
                popularity={},
                popular=[],
            )
        )

    def publish_visits(self, visits: Sequence[Sequence[str]]) -> None:
        """What the stream job publishes after visits, each of which met some items within a minute."""
        self.batches += 1
        sources = Sources()
        for number, visit in enumerate(visits):
            rows = sources.rows_of(list(visit))
            context = [row for place in range(len(rows)) for row in rows[:place]]
            ptr = np.cumsum([0, *range(len(rows))])
            ts_ms = number * 86_400_000 + np.arange(len(rows)) * 1_000
            sources.learn(Steps(rows, ts_ms, np.array(context, np.int32), ptr))
        RedisEmbeddings(self.client).apply(
            EmbeddingUpdate(
                model=MOVIES,
                run_id="run",
                source="log",
                position=self.batches,
                histories={},
                versions=[VersionUpdate(self.version, blend=Blend.begin().encode())],
                popularity={},
                popular=[],
                number=self.batches,
                sources=sources.encode(),
            )
        )


@contextmanager
def served_world(stores: Endpoints, home: Path) -> Iterator[World]:
    with (
        closing(redis_store.connect(stores.redis_url)) as client,
        closing(postgres_store.connect(stores.postgres_dsn)) as database,
    ):
        settings = store_settings(stores, home)
        interactions = PostgresInteractions(database)
        genres = ["Drama", "Comedy", "Western"]
        items = [Item(item, "movies", f"Title of {item}", [genres[row // 10]]) for row, item in enumerate(MADE.items)]
        interactions.put_items([*items, COLD])
        version = publish(FilesystemArtifacts(settings.artifacts), PostgresRegistry(database), MOVIES, MADE)
        RedisRoutes(client).put_route(MOVIES, Route(epoch=1, stable=version))
        yield World(settings, client, version, interactions)
