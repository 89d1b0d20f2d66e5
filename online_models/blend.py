"""The blend: how much each source is believed, learned online from what people take next.

- A linear score over the features of `evidence`, weights of its own for users with 0, 1 to 4, 5 to 19 and 20 or more events:
  without history only popularity has something to say.
- What is learned from is a choice among all items: the probability of the taken item under softmax of the scores (the best scored
  stand for all). One natural-gradient step each, by the accumulated curvature of the log likelihood: no learning rate, and
  features of any scale. Old curvature fades, so that weights follow a stream that changes.
- Test-then-train: whoever measures ranks first and lets it learn after. The state is small arrays, equal to the bit after a
  restart.
"""

from typing import Final, Self

import numpy as np
import numpy.typing as npt
from numba import njit
from safetensors import SafetensorError
from safetensors.numpy import load, save

from online_models.errors import StoreError
from online_models.evidence import FEATURES, QUERIES
from online_models.normal_equations import solve
from online_models.popularity import CLOCKS

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

BUCKETS: Final = (0, 1, 5, 20)
"""Least events of a user's history in each bucket."""

FADING: Final = 0.9995
"""What is left of old curvature after a step: about the last 2,000 steps of a bucket decide."""

BEGIN: Final = np.array([3.0, 3.0, 1.0, 3.0, 0.1, 2.0, 0.1, 2.0, 0.1, 0.2, 0.2, 0.2, 0.2])
"""The weights before anything is learned: every source counts, none much."""

_SPREAD: Final = np.array([*[0.15] * len(QUERIES), *[0.03, 2.0] * 3, *[3.0] * CLOCKS])
"""How far a feature lies around its mean, roughly: what the first steps are measured by."""

_BEGIN_STEPS: Final = 20.0
"""`BEGIN` is worth so many steps."""

_LONGEST_STEP: Final = 50.0
"""By how much a step changes any weight at most. It is shortened, not left out: a blend that has become sure of what no longer
holds sees long steps only."""

_LARGEST_FEATURE: Final = 1e3
"""A larger one is a fault of its source; what it would add to the curvature would drown all others for long."""

_STATE: Final = ("weights", "curvature", "steps", "tried")

assert len(BEGIN) == len(_SPREAD) == len(FEATURES)


class Blend:
    """weights : float64 (buckets, features); curvature : float64 (buckets, features, features)
    steps : int64 (buckets,), those learned from; tried : int64 (1,), choices that were looked at, by whoever chooses them
    """

    def __init__(self, weights: F64, curvature: F64, steps: I64, tried: I64) -> None:
        shape = (len(BUCKETS), len(FEATURES))
        if weights.shape != shape or curvature.shape != (*shape, len(FEATURES)) or steps.shape != shape[:1]:
            raise ValueError(f"expected weights {shape}, got {weights.shape}, {curvature.shape} and {steps.shape}")
        kinds = [array.dtype.name for array in (weights, curvature, steps, tried)]
        if kinds != ["float64", "float64", "int64", "int64"] or tried.shape != (1,):
            raise ValueError(f"expected float64 weights and int64 counts, got {kinds} and {tried.shape}")
        if not (np.isfinite(weights).all() and np.isfinite(curvature).all()):
            raise ValueError("expected finite weights and curvature, got others")
        self.weights, self.curvature, self.steps, self.tried = weights, curvature, steps, tried

    @classmethod
    def begin(cls) -> Self:
        """Before the first step."""
        many = len(BUCKETS)
        curvature = np.tile(np.diag(_BEGIN_STEPS * _SPREAD**2), (many, 1, 1))
        return cls(np.tile(BEGIN, (many, 1)), curvature, np.zeros(many, np.int64), np.zeros(1, np.int64))

    def copy(self) -> Self:
        """Another blend that has learned the same."""
        return type(self)(*(getattr(self, name).copy() for name in _STATE))

    def of(self, events: int) -> F32:
        """The weights (features,) for a user with so many events."""
        weights: F32 = self.weights[bucket_of(events)].astype(np.float32)
        return weights

    def learn(self, events: int, features: F32, taken: I64) -> bool:
        """One step from a choice; False when it told nothing: then nothing has changed.

        Parameters
        ----------
        events : of the user's history; features : (n, FEATURES), of the best scored items
        taken : (m,), rows of the features that were taken

        Raises
        ------
        ValueError
            When a taken row is out of range.

        References
        ----------
        Amari: Natural gradient works efficiently in learning. Neural Computation 10, 1998. Hazan, Agarwal, Kale: Logarithmic
        regret algorithms for online convex optimization. Machine Learning 69, 2007.
        """
        if len(taken) == 0 or len(features) < 2:
            return False
        if taken.min() < 0 or taken.max() >= len(features):
            raise ValueError(f"expected taken rows in [0, {len(features)}), got {taken.min()} to {taken.max()}")
        # NaN is not smaller either
        if not np.abs(features).max() <= _LARGEST_FEATURE:
            return False
        bucket = bucket_of(events)
        moved = _step(features, taken, self.weights[bucket], self.curvature[bucket])
        self.steps[bucket] += moved
        return bool(moved)

    def encode(self) -> bytes:
        """The state as bytes (safetensors); the same state gives the same bytes."""
        return save({name: getattr(self, name) for name in _STATE})

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """From `encode`. Raises StoreError when the bytes are torn or of another set of features."""
        try:
            tensors = load(raw)
            return cls(*(np.array(tensors[name]) for name in _STATE))
        except (SafetensorError, KeyError, ValueError) as error:
            raise StoreError(f"a blend: expected what `Blend.encode` gives: {error!r}") from error


def bucket_of(events: int) -> int:
    """Which bucket a user with so many events is in.

    >>> [bucket_of(events) for events in (0, 1, 4, 5, 19, 20, 100)]
    [0, 1, 1, 2, 2, 3, 3]
    """
    return sum(events >= least for least in BUCKETS) - 1


@njit(cache=True, nogil=True)
def _step(features: F32, taken: I64, weights: F64, curvature: F64) -> bool:
    """Move the weights (f,) and the curvature (f, f); False, and nothing moved, when the step is not usable."""
    n, f = features.shape
    score = np.empty(n)
    for item in range(n):
        total = 0.0
        for j in range(f):
            total += weights[j] * features[item, j]
        score[item] = total
    # p_i = exp(s_i) / sum_j exp(s_j); mean = sum_i p_i x_i; second = sum_i p_i x_i x_it
    highest, mass = score.max(), 0.0
    mean, second = np.zeros(f), np.zeros((f, f))
    for item in range(n):
        p = np.exp(score[item] - highest)
        mass += p
        for j in range(f):
            t = p * features[item, j]
            mean[j] += t
            for k in range(j + 1):
                second[j, k] += t * features[item, k]
    mean /= mass
    # gradient = sum over taken of (x - mean); Fisher = m Cov_p(x); both over sqrt(m): a basket is not m independent choices
    gradient, m = np.zeros(f), taken.size
    for row in taken:
        for j in range(f):
            gradient[j] += features[row, j] - mean[j]
    damped = 1.0 / np.sqrt(m)
    after = FADING * curvature
    for j in range(f):
        gradient[j] *= damped
        for k in range(j + 1):
            after[j, k] += m * damped * (second[j, k] / mass - mean[j] * mean[k])
            after[k, j] = after[j, k]
    # w += A^-1 gradient; a feature that has long told nothing is still worth a step, so that its return moves nothing by much
    A, step = after.copy(), gradient
    for j in range(f):
        A[j, j] += _SPREAD[j] ** 2
    if not solve(A, step):
        return False
    weights += step * (_LONGEST_STEP / max(_LONGEST_STEP, np.abs(step).max()))
    curvature[:] = after
    return True
