"""A version's users, items and ranking, against dense solves, the kernel's own item updates and naive sorting."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from online_models import blend
from online_models.contracts.ids import hash64
from online_models.evidence import QUERIES
from online_models.history import EMPTY, ENTRY, UserHistory
from online_models.item_updates import UserBasis, moved_items
from online_models.learner import (
    CHOICES,
    LONG_HALF_LIFE,
    RECENT_HALF_LIFE,
    FoldIns,
    Trained,
    VersionLearner,
)
from online_models.sources import Sources, Steps
from tests.drawn_learner import (
    HOW,
    ITEMS,
    USERS,
    Asked,
    K,
    drawn_asked,
    drawn_entries,
    drawn_learner,
    drawn_tower,
    drawn_trained,
    names,
    state,
)
from tests.oracles.blending import feature_row, natural_gradient_step, plain_features, plain_neighbours
from tests.oracles.least_squares import dense_fold_in, factors

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

SEEDS = st.integers(0, 2**32 - 1)
NONE = np.empty(0, np.int64)


def dense_user(trained: Trained, entries: npt.NDArray[np.void], half_life: float, *, fading: bool) -> F64:
    """(YtY + lambda I + sum w y yt) x = sum w y with w = alpha sum of strength * 2^(-later / half-life).

    Without fading it is sum (1 + w) y.
    """
    w: dict[int, float] = {}
    for later, entry in enumerate(entries[::-1]):
        item = next((row for row, name in enumerate(trained.ids) if hash64(name) == entry["item"]), None)
        if item is not None:
            w[item] = w.get(item, 0.0) + HOW.alpha * float(entry["strength"]) * 2 ** (-later / half_life)
    rows, c = np.array(list(w), np.int64), 1 + np.array(list(w.values()))
    return dense_fold_in(trained.factors, rows, c, HOW.regularization, fading=fading)


@given(SEEDS, st.lists(st.integers(0, 40), max_size=4))
@settings(max_examples=40, deadline=None)
def test_what_users_ask_for_is_a_dense_solution_for_what_they_want_now_and_have_long_liked(
    seed: int, lengths: list[int]
) -> None:
    rng = np.random.default_rng(seed)
    trained = drawn_trained(rng)
    each = [drawn_entries(rng, events, ITEMS + 4) for events in lengths]
    fold_ins = FoldIns(trained)
    entries, many = np.concatenate([EMPTY.recent, *each]), np.array(lengths, np.int64)
    queries = fold_ins.queries(entries, many)
    assert queries.shape == (len(lengths), len(QUERIES), K)
    for user, mine in enumerate(each):
        for query, half_life in enumerate((RECENT_HALF_LIFE, LONG_HALF_LIFE)):
            expected = dense_user(trained, mine, half_life, fading=True)
            assert queries[user, query] == pytest.approx(expected, rel=2e-3, abs=2e-4)
        assert not queries[user, 2].any()
        known = dense_user(trained, mine, np.inf, fading=False)
        assert fold_ins.users(entries, many)[user] == pytest.approx(known, rel=2e-3, abs=2e-4)
    histories = [UserHistory(mine, EMPTY.seen) for mine in each]
    assert np.array_equal(fold_ins.of_histories(histories), queries[:, :2])


@given(SEEDS, st.integers(0, 12))
@settings(max_examples=20, deadline=None)
def test_the_user_tower_asks_by_the_known_items_of_a_history_where_there_is_one(seed: int, events: int) -> None:
    rng = np.random.default_rng(seed)
    entries, tower = drawn_entries(rng, events, ITEMS + 4), drawn_tower(np.random.default_rng(seed), ITEMS)
    assert FoldIns(drawn_trained(rng)).tower_query(entries) is None
    row = {hash64(name): row for row, name in enumerate(names(range(ITEMS)))}
    rows = np.array([row.get(int(item), -1) for item in entries["item"]], np.int64)
    asked = FoldIns(replace(drawn_trained(rng), tower=tower)).tower_query(entries)
    assert asked is not None
    assert tower.search_vectors() @ asked == pytest.approx(tower.scores(tower.vector(rows)), rel=1e-4, abs=1e-4)


@given(SEEDS, st.integers(0, 30), st.integers(0, 4), st.integers(0, 30))
@settings(max_examples=40, deadline=None)
def test_each_event_of_a_known_user_moves_its_item_as_item_updates_say(
    seed: int, events: int, new: int, cut: int
) -> None:
    rng = np.random.default_rng(seed)
    trained = drawn_trained(rng)
    learner = VersionLearner(trained, Sources())
    learner.sources.rows_of(names(range(ITEMS, ITEMS + new)))  # met after the version was
    item, strength = rng.integers(0, ITEMS + new, events), rng.choice([1, 2.5, 4], events).astype(np.float32)
    users = factors(rng, events, K)
    users[rng.random(events) < 0.3] = 0
    for part in (slice(0, cut), slice(cut, None)):
        learner.move_items(item[part], strength[part], users[part])
    known = users.any(axis=1)
    vectors, weights = moved_items(
        np.concatenate([trained.factors, np.zeros((new, K), np.float32)]),
        np.concatenate([trained.weights, np.zeros(new)]),
        item[known],
        1 + np.float32(HOW.alpha) * strength[known],
        users[known],
        UserBasis.of(trained.user_gramian, USERS, HOW.regularization),
    )
    assert np.array_equal(learner.vectors[: len(vectors)], vectors)
    assert np.array_equal(learner.weights, weights)
    assert learner.known().tolist() == (weights > 0).tolist()


def test_a_row_that_no_item_has_is_refused() -> None:
    learner = VersionLearner(drawn_trained(np.random.default_rng(1)), Sources())
    for row in (-1, ITEMS):
        with pytest.raises(ValueError, match=r"items in \[0, 12\)"):
            learner.move_items(np.array([row]), np.ones(1, np.float32), np.ones((1, K), np.float32))


def naive_features(learner: VersionLearner, asked: Asked) -> dict[int, F64]:
    """Row -> features of everything that may be ranked."""
    sources = learner.sources
    near = plain_neighbours(asked.context.tolist(), sources.followers, sources.companions)
    shares, counts = sources.popularity.shares(asked.ts_ms), sources.popularity.counts(np.arange(len(sources.items)))
    found = {}
    for row in range(len(sources.items)):
        if row not in asked.excluded.tolist() and (counts[row] > 0 or learner.weights[row] > 0):
            named = plain_features(row, learner.vectors, asked.queries, shares, near)
            if asked.tower is not None and learner.tower_vectors is not None:
                named["two_tower"] = float(learner.tower_vectors[row].astype(np.float64) @ asked.tower)
            found[row] = feature_row(named)
    return found


@given(SEEDS, st.integers(1, 30), st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_ranking_is_all_that_is_known_and_not_excluded_sorted_by_the_naive_scores(
    seed: int, count: int, with_tower: bool
) -> None:
    rng = np.random.default_rng(seed)
    learner = drawn_learner(rng, tower=with_tower)
    for _ in range(3):
        asked = drawn_asked(rng, learner)
        weights = learner.blend.of(asked.events).astype(np.float64)
        naive = {row: float(features @ weights) for row, features in naive_features(learner, asked).items()}
        rows, scores = asked.rank(learner, count)
        assert set(rows.tolist()) <= set(naive)
        assert len(set(rows.tolist())) == len(rows) == min(count, len(naive))
        assert scores.tolist() == sorted(scores.tolist(), reverse=True)
        assert scores == pytest.approx([naive[row] for row in rows.tolist()], rel=1e-3, abs=1e-3)
        assert scores == pytest.approx(sorted(naive.values(), reverse=True)[:count], rel=1e-3, abs=1e-3)


def test_an_item_that_is_new_to_the_towers_gets_nothing_from_them() -> None:
    rng = np.random.default_rng(2)
    learner = drawn_learner(rng, tower=True)
    asked = drawn_asked(rng, learner)
    assert learner.tower_vectors is not None
    assert learner.tower_vectors[:ITEMS].any(axis=1).all()
    asked.rank(learner, 1)
    assert len(learner.tower_vectors) == len(learner.sources.items) > ITEMS
    assert not learner.tower_vectors[ITEMS:].any()


@given(SEEDS, st.integers(1, 3), st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_choice_is_told_its_place_before_the_step_and_teaches_the_blend_alone(
    seed: int, many: int, with_tower: bool
) -> None:
    rng = np.random.default_rng(seed)
    learner = drawn_learner(rng, tower=with_tower)
    asked = drawn_asked(rng, learner)
    before, untaught = state(learner), learner.blend.copy()
    ranked = asked.rank(learner, CHOICES)[0].tolist()
    assert state(learner) == before  # to rank changes nothing
    taken = rng.integers(0, len(learner.sources.items), many)
    place = asked.choose(learner, taken)
    assert place.tolist() == [ranked.index(row) if row in ranked else CHOICES for row in taken.tolist()]
    told = place[place < CHOICES].tolist()
    changed = [one != other for one, other in zip(state(learner), before, strict=True)]
    assert changed == [False, bool(told), False, False, False]
    if told:
        bucket, naive = blend.bucket_of(asked.events), naive_features(learner, asked)
        weights, _ = natural_gradient_step(
            untaught.weights[bucket],
            untaught.curvature[bucket],
            np.stack([naive[row] for row in ranked]),
            told,
            blend.FADING,
            blend._SPREAD**2,
            blend._LONGEST_STEP,
        )
        assert learner.blend.weights[bucket] == pytest.approx(weights, rel=1e-3, abs=1e-3)


def test_an_item_beyond_the_choices_teaches_nothing_and_its_place_is_told_as_beyond() -> None:
    rng = np.random.default_rng(2)
    learner = drawn_learner(rng, items=CHOICES + 100, k=3)
    asked = drawn_asked(rng, learner)
    ranked, before = asked.rank(learner, CHOICES + 50)[0], learner.blend.encode()
    assert asked.choose(learner, ranked[[CHOICES, -1]]).tolist() == [CHOICES, CHOICES]
    assert learner.blend.encode() == before
    assert asked.choose(learner, ranked[[CHOICES, CHOICES - 1]]).tolist() == [CHOICES, CHOICES - 1]
    assert learner.blend.encode() != before


def test_what_is_taken_again_and_again_comes_to_lead() -> None:
    rng = np.random.default_rng(3)
    learner = drawn_learner(rng)
    asked = Asked(np.array([0, 1]), 3, rng.normal(size=(3, K)).astype(np.float32), 10**10, NONE)
    last = asked.rank(learner, 20)[0][-1:]
    places = [int(asked.choose(learner, last)[0]) for _ in range(40)]
    assert places[0] > 5
    assert places[-1] == 0


def test_a_ranking_that_was_broken_off_leaves_nothing_behind() -> None:
    rng = np.random.default_rng(4)
    learner = drawn_learner(rng)
    asked = drawn_asked(rng, learner)
    rows, scores = asked.rank(learner, 5)
    with pytest.raises(IndexError):
        Asked(np.arange(5), 3, asked.queries, 0, np.array([999])).choose(learner, np.array([1]))
    again_rows, again_scores = asked.rank(learner, 5)
    assert np.array_equal(again_rows, rows)
    assert np.array_equal(again_scores, scores)


def test_a_version_shares_the_sources_rows_with_others_and_knows_its_own_items_only() -> None:
    rng, sources = np.random.default_rng(8), Sources()
    sources.rows_of(["other", "item-2"])
    learner = VersionLearner(trained := drawn_trained(rng), sources)
    assert np.array_equal(learner.vectors[1], trained.factors[2])
    assert learner.known().tolist() == [False] + [True] * ITEMS
    assert not learner.vectors[0].any()
    sources.rows_of(["later"])
    assert learner.known().tolist() == [False] + [True] * ITEMS + [False]
    sources.learn(Steps(np.array([0]), np.array([5]), np.empty(0, np.int32), np.array([0, 0])))
    assert learner.known().tolist() == [True] * (ITEMS + 1) + [False]


ANY, TIME = st.floats(width=32), st.integers(-(2**62), 2**62)


@given(arrays(np.float32, 6, elements=ANY | st.floats(1, 4, width=32)), arrays(np.int64, 6, elements=TIME), TIME)
@settings(max_examples=100, deadline=None)
def test_vectors_weights_and_scores_stay_finite_for_any_strength_and_time(
    strength: F32, ts_ms: I64, now_ms: int
) -> None:
    learner = VersionLearner(drawn_trained(np.random.default_rng(9)), Sources())
    item = learner.sources.rows_of([*names(range(10, 15)), "item-14"])
    entries = np.zeros(6, ENTRY)
    entries["ts_ms"], entries["strength"], entries["item"] = (
        np.sort(ts_ms),
        strength,
        learner.sources.items.hashes[item],
    )
    with np.errstate(over="ignore", invalid="ignore"):
        queries = learner.fold_ins.queries(entries, np.array([6]))[0]
        learner.move_items(item, strength, learner.fold_ins.users(entries, np.full(6, 1)))
    learner.sources.learn(Steps(item, ts_ms, item[:3].astype(np.int32), np.array([0, 0, 0, 0, 0, 0, 3])))
    for array in (queries, learner.vectors, learner.weights):
        assert np.isfinite(array).all()
    asked = Asked(item[:3], 6, queries, now_ms, NONE)
    for _ in range(2):
        rows, scores = asked.rank(learner, 20)
        assert len(rows) == len(learner.sources.items)
        assert np.isfinite(scores).all()
        asked.choose(learner, item[-1:])
    assert np.isfinite(learner.blend.weights).all()


@given(arrays(np.float32, (6, K), elements=ANY | st.floats(-1, 1, width=32)), SEEDS)
@settings(max_examples=100, deadline=None)
def test_vectors_weights_and_blend_stay_finite_for_any_user(users: F32, seed: int) -> None:
    learner = drawn_learner(rng := np.random.default_rng(seed))
    learner.move_items(np.arange(6), np.ones(6, np.float32), users)
    assert np.isfinite(learner.vectors).all()
    assert np.isfinite(learner.weights).all()
    asked = drawn_asked(rng, learner)
    rows, _ = asked.rank(learner, 20)
    assert not set(rows.tolist()) & set(asked.excluded.tolist())
    asked.choose(learner, np.array([7]))
    assert np.isfinite(learner.blend.weights).all()
    assert np.isfinite(learner.blend.curvature).all()


COMPILED_AFTER_WARM_UP = """
import gc
from numba.core.dispatcher import Dispatcher
from online_models.learner import warm_up

def compiled():
    known = (each for each in gc.get_objects() if isinstance(each, Dispatcher))
    return {(each.py_func.__module__, each.py_func.__name__, str(types)) for each in known for types in each.signatures}

warm_up()
before = compiled()
assert before

from tests.laws.test_learning_laws import after, drawn_events, trained

after([drawn_events(1, 60)], trained(1), trained(2)).state()
print(sorted(compiled() - before))
"""


def test_after_the_warm_up_neither_learning_nor_ranking_waits_for_a_compiler() -> None:
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", COMPILED_AFTER_WARM_UP], cwd=root, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
