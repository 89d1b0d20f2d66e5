"""What the sources say of items for one user: the features that the blend weighs, and the blended score of every item.

- Everything is 0 for an item of which a source knows nothing, so that only the items near a user's recent ones cost anything
  beyond one product with the vectors.
- The blend is linear, so the vectors of several sources become one query: all items are scored by one pass over memory.
- A basket's items are no evidence for each other: who asks decides what a user's context is.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from online_models.neighbours import NeighbourArrays
from online_models.popularity import CLOCK_NAMES, CLOCKS, LEAST_SHARE
from online_models.top_k import best_of

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

QUERIES: Final = ("als_recent", "als_long", "two_tower")
"""Sources that answer by a vector."""

FEATURES: Final = (
    *QUERIES,
    "follows",
    "follows_log",
    "together",
    "together_log",
    "given",
    "given_log",
    *CLOCK_NAMES,
)
"""follows : rules from the last items to the next; together : cosine of being met within one window; given : the share of an
item's companions that this one is; `_log` : log2(1 + x / `EPSILON`)."""

EPSILON: Final = np.float32(1e-4)
SHRINKAGE: Final = np.float32(4.0)
FOLLOWED: Final = 20
"""Recent items that rules start from."""
ACCOMPANIED: Final = 30
"""Recent items whose companions count."""
FOLLOW_HALF_LIFE: Final = 3.0
TOGETHER_HALF_LIFE: Final = 5.0

_LOG2: Final = np.array(
    [1.4426948, -0.72131073, 0.48007375, -0.35345468, 0.2561797, -0.15559997, 0.06378759, -0.012370643], np.float32
)
_FOLLOWS: Final = len(QUERIES)
_POPULARITY: Final = _FOLLOWS + 6
_ASKED: Final = 1024


class Scratch(NamedTuple):
    """What the neighbours of one user's recent items add up to; all of it 0 between two users.

    follows, together, given : float32 (items,); touched : int64 (items,), its first held[0] entries are the items that are not 0
    """

    follows: F32
    together: F32
    given: F32
    touched: I64
    held: I64


def scratch_for(items: int) -> Scratch:
    """Scratch for so many items."""
    follows, together, given = np.zeros((3, items), np.float32)
    return Scratch(follows, together, given, np.zeros(items, np.int64), np.zeros(1, np.int64))


@njit(cache=True, nogil=True)
def gather(context: I64, followers: NeighbourArrays, companions: NeighbourArrays, scratch: Scratch) -> None:
    """Add up the neighbours of a user's recent items (n,), oldest first; -1 is an item that is not known here."""
    n = context.size
    for place in range(max(0, n - ACCOMPANIED), n):
        item, later = context[place], n - 1 - place
        if item < 0:
            continue
        if later < FOLLOWED:
            # follows_j = sum over recent a of 2^(-later / 3) w(a -> j) / (mass(a) + 4)
            weight = np.float32(np.exp2(-later / FOLLOW_HALF_LIFE)) / (followers.mass[item] + SHRINKAGE)
            begin = followers.start[item]
            for entry in range(begin, begin + followers.length[item]):
                j, share = followers.item[entry], weight * followers.weight[entry]
                # many halvings leave nothing of a weight, and a share of nothing marks no item as touched
                if share > 0:
                    _touch(j, scratch)
                    scratch.follows[j] += share
        # given_j = sum over recent a of 2^(-later / 5) w(a, j) / (mass(a) + 4)
        mass = companions.mass[item] + SHRINKAGE
        weight = np.float32(np.exp2(-later / TOGETHER_HALF_LIFE)) / mass
        begin, root = companions.start[item], np.sqrt(mass)
        for entry in range(begin, begin + companions.length[item]):
            j, share = companions.item[entry], weight * companions.weight[entry]
            if share > 0:
                _touch(j, scratch)
                scratch.given[j] += share
                # together_j = sum over recent a of 2^(-later / 5) w(a, j) / sqrt((mass(a) + 4) (mass(j) + 4))
                scratch.together[j] += share * root / np.sqrt(companions.mass[j] + SHRINKAGE)


@njit(cache=True, nogil=True)
def _touch(item: int, scratch: Scratch) -> None:
    if scratch.follows[item] == 0 and scratch.given[item] == 0:
        scratch.touched[scratch.held[0]] = item
        scratch.held[0] += 1


@njit(cache=True, nogil=True)
def clear(scratch: Scratch) -> None:
    """Set back to 0 what `gather` has added."""
    for place in range(scratch.held[0]):
        item = scratch.touched[place]
        scratch.follows[item] = scratch.together[item] = scratch.given[item] = 0
    scratch.held[0] = 0


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def popularity_scores(shares: F32, weights: F32, base: F32) -> None:
    """Fill base (items,) with what popularity adds to each item's score: sum over clocks of w (share - least share)."""
    for item in range(base.size):
        total = np.float32(0)
        for clock in range(CLOCKS):
            total += weights[_POPULARITY + clock] * (shares[clock, item] - np.float32(LEAST_SHARE))
        base[item] = total


@njit(cache=True, nogil=True)
def nearby_scores(items: I64, weights: F32, scratch: Scratch) -> F32:
    """What the neighbours add to the scores of items (n,), float32 (n,)."""
    scores = np.zeros(items.size, np.float32)
    for source in range(3):
        found = _taken(scratch, source, items)
        raw, log = weights[_FOLLOWS + 2 * source], weights[_FOLLOWS + 2 * source + 1]
        logs = log2_plus(found)
        for n in range(items.size):
            scores[n] += raw * found[n] + log * logs[n]
    return scores


@njit(cache=True, nogil=True)
def _taken(scratch: Scratch, source: int, items: I64) -> F32:
    """What one source found of items (n,): 0 follows, 1 together, 2 given."""
    found = np.empty(items.size, np.float32)
    column = scratch.follows if source == 0 else scratch.together if source == 1 else scratch.given
    for n in range(items.size):
        found[n] = column[items[n]]
    return found


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def log2_plus(found: F32) -> F32:
    """log2(1 + x / `EPSILON`) of each x >= 0 (n,), within 1e-6 of it, in vector code."""
    mantissa, exponent = np.empty(found.size, np.float32), np.empty(found.size, np.float32)
    for n in range(found.size):
        mantissa[n] = np.float32(1) + found[n] / EPSILON
    # 1 + x / epsilon = 2^e (1 + t), t in [0, 1)
    bits = mantissa.view(np.int32)
    for n in range(found.size):
        exponent[n] = np.float32((bits[n] >> 23) - 127)
        bits[n] = (bits[n] & 0x7FFFFF) | 0x3F800000
    for n in range(found.size):
        t = mantissa[n] - np.float32(1)
        # log2(1 + t) = t p(t), p by Chebyshev points
        p = _LOG2[7]
        for degree in range(6, -1, -1):
            p = p * t + _LOG2[degree]
        exponent[n] += t * p
    return exponent


@njit(cache=True, nogil=True)
def add_nearby(weights: F32, scratch: Scratch, scores: F32) -> None:
    """Add to scores (items,) what the neighbours say."""
    items = scratch.touched[: scratch.held[0]]
    added = nearby_scores(items, weights, scratch)
    for n in range(items.size):
        scores[items[n]] += added[n]


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def add_products(vectors: F32, query: F32, scores: F32) -> None:
    """Add y_j . q to the scores (items,) of all vectors y_j (items, c)."""
    for item in range(len(vectors)):
        total = np.float32(0)
        for column in range(len(query)):
            total += vectors[item, column] * query[column]
        scores[item] += total


def products(vectors: F32, query: F32) -> F32:
    """y_j . q (items,) of all vectors y_j (items, c), to the bit what `add_products` adds.

    BLAS rounds otherwise, and on some CPUs sets the invalid-operation flag for finite input (as in numpy issue 24067).
    """
    scores = np.zeros(len(vectors), np.float32)
    add_products(vectors, query, scores)
    return scores


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def features_of(rows: I64, vectors: F32, queries: F32, shares: F32, scratch: Scratch, features: F32) -> None:
    """Fill features (n, FEATURES) of items by their rows (n,); queries : (QUERIES, c)."""
    for source in range(3):
        near = _taken(scratch, source, rows)
        logs = log2_plus(near)
        for n in range(rows.size):
            features[n, _FOLLOWS + 2 * source] = near[n]
            features[n, _FOLLOWS + 2 * source + 1] = logs[n]
    for n in range(rows.size):
        item, found = rows[n], features[n]
        for query in range(queries.shape[0]):
            total = np.float32(0)
            for column in range(queries.shape[1]):
                total += vectors[item, column] * queries[query, column]
            found[query] = total
        for clock in range(CLOCKS):
            found[_POPULARITY + clock] = shares[clock, item] - np.float32(LEAST_SHARE)


@njit(cache=True, nogil=True)
def blend_all(
    context: I64,
    followers: NeighbourArrays,
    companions: NeighbourArrays,
    base: F32,
    vectors: F32,
    query: F32,
    weights: F32,
    excluded: I64,
    count: int,
    scratch: Scratch,
) -> tuple[I64, F32, F32]:
    """The best items by the blend of all sources: rows (m,), scores (m,) and their `parts` (m, 3), m <= count.

    Best first, ties by row.

    Parameters
    ----------
    context : (n,), rows of the user's recent items, oldest first; -1 for an unknown one
    base : (items,), what popularity adds; -inf for an item that must not be ranked
    vectors : (items, c); query : (c,), see `combined_query`; weights : (FEATURES,)
    excluded : (e,), rows that are left out; -1 is ignored
    scratch : all 0, and left so
    """
    scores = base.copy()
    add_products(vectors, query, scores)
    gather(context, followers, companions, scratch)
    add_nearby(weights, scratch, scores)
    for row in excluded:
        if row >= 0:
            scores[row] = -np.inf
    rows, best = best_of(scores, count)
    told = parts(rows, best, base, weights, scratch)
    clear(scratch)
    return rows, best, told


@njit(cache=True, nogil=True)
def blend_some(
    found: I64,
    popular: I64,
    context: I64,
    followers: NeighbourArrays,
    companions: NeighbourArrays,
    base: F32,
    vectors: F32,
    query: F32,
    weights: F32,
    excluded: I64,
    count: int,
    scratch: Scratch,
) -> tuple[I64, F32, F32]:
    """`blend_all` of a few items only: those found by an index, the popular ones, and the neighbours of recent items."""
    gather(context, followers, companions, scratch)
    near = scratch.touched[: scratch.held[0]]
    rows = np.unique(np.concatenate((found, popular, near)))
    scores = nearby_scores(rows, weights, scratch)
    for place in range(rows.size):
        row, total = rows[place], np.float32(0)
        for column in range(query.size):
            total += vectors[row, column] * query[column]
        scores[place] += base[row] + total
    for row in excluded:
        place = np.searchsorted(rows, row)
        if place < rows.size and rows[place] == row:
            scores[place] = -np.inf
    at, best = best_of(scores, count)
    told = parts(rows[at], best, base, weights, scratch)
    clear(scratch)
    return rows[at], best, told


@njit(cache=True, nogil=True)
def parts(rows: I64, scores: F32, base: F32, weights: F32, scratch: Scratch) -> F32:
    """What adds up to the scores of items (m,): by vectors, by neighbours, by popularity, float32 (m, 3)."""
    told = np.empty((rows.size, 3), np.float32)
    near = nearby_scores(rows, weights, scratch)
    for n in range(rows.size):
        told[n, 1], told[n, 2] = near[n], base[rows[n]]
        told[n, 0] = scores[n] - told[n, 1] - told[n, 2]
    return told


@njit(cache=True, nogil=True)
def strongest_neighbour(rows: I64, context: I64, followers: NeighbourArrays, companions: NeighbourArrays) -> I64:
    """For each of m distinct items the place in the context (n,) of the item that leads to it most; -1 where none does."""
    found = np.full(rows.size, -1, np.int64)
    most = np.zeros(rows.size, np.float32)
    order = np.argsort(rows)
    wanted = rows[order]
    asked = np.zeros(_ASKED, np.bool_)  # by a row's last bits: most entries are of no item that is asked for
    for m in range(rows.size):
        asked[rows[m] % _ASKED] = True
    n = context.size
    for place in range(max(0, n - ACCOMPANIED), n):
        a, later = context[place], n - 1 - place
        if a < 0:
            continue
        for of, half_life in ((followers, FOLLOW_HALF_LIFE), (companions, TOGETHER_HALF_LIFE)):
            weight = np.float32(np.exp2(-later / half_life)) / (of.mass[a] + SHRINKAGE)
            for entry in range(of.start[a], of.start[a] + of.length[a]):
                item, share = of.item[entry], weight * of.weight[entry]
                if asked[item % _ASKED]:
                    at = np.searchsorted(wanted, item)
                    if at < wanted.size and wanted[at] == item and share > most[order[at]]:
                        most[order[at]], found[order[at]] = share, place
    return found


def combined_query(weights: F32, queries: F32) -> F32:
    """The one query (c,) whose products are what all queries (QUERIES, c) add to the scores."""
    query: F32 = weights[: len(QUERIES)] @ queries
    return query
