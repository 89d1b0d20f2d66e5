"""Features and scores against dictionaries and loops."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online_models.evidence import (
    ACCOMPANIED,
    EPSILON,
    FEATURES,
    FOLLOW_HALF_LIFE,
    QUERIES,
    SHRINKAGE,
    TOGETHER_HALF_LIFE,
    Scratch,
    add_nearby,
    add_products,
    blend_all,
    blend_some,
    clear,
    combined_query,
    features_of,
    gather,
    log2_plus,
    popularity_scores,
    scratch_for,
    strongest_neighbour,
)
from online_models.neighbours import CAPACITY, Neighbours, add_pair
from online_models.popularity import CLOCKS, LEAST_SHARE
from online_models.sources import Sources, Steps
from tests.oracles.blending import feature_row, plain_features, plain_neighbours

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

SEEDS = st.integers(0, 2**32 - 1)


@dataclass(frozen=True)
class World:
    """Items with neighbours, vectors and shares, and a user who asks.

    followers, companions : of all items; vectors : (items, k); queries : (QUERIES, k); shares : (CLOCKS, items)
    context : (n,), rows of recent items, some unknown; weights : (FEATURES,)
    """

    followers: Neighbours
    companions: Neighbours
    vectors: F32
    queries: F32
    shares: F32
    context: I64
    weights: F32

    def gathered(self) -> Scratch:
        scratch = scratch_for(len(self.vectors))
        gather(self.context, self.followers.arrays, self.companions.arrays, scratch)
        return scratch

    def plain(self) -> npt.NDArray[np.float64]:
        """Features (items, FEATURES) by the oracle."""
        near = plain_neighbours(self.context.tolist(), self.followers, self.companions)
        rows = range(len(self.vectors))
        return np.stack(
            [feature_row(plain_features(row, self.vectors, self.queries, self.shares, near)) for row in rows]
        )


def drawn_rows(rng: np.random.Generator, items: int, pairs: int, mass_limit: float) -> Neighbours:
    rows = Neighbours(mass_limit)
    rows.grow(items)
    for row, neighbour in rng.integers(0, items, (pairs, 2)).tolist():
        rows.make_room(CAPACITY)
        add_pair(rows.arrays, row, neighbour, np.float32(rng.choice([1, 0.5, 0.1])), rows.mass_limit)
    return rows


def drawn_world(rng: np.random.Generator, items: int, recent: int, pairs: int) -> World:
    """With a mass limit of 1.5 the older weights are halved to nothing."""
    k = int(rng.integers(1, 9))
    return World(
        followers=drawn_rows(rng, items, pairs, float(rng.choice([1.5, 300.0]))),
        companions=drawn_rows(rng, items, pairs, float(rng.choice([1.5, 600.0]))),
        vectors=rng.normal(size=(items, k)).astype(np.float32),
        queries=rng.normal(size=(len(QUERIES), k)).astype(np.float32),
        shares=rng.uniform(LEAST_SHARE, 0, (CLOCKS, items)).astype(np.float32),
        context=rng.integers(-1, items, recent),
        weights=rng.normal(size=len(FEATURES)).astype(np.float32),
    )


WORLDS = st.builds(
    lambda seed, *sizes: drawn_world(np.random.default_rng(seed), *sizes),
    SEEDS,
    st.integers(1, 15),
    st.integers(0, 45),
    st.sampled_from([0, 5, 100, 1_000]),
)


@given(WORLDS)
@settings(max_examples=40, deadline=None)
def test_neighbours_add_up_to_what_dictionaries_say(world: World) -> None:
    scratch = world.gathered()
    expected = plain_neighbours(world.context.tolist(), world.followers, world.companions)
    for sums, found in zip(expected, (scratch.follows, scratch.together, scratch.given), strict=True):
        wanted = [sums.get(item, 0.0) for item in range(len(world.vectors))]
        assert found.tolist() == pytest.approx(wanted, rel=1e-4, abs=1e-30)
    touched = scratch.touched[: scratch.held[0]].tolist()
    assert sorted(touched) == np.flatnonzero((scratch.follows > 0) | (scratch.given > 0)).tolist()


@given(WORLDS)
@settings(max_examples=40, deadline=None)
def test_scratch_is_all_zero_after_it_was_cleared(world: World) -> None:
    scratch = world.gathered()
    clear(scratch)
    assert not any(array.any() for array in (scratch.follows, scratch.together, scratch.given, scratch.held))
    again = world.gathered()
    gather(world.context, world.followers.arrays, world.companions.arrays, scratch)
    assert all(np.array_equal(getattr(scratch, name), getattr(again, name)) for name in Scratch._fields)


@given(WORLDS)
@settings(max_examples=40, deadline=None)
def test_features_are_those_of_plain_loops(world: World) -> None:
    rows = np.arange(len(world.vectors))[::-1].copy()
    features = np.full((len(rows), len(FEATURES)), np.nan, np.float32)
    features_of(rows, world.vectors, world.queries, world.shares, world.gathered(), features)
    assert features == pytest.approx(world.plain()[rows], rel=1e-4, abs=1e-4)


def all_scores(world: World, scratch: Scratch) -> F32:
    """As whoever ranks adds them up."""
    scores = np.full(len(world.vectors), np.nan, np.float32)
    popularity_scores(world.shares, world.weights, scores)
    add_products(world.vectors, combined_query(world.weights, world.queries), scores)
    add_nearby(world.weights, scratch, scores)
    return scores


@given(WORLDS)
@settings(max_examples=40, deadline=None)
def test_scores_are_the_weighed_features_of_every_item(world: World) -> None:
    found, expected = all_scores(world, world.gathered()), world.plain() @ world.weights.astype(np.float64)
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_the_latest_thirty_items_of_a_context_count_and_rules_start_from_the_latest_twenty() -> None:
    rows = Neighbours(300.0)
    rows.grow(40)
    for item in range(35):
        rows.make_room(CAPACITY)
        add_pair(rows.arrays, item, 39, np.float32(1), rows.mass_limit)
    none = Neighbours(300.0)
    none.grow(40)
    for followers, companions, name, latest in ((rows, none, "follows", 20), (none, rows, "given", 30)):
        found, only = scratch_for(40), scratch_for(40)
        gather(np.arange(35), followers.arrays, companions.arrays, found)
        gather(np.arange(35 - latest, 35), followers.arrays, companions.arrays, only)
        assert getattr(found, name)[39] == getattr(only, name)[39] > 0
        fewer = scratch_for(40)
        gather(np.arange(36 - latest, 35), followers.arrays, companions.arrays, fewer)
        assert getattr(fewer, name)[39] < getattr(found, name)[39]


def test_a_weight_that_was_halved_to_nothing_touches_no_item_however_often_it_is_met() -> None:
    rows = Neighbours(1.5)
    rows.grow(4)
    for neighbour in [1, *[2] * 400]:
        rows.make_room(CAPACITY)
        add_pair(rows.arrays, 0, neighbour, np.float32(1), rows.mass_limit)
    assert rows.of(0)[1][0] == 0
    scratch = scratch_for(4)
    gather(np.zeros(30, np.int64), rows.arrays, rows.arrays, scratch)
    assert scratch.touched[: scratch.held[0]].tolist() == [2]


def test_logarithms_are_right_to_a_millionth_from_nothing_to_the_largest_float() -> None:
    found = np.concatenate([[0.0], np.geomspace(1e-38, 1e33, 20_000), np.linspace(0, 1, 20_000)]).astype(np.float32)
    expected = np.log2(1 + found.astype(np.float64) / float(EPSILON))
    assert (np.abs(log2_plus(found) - expected) <= 2e-6 * np.maximum(1, expected)).all()
    assert log2_plus(found)[0] == 0
    largest = np.full(1, np.finfo(np.float32).max, np.float32)
    assert np.isfinite(log2_plus(largest)).all()


def base_of(world: World, barred: I64) -> F32:
    base = np.empty(len(world.vectors), np.float32)
    popularity_scores(world.shares, world.weights, base)
    base[barred] = -np.inf
    return base


@given(WORLDS, SEEDS, st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_the_best_of_all_are_those_of_naive_scores_with_what_each_source_adds(
    world: World, seed: int, count: int
) -> None:
    rng, items, scratch = np.random.default_rng(seed), len(world.vectors), scratch_for(len(world.vectors))
    excluded, barred = rng.integers(-1, items, 3), rng.integers(0, items, 2)
    base, query = base_of(world, barred), combined_query(world.weights, world.queries)
    tables = world.followers.arrays, world.companions.arrays
    rows, scores, told = blend_all(
        world.context, *tables, base, world.vectors, query, world.weights, excluded, count, scratch
    )
    naive = world.plain() @ world.weights.astype(np.float64)
    left_out = {*excluded.tolist(), *barred.tolist()}
    expected = sorted((naive[row] for row in range(items) if row not in left_out), reverse=True)[:count]
    assert scores == pytest.approx(expected, rel=1e-3, abs=1e-3)
    assert scores == pytest.approx(naive[rows], rel=1e-3, abs=1e-3)
    assert not left_out & set(rows.tolist())
    assert not any(array.any() for array in (scratch.follows, scratch.together, scratch.given, scratch.held))
    # by vectors, by neighbours, by popularity
    assert told.sum(axis=1) == pytest.approx(scores, rel=1e-4, abs=1e-4)
    assert told[:, 0] == pytest.approx(world.vectors[rows] @ query, rel=1e-3, abs=1e-3)
    assert told[:, 2].tolist() == base[rows].tolist()


@given(WORLDS, SEEDS, st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_the_best_of_some_are_the_best_of_all_among_found_popular_and_near_items(
    world: World, seed: int, count: int
) -> None:
    rng, items, scratch = np.random.default_rng(seed), len(world.vectors), scratch_for(len(world.vectors))
    found, popular, excluded = (rng.integers(0, items, size) for size in (3, 2, 3))
    excluded[0] = -1
    base, query = base_of(world, rng.integers(0, items, 1)), combined_query(world.weights, world.queries)
    tables = world.followers.arrays, world.companions.arrays
    rest = (base, world.vectors, query, world.weights)
    rows, scores, told = blend_some(found, popular, world.context, *tables, *rest, excluded, count, scratch)
    near = np.flatnonzero(world.gathered().follows + world.gathered().given)
    some = {*found.tolist(), *popular.tolist(), *near.tolist()}
    others = np.array([row for row in range(items) if row not in some], np.int64)
    expected = blend_all(world.context, *tables, *rest, np.concatenate([excluded, others]), count, scratch_for(items))
    assert set(rows.tolist()) <= some - set(excluded.tolist())
    assert scores == pytest.approx(expected[1], rel=1e-4, abs=1e-4)
    assert told.sum(axis=1) == pytest.approx(scores, rel=1e-4, abs=1e-4)
    assert not any(array.any() for array in (scratch.follows, scratch.together, scratch.given, scratch.held))


@given(WORLDS)
@settings(max_examples=40, deadline=None)
def test_the_strongest_neighbour_is_the_recent_item_that_leads_to_an_item_most(world: World) -> None:
    rows, context = np.random.default_rng(3).permutation(len(world.vectors)), world.context.tolist()
    strongest = strongest_neighbour(rows, world.context, world.followers.arrays, world.companions.arrays)
    found = dict(zip(rows.tolist(), strongest.tolist(), strict=True))
    for row in rows.tolist():
        leads = dict[int, float]()
        for later, item in enumerate(reversed(context[-ACCOMPANIED:])):
            for table, half_life in ((world.followers, FOLLOW_HALF_LIFE), (world.companions, TOGETHER_HALF_LIFE)):
                weight = dict(zip(*table.of(item), strict=True)).get(row, 0.0) if item >= 0 else 0.0
                share = weight / float(table.arrays.mass[item] + SHRINKAGE) * 2 ** (-later / half_life)
                place = len(context) - 1 - later
                leads[place] = max(leads.get(place, 0.0), share)
        most = max(leads.values(), default=0.0)
        if most > 1e-30:
            assert leads[found[row]] == pytest.approx(most, rel=1e-5)
        elif most == 0:
            assert found[row] == -1


def test_a_neighbour_is_not_taken_for_one_whose_row_ends_in_the_same_bits() -> None:
    sources = Sources()
    sources.rows_of([f"item-{row}" for row in range(1_030)])
    sources.learn(Steps(np.array([1_024]), np.array([1]), np.array([7], np.int32), np.array([0, 1])))
    tables = sources.followers.arrays, sources.companions.arrays
    assert strongest_neighbour(np.array([1_024, 0]), np.array([7]), *tables).tolist() == [0, -1]
