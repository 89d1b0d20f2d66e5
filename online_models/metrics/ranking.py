"""Ranking metrics at k, for one ranking and averaged over many.

- Relevance is binary. A relevant item counts where it first appears; a repetition of it is a miss.
- Precision divides by k even when fewer were recommended; average precision and the ideal of NDCG by min(k, relevant).
- A ranking with nothing relevant has no value: it is an error alone, and left out of (and not counted in) a mean.
"""

import math
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ranking = Sequence[Hashable] | npt.NDArray[np.int64]
"""Items, best first, or row numbers of items."""

Metric = Callable[[Ranking, Collection[Hashable], int], float]


def hit_rate(ranked: Ranking, relevant: Collection[Hashable], k: int) -> float:
    """1 when a relevant item is among the first k, else 0.

    >>> hit_rate("abc", {"c"}, 2), hit_rate("abc", {"c"}, 3)
    (0.0, 1.0)
    """
    return float(bool(_hits(ranked, relevant, k)))


def precision(ranked: Ranking, relevant: Collection[Hashable], k: int) -> float:
    """Relevant items among the first k, as a share of k.

    >>> precision("abcd", {"a", "d"}, 2)
    0.5
    """
    return len(_hits(ranked, relevant, k)) / k


def recall(ranked: Ranking, relevant: Collection[Hashable], k: int) -> float:
    """Relevant items among the first k, as a share of all relevant ones.

    >>> recall("abcd", {"a", "d", "e", "f"}, 2)
    0.25
    """
    return len(_hits(ranked, relevant, k)) / len(set(relevant))


def ndcg(ranked: Ranking, relevant: Collection[Hashable], k: int) -> float:
    """Discounted gain of the first k, as a share of the best possible.

    >>> ndcg("ab", {"a"}, 2), round(ndcg("ba", {"a"}, 2), 3)
    (1.0, 0.631)
    """
    # DCG = sum over hits of 1 / log2(1 + position), positions from 1
    gain = sum(1 / math.log2(1 + position) for position in _hits(ranked, relevant, k))
    ideal = sum(1 / math.log2(1 + position) for position in range(1, min(k, len(set(relevant))) + 1))
    return gain / ideal


def average_precision(ranked: Ranking, relevant: Collection[Hashable], k: int) -> float:
    """Mean of the precision at each hit, over the hits that were possible.

    >>> average_precision("abc", {"a", "c"}, 3) == (1 / 1 + 2 / 3) / 2
    True
    """
    hits = _hits(ranked, relevant, k)
    return sum(nth / position for nth, position in enumerate(hits, 1)) / min(k, len(set(relevant)))


def reciprocal_rank(ranked: Ranking, relevant: Collection[Hashable], k: int) -> float:
    """1 / position of the first relevant item among the first k; 0 without one.

    >>> reciprocal_rank("abc", {"b", "c"}, 3)
    0.5
    """
    hits = _hits(ranked, relevant, k)
    return 1 / hits[0] if hits else 0.0


@dataclass(frozen=True, slots=True)
class RankingMetrics:
    """Means at k over `rankings` rankings that had something relevant."""

    rankings: int
    hit_rate: float
    precision: float
    recall: float
    ndcg: float
    average_precision: float
    reciprocal_rank: float


def mean_metrics(rankings: Sequence[Ranking], relevant: Sequence[Collection[Hashable]], k: int) -> RankingMetrics:
    """Mean of each metric over the rankings with something relevant.

    Raises
    ------
    ValueError
        When no ranking has anything relevant, or the two sequences differ in length.

    >>> means = mean_metrics(["ab", "ba", "ab"], [{"a"}, {"a"}, set()], 1)
    >>> means.rankings, means.hit_rate, means.recall
    (2, 0.5, 0.5)
    """
    if len(rankings) != len(relevant):
        raise ValueError(f"expected as many relevant sets as rankings, got {len(relevant)} and {len(rankings)}")
    pairs = [(ranked, wanted) for ranked, wanted in zip(rankings, relevant, strict=True) if len(wanted)]
    if not pairs:
        raise ValueError(f"expected a ranking with something relevant, got none in {len(rankings)}")
    of = (hit_rate, precision, recall, ndcg, average_precision, reciprocal_rank)
    return RankingMetrics(
        len(pairs), *(sum(metric(ranked, wanted, k) for ranked, wanted in pairs) / len(pairs) for metric in of)
    )


def _hits(ranked: Ranking, relevant: Collection[Hashable], k: int) -> list[int]:
    """Positions, from 1, at which the first k have a relevant item for the first time."""
    if k < 1:
        raise ValueError(f"expected k >= 1, got {k}")
    wanted = set(relevant)
    if not wanted:
        raise ValueError("expected at least one relevant item, got none")
    hits = []
    for position, item in enumerate(ranked[:k], 1):
        if item in wanted:
            wanted.remove(item)
            hits.append(position)
    return hits
