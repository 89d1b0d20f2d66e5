"""How much more a position is looked at than another, from logs in which several rankers put the same item in different places.

- Position-based model: P(click) = theta_k gamma_i, theta_k the probability that position k is looked at, gamma_i that item i is
  taken when it is. Rankers that disagree have made the swaps (intervention harvesting); nobody need shuffle lists.
- All positions are estimated together: given how many clicks an item had in all, where they fell depends on theta alone. This
  uses every pair of positions at once; adjacent pairs chained, and ratios to the first position alone, have 1.2 to 2.8 times
  the error on the same logs (the tests compare them).
- What is called the same item must be as good in every place it is found in. With rankers that know the user that is the item to
  one user; by the item alone, what is put first for those who like it makes the first position look better than it is.
- Positions that no common item ties to the first one, or with few clicks, have NaN and a reason, not a guess.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from online_models.off_policy.estimates import F64, I64, Units

MIN_CLICKS: Final = 10
"""On items that two positions share, for a position to be told."""

_STEPS: Final = 100
_CLOSE: Final = 1e-10
_UNSEEN: Final = 1e-300


@dataclass(frozen=True, slots=True)
class PositionPropensities:
    """theta relative to the first position of the log, as columns by position, 0 to K - 1.

    theta : float64 (K,), 1 at the first, NaN where it cannot be told; standard_error : float64 (K,), clustered by unit
    rows, clicks : int64 (K,), of items that were found in several positions
    first : that position, whose theta is 1
    shared : how many items (keys) were found in several positions and clicked
    reason : why some or all cannot be told, empty where all can
    """

    theta: F64
    standard_error: F64
    rows: I64
    clicks: I64
    first: int
    shared: int
    reason: str

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """bool (K,), the positions with a theta."""
        known: npt.NDArray[np.bool_] = np.isfinite(self.theta)
        return known


@dataclass(frozen=True, slots=True)
class _Cells:
    """Rows as keys x positions, both renumbered: key, place (n,). n, c : (keys, k) rows and clicks"""

    key: I64
    place: I64
    n: csr_array
    c: csr_array

    @property
    def key_clicks(self) -> F64:
        """float64 (keys,)"""
        return np.asarray(self.c.sum(axis=1), np.float64)

    def totals(self, theta: F64) -> F64:
        """sum_l n_il theta_l, (keys,)."""
        return np.asarray(self.n @ theta, np.float64)

    def shares(self, theta: F64) -> csr_array:
        """pi_ik = n_ik theta_k / sum_l n_il theta_l, (keys, k)."""
        expected = (self.n * theta[None, :]).tocsr()
        return (expected * (1 / np.maximum(self.totals(theta), _UNSEEN))[:, None]).tocsr()


def position_propensities(
    position: I64,
    clicked: npt.NDArray[np.bool_],
    key: Units,
    unit: Units | None = None,
    min_clicks: int = MIN_CLICKS,
) -> PositionPropensities:
    """Estimate theta from rows of several rankers.

        max over beta = log theta of  sum_ik c_ik log pi_ik,  pi_ik = n_ik theta_k / sum_l n_il theta_l

    n_ik, c_ik : rows and clicks of key i at position k. It is the likelihood of where a key's clicks fell given how many there
    were (a Poisson rate for each key, conditioned out), consistent for whatever keys there are because
    E[c_ik] = n_ik theta_k gamma_i is all that it needs. Errors are a sandwich over units.

    Parameters
    ----------
    position : int64 (n,), counted from 0; clicked : bool (n,)
    key : (n,), what is the same item: its id, or item and user, or item and query
    unit : (n,), a user or a session; None where rows are independent
    min_clicks : of a position on shared keys

    Raises
    ------
    ValueError
        When the columns differ in length or a position is negative.

    References
    ----------
    Agarwal, Zaitsev, Wang, Li, Najork, Joachims: Estimating position bias without intrusive interventions. WSDM (2019), arXiv
    1806.03555, 1812.05161.
    Hausman, Hall, Griliches: Econometric models for count data. Econometrica 52 (1984): the conditional likelihood.
    """
    if not len(position) == len(clicked) == len(key) or np.any(position < 0):
        raise ValueError("expected position, clicked and key of one length, positions from 0")
    positions = int(position.max(initial=-1)) + 1
    first = int(position.min()) if len(position) else 0
    codes = np.unique(key, return_inverse=True)[1]
    kept, reason = _tied(codes, position, clicked, positions, min_clicks)
    theta, error = np.full(positions, np.nan), np.full(positions, np.nan)
    rows = np.flatnonzero(_shared(codes, position, clicked, kept))
    if first in kept:
        theta[kept], error[kept] = _fitted(
            codes[rows], position[rows], clicked[rows], kept, None if unit is None else unit[rows]
        )
    elif positions:
        reason = f"position {first}, which the others are compared with: {reason or 'no row'}"
    return PositionPropensities(
        theta,
        error,
        np.bincount(position[rows], minlength=positions),
        np.bincount(position[rows], weights=clicked[rows], minlength=positions).astype(np.int64),
        first,
        len(np.unique(codes[rows])),
        reason,
    )


def list_weights(theta: F64, place: I64, position: I64) -> F64:
    """theta[place] / theta[position], what a click at a logged position counts for a list that has the item at another place.

    Parameters
    ----------
    theta : (K,), NaN where not known
    place : int64 (n,), of the new list, below 0 or beyond K where it does not show the item; position : int64 (n,), logged

    Returns
    -------
    float64 (n,), 0 where the new list does not show the item, or at a place of which nothing is known; NaN where nothing is known
    of the logged position

    >>> list_weights(np.array([1.0, 0.5]), np.array([1, 0, -1]), np.array([0, 1, 0])).tolist()
    [0.5, 2.0, 0.0]
    """
    return np.nan_to_num(looks_at(theta, place)) / looks_at(theta, position)


def looks_at(theta: F64, place: I64) -> F64:
    """theta at places (n,), NaN where none is known."""
    inside = (place >= 0) & (place < len(theta))
    found = np.full(len(place), np.nan)
    found[inside] = theta[place[inside]]
    return found


def _shared(codes: I64, position: I64, clicked: npt.NDArray[np.bool_], kept: I64) -> npt.NDArray[np.bool_]:
    """Rows (n,) at the kept positions of keys that were found in several of them and clicked."""
    inside = np.isin(position, kept)
    keys = int(codes.max(initial=-1)) + 1
    pairs = np.unique(np.stack([codes[inside], position[inside]]), axis=1)
    several = np.bincount(pairs[0], minlength=keys) > 1
    taken = np.bincount(codes[inside], weights=clicked[inside], minlength=keys) > 0
    found: npt.NDArray[np.bool_] = inside & (several & taken)[codes]
    return found


def _tied(
    codes: I64, position: I64, clicked: npt.NDArray[np.bool_], positions: int, min_clicks: int
) -> tuple[I64, str]:
    """The positions that clicks tie to the first one, and why the others are not."""
    kept = np.unique(position)
    reasons = []
    while True:
        rows = _shared(codes, position, clicked, kept)
        clicks = np.bincount(position[rows], weights=clicked[rows], minlength=positions)
        few = kept[clicks[kept] < max(min_clicks, 1)]
        if len(few):
            reasons.append(
                f"fewer than {max(min_clicks, 1)} clicks on items that other positions share at {_named(few)}"
            )
            kept = np.setdiff1d(kept, few)
            continue
        apart = _apart(codes[rows], position[rows], clicked[rows], kept)
        if not len(apart):
            return kept, "; ".join(reasons)
        reasons.append(f"no common clicked items tie {_named(apart)} to the first position")
        kept = np.setdiff1d(kept, apart)


def _apart(codes: I64, position: I64, clicked: npt.NDArray[np.bool_], kept: I64) -> I64:
    """Kept positions without a path of common items to the lowest and back, each step by a click where it begins; without both
    ways the likelihood has its maximum at infinity (Ford's condition)."""
    if not len(kept):
        return kept
    cells = _cells(codes, position, clicked, kept)
    ways = (cells.c > 0).astype(np.int64).T @ (cells.n > 0).astype(np.int64)  # (k, k): clicked at row, shown at column
    _, component = connected_components(ways, directed=True, connection="strong")
    apart: I64 = kept[component != component[0]]
    return apart


def _named(positions: I64) -> str:
    listed = ", ".join(map(str, positions[:8].tolist()))
    return f"position{'s' if len(positions) > 1 else ''} {listed}{' ...' if len(positions) > 8 else ''}"


def _cells(codes: I64, position: I64, clicked: npt.NDArray[np.bool_], kept: I64) -> _Cells:
    keys = np.unique(codes, return_inverse=True)[1]
    place = np.searchsorted(kept, position)
    shape = (int(keys.max(initial=-1)) + 1, len(kept))
    n, c = (
        coo_array((values.astype(np.float64), (keys, place)), shape).tocsr() for values in (np.ones(len(keys)), clicked)
    )
    c.eliminate_zeros()
    return _Cells(keys, place, n, c)


def _fitted(
    codes: I64, position: I64, clicked: npt.NDArray[np.bool_], kept: I64, unit: Units | None
) -> tuple[F64, F64]:
    """theta (k,) and its standard errors, relative to the first of the kept positions."""
    cells = _cells(codes, position, clicked, kept)
    beta = np.zeros(len(kept))  # beta_0 = 0
    for _ in range(_STEPS):
        score, information = _derivatives(cells, beta)
        step = np.zeros(len(kept))
        step[1:] = np.linalg.solve(information[1:, 1:], score[1:]) if len(kept) > 1 else 0.0
        beta = _improved(cells, beta, step)
        if np.abs(step).max(initial=0.0) < _CLOSE:
            break
    theta = np.exp(beta)
    return theta, theta * _errors(cells, beta, clicked, unit)


def _derivatives(cells: _Cells, beta: F64) -> tuple[F64, F64]:
    """Of the log-likelihood in beta: sum_i (c_i - C_i pi_i), (k,), and sum_i C_i (diag(pi_i) - pi_i pi_i'), (k, k)."""
    shares, clicks = cells.shares(np.exp(beta)), cells.key_clicks
    expected = shares.T @ clicks
    score = np.asarray(cells.c.sum(axis=0), np.float64) - expected
    weighted = (shares * clicks[:, None]).tocsr()
    return score, np.diag(expected) - (shares.T @ weighted).toarray()


def _improved(cells: _Cells, beta: F64, step: F64) -> F64:
    """A Newton step, halved until the likelihood does not fall."""
    now = _likelihood(cells, beta)
    for _ in range(50):
        if _likelihood(cells, beta + step) >= now - 1e-12 * abs(now):
            return beta + step
        step = step / 2
    return beta


def _likelihood(cells: _Cells, beta: F64) -> float:
    clicks = np.asarray(cells.c.sum(axis=0), np.float64)
    return float(clicks @ beta - cells.key_clicks @ np.log(cells.totals(np.exp(beta))))


def _errors(cells: _Cells, beta: F64, clicked: npt.NDArray[np.bool_], unit: Units | None) -> F64:
    """Standard errors of beta (k,): a row moves the score by (click - theta_k gamma_i) (e_k - pi_i)."""
    theta = np.exp(beta)
    gamma = cells.key_clicks / cells.totals(theta)
    left = clicked - theta[cells.place] * gamma[cells.key]  # (n,)
    units = np.arange(len(left)) if unit is None else np.unique(unit, return_inverse=True)[1]
    groups = int(units.max(initial=-1)) + 1
    at = coo_array((left, (units, cells.place)), (groups, len(theta))).tocsr()
    by_key = coo_array((left, (units, cells.key)), (groups, len(gamma))).tocsr() @ cells.shares(theta)
    scores = (at - by_key).tocsr()  # (groups, k)
    meat = (scores.T @ scores).toarray() * groups / max(groups - 1, 1)
    information = _derivatives(cells, beta)[1]
    error = np.zeros(len(theta))
    if len(theta) > 1:
        bread = np.linalg.inv(information[1:, 1:])
        error[1:] = np.sqrt(np.diag(bread @ meat[1:, 1:] @ bread))
    return error
