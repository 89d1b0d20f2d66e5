"""Why an item is in a list, in a word of a closed set that a page can turn into a sentence."""

import enum
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from serving_api.reranking.candidates import F32, Hashes, Places


class Code(enum.StrEnum):
    """Why an item is shown. New ones are appended; the words never change."""

    BECAUSE_YOU_WATCHED = "because_you_watched"  # an item of the history speaks for it most
    OFTEN_TOGETHER = "often_together"  # others went on to it from an item of the history
    SIMILAR_CONTENT = "similar_content"  # its content is like what the user liked, or like one item of the history
    POPULAR = "popular"
    NEW = "new"
    FEATURED = "featured"  # a business rule put it there
    EXPLORE = "explore"  # drawn by chance, so that something is learned of it
    FOR_YOU = "for_you"  # nothing more can be said
    PREFERRED = "preferred"  # it has a category that the user has said to like


NEEDS_AN_ITEM: Final = frozenset({Code.BECAUSE_YOU_WATCHED, Code.OFTEN_TOGETHER})
"""Codes that say nothing without the item of the history."""


class Explanation(NamedTuple):
    """A code, and the hash of the item of the history that it is about, where there is one."""

    code: Code
    item: int | None = None


class Evidence(NamedTuple):
    """What put m items into a list.

    contributions : (m, s), what each source added to an item's score, counted from what an average candidate gets; NaN is
        nothing
    codes : (s,), what it means when that source added most
    strongest : uint64 (m, s), hash of the item of the history that speaks most for it to that source; 0 is none
    """

    contributions: npt.NDArray[np.floating]
    codes: Sequence[Code]
    strongest: Hashes


def explain(evidence: Evidence, pinned: npt.NDArray[np.bool_], explored: npt.NDArray[np.bool_]) -> list[Explanation]:
    """Why each of m items is in its list.

    EXPLORE and FEATURED where chance or a rule put it there; else the code of the source that added most, of equal ones the
    first; FOR_YOU where none added anything, or the code needs an item of the history and there is none.

    Raises
    ------
    ValueError
        When the evidence is not about m items and as many sources as codes.

    >>> why = Evidence(np.array([[0.1, 2.0], [0.0, -1.0]]), [Code.POPULAR, Code.OFTEN_TOGETHER], np.full((2, 2), 7, np.uint64))
    >>> for code, item in explain(why, np.zeros(2, np.bool_), np.zeros(2, np.bool_)):
    ...     print(code, item)
    often_together 7
    for_you None
    """
    shape = (len(pinned), len(evidence.codes))
    if evidence.contributions.shape != shape or evidence.strongest.shape != shape or len(explored) != len(pinned):
        raise ValueError(
            f"expected evidence of shape {shape}, got {evidence.contributions.shape}, {evidence.strongest.shape}"
        )
    told = zip(
        evidence.contributions.tolist(), evidence.strongest.tolist(), pinned.tolist(), explored.tolist(), strict=True
    )
    return [
        Explanation(Code.EXPLORE)
        if drawn
        else Explanation(Code.FEATURED)
        if placed
        else _of(added, evidence.codes, items)
        for added, items, placed, drawn in told
    ]


def strongest_item(factors: F32, history: F32, weights: F32) -> Places:
    """For each of m items the place in the history (h,) that speaks most for it; -1 where nothing does.

    An item of the history speaks for another by what it adds to its score, weight_j (y_j . y_i), which leaves out that the user's
    whole history shapes how likeness counts: exact would be weight_j y_j W y_i with the user's own W of Hu, Koren and
    Volinsky (2008, section 5), one k x k inverse for every request.

    Parameters
    ----------
    factors : y_i, float32 (m, k); history : y_j, float32 (h, k); weights : (h,), as the fold-in weighs them

    >>> strongest_item(np.array([[1, 0], [-1, -1]], np.float32), np.eye(2, dtype=np.float32), np.ones(2, np.float32)).tolist()
    [0, -1]
    """
    if not len(history):
        return np.full(len(factors), -1, np.int64)
    spoken = (factors @ history.T) * weights  # (m, h)
    best = spoken.argmax(axis=1)
    return np.where(spoken[np.arange(len(factors)), best] > 0, best, -1)


def _of(added: Sequence[float], codes: Sequence[Code], items: Sequence[int]) -> Explanation:
    """From one item's contributions (s,) and items of the history (s,)."""
    best, most = -1, 0.0
    for source, contribution in enumerate(added):
        if contribution > most:  # never true of NaN
            best, most = source, contribution
    if best < 0 or (codes[best] in NEEDS_AN_ITEM and not items[best]):
        return Explanation(Code.FOR_YOU)
    return Explanation(codes[best], items[best] or None)
