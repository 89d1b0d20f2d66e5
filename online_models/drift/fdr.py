"""Many features judged at once: which of their p-values are small enough (Benjamini and Hochberg, 1995)."""

import numpy as np
import numpy.typing as npt

from online_models.drift.base import Floats


def benjamini_hochberg(p_values: Floats, q: float) -> npt.NDArray[np.bool_]:
    """Which of p-values (F,) are discoveries, of which at most a share q is false on average.

    The largest p with p <= q rank / F passes, and all smaller ones with it.

    >>> benjamini_hochberg(np.array([0.04, 0.001, 0.012, 0.9]), 0.05).tolist()
    [False, True, True, False]

    References
    ----------
    Benjamini, Hochberg: Controlling the false discovery rate. J. Royal Statistical Society B 57 (1995).
    """
    if not 0 < q < 1:
        raise ValueError(f"expected q between 0 and 1, got {q}")
    if not len(p_values):
        return np.zeros(0, np.bool_)
    ranked = np.sort(p_values)
    passing = np.flatnonzero(ranked <= q * np.arange(1, len(ranked) + 1) / len(ranked))
    if not len(passing):
        return np.zeros(len(p_values), np.bool_)
    found: npt.NDArray[np.bool_] = p_values <= ranked[passing[-1]]
    return found
