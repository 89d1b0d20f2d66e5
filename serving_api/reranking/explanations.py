"""Why an item is in a list, in a word of a closed set that a page can turn into a sentence."""

import enum
from typing import Final

import numpy as np
from numba import njit

from online_models.evidence import strongest_neighbour
from online_models.neighbours import NeighbourArrays
from serving_api.reranking.candidates import F32, Places


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
    SUGGESTED = "suggested"  # the language model, which has read the titles of the history, speaks for it


SOURCES: Final = (Code.BECAUSE_YOU_WATCHED, Code.OFTEN_TOGETHER, Code.POPULAR, Code.PREFERRED, Code.SUGGESTED)
"""What it means that a source added most: vectors, neighbours, popularity, what a new user has said to like, a language model."""

_VECTORS: Final = 0
_NEIGHBOURS: Final = 1
_HISTORY_HALF_LIFE: Final = 10.0
"""In events: how much an earlier item of the history speaks for others."""


@njit(cache=True, nogil=True)
def strongest_sources(
    places: Places,
    parts: F32,
    bonus: F32,
    rows: Places,
    context: Places,
    vectors: F32,
    followers: NeighbourArrays,
    companions: NeighbourArrays,
) -> tuple[Places, Places]:
    """What put items into a list, and which item of the history it is about.

    Each source counts by how much more it added than to an average one of the ranked items; of equal ones the first. Vectors and
    neighbours say nothing without an item of the history that speaks for the item.

    Parameters
    ----------
    places : (n,), of the items of the list among the ranked ones
    parts : float32 (m, s), what each of the `SOURCES` added to the score of each ranked item; a NaN silences its source
    bonus : float32 (n,), what re-ranking added to the items of the list
    rows : (m,), of the ranked items in `vectors`, float32 (items, k), and among the neighbours
    context : (h,), rows of the history's last items, oldest first; -1 for an unknown one

    Returns
    -------
    source : (n,), the column of parts, s for the bonus; -1 where nothing can be said
    about : (n,), the place in the context; -1 where the source is about none
    """
    average = parts.sum(axis=0) / np.float32(len(parts))
    source, about = np.full(places.size, -1), np.full(places.size, -1)
    for n in range(places.size):
        most = np.float32(0)
        for column in range(average.size):
            added = parts[places[n], column] - average[column]
            if added > most:  # never true of NaN
                most, source[n] = added, column
        if bonus[n] > most:
            source[n] = average.size
        if source[n] == _VECTORS:
            about[n] = strongest_item(rows[places[n]], context, vectors)
    near = np.flatnonzero(source == _NEIGHBOURS)
    about[near] = strongest_neighbour(rows[places[near]], context, followers, companions)
    for n in range(places.size):
        if about[n] < 0 and (source[n] == _VECTORS or source[n] == _NEIGHBOURS):
            source[n] = -1
    return source, about


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def strongest_item(row: int, context: Places, vectors: F32) -> int:
    """The place in the context (h,) of the item that speaks most for the one in a row of the vectors; -1 where none does.

    An item of the history speaks for another by what it adds to its score, weight_j (y_j . y_i), which leaves out that the user's
    whole history shapes how likeness counts: exact would be weight_j y_j W y_i with the user's own W of Hu, Koren and
    Volinsky (2008, section 5), one k x k inverse for every request.
    """
    best, most = -1, np.float32(0)
    for place in range(context.size):
        if context[place] < 0:
            continue
        total = np.float32(0)
        for column in range(vectors.shape[1]):
            total += vectors[context[place], column] * vectors[row, column]
        total *= np.float32(np.exp2(-(context.size - 1 - place) / _HISTORY_HALF_LIFE))
        if total > most:
            best, most = place, total
    return best
