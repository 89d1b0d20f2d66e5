"""What a language model has said beforehand, in the ranking of a drawn version."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online_models.contracts.ids import hash64, hashes_of
from online_models.contracts.preferences import Preferences
from online_models.history import UserHistory
from online_models.language_scores import LanguageModel, SegmentScores, encode_scores
from online_models.ports import UserState
from serving_api.ranked_list import RankedList
from serving_api.ranking import RankedItem, Visit, known_of, rank
from serving_api.reranking.explanations import Code
from serving_api.retrieval import VersionView
from serving_api.rules import Reranking
from serving_api.suggesting import readable, suggestions_of
from tests.drawn_learner import ITEMS, K, names
from tests.serving_views import V1, drawn_view, history_of

USED = LanguageModel(weight=0.5, slope=2.0, intercept=-1.0, version=V1)


def view_of(seed: int, *, segments: SegmentScores | None = None, indexed: bool = False) -> VersionView:
    view = drawn_view(np.random.default_rng(seed), indexed=indexed)
    return replace(view, loaded=replace(view.loaded, language_model=USED), segments=segments)


def scores_of(said: dict[str, float]) -> bytes:
    return encode_scores(hashes_of(list(said)), np.array([*said.values()], np.float32))


def shown(view: VersionView, user: UserState) -> dict[str, RankedItem]:
    ranking = rank(view, RankedList.of([]), view.facts, Visit("new", ITEMS, 0), user, Reranking())
    return {item.item_id: item for item in ranking.items}


def met(*items: str) -> UserHistory:
    return history_of(list(items))


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.dictionaries(st.sampled_from(names(range(2, ITEMS))), st.floats(-5, 5, width=32), min_size=1),
    st.booleans(),
)
def test_a_score_raises_its_item_by_the_weight_of_what_it_is_above_the_average(
    seed: int, said: dict[str, float], indexed: bool
) -> None:
    view, known = view_of(seed, indexed=indexed), met("item-0", "item-1")
    before = shown(view, UserState(None, known))
    after = shown(view, UserState(None, known, language=scores_of(said)))
    values = np.array([*said.values()])
    average, deviation = values.mean(), values.std()
    for item in before.keys() & after.keys():
        new, old = after[item].score, before[item].score
        assert new is not None
        assert old is not None
        gain = 0.5 * (said[item] - average) / deviation if item in said and deviation > 1.001e-3 else 0.0
        assert new - old == pytest.approx(gain, abs=2e-3)
        expected = None if item not in said else pytest.approx(2 * said[item] - 1, abs=1e-4)
        assert after[item].language == expected


def test_an_item_that_only_the_language_model_brought_up_says_so() -> None:
    view = view_of(1)
    view = replace(view, loaded=replace(view.loaded, language_model=msgspec.structs.replace(USED, weight=90.0)))
    after = shown(view, UserState(None, met("item-0"), language=scores_of({"item-7": 1.0, "item-8": -1.0})))
    assert next(iter(after)) == "item-7"
    assert after["item-7"].reason == Code.SUGGESTED


def test_what_is_said_beside_preferences_counts_with_them() -> None:
    view = view_of(2)
    said = Preferences(items=("item-3",))
    state = UserState(None, met("item-0"), said, language=scores_of({"item-7": 1.0, "item-8": 0.0}))
    without = shown(view, replace(state, language=None))
    both = shown(view, state)
    new, old = both["item-7"].score, without["item-7"].score
    assert new is not None
    assert old is not None
    assert new - old == pytest.approx(0.5, abs=1e-5)


def test_new_items_are_judged_by_the_segment_unless_the_user_has_a_score() -> None:
    view = view_of(3)
    centroids = np.zeros((2, K), np.float32)
    known = known_of(view, "new", UserState(None, met("item-0", "item-1")))
    centroids[1] = known.vectors[1]
    segments = SegmentScores(centroids, hashes_of(["item-7", "item-8"]), np.array([[9, 9], [1, 3]], np.float32), "")
    view = replace(view, segments=segments)
    said = suggestions_of(view, UserState(None, met("item-0", "item-1")), known.vectors[1])
    assert said is not None
    rows = view.rows(hashes_of(["item-7", "item-8"])).tolist()
    assert dict(zip(said.rows.tolist(), said.gains.tolist(), strict=True)) == dict(zip(rows, [-0.5, 0.5], strict=True))
    own = UserState(None, met("item-0", "item-1"), language=scores_of({"item-7": 4.0, "item-9": 2.0}))
    said = suggestions_of(view, own, known.vectors[1])
    assert said is not None
    gains = dict(zip(said.rows.tolist(), said.gains.tolist(), strict=True))
    assert [gains[view.rows(np.array([hash64(f"item-{n}")], np.uint64))[0]] for n in (7, 8, 9)] == [0.5, 0.5, -0.5]


def test_without_scores_or_with_torn_ones_the_blend_decides() -> None:
    view, known = view_of(4), met("item-0")
    plain = shown(view, UserState(None, known))
    torn, error = readable(UserState(None, known, language=b"torn"))
    assert "expected 12 bytes an item, got 4" in str(error)
    assert shown(view, torn) == plain
    whole = UserState(None, known, language=scores_of({"item-7": 9.0}))
    assert readable(whole) == (whole, None)
    assert shown(view, UserState(None, known, language=scores_of({"nobody knows this": 3.0}))) == plain
    other = replace(view, loaded=replace(view.loaded, language_model=None))
    assert shown(other, UserState(None, known, language=scores_of({"item-7": 9.0, "item-8": 0.0}))) == plain
