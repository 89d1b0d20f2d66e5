"""What the blend weighs and how it learns, in plain loops and dense float64: the oracle of evidence and blend."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from online_models.evidence import (
    ACCOMPANIED,
    EPSILON,
    FEATURES,
    FOLLOW_HALF_LIFE,
    FOLLOWED,
    QUERIES,
    SHRINKAGE,
    TOGETHER_HALF_LIFE,
)
from online_models.neighbours import Neighbours
from online_models.popularity import CLOCK_NAMES, LEAST_SHARE

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

Sums = dict[int, float]


def plain_neighbours(context: Sequence[int], followers: Neighbours, companions: Neighbours) -> tuple[Sums, Sums, Sums]:
    """follows, together and given of the items that recent ones (oldest first; -1: unknown) say something of."""
    follows, together, given = Sums(), Sums(), Sums()
    shrinkage = float(SHRINKAGE)

    def mass(rows: Neighbours, item: int) -> float:
        return float(rows.arrays.mass[item]) + shrinkage

    for later, item in enumerate(reversed(context)):
        if item < 0:
            continue
        if later < FOLLOWED:
            for other, weight in zip(*followers.of(item), strict=True):
                share = weight / mass(followers, item)
                follows[other] = follows.get(other, 0.0) + share * 2 ** (-later / FOLLOW_HALF_LIFE)
        if later < ACCOMPANIED:
            decay = 2 ** (-later / TOGETHER_HALF_LIFE)
            for other, weight in zip(*companions.of(item), strict=True):
                cosine = weight / (mass(companions, item) * mass(companions, other)) ** 0.5
                together[other] = together.get(other, 0.0) + decay * cosine
                given[other] = given.get(other, 0.0) + decay * weight / mass(companions, item)
    return follows, together, given


def plain_features(
    item: int, vectors: F32, queries: F32, shares: F32, near: tuple[Sums, Sums, Sums]
) -> dict[str, float]:
    """Each feature of an item by its name."""
    found = {
        query: float(vectors[item].astype(np.float64) @ vector) for query, vector in zip(QUERIES, queries, strict=True)
    }
    for name, sums in zip(("follows", "together", "given"), near, strict=True):
        found[name] = sums.get(item, 0.0)
        found[f"{name}_log"] = float(np.log2(1 + found[name] / float(EPSILON)))
    for name, share in zip(CLOCK_NAMES, shares[:, item], strict=True):
        found[name] = float(share) - LEAST_SHARE
    return found


def feature_row(found: dict[str, float]) -> F64:
    """In the order of `FEATURES`."""
    return np.array([found[name] for name in FEATURES])


def softmax(scores: F64) -> F64:
    """Probabilities of choices (n,) by their scores."""
    likely = np.exp(scores - scores.max())
    return np.asarray(likely / likely.sum())


def natural_gradient_step(
    weights: F64,
    curvature: F64,
    features: npt.NDArray[np.floating],
    taken: Sequence[int],
    fading: float,
    damping: F64,
    longest: float,
) -> tuple[F64, F64]:
    """Weights and curvature after choices `taken` among rows of features (n, f), under softmax of features @ weights.

    fading : what is left of old curvature; damping : (f,), what is added to its diagonal; longest : most change of a weight
    """
    X, m = features.astype(np.float64), len(taken)
    p = softmax(X @ weights)
    fisher = np.cov(X.T, aweights=p, ddof=0)
    gradient = (X[list(taken)] - p @ X).sum(axis=0)
    # a basket of m counts like sqrt(m) choices
    after = fading * curvature + m * fisher / np.sqrt(m)
    step = np.linalg.solve(after + np.diag(damping), gradient / np.sqrt(m))
    return weights + step * min(1.0, longest / max(np.abs(step).max(), 1e-300)), after
