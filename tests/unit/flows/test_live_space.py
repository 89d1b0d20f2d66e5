"""Embedding features of a batch: places in the stable version's space, on real Redis and a real artifact."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from flows.combine import Combine, Plans, text_tag
from flows.live import LiveVersions
from flows.live_space import LiveSpace
from flows.settings import FlowSettings
from online_models.contracts.events import EventType
from online_models.contracts.features import FeatureKind, FeatureSpec
from online_models.contracts.ids import ModelName, ModelVersion, UserId, hash64
from online_models.contracts.rollouts import Route
from online_models.embedding_space import Axes, coordinates
from online_models.history import EMPTY, ENTRY, SEEN, UserHistory, merge
from online_models.ports import EmbeddingUpdate
from online_models.stores import redis
from online_models.stores.filesystem import FilesystemArtifacts
from online_models.stores.redis import RedisEmbeddings, RedisRoutes
from online_models.text import TEXT_MODEL_FILE, TextModel
from tests.artifacts import SmallModel, small_model
from tests.samples import MOVIES, batch, event
from tests.unit.flows.test_combine import admitted

V1 = ModelVersion("v1")
EVENTS = [event(1, item_id="i0", user_id="known"), event(2, item_id="new", user_id="stranger"), event(3, item_id="i3")]


TEXTS = TextModel.of(["red house", "red car"])


def watched(items: list[str]) -> UserHistory:
    recent = np.zeros(len(items), ENTRY)
    recent["event"] = np.arange(len(items))
    recent["item"] = [hash64(item) for item in items]
    recent["strength"] = 1.0
    return merge(EMPTY, recent, np.empty(0, SEEN))


@pytest.fixture
def space(redis_url: str, tmp_path: Path) -> Iterator[tuple[LiveSpace, SmallModel]]:
    """A space whose stable version is v1, and a user with a history."""
    client = redis.connect(redis_url)
    with closing(client):
        artifacts, routes, embeddings = FilesystemArtifacts(tmp_path), RedisRoutes(client), RedisEmbeddings(client)
        model = small_model(1)
        artifacts.write(model.manifest(MOVIES, V1, [0, 2]), model.files() | {TEXT_MODEL_FILE: TEXTS.encode()})
        routes.put_route(MOVIES, Route(1, V1, None))
        histories = {UserId("known"): watched(["i0", "i2"])}
        embeddings.apply(EmbeddingUpdate(MOVIES, "run", "log", 1, histories, [], {}, []))
        yield LiveSpace(LiveVersions(routes, artifacts, embeddings, 0.0), embeddings), model


def test_items_and_users_that_the_version_knows_are_placed(space: tuple[LiveSpace, SmallModel]) -> None:
    placed = space[0].place(MOVIES, batch(EVENTS))
    assert placed is not None
    version, sampled, columns = placed
    assert sampled.all()
    model = space[1]
    axes = Axes.of(model.item_factors, model.item_factors)
    expected = coordinates(model.item_factors[[0, 3]], axes)[:, 1]
    second = columns.column("embedding.item.1")
    assert version == V1
    assert second.number_rows is not None
    assert second.number_rows.tolist() == [0, 2]  # not the item that is newer than the version
    assert np.allclose(second.numbers, expected)
    user = columns.column("embedding.user.0")
    assert user.number_rows is not None
    assert user.number_rows.tolist() == [0]  # not the user without a history
    vector = model.vector([0, 2])[None]
    assert np.allclose(user.numbers, coordinates(vector, Axes.of(model.item_factors, model.user_factors))[:, 0])


def test_without_a_live_version_nothing_is_placed(space: tuple[LiveSpace, SmallModel]) -> None:
    assert space[0].place(ModelName("products"), batch(EVENTS)) is None


def test_embedding_features_are_sketched_under_their_version(space: tuple[LiveSpace, SmallModel]) -> None:
    types = (EventType.RATING,)
    settings = FlowSettings(
        features=(
            FeatureSpec("stars", FeatureKind.NUMERIC, "value", types),
            FeatureSpec("item_0", FeatureKind.NUMERIC, "embedding.item.0", types, -6.0, 6.0),
        )
    )
    plans = Plans(settings)
    (pane,) = Combine(settings, plans, space[0])(admitted(EVENTS)).panes.values()
    assert set(pane.sketches) == {("movies", ""), ("movies", V1)}
    state = plans.of("movies", V1).state(pane.sketches["movies", V1], "item_0")
    assert (state.events, state.missing) == (3, 1)


def test_texts_of_all_events_are_sketched_under_the_text_model_of_the_version(
    space: tuple[LiveSpace, SmallModel],
) -> None:
    types = (EventType.RATING,)
    settings = FlowSettings(
        features=(
            FeatureSpec("stars", FeatureKind.NUMERIC, "value", types),
            FeatureSpec("nll", FeatureKind.NUMERIC, "nll:features.title", types, 0.0, 16.0, component="llm"),
            FeatureSpec("item_0", FeatureKind.NUMERIC, "embedding.item.0", types, -6.0, 6.0),
        )
    )
    plans = Plans(settings)
    events = [event(n, item_id="i0", features={"title": title}) for n, title in enumerate(["red car", "blue", "?"])]
    (pane,) = Combine(settings, plans, space[0])(admitted(events)).panes.values()
    assert set(pane.sketches) == {("movies", ""), ("movies", V1), ("movies", text_tag(V1))}
    layout = plans.of("movies", text_tag(V1))
    assert [spec.name for spec in layout.specs] == ["nll"]
    state = layout.state(pane.sketches["movies", text_tag(V1)], "nll")
    assert (state.events, state.missing) == (3, 1)
    assert state.mean == pytest.approx(TEXTS.nll(["red car", "blue"]).mean(), abs=1e-3)


def test_without_a_text_model_texts_are_not_read(redis_url: str, tmp_path: Path) -> None:
    with closing(redis.connect(redis_url)) as client:
        artifacts, routes, embeddings = FilesystemArtifacts(tmp_path), RedisRoutes(client), RedisEmbeddings(client)
        model = small_model(1)
        artifacts.write(model.manifest(MOVIES, V1, [0, 2]), model.files())
        routes.put_route(MOVIES, Route(1, V1, None))
        live = LiveSpace(LiveVersions(routes, artifacts, embeddings, 0.0), embeddings)
        assert live.place(MOVIES, batch(EVENTS)) is not None
        assert live.read(MOVIES, batch(EVENTS)) is None
        assert live.read(ModelName("products"), batch(EVENTS)) is None
