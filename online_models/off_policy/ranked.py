"""What a candidate's lists would be worth, from lists of another ranker: both rankings of the same request, and what was clicked.

- Under the position-based model a click at position k counts theta_k' / theta_k for a list that has its item at place k'.
- Of items that the logged ranker did not show nothing is known, and nothing is made up. Items that both rankers show are the
  better ones, so that filling the gap with what those are taken flatters the candidate: in a simulated world, with a fifth of the
  looks unknown, a candidate 21 % worse came out 8 % worse. `per_list` counts them as never taken, which the candidate earns at
  least, and `break_even` is what they have to be taken for it to earn as much as the ranker of the log.
- `order` compares the two on what both show; where they show the same items, it is the whole difference.
- The propensities are taken as given: their own error is not in the intervals.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from online_models.off_policy.estimates import (
    F64,
    I64,
    TERMS,
    Diagnosis,
    Estimated,
    Reason,
    Refused,
    Terms,
    Units,
    diagnosis_of,
    effective_rows,
    estimated,
    lift,
    sums_at,
    too_few,
)
from online_models.off_policy.positions import list_weights, looks_at


@dataclass(frozen=True, slots=True)
class Lists:
    """Shown items as columns of one length n.

    request : int64 (n,), which list; position : int64 (n,), where it was shown, from 0
    place : int64 (n,), where the candidate has it, below 0 where it does not
    clicked : bool (n,); unit : (n,), whose list it is
    """

    request: I64
    position: I64
    place: I64
    clicked: npt.NDArray[np.bool_]
    unit: Units

    def __post_init__(self) -> None:
        columns = (self.request, self.position, self.place, self.clicked, self.unit)
        if len({column.shape for column in columns}) > 1 or self.request.ndim != 1:
            raise ValueError(f"expected columns of one length, got {[column.shape for column in columns]}")

    def take(self, rows: npt.NDArray[np.bool_]) -> "Lists":
        """The rows where `rows` (n,) is true."""
        return Lists(self.request[rows], self.position[rows], self.place[rows], self.clicked[rows], self.unit[rows])


@dataclass(frozen=True, slots=True)
class Ranked:
    """The candidate beside the ranker of the log, over the positions whose propensity is known.

    requests : lists; logged : clicks of a logged list, as they were; per_list : of a candidate's list, at least
    order : relative difference in clicks per look on the items that both show
    coverage : share of the candidate's looks that fall on items that were shown
    dropped_clicks : share of the clicks on items that the candidate does not show, and what those items are taken per look, NaN
        where it drops none: dropped_rate
    break_even : clicks per look on items that it alone shows with which it is as good as the ranker of the log, below 0 where it
        is better without any; NaN where there are none
    """

    requests: int
    logged: Estimated
    per_list: Estimated
    order: Estimated
    coverage: float
    dropped_clicks: float
    dropped_rate: float
    break_even: float


def ranked_value(lists: Lists, theta: F64, terms: Terms = TERMS) -> Ranked | Refused:
    """Compare a candidate's lists with the logged ones.

        per list  mean over requests of sum w c,  w = min(theta_k' / theta_k, clip), 0 where k' is none
        order     (sum_both w c / sum_both theta_k') / (sum_both c / sum_both theta_k) - 1

    A candidate's place counts where the request's page reaches it: both fill the same positions.

    Parameters
    ----------
    theta : (K,), see `position_propensities`, NaN where not known: such positions are left out for both rankers
    terms : `max_unsupported` is not asked for here

    Raises
    ------
    ValueError
        When a theta is not positive.

    References
    ----------
    Joachims, Swaminathan, Schnabel: Unbiased learning-to-rank with biased feedback. WSDM (2017).
    """
    if (theta <= 0).any():
        raise ValueError(f"expected theta above 0, got {theta.min()}")
    seen = lists.take(np.isfinite(looks_at(theta, lists.position)))
    if not len(seen.position):
        return Refused(Reason.NO_POSITIONS, "no impression at a position whose propensity is known")
    place = _within(seen, theta)
    raw = list_weights(theta, place, seen.position)
    weights = np.minimum(raw, terms.clip)
    ess = effective_rows(weights)
    if (refused := too_few(ess, len(raw), "impressions", terms)) is not None:
        return refused
    both = np.nan_to_num(looks_at(theta, place))
    if not seen.clicked[both > 0].any():
        return Refused(Reason.SMALL_SAMPLE, "no click on an item that the candidate shows", ess)
    unknown = 1 - float(both.sum() / theta[seen.position].sum())
    return _compared(seen, weights, both, theta, diagnosis_of(raw, weights, seen.unit, unknown), terms)


def _within(seen: Lists, theta: F64) -> I64:
    """Places (n,), -1 where the candidate has the item on another page, or where nothing is known of the place."""
    _, request = np.unique(seen.request, return_inverse=True)
    lists = int(request.max()) + 1
    low, high = np.full(lists, len(theta)), np.full(lists, -1)
    np.minimum.at(low, request, seen.position)
    np.maximum.at(high, request, seen.position)
    inside = (seen.place >= low[request]) & (seen.place <= high[request])
    return np.where(inside & np.isfinite(looks_at(theta, seen.place)), seen.place, -1)


def _compared(seen: Lists, weights: F64, both: F64, theta: F64, diagnosis: Diagnosis, terms: Terms) -> Ranked:
    """Sums by request, whose unit is the user's. both : (n,), the candidate's looks on what was shown"""
    _, begins, request = np.unique(seen.request, return_index=True, return_inverse=True)
    clicks, shared, looks = seen.clicked.astype(np.float64), both > 0, theta[seen.position]
    columns = (clicks, weights * clicks, both, clicks * shared, looks * shared)
    logged, ours, our_looks, theirs, their_looks = (sums_at(request, each) for each in columns)  # (requests,)
    unit = seen.unit[begins]
    per_logged, per_list = (
        estimated(float(sums.mean()), sums - sums.mean(), unit, diagnosis, terms.alpha) for sums in (logged, ours)
    )
    dropped, alone = float(looks[~shared].sum()), float(looks.sum() - both.sum())
    return Ranked(
        requests=len(begins),
        logged=per_logged,
        per_list=per_list,
        order=lift((ours, our_looks), (theirs, their_looks), unit, diagnosis, terms.alpha),
        coverage=1 - diagnosis.unsupported,
        dropped_clicks=float(clicks[~shared].sum() / clicks.sum()),
        dropped_rate=float(clicks[~shared].sum()) / dropped if dropped else np.nan,
        break_even=float(logged.sum() - ours.sum()) / alone if alone > 1e-9 * looks.sum() else np.nan,
    )
