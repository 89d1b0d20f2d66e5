"""A bonus for new items, which nobody can have liked yet."""

import numpy as np
from numba import njit

from serving_api.reranking.candidates import F32


def freshness(age_days: F32, bonus: float, half_life_days: float) -> F32:
    """bonus 2^(-age / half-life) of each item, float32 (n,); 0 where the age is unknown, the whole bonus before age 0.

    Parameters
    ----------
    age_days : (n,), NaN where unknown

    >>> freshness(np.array([-1, 0, 7, 14, np.nan], np.float32), 2.0, 7.0).tolist()
    [2.0, 2.0, 1.0, 0.5, 0.0]
    """
    return _freshness(age_days, bonus, half_life_days)


@njit(cache=True, nogil=True)
def _freshness(age_days: F32, bonus: float, half_life_days: float) -> F32:
    added = np.zeros(len(age_days), np.float32)
    for i in range(len(age_days)):
        if bonus and not np.isnan(age_days[i]):
            # bonus 2^(-age / half-life)
            added[i] = bonus * 2.0 ** (-max(age_days[i], 0.0) / half_life_days)
    return added
