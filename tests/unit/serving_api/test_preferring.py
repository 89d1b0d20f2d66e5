"""What new users say they like, in the ranking of a drawn version."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from online_models.contracts.events import Item
from online_models.contracts.ids import hashes_of
from online_models.contracts.preferences import NO_PREFERENCES, Preferences
from online_models.history import EMPTY, UserHistory
from online_models.ports import UserState
from serving_api.preferring import CATEGORY_BOOST, FADED_EVENTS, as_if_met, liking_of, raised_by, weight_of
from serving_api.ranked_list import RankedList
from serving_api.ranking import Ranking, Visit, known_of, rank
from serving_api.reranking.candidates import Categories
from serving_api.reranking.explanations import Code
from serving_api.retrieval import VersionView
from serving_api.rules import Reranking
from tests.drawn_learner import ITEMS, drawn_learner, names
from tests.drawn_learner import drawn_trained as trained_of
from tests.serving_views import V1, history_of, loaded_of, published_of, views_over

GENRES = ["Drama", "War", "Crime"]
CATALOGUE = [Item(item, "movies", item, [GENRES[row % 3]]) for row, item in enumerate(names(range(ITEMS)))]


def drawn_view(seed: int) -> VersionView:
    rng = np.random.default_rng(seed)
    learner = drawn_learner(rng)
    views = views_over({V1: loaded_of(trained_of(rng))}, published_of(1, {V1: learner}), CATALOGUE)
    return views.built[V1]


VIEW = drawn_view(1)


def ranked(said: Preferences, known: UserHistory = EMPTY, view: VersionView = VIEW) -> Ranking:
    return rank(
        view, RankedList.of([]), view.facts, Visit("new", 2 * ITEMS, 0), UserState(None, known, said), Reranking()
    )


@given(st.lists(st.sets(st.sampled_from(GENRES)), max_size=9), st.sets(st.sampled_from(GENRES)), st.floats(0, 1))
def test_an_item_is_raised_by_the_weight_where_it_has_a_liked_category(
    items: list[set[str]], liked: set[str], weight: float
) -> None:
    names_of = Categories(GENRES)
    raised = raised_by(names_of.bits(items), names_of.bits([liked])[0], weight)
    expected = [weight * CATEGORY_BOOST if item & liked else 0.0 for item in items]
    assert raised.tolist() == pytest.approx(expected, rel=1e-6)


def test_a_liked_category_raises_scores_by_what_it_says() -> None:
    plain, said = ranked(Preferences(items=("item-0",))), ranked(Preferences(items=("item-0",), categories=("War",)))
    before = {item.item_id: item.score for item in plain.items}
    for item in said.items:
        is_war = int(item.item_id.split("-")[1]) % 3 == 1
        score = before[item.item_id]
        assert item.score is not None
        assert score is not None
        if item.item_id in names(range(ITEMS)):
            assert item.score - score == pytest.approx(CATEGORY_BOOST if is_war else 0.0, abs=1e-5)


def test_it_weighs_less_with_every_event_and_nothing_from_the_fifth_on() -> None:
    said = Preferences(categories=("War",))
    for events in range(FADED_EVENTS + 2):
        known = history_of(names(range(events)))
        with_it, without = ranked(said, known), ranked(NO_PREFERENCES, known)
        scores = {item.item_id: item.score for item in without.items}
        raised = [
            item.score - score
            for item in with_it.items
            if item.score is not None and (score := scores.get(item.item_id)) is not None and item.item_id == "item-10"
        ]
        if events:
            assert raised == pytest.approx([CATEGORY_BOOST * weight_of(events)], abs=1e-5)
        if events >= FADED_EVENTS:
            assert with_it == without


def test_liked_items_count_as_met_and_are_not_seen() -> None:
    said = Preferences(items=("item-3", "item-5"))
    known = known_of(VIEW, "new", UserState(None, EMPTY, said))
    as_met = as_if_met(hashes_of(["item-3", "item-5"]))
    assert known.source == "preferences"
    np.testing.assert_array_equal(known.vectors, VIEW.loaded.fold_ins.of_histories([as_met])[0])
    assert known.context.tolist() == VIEW.rows(hashes_of(["item-3", "item-5"])).tolist()
    assert {"item-3", "item-5"} <= {item.item_id for item in ranked(said).items}


def test_what_has_happened_stands_after_what_was_said() -> None:
    said = Preferences(items=("item-3",))
    known = known_of(VIEW, "new", UserState(None, history_of(["item-1", "item-2"]), said))
    assert known.context.tolist() == VIEW.rows(hashes_of(["item-3", "item-1", "item-2"])).tolist()
    assert (known.source, known.events) == ("fold_in", 2)


def test_an_item_that_a_liked_category_brought_up_says_so() -> None:
    ranking = ranked(Preferences(categories=("War",)))
    brought_up = {item.item_id for item in ranking.items if item.reason is Code.PREFERRED}
    assert brought_up
    assert brought_up <= {item for row, item in enumerate(names(range(ITEMS))) if row % 3 == 1}
    assert ranking.source == "preferences"


def test_what_nobody_knows_says_nothing() -> None:
    assert liking_of(Preferences(("?",), ("?",)), 0, VIEW) is None
    assert ranked(Preferences(("?",), ("?",))) == ranked(NO_PREFERENCES)
