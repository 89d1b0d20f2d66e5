"""A list filled place by place: maximal marginal relevance within limits, around what is pinned.

- Relevance is the score's place between the worst and the best eligible one, so that lambda means the same whatever ranks.
- The likeness of every candidate to the list is kept, and compared with the item that was added last: n (k - 1) comparisons.

References
----------
Carbonell, Goldstein: The use of MMR, diversity-based reranking for reordering documents and producing summaries. SIGIR 1998.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from serving_api.reranking.candidates import F32, Bits, Mask, Places

F64 = npt.NDArray[np.float64]

ALIKE_BY_FACTORS: Final = 0
ALIKE_BY_CATEGORIES: Final = 1


class Likeness(NamedTuple):
    """What makes two of n items alike.

    mmr_lambda : weight of relevance, in [0, 1]; at 1 nothing is compared
    kind : ALIKE_BY_FACTORS, cosine of factors (n, k); ALIKE_BY_CATEGORIES, Jaccard of categories (n, w). Where an item has
        none, 0
    """

    mmr_lambda: float
    kind: int
    factors: F32
    categories: Bits


class Pool(NamedTuple):
    """What a list may be filled from.

    scores : float32 (n,); eligible : (n,), what may be shown; late : (n,), what is shown only when nothing else is left
    limited, limits : (l, n) and (l,), at most limits[j] of the items in limited[j] are in a list
    """

    scores: F32
    eligible: Mask
    late: Mask
    limited: Mask
    limits: Places


def fill(pool: Pool, pinned: Mask, ranks: Places, likeness: Likeness, count: int) -> tuple[Places, Mask]:
    """The items of a list, and which of them a pin has placed.

    Pins come first, in their order: the best eligible item of pinned[j] that limits allow is put at place ranks[j]. Then the
    free places are filled from the first to the last with what maximises

        lambda relevance(i) - (1 - lambda) max over j in the list of likeness(i, j)

    of those that limits allow, ties by place among the candidates. Places that stay empty close up.

    Parameters
    ----------
    pinned, ranks : (p, n) and (p,), places counted from 0; a place taken already, or beyond the list, pins nothing
    count : the list's length, at most

    Returns
    -------
    chosen int64 (m,), whether pinned (m,); m < count only where no more items are eligible within the limits

    >>> def pool(*scores):
    ...     n, every = len(scores), np.ones(len(scores), np.bool_)
    ...     return Pool(np.array(scores, np.float32), every, ~every, np.zeros((0, n), np.bool_), np.zeros(0, np.int64))
    >>> no_pins = np.zeros((0, 3), np.bool_), np.zeros(0, np.int64)
    >>> twins = Likeness(0.5, ALIKE_BY_FACTORS, np.array([[1, 0], [1, 0], [0, 1]], np.float32), np.zeros((3, 1), np.uint64))
    >>> fill(pool(3, 2, 1), *no_pins, twins, 2)[0].tolist()
    [0, 2]
    """
    chosen, by_pin = _fill(pool, pinned, ranks, likeness, count)
    taken = chosen >= 0
    return chosen[taken], by_pin[taken]


@njit(cache=True, nogil=True)
def others(pool: Pool, chosen: Places, at: int) -> Places:
    """What might stand at place `at` of a list (m,) instead: eligible, not late or listed, within the limits; ascending."""
    free = pool.eligible & ~pool.late
    room = pool.limits.copy()
    for place in range(len(chosen)):
        free[chosen[place]] = False
        if place != at:
            room -= pool.limited[:, chosen[place]]
    for i in range(len(free)):
        free[i] = free[i] and _fits(i, pool.limited, room)
    return np.flatnonzero(free)


@njit(cache=True, nogil=True)
def _fill(pool: Pool, pinned: Mask, ranks: Places, likeness: Likeness, count: int) -> tuple[Places, Mask]:
    """Places (count,) with -1 where nothing stands, and whether pinned (count,)."""
    chosen, by_pin = np.full(count, -1, np.int64), np.zeros(count, np.bool_)
    left, room = pool.eligible.copy(), pool.limits.copy()
    compared = likeness.mmr_lambda < 1
    relevance = _relevance(pool.scores, pool.eligible) if compared else pool.scores.astype(np.float64)
    lengths = _lengths(likeness.factors) if compared else np.zeros(0, np.float32)
    closest = np.full(len(relevance), -1.0)  # as far as can be, until there is something in the list
    for step in range(len(ranks) + count):
        pin = step < len(ranks)
        place = ranks[step] if pin else step - len(ranks)
        if place >= count or chosen[place] >= 0:
            continue
        if pin:
            best = _best(relevance, left & pinned[step], pool, room)
        else:
            # lambda relevance(i) - (1 - lambda) max over j of likeness(i, j)
            worth = likeness.mmr_lambda * relevance - (1 - likeness.mmr_lambda) * closest
            best = _best(worth, left, pool, room)
        if best >= 0:
            chosen[place], by_pin[place], left[best] = best, pin, False
            room -= pool.limited[:, best]
            if compared:
                _compare(best, left, likeness, lengths, closest)
    return chosen, by_pin


@njit(cache=True, nogil=True)
def _best(worth: F64, left: Mask, pool: Pool, room: Places) -> int:
    """Of what is left and within the limits, the worthiest that is not late, else the worthiest; -1 where there is none."""
    best, best_late = -1, -1
    for i in range(len(worth)):
        if not left[i] or not _fits(i, pool.limited, room):
            continue
        if pool.late[i]:
            if best_late < 0 or worth[i] > worth[best_late]:
                best_late = i
        elif best < 0 or worth[i] > worth[best]:
            best = i
    return best if best >= 0 else best_late


@njit(cache=True, nogil=True, inline="always")
def _fits(i: int, limited: Mask, room: Places) -> bool:
    fits = True
    for limit in range(len(room)):
        fits &= not limited[limit, i] or room[limit] > 0
    return fits


@njit(cache=True, nogil=True)
def _relevance(scores: F32, eligible: Mask) -> F64:
    """Scores (n,) on a scale from 0, the worst eligible one, to 1, the best; all 1 where these are equal."""
    worst, best = np.inf, -np.inf
    for i in range(len(scores)):
        if eligible[i]:
            worst, best = min(worst, scores[i]), max(best, scores[i])
    relevance = np.ones(len(scores))
    for i in range(len(scores)):
        if eligible[i] and best > worst:
            relevance[i] = (scores[i] - worst) / (best - worst)
    return relevance


@njit(cache=True, nogil=True)
def _compare(added: int, left: Mask, likeness: Likeness, lengths: F32, closest: F64) -> None:
    """Raise `closest` (n,) of what is left to its likeness to the item that was added."""
    for i in range(len(closest)):
        if left[i] and likeness.kind == ALIKE_BY_FACTORS:
            closest[i] = max(
                closest[i], _cosine(likeness.factors[i], likeness.factors[added], lengths[i] * lengths[added])
            )
        elif left[i]:
            closest[i] = max(closest[i], _jaccard(likeness.categories[i], likeness.categories[added]))


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _lengths(factors: F32) -> F32:
    """|y_i|, (n,)."""
    lengths = np.empty(len(factors), np.float32)
    for i in range(len(factors)):
        lengths[i] = np.sqrt(_dot(factors[i], factors[i]))
    return lengths


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"}, inline="always")
def _dot(a: F32, b: F32) -> np.float32:
    total = np.float32(0)
    for column in range(len(a)):
        total += a[column] * b[column]
    return total


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _cosine(a: F32, b: F32, lengths: np.float32) -> np.float32:
    """a . b / (|a| |b|); 0 where one is zero."""
    return _dot(a, b) / lengths if lengths > 0 else np.float32(0)


@njit(cache=True, nogil=True)
def _jaccard(a: Bits, b: Bits) -> float:
    """|a and b| / |a or b|; 0 where both are empty."""
    both, either = 0, 0
    for word in range(len(a)):
        both += _ones(a[word] & b[word])
        either += _ones(a[word] | b[word])
    return both / either if either else 0.0


@njit(cache=True, nogil=True, inline="always")
def _ones(word: np.uint64) -> int:
    """How many bits are set, counted in pairs, then in fours, then in bytes; LLVM makes one instruction of it."""
    word -= (word >> np.uint64(1)) & np.uint64(0x5555555555555555)
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return int((word * np.uint64(0x0101010101010101)) >> np.uint64(56))
