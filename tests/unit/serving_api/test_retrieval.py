"""What a view ranks by equals plain sorting of the sum of its sources, with an index and without."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online_models.blend import BUCKETS, Blend, bucket_of
from online_models.contracts.ids import hashes_of
from online_models.evidence import FEATURES, QUERIES
from online_models.neighbours import CAPACITY, add_pair
from online_models.popularity import CLOCKS
from online_models.sources import Sources
from serving_api.index import ExactIndex
from serving_api.ranked_list import RankedList
from serving_api.retrieval import SERVED_NEIGHBOURS, Ranked, Rows, VersionView, served, views_of
from tests.drawn_learner import ITEMS, Asked, K, drawn_asked, drawn_learner, drawn_trained, names
from tests.oracles.blending import feature_row, plain_features, plain_neighbours
from tests.serving_views import V1, V2, blend_of, drawn_view, facts_of, loaded_of

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

SEEDS = st.integers(0, 2**32 - 1)
NOBODY = np.zeros((2, K), np.float32)
NONE = np.empty(0, np.int64)


def naive(view: VersionView, asked: Asked) -> dict[int, tuple[float, float, float]]:
    """Row -> what vectors, neighbours and popularity add, for everything that may be ranked."""
    bucket, sources = bucket_of(asked.events), view.sources
    weights = view.weights[bucket].astype(np.float64)
    near = plain_neighbours(asked.context.tolist(), sources.followers, sources.companions)
    shares = sources.popularity.shares(sources.popularity.newest_ms)
    found = {}
    for row in np.flatnonzero(view.bases[bucket] > -np.inf).tolist():
        told = feature_row(plain_features(row, view.vectors, asked.queries, shares, near)) * weights
        if asked.tower is not None and view.tower_vectors is not None:
            two_tower = QUERIES.index("two_tower")
            told[two_tower] = weights[two_tower] * (view.tower_vectors[row] @ asked.tower)
        if row not in asked.excluded.tolist():
            found[row] = (told[: len(QUERIES)].sum(), told[len(QUERIES) : -CLOCKS].sum(), told[-CLOCKS:].sum())
    return found


def best(view: VersionView, asked: Asked, count: int, raised: F32 | None = None) -> Ranked:
    vectors = np.ascontiguousarray(asked.queries[:2])
    return view.best(asked.context, asked.events, vectors, asked.excluded, count, asked.tower, raised)


def check(ranked: Ranked, parts: Mapping[int, tuple[float, float, float]], count: int) -> None:
    """Equal to plain sorting, up to the rounding of nearly equal scores."""
    plain = {row: sum(told) for row, told in parts.items()}
    expected = sorted(plain.values(), reverse=True)[:count]
    assert ranked.scores == pytest.approx(expected, rel=1e-3, abs=2e-3)
    assert [plain[row] for row in ranked.rows.tolist()] == pytest.approx(expected, rel=1e-3, abs=2e-3)
    assert len(set(ranked.rows.tolist())) == len(ranked.rows)
    for row, told in zip(ranked.rows.tolist(), ranked.parts.tolist(), strict=True):
        assert told == pytest.approx(parts[row], rel=1e-3, abs=5e-3)


@given(SEEDS, st.integers(1, 20), st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_best_items_are_those_of_plain_sorting_with_what_each_source_adds(
    seed: int, count: int, tower: bool, indexed: bool
) -> None:
    rng = np.random.default_rng(seed)
    view = drawn_view(rng, tower=tower, indexed=indexed)
    learner = drawn_learner(np.random.default_rng(seed), tower=tower)
    asked = drawn_asked(rng, learner)
    for _ in range(2):  # nothing of the first is left for the second
        check(best(view, asked, count), naive(view, asked), count)


@given(SEEDS, st.integers(1, 20), st.booleans())
@settings(max_examples=30, deadline=None)
def test_what_is_raised_is_added_to_each_score_and_counts_as_popularity(seed: int, count: int, indexed: bool) -> None:
    rng = np.random.default_rng(seed)
    view = drawn_view(rng, indexed=indexed)
    asked = drawn_asked(rng, drawn_learner(np.random.default_rng(seed)))
    raised = rng.choice([0, 1.5], len(view.vectors)).astype(np.float32)
    plain = {
        row: (vectors, near, popular + float(raised[row]))
        for row, (vectors, near, popular) in naive(view, asked).items()
    }
    check(best(view, asked, count, raised), plain, count)


@dataclass(frozen=True)
class NearestTwo:
    """An index that finds two items, whatever it is asked for."""

    whole: ExactIndex
    recall: float = 0.2

    def search(self, vector: F32, count: int) -> tuple[Rows, F32]:
        return self.whole.search(vector, min(count, 2))


def test_an_index_is_asked_and_the_popular_and_the_neighbours_are_looked_at_besides() -> None:
    view = drawn_view(np.random.default_rng(7))
    view = replace(view, loaded=replace(view.loaded, nearest=NearestTwo(ExactIndex(view.loaded.item_factors))))
    asked = replace(drawn_asked(np.random.default_rng(8), drawn_learner(np.random.default_rng(7))), excluded=NONE)
    alone = replace(view, popular=[np.array([row]) for row in (3, 4, 5, 6)])
    query = alone.query(np.ascontiguousarray(asked.queries[:2]), asked.events)
    nearest = np.argsort(-(view.loaded.item_factors @ query))[:2]
    near = plain_neighbours(asked.context.tolist(), view.sources.followers, view.sources.companions)
    some = {*view.indexed[nearest].tolist(), *alone.popular[bucket_of(asked.events)].tolist(), *near[0], *near[2]}
    plain = {row: told for row, told in naive(view, asked).items() if row in some}
    check(best(alone, asked, 20), plain, 20)
    stranger = replace(asked, context=NONE, excluded=NONE)
    assert len(best(alone, stranger, 20).rows) == len({*view.indexed[nearest].tolist(), 3 + bucket_of(asked.events)})


def test_only_the_weight_of_the_two_towers_gives_their_own_order() -> None:
    weights = np.zeros(len(FEATURES))
    weights[QUERIES.index("two_tower")] = 1.0
    trained = drawn_trained(np.random.default_rng(3), tower=True)
    assert trained.tower is not None
    view = views_of([loaded_of(trained)], Sources(), [blend_of(weights)], [{}], facts_of([]))[0]
    vector = trained.tower.vector(np.array([4, 1]))
    ranked = view.best(np.array([4, 1]), 2, NOBODY, NONE, ITEMS, trained.tower.query(vector))
    scores = trained.tower.scores(vector)
    assert ranked.rows.tolist() == np.argsort(-scores).tolist()
    assert ranked.scores == pytest.approx(np.sort(scores)[::-1], rel=1e-4, abs=1e-4)
    assert ranked.parts[:, 0] == pytest.approx(ranked.scores, rel=1e-4, abs=1e-4)
    assert ranked.parts[:, 1:] == pytest.approx(0, abs=1e-4)


def test_a_version_without_towers_ignores_what_one_asks_for() -> None:
    rng = np.random.default_rng(4)
    view = drawn_view(rng)
    asked = drawn_asked(rng, drawn_learner(np.random.default_rng(4)))
    with_tower = best(view, replace(asked, tower=np.ones(5, np.float32)), 9)
    without = best(view, asked, 9)
    assert [part.tobytes() for part in with_tower] == [part.tobytes() for part in without]


def test_versions_share_the_sources_and_each_knows_its_own_items_the_met_ones_and_the_moved_ones() -> None:
    rng = np.random.default_rng(5)
    one, other = drawn_trained(rng, 6, 3), drawn_trained(rng, 8, 4)
    other = replace(other, ids=names(range(4, 12)))
    sources = Sources()
    sources.rows_of(["met"])
    sources.popularity.grow(1)
    moved: dict[str, F32] = {"item-0": np.full(3, 7, np.float32), "new": np.full(3, 8, np.float32)}
    odd: dict[str, F32] = {
        "long": np.ones(5, np.float32),
        "torn": np.full(4, np.nan, np.float32),
        "table": np.ones((4, 1), np.float32),
    }
    first, second = views_of(
        [loaded_of(one, V1), loaded_of(other, V2)], sources, [Blend.begin()] * 2, [moved, odd], facts_of([])
    )
    assert first.sources is second.sources is sources
    ids = sources.items.ids
    assert ids == ["met", *names(range(12)), "new"]
    known = [{ids[row] for row in np.flatnonzero(view.bases[0] > -np.inf)} for view in (first, second)]
    assert known == [{*names(range(6)), "new"}, set(names(range(4, 12)))]
    assert first.vectors[ids.index("item-0")].tolist() == [7, 7, 7]
    assert first.vectors[ids.index("item-1")].tolist() == one.factors[1].tolist()
    assert second.vectors[ids.index("item-11")].tolist() == other.factors[7].tolist()
    assert not second.vectors[ids.index("new")].any()
    assert [ids[row] for row in second.indexed] == other.ids


def test_the_popular_of_a_bucket_are_its_best_by_popularity_alone() -> None:
    view = drawn_view(np.random.default_rng(6))
    for bucket, events in enumerate(BUCKETS):
        known = np.flatnonzero(view.bases[bucket] > -np.inf)
        order = known[np.argsort(-view.bases[bucket][known], kind="stable")]
        assert view.popular[bucket].tolist() == order.tolist()
        ranked = view.best(NONE, events, NOBODY, NONE, 5)
        assert ranked.rows.tolist() == order[:5].tolist()


def test_only_the_heaviest_neighbours_of_busy_items_are_served() -> None:
    sources = Sources()
    sources.rows_of(names(range(CAPACITY)))
    rng = np.random.default_rng(1)
    for table in (sources.followers, sources.companions):
        for neighbour in rng.permutation(np.arange(1, CAPACITY)).tolist():
            table.make_room(CAPACITY)
            add_pair(table.arrays, 0, neighbour, np.float32(neighbour / CAPACITY), np.float32(1e9))
    found = served(sources)
    for table, whole in ((found.followers, sources.followers), (found.companions, sources.companions)):
        rows, weights = table.of(0)
        assert rows == list(range(CAPACITY - 1, CAPACITY - 1 - SERVED_NEIGHBOURS, -1))
        assert dict(zip(rows, weights, strict=True)).items() <= dict(zip(*whole.of(0), strict=True)).items()
        assert table.arrays.mass.tolist() == whole.arrays.mass.tolist()
    assert len(sources.followers.of(0)[0]) == CAPACITY - 1
    assert found.items is sources.items


@given(st.lists(st.text(max_size=5), unique=True), st.lists(st.text(max_size=5)))
def test_a_ranked_list_leaves_out_what_was_seen_and_keeps_its_order(ids: list[str], seen: list[str]) -> None:
    assert RankedList.of(ids).unseen(hashes_of(seen)) == [item for item in ids if item not in seen]
