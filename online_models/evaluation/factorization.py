"""Factors of a log's users and items by exact alternating least squares, in the kernel's own fold-in.

- The objective, the confidences and the defaults are those of the retrain job, which fits by `implicit`.
- Only what came before the cut is known: users and items are those met by then, which are the first rows of the log.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from online_models import als
from online_models.contracts.jobs import TrainAls
from online_models.evaluation.log import Log
from online_models.learner import Trained
from online_models.ridge import Ridge

F32 = npt.NDArray[np.float32]

_DAY_MS = 86_400_000.0
_BEGIN_SCALE = 0.01


@dataclass(frozen=True, slots=True)
class Factors:
    """users : X, float32 (users, k); items : Y, float32 (items, k); weights : float64 (items,), each item's sum of c - 1"""

    users: F32
    items: F32
    weights: npt.NDArray[np.float64]


def factorize(log: Log, end: int, how: TrainAls) -> Factors:
    """Factors of the events before `end`.

    min over X, Y of  sum_ui c_ui (p_ui - x_u . y_i)^2 + lambda (sum_u |x_u|^2 + sum_i |y_i|^2)
    with c_ui = 1 + alpha s_ui 2^(-age / half-life), and p_ui = 1 where the user has met the item

    References
    ----------
    Hu, Koren, Volinsky: Collaborative filtering for implicit feedback datasets. ICDM 2008.
    """
    confidence = confidences(log, end, how)
    transposed = confidence.T.tocsr()
    rng = np.random.default_rng(how.seed)
    Y = (rng.random((confidence.shape[1], how.factors)) * _BEGIN_SCALE).astype(np.float32)
    for _ in range(how.iterations):
        X = _solved(confidence, Y, how.regularization)
        Y = _solved(transposed, X, how.regularization)
    weights = np.asarray(confidence.sum(axis=0), np.float64).ravel() - np.diff(transposed.indptr)
    return Factors(X, Y, weights)


def confidences(log: Log, end: int, how: TrainAls) -> csr_matrix:
    """c_ui of the events before `end`, float32 CSR (users, items)."""
    user, item = log.user[:end], log.item[:end]
    age_days = (log.ts_ms[end - 1] - log.ts_ms[:end]) / _DAY_MS
    c = 1 + how.alpha * log.strength[:end] * np.exp2(-age_days / how.half_life_days)
    return csr_matrix((c.astype(np.float32), (user, item)), shape=(user.max() + 1, item.max() + 1))


def trained(log: Log, factors: Factors, how: TrainAls) -> Trained:
    """The factors as the learner takes a version."""
    return Trained(
        ids=log.ids[: len(factors.items)],
        factors=factors.items,
        weights=factors.weights,
        gramian=als.gramian(factors.items),
        user_gramian=als.gramian(factors.users),
        users=len(factors.users),
        fold_in=als.FoldIn(alpha=how.alpha, regularization=how.regularization),
    )


def _solved(rows: csr_matrix, Y: F32, regularization: float) -> F32:
    YtY = als.gramian(Y)
    return als.fold_in(rows.indptr, rows.indices, rows.data, Y, YtY, regularization, Ridge.of(YtY, regularization))
