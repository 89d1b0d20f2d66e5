"""Online learners on a real Redis and real artifacts, for tests that stop them and start them again."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from flows.live import LiveVersions
from flows.online_learning import OnlineLearner
from online_models.contracts.ids import ModelVersion
from online_models.contracts.rollouts import Route
from online_models.stores import redis
from online_models.stores.filesystem import FilesystemArtifacts
from online_models.stores.redis import RedisEmbeddings, RedisRoutes
from tests.artifacts import SmallModel, small_model
from tests.samples import MOVIES

V1 = ModelVersion("v1")
MADE = small_model(5, items=20)
"""What is live as `v1`: items from `i20` on are newer."""

SECOND_DAYS = 1 / 86_400


@contextmanager
def learner(
    url: str, home: Path, run_id: str = "run", made: SmallModel = MADE, publish_seconds: float = 1e9
) -> Iterator[OnlineLearner]:
    """A learner of one model, live as `v1`; a new one goes on with what Redis holds. It publishes its first batch."""
    with closing(redis.connect(url)) as client:
        embeddings, routes, artifacts = RedisEmbeddings(client), RedisRoutes(client), FilesystemArtifacts(home)
        if not artifacts.path(MOVIES, V1).exists():
            artifacts.write(made.manifest(MOVIES, V1, [0, 2]), made.files())
        routes.put_route(MOVIES, Route(epoch=1, stable=V1))
        live = LiveVersions(routes, artifacts, embeddings, poll_seconds=1e9)
        yield OnlineLearner(MOVIES, run_id, embeddings, live, SECOND_DAYS, publish_seconds)


@contextmanager
def store_at(url: str) -> Iterator[RedisEmbeddings]:
    """What a Redis database holds."""
    with closing(redis.connect(url)) as client:
        yield RedisEmbeddings(client)


def emptied(url: str) -> str:
    """The URL of a Redis database that holds nothing any more."""
    with closing(redis.connect(url)) as client:
        client.flushdb()
    return url
