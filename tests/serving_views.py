"""Loaded versions, publications and user histories, as ranking meets them."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from online_models import als
from online_models.blend import BUCKETS, Blend
from online_models.contracts.events import Item
from online_models.contracts.ids import ModelVersion, hash64
from online_models.evidence import FEATURES
from online_models.history import EMPTY, ENTRY, SEEN, UserHistory, merge
from online_models.learner import FoldIns, Trained, VersionLearner
from online_models.ports import Published
from serving_api.facts import Facts
from serving_api.index import ExactIndex, Index
from serving_api.model_cache import LoadedVersion
from serving_api.ranked_list import RankedList
from serving_api.retrieval import VersionView, views_of
from serving_api.rules import Rule
from serving_api.views import Views
from tests.drawn_learner import drawn_learner, drawn_trained
from tests.samples import MOVIES, manifest

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

V1, V2 = ModelVersion("v1"), ModelVersion("v2")


def loaded_of(
    trained: Trained,
    version: ModelVersion = V1,
    users: Mapping[str, F32] | None = None,
    nearest: Index | None = None,
) -> LoadedVersion:
    """A version as the model cache holds it; users : id -> factor (k,)."""
    users = users or {}
    return LoadedVersion(
        manifest=manifest(version),
        manifest_sha256="",
        item_ids=list(trained.ids),
        index=als.ItemIndex.of(trained.ids),
        item_factors=trained.factors,
        item_gramian=trained.gramian,
        user_rows={user: row for row, user in enumerate(users)},
        user_factors=np.array([*users.values()], np.float32).reshape(len(users), trained.factors.shape[1]),
        popular=RankedList.of(list(reversed(trained.ids))),
        fold_in=trained.fold_in,
        fold_ins=FoldIns(trained),
        nearest=nearest,
        tower_vectors=None if trained.tower is None else trained.tower.search_vectors(),
    )


def published_of(number: int, learners: Mapping[ModelVersion, VersionLearner]) -> Published:
    """What the stream job publishes of versions over the same sources."""
    sources = next(iter(learners.values())).sources
    return Published(
        number,
        sources.encode(),
        {version: learner.encode_moved() for version, learner in learners.items()},
        {version: learner.blend.encode() for version, learner in learners.items()},
    )


def facts_of(catalogue: Sequence[Item], rules: Sequence[Rule] = ()) -> Facts:
    return Facts.of({item.item_id: item for item in catalogue}, rules, MOVIES)


def views_over(
    loaded: Mapping[ModelVersion, LoadedVersion],
    published: Published | None = None,
    catalogue: Sequence[Item] = (),
    rules: Sequence[Rule] = (),
) -> Views:
    """As a reader makes them, in its order: versions, publication, catalogue."""
    views = Views(MOVIES, facts_of([], rules)).with_versions(loaded)
    if published is not None:
        views = views.with_publication(published)
    return views.with_facts(facts_of(catalogue, rules)) if catalogue else views


def history_of(items: Sequence[str], last_ms: int = 1_000, strength: float = 1.0) -> UserHistory:
    """A user who met items one after the other, the last at `last_ms`; without strength they are seen and nothing more."""
    recent = np.zeros(len(items), ENTRY)
    recent["ts_ms"] = last_ms - np.arange(len(items))[::-1]
    recent["event"], recent["item"] = np.arange(1, len(items) + 1), [hash64(item) for item in items]
    recent["strength"] = strength
    return merge(EMPTY, recent[recent["strength"] > 0], recent[["ts_ms", "item"]].astype(SEEN))


def blend_of(weights: F64) -> Blend:
    """One that believes the same of everybody."""
    begin = Blend.begin()
    return Blend(np.tile(weights, (len(BUCKETS), 1)), begin.curvature, begin.steps, begin.tried)


def drawn_view(
    rng: np.random.Generator, *, tower: bool = False, indexed: bool = False, blend: Blend | None = None
) -> VersionView:
    """After some events, with a drawn blend unless one is given; of the last item of the sources nothing is known."""
    learner = drawn_learner(rng, tower=tower)
    trained = drawn_trained(rng, tower=tower)
    loaded = loaded_of(trained, nearest=ExactIndex(trained.factors) if indexed else None)
    moved = dict(zip(learner.sources.items.ids[:-1], learner.vectors, strict=False))
    blend = blend or blend_of(rng.normal(size=len(FEATURES)))
    return views_of([loaded], learner.sources, [blend], [moved], facts_of([]))[0]
