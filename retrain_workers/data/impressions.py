"""What was shown to whom, and whether it was taken: where negatives come from that somebody has really looked past.

An impression counts as taken by an answer to its own request, whenever that came, or by an answer of the same user on the same
item soon after it, whatever list that was from: what was wanted is no negative.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from online_models.contracts.events import EventType
from retrain_workers.data.point_in_time import first_not_before

ANSWERS: Final = (EventType.CLICK, EventType.WATCH, EventType.PURCHASE)
"""What takes an impression, as in the stream job's outcomes."""

ATTRIBUTION_MS: Final = 1_800_000

Codes = npt.NDArray[np.integer]
Times = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Impressions:
    """Shown items as columns of one length, ordered by (time, event id).

    ts_ms : int64 (n,); position : int32 (n,), -1 where not told
    propensity : float64 (n,), the probability of being shown there, NaN where not told; clicked : bool (n,)
    """

    user_id: Sequence[str]
    item_id: Sequence[str]
    ts_ms: Times
    request_id: Sequence[str | None]
    position: npt.NDArray[np.int32]
    propensity: npt.NDArray[np.float64]
    clicked: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ts_ms)

    def before(self, ts_ms: int) -> "Impressions":
        """Those before a time."""
        n = int(np.searchsorted(self.ts_ms, ts_ms))
        return Impressions(
            self.user_id[:n],
            self.item_id[:n],
            self.ts_ms[:n],
            self.request_id[:n],
            self.position[:n],
            self.propensity[:n],
            self.clicked[:n],
        )


@dataclass(frozen=True, slots=True)
class Looked:
    """Impressions, or answers, as numbers under one numbering of texts.

    user, item, request : (n,), request -1 where the event names none; ts_ms : int64 (n,)
    """

    user: Codes
    item: Codes
    request: Codes
    ts_ms: Times

    def take(self, rows: npt.NDArray[np.bool_]) -> "Looked":
        """The events where `rows` (n,) is true."""
        return Looked(self.user[rows], self.item[rows], self.request[rows], self.ts_ms[rows])


def taken(shown: Looked, answers: Looked, window_ms: int = ATTRIBUTION_MS) -> npt.NDArray[np.bool_]:
    """Which of the impressions (n,) were taken, bool (n,): see the module.

    >>> one = np.zeros(1, np.int64)
    >>> taken(Looked(one, one, one - 1, one), Looked(one, one, one - 1, one + 60_000)).tolist()
    [True]
    """
    items = int(max(shown.item.max(initial=0), answers.item.max(initial=0))) + 1
    asked = answers.request >= 0
    named = np.isin(
        shown.request.astype(np.int64) * items + shown.item,
        answers.request[asked].astype(np.int64) * items + answers.item[asked],
    )
    return (named & (shown.request >= 0)) | _soon(shown, answers, items, window_ms)


def _soon(shown: Looked, answers: Looked, items: int, window_ms: int) -> npt.NDArray[np.bool_]:
    """Whether the same user's next answer on the same item, at the same time or later, comes within the window."""
    if len(answers.ts_ms) == 0:
        return np.zeros(len(shown.ts_ms), np.bool_)
    pair = answers.user.astype(np.int64) * items + answers.item
    order = np.lexsort((answers.ts_ms, pair))
    pair, ts_ms = pair[order], answers.ts_ms[order]
    wanted = shown.user.astype(np.int64) * items + shown.item
    place = np.minimum(first_not_before(pair, ts_ms, wanted, shown.ts_ms), len(pair) - 1)
    wait_ms = ts_ms[place] - shown.ts_ms
    soon: npt.NDArray[np.bool_] = (pair[place] == wanted) & (wait_ms >= 0) & (wait_ms <= window_ms)
    return soon


def inverse_propensity(propensity: npt.NDArray[np.float64], max_weight: float) -> npt.NDArray[np.float32]:
    """min(1 / p, max_weight), and 1 where p (n,) is NaN.

    >>> inverse_propensity(np.array([0.5, 0.01, np.nan]), 10.0).tolist()
    [2.0, 10.0, 1.0]
    """
    inverse = 1.0 / np.maximum(propensity, 1.0 / max_weight)
    return np.where(np.isnan(inverse), 1.0, inverse).astype(np.float32)
