"""A reason is the source that added most, and never about an item of the history that there is not."""

from typing import NamedTuple

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from online_models.evidence import strongest_neighbour
from online_models.neighbours import NeighbourArrays
from online_models.sources import Sources, Steps
from serving_api.reranking.candidates import F32
from serving_api.reranking.explanations import SOURCES, Code, strongest_item, strongest_sources

NONE = np.empty(0, np.int64)
ONES = np.ones((4, 2), np.float32)
LIKED = np.array([3, 2])


class Told(NamedTuple):
    code: Code
    about: int


def neighbours(*met: tuple[int, int], items: int = len(ONES)) -> tuple[NeighbourArrays, NeighbourArrays]:
    """Followers and companions of so many items, when each of the pairs has been met: an item after another."""
    sources = Sources()
    sources.rows_of([f"item-{row}" for row in range(items)])
    taken = np.array([of for of, _ in met], np.int64)
    context = np.array([before for _, before in met], np.int32)
    if met:
        sources.learn(Steps(taken, np.arange(len(met)), context, np.arange(len(met) + 1)))
    return sources.followers.arrays, sources.companions.arrays


def told(added: list[list[float]], bonus: float = 0.0, context: list[int] | None = None, vectors: F32 = ONES) -> Told:
    """Of the first of ranked items 0, 1, ...; by default the history is of items 3 and 2, and item 0 comes after item 2."""
    places, parts = np.array([0]), np.array(added, np.float32)
    recent = LIKED if context is None else np.array(context, np.int64)
    ranked = np.arange(len(added))
    source, about = strongest_sources(
        places, parts, np.array([bonus], np.float32), ranked, recent, vectors, *neighbours((0, 2))
    )
    return Told((*SOURCES[: parts.shape[1]], Code.NEW, Code.FOR_YOU)[source[0]], about[0])


def test_the_source_that_added_most_explains() -> None:
    nothing = [0.0, 0.0, 0.0]
    assert told([[0.5, 0.2, 0.4], nothing]) == (Code.BECAUSE_YOU_WATCHED, 1)
    assert told([[0.5, 0.6, 0.4], nothing]) == (Code.OFTEN_TOGETHER, 1)
    assert told([[0.5, 0.6, 0.7], nothing]) == (Code.POPULAR, -1)
    assert told([[0.5, 0.6, 0.7, 0.8], [*nothing, 0.0]]) == (Code.PREFERRED, -1)
    assert told([[0.5, 0.6, 0.7], nothing], bonus=0.4) == (Code.NEW, -1)
    assert told([[0.5, 0.5, 0.5], nothing]) == (Code.BECAUSE_YOU_WATCHED, 1)


def test_it_counts_by_how_much_more_it_added_than_to_an_average_item() -> None:
    assert told([[0.5, 0.0, 9.0], [0.0, 0.0, 9.0], [0.0, 0.0, 9.0]]) == (Code.BECAUSE_YOU_WATCHED, 1)


def test_where_nothing_can_be_said_nothing_is_claimed() -> None:
    assert told([[0.0, -1.0, np.nan], [0.0, 0.0, 0.0]]) == (Code.FOR_YOU, -1)
    assert told([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]) == (Code.FOR_YOU, -1)
    # the history speaks against the item; no item of it leads there; there is none
    assert told([[0.5, 0.2, 0.1], [0.0] * 3], vectors=np.diag([1, -1, -1, -1]).astype(np.float32)) == (Code.FOR_YOU, -1)
    assert told([[0.2, 0.5, 0.1], [0.0] * 3], context=[3, 1]) == (Code.FOR_YOU, -1)
    assert told([[0.5, 0.2, 0.1], [0.0] * 3], context=[]) == (Code.FOR_YOU, -1)
    assert told([[0.5, 0.2, 0.1], [0.0] * 3], context=[-1, -1]) == (Code.FOR_YOU, -1)


@given(
    st.lists(st.lists(st.floats(width=32), min_size=3, max_size=3), min_size=1, max_size=4),
    st.floats(width=32),
    st.lists(st.integers(-1, 3), max_size=4),
)
@settings(deadline=None)
def test_a_reason_about_an_item_of_the_history_always_has_one(
    added: list[list[float]], bonus: float, context: list[int]
) -> None:
    code, about = told(added, bonus, context)
    assert (about >= 0) == (code in {Code.BECAUSE_YOU_WATCHED, Code.OFTEN_TOGETHER})
    assert about < 0 or context[about] >= 0


@given(st.integers(0, 2**31), st.integers(1, 6), st.sampled_from([3, 4]), st.lists(st.integers(-1, 7), max_size=5))
@settings(deadline=None)
def test_each_item_of_a_list_has_the_reason_that_it_would_have_alone(
    seed: int, m: int, columns: int, context: list[int]
) -> None:
    rng = np.random.default_rng(seed)
    rows, places = rng.permutation(8)[:m], rng.permutation(m)[: rng.integers(1, m + 1)]
    parts, bonus = rng.normal(size=(m, columns)).astype(np.float32), rng.normal(size=m).astype(np.float32)
    vectors, recent = rng.normal(size=(8, 2)).astype(np.float32), np.array(context, np.int64)
    tables = neighbours(*[(int(of), int(before)) for of, before in rng.integers(0, 8, (9, 2))], items=8)
    source, about = strongest_sources(places, parts, bonus[places], rows, recent, vectors, *tables)
    speaks = [strongest_item(row, recent, vectors) for row in rows.tolist()]
    leads = strongest_neighbour(rows, recent, *tables).tolist()
    for place, found, of in zip(places.tolist(), source.tolist(), about.tolist(), strict=True):
        added = [*(parts[place] - parts.mean(axis=0)).tolist(), float(bonus[place])]
        best = int(np.argmax(added)) if max(added) > 0 else -1
        item = {0: speaks[place], 1: leads[place]}.get(best, -1)
        assert (found, of) == ((-1, -1) if best in (0, 1) and item < 0 else (best, item))


@given(st.integers(0, 2**31), st.lists(st.integers(-1, 5), max_size=8))
@settings(deadline=None)
def test_the_strongest_item_of_the_history_adds_most_to_a_score(seed: int, context: list[int]) -> None:
    vectors = np.random.default_rng(seed).integers(-3, 4, (6, 3)).astype(np.float32)
    weights = 2.0 ** (-np.arange(len(context))[::-1] / 10)
    for row in range(len(vectors)):
        adds = [
            float(weight * (vectors[of] @ vectors[row])) if of >= 0 else 0.0
            for of, weight in zip(context, weights.tolist(), strict=True)
        ]
        place = strongest_item(row, np.array(context, np.int64), vectors)
        assert place == (int(np.argmax(adds)) if adds and max(adds) > 0 else -1)
