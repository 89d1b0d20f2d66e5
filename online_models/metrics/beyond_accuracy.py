"""What else a recommender should do than foresee: reach the catalogue, surprise, vary, and share out attention.

- Lists are arrays (n, k) of catalogue rows, -1 where fewer than k were recommended; what one event has a figure of (novelty,
  diversity) comes as an array (n,), for `Prequential` and for `clustered_mean`.
- Coverage and Gini are of the whole catalogue, through how often each item was recommended: never is a count too.
"""

from collections.abc import Iterable
from itertools import combinations

import numpy as np
import numpy.typing as npt

from online_models.metrics.inputs import Floats, Lists, Numbers, catalogue_rows, item_counts, numbers
from online_models.metrics.ranking import Ranking


def catalogue_coverage(rankings: Iterable[Ranking], items: int, k: int) -> float:
    """Share of a catalogue of `items` that is among the first k of at least one ranking.

    Raises
    ------
    ValueError
        When k or the catalogue is below 1, or the rankings hold more distinct items than the catalogue.

    >>> catalogue_coverage(["ab", "ac"], 4, 2)
    0.75
    """
    if items < 1:
        raise ValueError(f"expected a catalogue of at least one item, got {items}")
    if k < 1:
        raise ValueError(f"expected k >= 1, got {k}")
    found = len({item for ranked in rankings for item in ranked[:k]})
    if found > items:
        raise ValueError(f"expected at most the {items} items of the catalogue, got {found}")
    return found / items


def recommendation_counts(lists: Lists, items: int) -> npt.NDArray[np.int64]:
    """How often each item of the catalogue is in lists (n, k), int64 (items,).

    Raises
    ------
    ValueError
        When the lists are no array (n, k) of rows of the catalogue or -1.

    >>> recommendation_counts(np.array([[0, 1], [0, -1]]), 3).tolist()
    [2, 1, 0]
    """
    rows = catalogue_rows(lists, items)
    return np.bincount(rows[rows >= 0], minlength=items).astype(np.int64)


def covered_share(counts: Numbers) -> float:
    """Catalogue coverage from recommendation counts (items,): the share of items recommended at all.

    Raises
    ------
    ValueError
        When there is no item or a count is negative or not finite.

    >>> covered_share(np.array([5, 0, 1, 0]))
    0.5
    """
    column = numbers("counts", counts)
    if not len(column) or column.min() < 0:
        raise ValueError(f"expected counts >= 0 of at least one item, got {column[:8]}")
    return float(np.count_nonzero(column) / len(column))


def gini(counts: Numbers) -> float:
    """Inequality of counts (items,): 0 when all items are recommended as often, 1 - 1 / items when one gets everything.

    Raises
    ------
    ValueError
        When a count is negative or not finite, or none is positive.

    >>> gini(np.array([3, 3, 3])), gini(np.array([0, 0, 9, 0]))
    (0.0, 0.75)
    """
    rising = np.sort(item_counts(counts))
    items = len(rising)
    # G = sum_i (2 i - n - 1) x_(i) / (n sum x), i from 1, x rising
    return float((2 * np.arange(1, items + 1) - items - 1) @ rising / (items * rising.sum()))


def self_information(counts: Numbers) -> Floats:
    """-log2 p of each item (items,), in bits, p its share of all interactions; the popular tell little.

    Parameters
    ----------
    counts : (items,), interactions of each item, decayed or not; an item without any, which would tell infinitely much, is
        taken to have one, or as few as the rarest has

    Raises
    ------
    ValueError
        When a count is negative or not finite, or none is positive.

    >>> self_information(np.array([8, 4, 4, 0])).tolist()
    [1.0, 2.0, 2.0, 4.0]
    """
    column = item_counts(counts)
    unseen = min(1.0, column[column > 0].min())
    # 0 -, not -: information of 0 bits has no sign
    bits: Floats = 0 - np.log2(np.where(column > 0, column, unseen) / column.sum())
    return bits


def novelty(lists: Lists, counts: Numbers) -> Floats:
    """Mean self-information of each list (n,), in bits: how unexpected its items are.

    Parameters
    ----------
    lists : (n, k), rows of the catalogue or -1
    counts : (items,), interactions of each item; see `self_information`

    Raises
    ------
    ValueError
        When a list is empty, a row is not of the catalogue, or the counts are no counts.

    >>> novelty(np.array([[0, 1], [3, -1]]), np.array([8, 4, 4, 0])).tolist()
    [1.5, 4.0]

    References
    ----------
    Zhou et al.: Solving the apparent diversity-accuracy dilemma of recommender systems. PNAS 107 (2010).
    """
    rows = catalogue_rows(lists, len(counts))
    length = (rows >= 0).sum(1)
    if not length.all():
        raise ValueError(f"expected lists of at least one item, got an empty one at {int(length.argmin())}")
    # mean over the list of -log2 p(item); row -1 is the 0 at the end
    bits = np.append(self_information(counts), 0.0)
    told: Floats = bits[rows].sum(1) / length
    return told


def vector_diversity(lists: Lists, vectors: npt.NDArray[np.floating]) -> Floats:
    """Intra-list diversity (n,): mean of 1 - cosine over the pairs of a list, in [0, 2]; 0 for fewer than two items.

    Parameters
    ----------
    lists : (n, k), rows of the catalogue or -1
    vectors : (items, d), of each item; the zero vector has cosine 0 with every other

    Raises
    ------
    ValueError
        When a row is not of the catalogue or a vector is not finite.

    >>> vectors = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    >>> vector_diversity(np.array([[0, 2, -1], [0, 1, -1], [0, 1, 2]]), vectors).round(3).tolist()
    [0.0, 1.0, 0.667]

    References
    ----------
    Ziegler et al.: Improving recommendation lists through topic diversification. WWW 2005.
    """
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise ValueError(f"expected finite vectors (items, d), got {vectors.dtype} of shape {vectors.shape}")
    rows = catalogue_rows(lists, len(vectors))
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    unit = np.vstack([vectors / np.where(norms > 0, norms, 1), np.zeros(vectors.shape[1])])  # row -1 adds nothing
    total, own = np.zeros((len(rows), vectors.shape[1])), np.zeros(len(rows))
    for column in rows.T:
        total += unit[column]
        own += np.append(norms > 0, False)[column]
    # sum over pairs of u_i · u_j = (|sum u|² - sum |u|²) / 2
    similar = ((total**2).sum(1) - own) / 2
    pairs = _pairs(rows)
    return np.where(pairs > 0, np.clip(1 - similar / np.maximum(pairs, 1), 0, 2), 0.0)


def category_diversity(lists: Lists, categories: npt.NDArray[np.bool_]) -> Floats:
    """Intra-list diversity (n,): mean Jaccard distance over the pairs of a list, in [0, 1]; 0 for fewer than two items.

    Parameters
    ----------
    lists : (n, k), rows of the catalogue or -1
    categories : bool (items, c), which categories each item has; two items without any are alike

    Raises
    ------
    ValueError
        When a row is not of the catalogue or the categories are no bool array (items, c).

    >>> categories = np.array([[True, True, False], [True, False, False], [False, False, True]])
    >>> category_diversity(np.array([[0, 0, -1], [0, 1, -1], [0, 1, 2]]), categories).round(3).tolist()
    [0.0, 0.5, 0.833]
    """
    if categories.ndim != 2 or categories.dtype != np.bool_:
        raise ValueError(f"expected bool categories (items, c), got {categories.dtype} of shape {categories.shape}")
    rows = catalogue_rows(lists, len(categories))
    distance = np.zeros(len(rows))
    for one, other in combinations(rows.T, 2):
        a, b = categories[one], categories[other]  # (n, c)
        either = (a | b).sum(1)
        # d = 1 - |a and b| / |a or b|
        apart = np.where(either > 0, 1 - (a & b).sum(1) / np.maximum(either, 1), 0.0)
        distance += np.where((one >= 0) & (other >= 0), apart, 0.0)
    return distance / np.maximum(_pairs(rows), 1)


def _pairs(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """How many pairs of items each list (n, k) has."""
    length = (rows >= 0).sum(1)
    pairs: npt.NDArray[np.int64] = length * (length - 1) // 2
    return pairs
