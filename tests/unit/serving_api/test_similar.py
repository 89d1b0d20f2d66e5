"""Similar items agree with plain loops over the definition, on drawn vectors and companions, with an index and without."""

import math
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online_models.blend import Blend
from online_models.contracts.events import Item
from serving_api.retrieval import VersionView
from serving_api.similar import Likeness, Shelf, by_people, similar
from tests.drawn_learner import ITEMS, names
from tests.serving_views import drawn_view, facts_of, views_over

SEEDS = st.integers(0, 2**32 - 1)
CATALOGUE = [
    Item("item-0", "movies", "Brass lamp"),
    Item("other", "movies", "Brass lamp, large"),
    Item("third", "movies", "Wool rug"),
]


class Expected(NamedTuple):
    score: float
    reason: Likeness


def expected(view: VersionView, row: int) -> dict[str, Expected]:
    """Every similar item, one pair of items at a time."""
    found, companions = {}, view.sources.companions
    of = view.vectors[row].tolist()
    for other, item in enumerate(view.sources.items.ids):
        if other == row:
            continue
        vector = view.vectors[other].tolist()
        lengths = math.hypot(*of) * math.hypot(*vector)
        cosine = sum(a * b for a, b in zip(of, vector, strict=True)) / lengths if lengths else 0.0
        together, weights = 0.0, dict(zip(*companions.of(row), strict=True))
        if other in weights:
            masses = [float(companions.arrays.mass[each]) + 4 for each in (row, other)]
            together = min(1.0, weights[other] / math.sqrt(masses[0] * masses[1]))
        score = (max(cosine, 0.0) + together) / 2
        if score > 0:
            reason = Likeness.OFTEN_TOGETHER if together > cosine else Likeness.SAME_TASTE
            found[item] = Expected(score, reason)
    return found


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.integers(0, ITEMS - 1), st.booleans())
def test_items_are_scored_as_the_definition_says(seed: int, row: int, indexed: bool) -> None:
    view = drawn_view(np.random.default_rng(seed), indexed=indexed, blend=Blend.begin())
    found, wanted = by_people(view, row, 100), expected(view, row)
    if indexed:  # the index knows the trained items; companions come beside them
        trained, beside = set(names(range(ITEMS))), set(view.sources.companions.of(row)[0])
        ids = view.sources.items.ids
        wanted = {item: each for item, each in wanted.items() if item in trained or ids.index(item) in beside}
    assert {each.item_id for each in found} == set(wanted)
    for each in found:
        assert each.score == pytest.approx(wanted[each.item_id].score, rel=1e-4, abs=1e-6)
    scores = [each.score for each in found]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score <= 1 + 1e-6 for score in scores)
    sure = [each for each in found if len({wanted[each.item_id].reason, each.reason}) == 1]
    assert len(sure) >= len(found) - 1  # equal parts may round either way


@given(SEEDS, st.integers(1, 5))
@settings(deadline=None)
def test_fewer_items_are_the_first_of_more(seed: int, k: int) -> None:
    view = drawn_view(np.random.default_rng(seed), blend=Blend.begin())
    shelf = Shelf(view, None, facts_of([]))
    more, fewer = (similar(shelf, "item-1", count, 0, None) for count in (20, k))
    assert more is not None
    assert fewer == more[:k]
    assert "item-1" not in [each.item_id for each in more]


def test_content_stands_in_without_a_version_and_an_item_of_nobody_is_none() -> None:
    views = views_over({}, catalogue=CATALOGUE)
    shelf = Shelf(None, views.content, views.facts)
    found = similar(shelf, "item-0", 5, 0, None)
    assert found is not None
    assert [(each.item_id, each.reason) for each in found] == [("other", Likeness.SIMILAR_CONTENT)]
    assert similar(shelf, "item-1", 5, 0, None) is None
    assert similar(shelf, "third", 5, 0, None) == []
