"""Ranking metrics at k of many events at once, each with one relevant item: the event's target, by its rank.

- The case of test-then-train: the next item is the only relevant one. Then recall is the hit rate, precision the hit rate
  over k, and average precision the reciprocal rank, so three figures say all.
- Ranks count from 0. A target that was not ranked at all, -1 or any rank from k on, is a miss.
"""

import numpy as np
import numpy.typing as npt

Ranks = npt.NDArray[np.integer]
Floats = npt.NDArray[np.float64]


def hit_at(ranks: Ranks, k: int) -> Floats:
    """Hit rate at k (n,) of targets at ranks (n,): 1 for a target among the first k, else 0.

    Raises
    ------
    ValueError
        When k < 1, or ranks are no column of whole numbers >= -1.

    >>> hit_at(np.array([0, 2, 3, -1]), 3).tolist()
    [1.0, 1.0, 0.0, 0.0]
    """
    return _gains(ranks, np.ones(_cutoff(k)))


def ndcg_at(ranks: Ranks, k: int) -> Floats:
    """NDCG at k (n,) of targets at ranks (n,). Raises as `hit_at` does.

    >>> ndcg_at(np.array([0, 2, 3, -1]), 3).tolist()
    [1.0, 0.5, 0.0, 0.0]
    """
    # one relevant item: IDCG = 1, NDCG = 1 / log2(2 + rank)
    return _gains(ranks, 1 / np.log2(2 + np.arange(_cutoff(k))))


def reciprocal_rank_at(ranks: Ranks, k: int) -> Floats:
    """Reciprocal rank at k (n,) of targets at ranks (n,), 1 / (1 + rank); its mean is the MRR. Raises as `hit_at` does.

    >>> reciprocal_rank_at(np.array([0, 1, 3, -1]), 3).tolist()
    [1.0, 0.5, 0.0, 0.0]
    """
    return _gains(ranks, 1 / (1 + np.arange(_cutoff(k))))


def _cutoff(k: int) -> int:
    if k < 1:
        raise ValueError(f"expected k >= 1, got {k}")
    return k


def _gains(ranks: Ranks, gains: Floats) -> Floats:
    """gains[rank] of ranks (n,), and 0 beyond the gains (k,)."""
    if ranks.ndim != 1 or not np.issubdtype(ranks.dtype, np.integer):
        raise ValueError(f"expected ranks of whole numbers (n,), got {ranks.dtype} of shape {ranks.shape}")
    if len(ranks) and ranks.min() < -1:
        raise ValueError(f"expected ranks >= -1, got {ranks.min()}")
    # place k holds the gain of a miss, and place -1 is place k
    return np.append(gains, 0.0)[np.minimum(ranks, len(gains))]
