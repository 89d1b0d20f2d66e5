"""Views of a publication rank as the stream job would; what is torn changes nothing; cold items stand near their like."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online_models.blend import Blend
from online_models.contracts.events import Item
from online_models.contracts.ids import ModelVersion
from online_models.errors import StoreError
from online_models.learner import VersionLearner
from serving_api.views import REST_SHARE
from tests.drawn_learner import K, drawn_asked, drawn_learner, drawn_trained
from tests.serving_views import V1, V2, facts_of, history_of, loaded_of, published_of, views_over

F32 = npt.NDArray[np.float32]

SEEDS = st.integers(0, 2**32 - 1)
NONE = np.empty(0, np.int64)


def learner_of(seed: int, *, tower: bool = False) -> VersionLearner:
    learner = drawn_learner(np.random.default_rng(seed), tower=tower)
    rng = np.random.default_rng(seed + 1)
    for _ in range(5):
        asked = drawn_asked(rng, learner)
        asked.choose(learner, rng.integers(0, len(learner.sources.items), 1))
    return learner


@given(SEEDS, st.booleans(), st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_a_publication_ranks_as_the_stream_job_would(seed: int, tower: bool, count: int) -> None:
    learner = learner_of(seed, tower=tower)
    loaded = loaded_of(drawn_trained(np.random.default_rng(seed), tower=tower))
    view = views_over({V1: loaded}, published_of(1, {V1: learner})).built[V1]
    assert view.sources.items.ids == learner.sources.items.ids
    asked = replace(drawn_asked(np.random.default_rng(seed + 2), learner), ts_ms=learner.sources.popularity.newest_ms)
    _, scores = asked.rank(learner, count)
    everything = replace(asked, excluded=NONE)
    score_of = dict(zip(*(column.tolist() for column in everything.rank(learner, 100)), strict=True))
    vectors = np.ascontiguousarray(asked.queries[:2])
    found = view.best(asked.context, asked.events, vectors, asked.excluded, count, asked.tower)
    assert found.scores == pytest.approx(scores, rel=1e-4, abs=1e-3)
    assert [score_of[row] for row in found.rows.tolist()] == pytest.approx(scores, rel=1e-4, abs=1e-3)
    assert not {*found.rows.tolist()} & {*asked.excluded.tolist()}


@given(SEEDS, st.integers(0, 12))
@settings(max_examples=20, deadline=None)
def test_the_vectors_of_a_user_are_those_that_the_stream_job_would_ask_by(seed: int, events: int) -> None:
    learner = learner_of(seed, tower=True)
    loaded = loaded_of(drawn_trained(np.random.default_rng(seed), tower=True))
    rows = np.random.default_rng(seed + 3).integers(0, 16, events).tolist()
    known = history_of([f"item-{row}" for row in rows])
    queries = learner.fold_ins.queries(known.recent, np.array([len(known.recent)]))[0]
    assert np.array_equal(loaded.fold_ins.of_histories([known])[0], queries[:2])
    ours, theirs = (of.tower_query(known.recent) for of in (loaded.fold_ins, learner.fold_ins))
    assert ours is not None
    assert theirs is not None
    assert ours.tobytes() == theirs.tobytes()
    assert ours.dtype == np.float32


def test_before_the_first_publication_the_trained_items_are_known_and_nothing_else() -> None:
    trained = drawn_trained(np.random.default_rng(1))
    view = views_over({V1: loaded_of(trained)}).built[V1]
    assert view.sources.items.ids == trained.ids
    assert view.vectors.tolist() == trained.factors.tolist()
    assert np.isfinite(view.bases).all()


def test_versions_of_one_publication_share_their_sources_and_keep_their_blends_and_vectors() -> None:
    learner = learner_of(1)
    other = VersionLearner(drawn_trained(np.random.default_rng(2)), learner.sources)
    other.blend.weights[:] = 7
    loaded = {version: loaded_of(drawn_trained(np.random.default_rng(n)), version) for n, version in ((1, V1), (2, V2))}
    built = views_over(loaded, published_of(1, {V1: learner, V2: other})).built
    assert built[V1].sources is built[V2].sources
    assert built[V1].vectors[: len(learner.vectors)].tolist() == learner.vectors.tolist()
    assert (built[V2].weights == 7).all()
    assert built[V1].weights[3].tolist() == learner.blend.of(20).tolist()
    assert built[V1].scratch.follows is not built[V2].scratch.follows


def test_a_version_that_is_loaded_later_ranks_by_what_was_published_already() -> None:
    learner = learner_of(1)
    loaded = {version: loaded_of(drawn_trained(np.random.default_rng(1)), version) for version in (V1, V2)}
    views = views_over({V1: loaded[V1]}, published_of(1, {V1: learner}))
    later = views.with_versions(loaded)
    assert later.built[V2].sources.encode() == later.built[V1].sources.encode() == views.built[V1].sources.encode()
    # the blend of the one that has learned is believed until its own is there
    assert later.built[V2].weights.tolist() == views.built[V1].weights.tolist()
    assert later.built[V2].vectors[:12].tolist() == loaded[V2].item_factors.tolist()


def test_a_torn_publication_is_refused_and_what_was_known_stays() -> None:
    learner = learner_of(1)
    loaded = {V1: loaded_of(drawn_trained(np.random.default_rng(1)))}
    views = views_over(loaded, published_of(1, {V1: learner}))
    good, built = published_of(2, {V1: learner}), views.built
    assert good.sources is not None
    for torn in (
        replace(good, sources=good.sources[:-9]),
        replace(good, sources=b""),
    ):
        with pytest.raises(StoreError):
            views.with_publication(torn)
    assert views.built is built
    assert views.published.number == 1


def test_what_is_torn_of_one_version_costs_the_others_nothing() -> None:
    learner, younger = learner_of(1), learner_of(2)
    loaded = {version: loaded_of(drawn_trained(np.random.default_rng(n)), version) for n, version in ((1, V1), (2, V2))}
    whole = published_of(2, {V1: learner, V2: younger})
    torn = replace(
        whole,
        item_vectors={**whole.item_vectors, V2: whole.item_vectors[V2][:-3]},
        blends={**whole.blends, V2: b"torn"},
    )
    views = views_over(loaded, torn).with_segments({V2: b"torn"})
    expected = views_over({V1: loaded[V1]}, published_of(2, {V1: learner})).built[V1]
    assert views.built[V1].vectors.tolist() == expected.vectors.tolist()
    assert views.built[V1].weights.tolist() == expected.weights.tolist()
    assert not np.array_equal(expected.vectors[: len(loaded[V1].item_factors)], loaded[V1].item_factors)
    trained = views.built[V2].vectors[views.built[V2].indexed]
    assert trained.tolist() == loaded[V2].item_factors.tolist()  # nothing has moved
    assert views.torn.keys() == {("item_vectors", V2), ("blend", V2), ("segment_scores", V2)}
    assert not views.with_publication(whole).with_segments({}).torn


def test_a_torn_blend_costs_what_was_learned_and_nothing_else() -> None:
    learner = learner_of(1)
    published = replace(published_of(1, {V1: learner}), blends={V1: b"torn"})
    view = views_over({V1: loaded_of(drawn_trained(np.random.default_rng(1)))}, published).built[V1]
    assert view.weights[2].tolist() == Blend.begin().of(5).tolist()
    assert view.sources.items.ids == learner.sources.items.ids


def test_a_publication_is_due_when_it_is_another_or_lacks_a_version_and_the_views_have_rested() -> None:
    learner = learner_of(1)
    loaded = loaded_of(drawn_trained(np.random.default_rng(1)))
    empty = views_over({})
    assert not empty.is_due(1, 0.0)
    views = views_over({V1: loaded})
    assert not views.is_due(0, 0.0)
    assert views.is_due(1, 0.0)
    taken = views.with_publication(published_of(1, {V1: learner})).resting(now=12.0, took=2.0)
    assert taken.due_at == 12.0 + REST_SHARE * 2.0
    assert not taken.is_due(1, 1e9)
    assert not taken.is_due(2, taken.due_at - 1e-6)
    assert taken.is_due(2, taken.due_at)
    other = taken.with_versions({V1: loaded, V2: loaded})
    assert other.is_due(1, taken.due_at)
    asked = other.with_publication(published_of(1, {V1: learner}))
    assert not asked.is_due(1, taken.due_at)  # the stream has nothing of V2, and was asked


TITLES = ("Night of the Vampire (1970)", "The Vampire Returns (1971)", "Love in Paris (1999)", "Paris, my Love (2000)")


def like(number: int, title: str, category: str) -> Item:
    return Item(f"item-{number}", "movies", title, [category])


CATALOGUE = [
    *(like(n, f"{TITLES[n % 2]} part {n}", "Horror") for n in range(6)),
    *(like(n, f"{TITLES[2 + n % 2]} part {n}", "Romance") for n in range(6, 12)),
    Item("cold-horror", "movies", "Son of the Vampire (1972)", ["Horror"]),
    Item("cold-love", "movies", "Love, again, in Paris (2001)", ["Romance"]),
    Item("cold-other", "movies", "Xyzzy"),
]


def two_tastes() -> tuple[F32, F32]:
    """Factors of the catalogue's twelve known items, half along one axis and half along another, and the axes."""
    axes = np.eye(2, K, dtype=np.float32)
    noise = np.random.default_rng(3).normal(0, 0.05, (12, K)).astype(np.float32)
    return np.repeat(axes, 6, axis=0) + noise, axes


def test_cold_items_are_placed_by_content_and_rank_near_what_they_are_like() -> None:
    factors, axes = two_tastes()
    loaded = loaded_of(replace(drawn_trained(np.random.default_rng(1)), factors=factors))
    view = views_over({V1: loaded}, catalogue=CATALOGUE).built[V1]
    ids = view.sources.items.ids
    for wanted, unwanted, axis in (("cold-horror", "cold-love", 0), ("cold-love", "cold-horror", 1)):
        ranked = view.best(NONE, 30, np.array([axes[axis]] * 2), NONE, 14)
        order = [ids[row] for row in ranked.rows.tolist()]
        assert order.index(wanted) <= 6 < order.index(unwanted)
    assert "cold-other" not in ids  # like nothing


def test_a_cold_item_that_the_stream_has_moved_is_where_it_was_moved_to() -> None:
    learner = VersionLearner(drawn_trained(np.random.default_rng(1)), learner_of(1).sources)
    learner.sources.rows_of(["cold-horror"])
    row = int(learner.sources.rows_of(["cold-horror"])[0])
    learner.move_items(np.array([row]), np.ones(1, np.float32), np.ones((1, K), np.float32))
    loaded = loaded_of(drawn_trained(np.random.default_rng(1)))
    view = views_over({V1: loaded}, published_of(1, {V1: learner}), CATALOGUE).built[V1]
    assert view.vectors[row].tolist() == learner.vectors[row].tolist()


def test_cold_items_are_placed_anew_for_other_versions_and_catalogues_alone() -> None:
    learner = learner_of(1)
    loaded = loaded_of(drawn_trained(np.random.default_rng(1)))
    views = views_over({V1: loaded}, catalogue=CATALOGUE)
    assert views.placed[V1].keys() == {"cold-horror", "cold-love"}
    published = views.with_publication(published_of(1, {V1: learner}))
    assert published.placed[V1] is views.placed[V1]
    assert not published.with_facts(facts_of(CATALOGUE[:12])).placed[V1]
    assert not published.with_facts(facts_of([])).placed[V1]
    another = ModelVersion("v3")
    assert published.with_versions({another: loaded}).placed.keys() == {another}


def test_facts_stand_in_the_rows_of_the_views() -> None:
    catalogue = [Item("item-3", "movies", "", ["War"], price=2.5, min_age=12.0, available_ms=7)]
    view = views_over({V1: loaded_of(drawn_trained(np.random.default_rng(1)))}, catalogue=catalogue).built[V1]
    row = view.sources.items.ids.index("item-3")
    assert np.flatnonzero(view.facts.categories.any(axis=1)).tolist() == [row]
    assert (view.facts.price[row], view.facts.min_age[row], view.facts.available_ms[row]) == (2.5, 12.0, 7.0)
    assert len(view.facts.price) == len(view.vectors)
