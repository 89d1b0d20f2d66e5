"""What gives a user's list and what may be in it: sources in their order, nothing seen, rules, ages, chance, and reasons."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online_models.als import gramian
from online_models.contracts.events import Item
from online_models.contracts.ids import hash64, hashes_of
from online_models.contracts.preferences import Preferences
from online_models.history import EMPTY, UserHistory
from online_models.learner import Trained, VersionLearner
from online_models.ports import UserState
from online_models.sources import Sources, Steps
from serving_api.index import ExactIndex
from serving_api.ranked_list import RankedList
from serving_api.ranking import KNOWN_USER_EVENTS, POOL, Ranking, Visit, known_of, rank, user_vectors, warm_up
from serving_api.reranking.explanations import Code
from serving_api.reranking.exposure import Exposure
from serving_api.retrieval import VersionView
from serving_api.rules import Boost, Exclude, Limit, Pin, Reranking, Rule, When
from tests.artifacts import HOW
from tests.drawn_learner import drawn_learner, drawn_tower, drawn_trained, names
from tests.serving_views import V1, facts_of, history_of, loaded_of, published_of, views_over

F32 = npt.NDArray[np.float32]

DAY_MS = 86_400_000
NOW_MS = 1_000 * DAY_MS
ITEMS, K = 20, 4
SEEDS = st.integers(0, 2**32 - 1)
PLAIN = Reranking()
NOBODY = UserState(None, EMPTY)
AXES = np.eye(2, K, dtype=np.float32)
POPULAR = RankedList.of([f"item-{row}" for row in range(ITEMS)])


def tasteful(tower: bool = False, items: int = ITEMS) -> Trained:
    """Even items of one taste, odd ones of the other."""
    rng = np.random.default_rng(1)
    factors = AXES[np.arange(items) % 2] + rng.normal(0, 0.05, (items, K)).astype(np.float32)
    users = AXES + rng.normal(0, 0.05, (2, K)).astype(np.float32)
    return Trained(
        ids=names(range(items)),
        factors=factors,
        weights=np.full(items, 5.0),
        gramian=gramian(factors),
        user_gramian=gramian(users),
        users=2,
        fold_in=HOW,
        tower=drawn_tower(rng, items) if tower else None,
    )


def world(
    *rules: Rule,
    catalogue: Sequence[Item] = (),
    met: Sequence[tuple[str, Sequence[str]]] = (),
    tower: bool = False,
    items: int = ITEMS,
    indexed: bool = False,
) -> VersionView:
    """A version of two tastes, with users `even` and `odd`; met : each event's item, and those that its user had just met."""
    trained = tasteful(tower, items)
    sources = Sources()
    rows = sources.rows_of([item for item, _ in met])
    contexts = [sources.rows_of(list(context)) for _, context in met]
    ptr = np.cumsum([0, *map(len, contexts)])
    joined = np.concatenate([np.empty(0, np.int64), *contexts]).astype(np.int32)
    sources.learn(Steps(rows, np.arange(len(rows)), joined, ptr))
    users = {"even": AXES[0], "odd": AXES[1]}
    loaded = loaded_of(trained, users=users, nearest=ExactIndex(trained.factors) if indexed else None)
    published = published_of(1, {V1: VersionLearner(trained, sources)})
    return views_over({V1: loaded}, published, catalogue or [Item("none", "movies", "")], rules).built[V1]


def asked(
    view: VersionView | None,
    user: UserState = NOBODY,
    k: int = 5,
    config: Reranking = PLAIN,
    user_id: str = "stranger",
    age: float | None = None,
    draw: float = 0.0,
    exposure: Exposure | None = None,
    popular: RankedList = POPULAR,
) -> Ranking:
    facts = facts_of([]) if view is None else view.facts
    return rank(view, popular, facts, Visit(user_id, k, NOW_MS, age, draw), user, config, exposure)


def met(*items: str, vector: F32 | None = None) -> UserState:
    return UserState(vector, history_of(items, NOW_MS - 1))


def ids(ranking: Ranking) -> list[str]:
    return [each.item_id for each in ranking.items]


def rows_in(ranking: Ranking) -> list[int]:
    return [int(item.removeprefix("item-")) for item in ids(ranking)]


@given(SEEDS, st.booleans(), st.booleans(), st.integers(1, 25), st.integers(0, 12), st.integers(0, 6))
@settings(max_examples=60, deadline=None)
def test_a_list_has_distinct_unseen_items_and_as_many_as_there_are(
    seed: int, tower: bool, indexed: bool, k: int, events: int, popular: int
) -> None:
    learner = drawn_learner(np.random.default_rng(seed), tower=tower)
    trained = drawn_trained(np.random.default_rng(seed), tower=tower)
    catalogue = [Item(name, "movies", "") for name in ("item-3", "shelf-1", "shelf-2")]
    loaded = loaded_of(trained, nearest=ExactIndex(trained.factors) if indexed else None)
    view = views_over({V1: loaded}, published_of(1, {V1: learner}), catalogue).built[V1]
    rankable = [view.sources.items.ids[row] for row in np.flatnonzero(view.bases[0] > -np.inf)]
    everything = [*rankable, "shelf-1", "shelf-2", *(f"hit-{n}" for n in range(popular))]
    rng = np.random.default_rng(seed)
    known = history_of(rng.choice([*everything, "elsewhere"], events, replace=False).tolist())
    listed = RankedList.of([f"hit-{n}" for n in range(popular)] or ["item-0"])
    found = asked(view, UserState(None, known), k, popular=listed)
    unseen = {item for item in everything if hash64(item) not in known.seen["item"]}
    assert len(set(ids(found))) == len(found.items) == min(k, len(unseen))
    assert set(ids(found)) <= unseen
    assert all(each.propensity == 1.0 for each in found.items)
    scores = [each.score for each in found.items if each.score is not None]
    assert scores == sorted(scores, reverse=True)
    for each in found.items:
        assert (each.because is not None) == (each.reason in {Code.BECAUSE_YOU_WATCHED, Code.OFTEN_TOGETHER})
        assert each.because is None or hash64(each.because) in known.recent["item"]


def test_what_the_stream_has_learned_of_a_user_comes_before_a_fold_in_before_the_factor() -> None:
    view = world()
    of_stream = np.concatenate([AXES[1], AXES[1]])
    assert asked(view, met("item-0", vector=of_stream), user_id="even").source == "vector"
    assert asked(view, met("item-0"), user_id="odd").source == "fold_in"
    assert asked(view, NOBODY, user_id="odd").source == "factors"
    for user, user_id, taste in (
        (met("item-0", "item-2", vector=of_stream), "even", 1),
        (met("item-0", "item-2"), "odd", 0),
        (NOBODY, "odd", 1),
        (NOBODY, "even", 0),
    ):
        assert {row % 2 for row in rows_in(asked(view, user, 3, user_id=user_id))} == {taste}


def test_a_user_without_a_vector_is_ranked_by_the_neighbours_of_what_they_met() -> None:
    alike: list[tuple[str, list[str]]] = [(item, []) for item in names(range(ITEMS))]
    events = [("next", ["new"])] * 5 + alike * 5
    view = world(met=events)
    found = asked(view, met("new"), 3)
    assert found.source == "neighbours"
    assert ids(found)[0] == "next"
    assert (found.items[0].reason, found.items[0].because) == (Code.OFTEN_TOGETHER, "new")


def test_a_user_of_whom_nothing_is_known_gets_what_is_popular() -> None:
    view = world(met=[(f"item-{row}", []) for row in (7, 7, 7, 4, 4, 9)])
    for user in (NOBODY, met("never heard of"), UserState(None, history_of(["item-1"], strength=0.0))):
        found = asked(view, user, 3)
        assert found.source == "popularity"
        assert ids(found) == ["item-7", "item-4", "item-9"]
        assert [(each.score, each.propensity) for each in found.items] == [(None, 1.0)] * 3
        assert {each.reason for each in found.items} <= {Code.POPULAR, Code.FOR_YOU}
    assert ids(asked(view, met("item-7"), 3))[0] != "item-7"


@pytest.mark.parametrize("vector", [np.full(2 * K, np.nan), np.full(2 * K, np.inf), np.ones(2 * K + 1), np.ones(K)])
def test_a_vector_that_cannot_be_the_version_s_is_not_used(vector: npt.NDArray[np.float64]) -> None:
    view = world()
    source, vectors = user_vectors(view.loaded, "odd", UserState(vector.astype(np.float32), EMPTY))
    assert source == "factors"
    assert vectors.tolist() == [AXES[1].tolist()] * 2


def test_a_user_whose_history_is_lost_counts_as_one_of_many_events() -> None:
    view = world()
    assert known_of(view, "odd", NOBODY).events == KNOWN_USER_EVENTS
    assert known_of(view, "stranger", NOBODY).events == 0
    assert known_of(view, "odd", met("item-0", "item-2", "?")).events == 3


def test_the_user_tower_is_asked_by_the_history() -> None:
    view = world(tower=True)
    history = history_of(["item-4", "item-1"], NOW_MS)
    known = known_of(view, "stranger", UserState(None, history))
    expected = view.loaded.fold_ins.tower_query(history.recent)
    assert known.tower is not None
    assert expected is not None
    assert known.tower.tolist() == expected.tolist()
    assert known_of(world(), "stranger", UserState(None, history)).tower is None


def test_without_any_version_popularity_answers_without_what_was_seen() -> None:
    found = asked(None, met("item-0", "item-2", vector=np.ones(2 * K, np.float32)), 3)
    assert found.source == "popularity"
    assert ids(found) == ["item-1", "item-3", "item-4"]


def test_what_the_stream_lists_fills_a_list_up_and_the_artifact_s_own_list_where_there_is_none() -> None:
    view = world(items=3)
    assert ids(asked(view, met("item-0"), 4, popular=RankedList.of(["item-2", "a", "b"])))[2:] == ["a", "b"]
    assert ids(asked(view, met("item-0"), 4, popular=RankedList.of([])))[2:] == ["none"]


def test_where_nothing_is_said_to_be_popular_a_stranger_gets_what_the_version_knows() -> None:
    view = world(items=3)
    view = replace(view, loaded=replace(view.loaded, popular=RankedList.of([])))
    found = asked(view, NOBODY, 9, popular=RankedList.of([]))
    assert (found.source, ids(found)) == ("popularity", ["none", "item-0", "item-1", "item-2"])
    assert {each.reason for each in found.items} == {Code.FOR_YOU}


def test_reasons_name_an_item_of_the_history_of_the_same_taste() -> None:
    view = world()
    found = asked(view, met("item-1", "item-0", "item-2"), 3)
    assert {row % 2 for row in rows_in(found)} == {0}
    for each in found.items:
        assert each.reason is Code.BECAUSE_YOU_WATCHED
        assert each.because in {"item-0", "item-2"}


def test_an_item_that_is_placed_by_its_content_is_told_to_be_alike() -> None:
    view = world()
    usual = asked(view, LOVER, 3)
    placed = replace(view, placed={ids(usual)[1]})
    codes = [each.reason for each in asked(placed, LOVER, 3).items]
    assert codes == [Code.BECAUSE_YOU_WATCHED, Code.SIMILAR_CONTENT, Code.BECAUSE_YOU_WATCHED]
    assert [each.because for each in asked(placed, LOVER, 3).items] == [each.because for each in usual.items]


def test_what_the_towers_add_is_not_told_as_popularity() -> None:
    view = world(tower=True)
    weights = np.zeros_like(view.weights)
    weights[:, 2] = 5.0
    view = replace(view, weights=weights, bases=np.zeros_like(view.bases))
    found = asked(view, met("item-1", "item-0"), 3)
    assert {each.reason for each in found.items} <= {Code.BECAUSE_YOU_WATCHED, Code.FOR_YOU}


HORROR = When(categories=("Horror",))
EVEN_HORROR = [Item(f"item-{row}", "movies", "", ["Horror"] if row % 2 == 0 else ["Love"]) for row in range(ITEMS)]
LOVER = met("item-0", "item-2")
"""Somebody to whom horror would be shown."""


def test_what_a_rule_excludes_is_not_shown_however_short_the_list() -> None:
    view = world(Exclude(action="exclude", when=HORROR), catalogue=EVEN_HORROR)
    for user in (LOVER, NOBODY):
        found = asked(view, user, 15)
        assert sorted(rows_in(found)) == list(range(1, ITEMS, 2))


def test_what_a_rule_excludes_is_not_shown_without_a_version_either() -> None:
    facts = facts_of(EVEN_HORROR, [Exclude(action="exclude", when=HORROR)])
    found = rank(None, POPULAR, facts, Visit("u", 4, NOW_MS), met("item-1"), PLAIN)
    assert ids(found) == ["item-3", "item-5", "item-7", "item-9"]


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("preferences", [Preferences(), Preferences(categories=("Horror",))])
def test_where_little_of_the_best_candidates_is_allowed_others_are_taken(
    indexed: bool, preferences: Preferences
) -> None:
    many = 2 * POOL + 1_000
    catalogue = [
        Item(f"item-{row}", "movies", "", ["Horror"] if row % 2 == 0 else [], min_age=18.0 * (row % 2 == 0))
        for row in range(many)
    ]
    ruled = world(Exclude(action="exclude", when=HORROR), catalogue=catalogue, items=many, indexed=indexed)
    free = world(catalogue=catalogue, items=many, indexed=indexed)
    user = replace(LOVER, preferences=preferences)
    for view, age in ((ruled, None), (ruled, 10.0), (free, 10.0)):
        found = asked(view, user, 5, age=age, popular=RankedList.of([]))
        assert len(found.items) == 5
        assert all(row % 2 for row in rows_in(found))
        assert None not in [each.score for each in found.items]
    assert all(row % 2 == 0 for row in rows_in(asked(free, user, 5)))


def test_a_limit_ends_a_list_early_rather_than_have_more() -> None:
    limit = Limit(action="limit", count=2, when=HORROR)
    view = world(limit, catalogue=EVEN_HORROR)
    for found in (asked(view, LOVER, 15), asked(view, NOBODY, 15)):
        assert sum(row % 2 == 0 for row in rows_in(found)) == 2
        assert len(found.items) == 12
    without = rank(None, POPULAR, facts_of(EVEN_HORROR, [limit]), Visit("u", 15, NOW_MS), NOBODY, PLAIN)
    assert ids(without) == [f"item-{row}" for row in (0, 1, 2, 3, 5, 7, 9, 11, 13, 15, 17, 19)]


def test_a_pin_puts_an_item_at_its_place_and_says_so() -> None:
    view = world(Pin(action="pin", rank=2, when=When(items=("item-5",))), catalogue=EVEN_HORROR)
    found = asked(view, LOVER, 4)
    assert ids(found)[1] == "item-5"
    assert (found.items[1].reason, found.items[1].because) == (Code.FEATURED, None)
    assert ids(found)[0] == ids(asked(world(), LOVER, 4))[0]


def test_a_boost_lifts_an_item_to_the_top() -> None:
    view = world(Boost(action="boost", value=100.0, when=When(items=("item-5",))), catalogue=EVEN_HORROR)
    assert ids(asked(view, LOVER, 4))[0] == "item-5"


@pytest.mark.parametrize(
    ("age", "stranger_age", "allowed"), [(12.0, None, False), (18.0, 12.0, True), (None, 12.0, False)]
)
def test_nobody_is_shown_what_they_are_too_young_for(
    age: float | None, stranger_age: float | None, allowed: bool
) -> None:
    catalogue = [Item(f"item-{row}", "movies", "", min_age=18.0 if row % 2 == 0 else 0.0) for row in range(ITEMS)]
    view, config = world(catalogue=catalogue), Reranking(stranger_age=stranger_age)
    for of in (view, None):
        for user in (LOVER, NOBODY):
            visit = Visit("stranger", 18, NOW_MS, age)
            found = rank(of, POPULAR, facts_of(catalogue), visit, user, config)
            assert {row % 2 for row in rows_in(found)} == ({0, 1} if allowed else {1})
            assert len(found.items) >= 10


def test_of_equally_liked_items_the_fresh_one_comes_first() -> None:
    catalogue = [
        Item("item-7", "movies", "", available_ms=NOW_MS - DAY_MS),
        Item("item-8", "movies", "", available_ms=0),
    ]
    view = world(catalogue=catalogue)
    assert ids(asked(view, LOVER, 3, Reranking(freshness_bonus=100.0)))[0] == "item-7"
    assert "item-7" not in ids(asked(view, LOVER, 3))


def test_what_has_had_more_than_its_share_of_impressions_goes_behind_all_others() -> None:
    view, config = world(), Reranking(exposure_cap=0.5, exposure_min_impressions=10.0)
    usual = ids(asked(view, LOVER, 18))
    shown = Exposure(config.exposure_half_life_seconds)
    for _ in range(20):
        shown.add(hashes_of([usual[0]]), NOW_MS / 1000)
    shown.add(hashes_of([usual[1]]), NOW_MS / 1000)
    assert ids(asked(view, LOVER, 18, config, exposure=shown)) == [*usual[1:], usual[0]]
    few = Exposure(config.exposure_half_life_seconds)
    few.add(hashes_of([usual[0]]), NOW_MS / 1000)
    for exposure, how in ((few, config), (None, config), (shown, PLAIN)):
        assert ids(asked(view, LOVER, 18, how, exposure=exposure)) == usual


def test_chance_puts_an_item_in_the_last_place_and_says_how_likely_it_was() -> None:
    view, config = world(), Reranking(explore_probability=0.2)
    usual = asked(view, LOVER, 5)
    left = ITEMS - 2 - 5
    counts: dict[str, int] = {}
    for n in range(1_000):
        found = asked(view, LOVER, 5, config, draw=n / 1_000)
        assert ids(found)[:4] == ids(usual)[:4]
        assert [each.propensity for each in found.items[:4]] == [1.0] * 4
        last = found.items[4]
        drawn = last.item_id != ids(usual)[4]
        assert drawn == (n < 200) == (last.reason is Code.EXPLORE) == (last.because is None)
        assert last.propensity == pytest.approx(0.2 / left if drawn else 0.8)
        counts[last.item_id] = counts.get(last.item_id, 0) + 1
    assert len(counts) == left + 1
    assert counts == pytest.approx(dict.fromkeys(counts, 200 / left) | {ids(usual)[4]: 800}, abs=1)


def test_diversity_takes_items_of_both_tastes() -> None:
    view = world()
    assert {row % 2 for row in rows_in(asked(view, LOVER, 4))} == {0}
    assert {row % 2 for row in rows_in(asked(view, LOVER, 4, Reranking(mmr_lambda=0.1)))} == {0, 1}


def test_what_a_new_user_says_to_like_is_a_source_until_five_events() -> None:
    view = world(catalogue=EVEN_HORROR)
    liking = UserState(None, EMPTY, Preferences(items=("item-1", "item-3")))
    found = asked(view, liking, 3)
    assert found.source == "preferences"
    assert {row % 2 for row in rows_in(found)} == {1}
    likes_horror = Preferences(categories=("Horror",))
    found = asked(view, UserState(None, EMPTY, likes_horror), 5)
    assert {row % 2 for row in rows_in(found)} == {0}
    assert {each.reason for each in found.items} == {Code.PREFERRED}
    odd = history_of([f"item-{row}" for row in (1, 3, 5, 7, 9)], NOW_MS)
    assert asked(view, UserState(None, odd, likes_horror), 3) == asked(view, UserState(None, odd), 3)


@pytest.mark.parametrize("indexed", [False, True])
def test_a_version_is_warmed_up_without_a_trace(indexed: bool) -> None:
    view = world(tower=True, indexed=indexed)
    before = asked(view, LOVER, 5)
    warm_up(view)
    assert asked(view, LOVER, 5) == before
    assert not view.scratch.held.any()


def test_somebody_who_has_seen_everything_gets_an_empty_list() -> None:
    view = world(catalogue=[Item("item-0", "movies", "")])
    everything: UserHistory = history_of(names(range(ITEMS)), NOW_MS)
    assert asked(view, UserState(None, everything), 5).items == []


def test_where_rules_exclude_everything_the_list_is_empty() -> None:
    view = world(Exclude(action="exclude", when=When(items=tuple(names(range(ITEMS))))), catalogue=EVEN_HORROR)
    for user in (LOVER, NOBODY):
        assert asked(view, user, 5, config=Reranking(explore_probability=0.5)).items == []
