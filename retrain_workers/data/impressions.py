"""What was shown to whom, and whether it was taken: where negatives come from that somebody has really looked past.

- An impression counts as taken by an answer to its own request, whenever that came, or by an answer of the same user on the same
  item soon after it, whatever list that was from: what was wanted is no negative.
- It is told when it was taken, not only whether: before a cut nobody knew of the clicks after it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from online_models.contracts.events import ATTRIBUTION_MS
from retrain_workers.data.point_in_time import first_not_before

NEVER: Final = 2**63 - 1
"""When what nobody took was taken: after everything."""

Codes = npt.NDArray[np.integer]
Times = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Impressions:
    """Shown items as columns of one length, ordered by (time, event id).

    ts_ms : int64 (n,); position : int32 (n,), -1 where not told
    propensity : float64 (n,), the probability of being shown there, NaN where not told
    taken_ms : int64 (n,), time of the first answer that took it, `NEVER` without one
    """

    user_id: Sequence[str]
    item_id: Sequence[str]
    ts_ms: Times
    request_id: Sequence[str | None]
    position: npt.NDArray[np.int32]
    propensity: npt.NDArray[np.float64]
    taken_ms: Times

    def __len__(self) -> int:
        return len(self.ts_ms)

    @property
    def clicked(self) -> npt.NDArray[np.bool_]:
        """Whether each was taken, bool (n,)."""
        clicked: npt.NDArray[np.bool_] = self.taken_ms != NEVER
        return clicked

    def before(self, cut_ms: int, wait_ms: int = ATTRIBUTION_MS) -> "Impressions":
        """What was known of them at a cut: those that had waited for an answer by then, and no answer from the cut on."""
        n = int(np.searchsorted(self.ts_ms, cut_ms - wait_ms))
        taken_ms = self.taken_ms[:n]
        return Impressions(
            self.user_id[:n],
            self.item_id[:n],
            self.ts_ms[:n],
            self.request_id[:n],
            self.position[:n],
            self.propensity[:n],
            np.where(taken_ms < cut_ms, taken_ms, NEVER),
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


def taken(shown: Looked, answers: Looked, window_ms: int = ATTRIBUTION_MS) -> Times:
    """When each of the impressions (n,) was first taken, int64 (n,), `NEVER` where it was not: see the module.

    >>> one = np.ones(1, np.int64)
    >>> taken(Looked(one, one, -one, one), Looked(one, one, -one, 60_000 * one)).tolist()
    [60000]
    """
    items = int(max(shown.item.max(initial=0), answers.item.max(initial=0))) + 1
    return np.minimum(_named(shown, answers, items), _soon(shown, answers, items, window_ms))


def _named(shown: Looked, answers: Looked, items: int) -> Times:
    """Time (n,) of the first answer to the request of each impression on its item."""
    asked = answers.take(answers.request >= 0)
    # no answer names the request -1
    return _first(asked.request, asked, shown.request, shown, items, np.full(len(shown.ts_ms), -NEVER))


def _soon(shown: Looked, answers: Looked, items: int, window_ms: int) -> Times:
    """Time (n,) of the same user's next answer on the same item, at the same time or later, where it comes within the window."""
    found = _first(answers.user, answers, shown.user, shown, items, shown.ts_ms)
    return np.where(found <= shown.ts_ms + window_ms, found, NEVER)


def _first(who: Codes, answers: Looked, asked: Codes, shown: Looked, items: int, not_before: Times) -> Times:
    """Time (n,) of the first answer of `who` (m,) on an item, for each of `asked` (n,) and the item shown, from a time on."""
    if len(answers.ts_ms) == 0:
        return np.full(len(shown.ts_ms), NEVER)
    pair = who.astype(np.int64) * items + answers.item
    order = np.lexsort((answers.ts_ms, pair))
    pair, ts_ms = pair[order], answers.ts_ms[order]
    wanted = asked.astype(np.int64) * items + shown.item
    place = first_not_before(pair, ts_ms, wanted, not_before)
    at = np.minimum(place, len(pair) - 1)
    return np.where((place < len(pair)) & (pair[at] == wanted), ts_ms[at], NEVER)


def inverse_propensity(propensity: npt.NDArray[np.float64], max_weight: float) -> npt.NDArray[np.float32]:
    """min(1 / p, max_weight), and 1 where p (n,) is NaN.

    >>> inverse_propensity(np.array([0.5, 0.01, np.nan]), 10.0).tolist()
    [2.0, 10.0, 1.0]
    """
    inverse = 1.0 / np.maximum(propensity, 1.0 / max_weight)
    return np.where(np.isnan(inverse), 1.0, inverse).astype(np.float32)
