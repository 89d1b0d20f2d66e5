"""Which candidates a user may see at all: not seen, not disliked, old enough."""

import numpy as np
from numba import njit

from serving_api.reranking.candidates import F32, Candidates, Hashes, Mask


def eligible(candidates: Candidates, seen: Mask, disliked: Hashes, user_age: float | None) -> Mask:
    """The candidates (n,) that may be shown.

    Parameters
    ----------
    seen : (n,), candidates that the user has met
    disliked : uint64 (d,), hashes of items that the user skipped or rated low, in any order
    user_age : years; None lets everything pass

    >>> films = Candidates.plain(np.array([7, 8, 9], np.uint64), np.zeros(3, np.float32))
    >>> eligible(films, np.array([True, False, False]), np.array([9], np.uint64), None).tolist()
    [False, True, False]
    """
    limit = np.inf if user_age is None else user_age
    return _eligible(candidates.hashes, candidates.scores, candidates.min_age, seen, np.sort(disliked), limit)


@njit(cache=True, nogil=True)
def _eligible(hashes: Hashes, scores: F32, min_age: F32, seen: Mask, disliked: Hashes, user_age: float) -> Mask:
    """`disliked` (d,) ascending."""
    found = np.empty(len(hashes), np.bool_)
    for i in range(len(hashes)):
        place = np.searchsorted(disliked, hashes[i])
        liked = place == len(disliked) or disliked[place] != hashes[i]
        found[i] = liked and not seen[i] and min_age[i] <= user_age and np.isfinite(scores[i])
    return found
