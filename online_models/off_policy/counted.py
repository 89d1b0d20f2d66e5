"""A candidate's lists beside the logged ones, from counts alone: how often what stood at a position had which place in its list.

- Says what `ranked.ranked_value` says of lists of one length, without keeping a row of them.
- Which list an impression was of is not in the counts: intervals take impressions for independent draws.
- Lists differ in length: both rankers are compared on the first positions, as many as nearly all lists reach.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from online_models.off_policy.estimates import (
    F64,
    I64,
    TERMS,
    Diagnosis,
    Estimated,
    Reason,
    Refused,
    Terms,
    effective_rows,
    lift,
    too_few,
    total,
)
from online_models.off_policy.positions import list_weights, looks_at

NEARLY_ALL: Final = 0.95
"""Share of the lists that reach a position which is compared."""


@dataclass(frozen=True, slots=True)
class Counted:
    """The candidate beside the ranker of the log, on the first `positions` of `lists`.

    logged : clicks of a logged list, as they were; per_list : of a candidate's list, at least
    order : relative difference in clicks per look on the items that both show
    kept : share of what was taken that the candidate shows too
    """

    lists: int
    positions: int
    logged: float
    per_list: float
    order: Estimated
    kept: float


def assumed_looks(positions: int) -> F64:
    """1 / log2(k + 2) at positions k, (positions,): the discount of nDCG in the place of what nobody has measured.

    >>> assumed_looks(3).round(3).tolist()
    [1.0, 0.631, 0.5]

    References
    ----------
    Järvelin, Kekäläinen: Cumulated gain-based evaluation of IR techniques. TOIS 20 (2002).
    """
    return np.asarray(1 / np.log2(np.arange(positions) + 2))


def counted_value(shown: I64, taken: I64, theta: F64, terms: Terms = TERMS) -> Counted | Refused:
    """Compare a candidate's lists with the logged ones, see `ranked.ranked_value` for the equations. Nothing is clipped.

    Parameters
    ----------
    shown, taken : int64 (K, P), impressions at a position whose item the candidate has at a place, and those of them that were
        taken; in the last column those that are not in its list
    theta : (K,), looks at each position, relative to each other
    """
    lists, depth = int(shown[0].sum()), _depth(shown)
    if not lists:
        return Refused(Reason.NO_ROWS, "no list was shown from its first position on")
    n, c = (counts[:depth].ravel().astype(np.float64) for counts in (shown, taken))  # (cells,) each
    position, place = np.indices((depth, shown.shape[1])).reshape(2, -1)
    place = np.where(place < shown.shape[1] - 1, place, -1)
    weights, both = list_weights(theta[:depth], place, position), np.nan_to_num(looks_at(theta[:depth], place))
    ess, kept = effective_rows(weights, n), float(c[both > 0].sum())
    if (refused := too_few(ess, n.sum(), "impressions", terms)) is not None:
        return refused
    if not kept:
        return Refused(Reason.SMALL_SAMPLE, "nothing was taken that the candidate shows", ess)
    return Counted(
        lists=lists,
        positions=depth,
        logged=float(c.sum()) / lists,
        per_list=total(weights, c) / lists,
        order=_order(weights, both, theta[position], n, c, terms.alpha),
        kept=kept / float(c.sum()),
    )


def _depth(shown: I64) -> int:
    """How many positions from the first on nearly all lists reach."""
    short = shown.sum(axis=1) < NEARLY_ALL * shown[0].sum()
    return int(short.argmax()) if short.any() else len(shown)


def _order(weights: F64, both: F64, looks: F64, n: F64, c: F64, alpha: float) -> Estimated:
    """Clicks per look on common items, the candidate's beside the logged ones. n, c : (cells,), impressions, and those taken"""
    rows, mass = int(n.sum()), total(weights, n)
    diagnosis = Diagnosis(
        *(rows, rows, effective_rows(weights, n), mass / rows, float(weights[n > 0].max()) / mass, 0.0, 0.0),
        unsupported=1 - total(both, n) / total(looks, n),
    )
    # each cell twice: what was taken, and what was not
    times, clicks = np.concatenate([c, n - c]), np.repeat([1.0, 0.0], len(n))
    shared = np.where(both > 0, 1.0, 0.0)
    ours, theirs = (
        (np.tile(each, 2) * clicks, np.tile(on, 2)) for each, on in ((weights, both), (shared, shared * looks))
    )
    return lift(ours, theirs, None, diagnosis, alpha, times)
