"""What is like an item: by who takes it (the version's vectors), by what is taken with it, and by what it says of itself.

- Score = 1/2 cosine of the vectors + 1/2 cosine of being met together; both are at most 1, and below 0 they count as nothing.
- Content stands in where an item has neither a vector nor companions; its score is the cosine of the terms.
- Nothing is written to, so that any thread may ask.
"""

import enum
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from online_models.content import ContentIndex
from online_models.contracts.ids import hash64
from online_models.evidence import SHRINKAGE
from online_models.neighbours import Neighbours
from online_models.top_k import best_of
from serving_api.facts import Facts
from serving_api.reranking.candidates import F32
from serving_api.retrieval import INDEXED, Rows, VersionView

TOGETHER_SHARE: Final = np.float32(0.5)

SPARE: Final = 100
"""Items beyond those asked for, in case that rules exclude some."""


class Likeness(enum.StrEnum):
    """Why an item is like another. New ones are appended; the words never change."""

    SAME_TASTE = "same_taste"  # the same people take both
    OFTEN_TOGETHER = "often_together"  # both are met within one visit
    SIMILAR_CONTENT = "similar_content"  # their titles, years and categories share rare terms


class Similar(NamedTuple):
    """One similar item; the score is from (0, 1]."""

    item_id: str
    score: float
    reason: Likeness


@dataclass(frozen=True, slots=True)
class Shelf:
    """What similar items are looked for in: the version's view, if one is loaded, the content and the facts of the catalogue."""

    view: VersionView | None
    content: ContentIndex | None
    facts: Facts


def similar(shelf: Shelf, item_id: str, k: int, now_ms: int, stranger_age: float | None) -> list[Similar] | None:
    """The k items that are most like an item, best first, ties by row; None for an item that nobody knows.

    Neither the item itself nor what rules exclude, or what is not for somebody of `stranger_age` years.
    """
    found: list[Similar] = []
    row = -1
    if shelf.view is not None:
        row = int(shelf.view.rows(np.array([hash64(item_id)], np.uint64))[0])
        if row >= 0:
            found = by_people(shelf.view, row, k + SPARE)
    if not found and item_id in shelf.facts.catalogue:
        found = by_content(shelf, item_id, k + SPARE)
    if row < 0 and item_id not in shelf.facts.catalogue:
        return None
    return _allowed(found, shelf.facts, now_ms, stranger_age)[:k]


def by_people(view: VersionView, row: int, count: int) -> list[Similar]:
    """By vectors and companions; empty where the item has neither."""
    rows = _candidates(view, row)
    taste = _cosines(view.vectors, row, rows)
    together = _together(view.sources.companions, row, len(view.vectors))
    together = together if rows is None else together[rows]
    # s_j = (1 - b) max(cos(y_i, y_j), 0) + b w(i, j) / sqrt((mass(i) + 4) (mass(j) + 4))
    scores = (1 - TOGETHER_SHARE) * np.maximum(taste, 0) + TOGETHER_SHARE * together
    itself = row if rows is None else np.flatnonzero(rows == row)
    scores[itself] = 0
    scores[scores <= 0] = -np.inf
    places, best = best_of(scores, count)
    ids = view.sources.items.ids
    reasons = np.where(together[places] > taste[places], Likeness.OFTEN_TOGETHER, Likeness.SAME_TASTE)
    at = places if rows is None else rows[places]
    return [
        Similar(ids[item], score, Likeness(reason))
        for item, score, reason in zip(at.tolist(), best.tolist(), reasons.tolist(), strict=True)
    ]


def by_content(shelf: Shelf, item_id: str, count: int) -> list[Similar]:
    """By the terms of titles, years and categories."""
    if shelf.content is None:
        return []
    ids = list(shelf.facts.catalogue)
    near = shelf.content.neighbours(ids.index(item_id), count)
    return [
        Similar(ids[row], min(score, 1.0), Likeness.SIMILAR_CONTENT)
        for row, score in zip(near.rows.tolist(), near.similarities.tolist(), strict=True)
    ]


def _candidates(view: VersionView, row: int) -> Rows | None:
    """Rows to score, ascending; None for all of them."""
    if view.loaded.nearest is None:
        return None
    near = view.indexed[view.loaded.nearest.search(view.vectors[row], INDEXED)[0]]
    return np.unique(np.concatenate([near, np.array(view.sources.companions.of(row)[0], np.int64)]))


def _cosines(vectors: F32, row: int, rows: Rows | None) -> F32:
    """Cosine of an item's vector with those of others (n,); 0 where one of them is zeros."""
    others = vectors if rows is None else vectors[rows]
    norms = np.sqrt(np.einsum("ij,ij->i", others, others)) * np.linalg.norm(vectors[row])
    products = others @ vectors[row]
    cosines: F32 = np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)
    return cosines


def _together(companions: Neighbours, row: int, items: int) -> F32:
    """How often an item is met with each other one, float32 (items,), from 0 to 1."""
    found = np.zeros(items, np.float32)
    if row < len(companions):
        rows, weights = companions.of(row)
        mass = companions.arrays.mass
        found[rows] = np.array(weights, np.float32) / np.sqrt((mass[row] + SHRINKAGE) * (mass[rows] + SHRINKAGE))
    return np.minimum(found, np.float32(1))


def _allowed(found: list[Similar], facts: Facts, now_ms: int, stranger_age: float | None) -> list[Similar]:
    """Those that rules and age limits let everybody see."""
    permitted = set(facts.permitted([each.item_id for each in found], stranger_age, now_ms))
    return [each for each in found if each.item_id in permitted]
