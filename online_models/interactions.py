"""What training reads of the events of one domain: their columns, and a view of them by days that tells what has changed.

- A day is UTC and numbered from the epoch. Its digest is made where the events are, so that a reader that kept a copy reads
  again only the days that differ: late events, deleted ones and rewritten ones show, however old they are.
- Rows of a view come as CSV: the one form that a database writes and a columnar reader parses without an object per field.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from online_models.contracts.events import Item

DAY_MS: Final = 86_400_000

VIEW_COLUMNS: Final = (
    "event_id",
    "user_id",
    "item_id",
    "type",
    "ts_ms",
    "value",
    "request_id",
    "position",
    "model_version",
    "propensity",
    "features",
)
"""Fields of a view's CSV rows, in this order; `features` is a JSON object."""


@dataclass(frozen=True, slots=True)
class Interactions:
    """Training rows as columns of one length, ordered by (time, event id): watches, purchases, clicks, ratings, skips.

    type : int8 (n,), index into `EVENT_TYPES`; ts_ms : int64 (n,); value : float64 (n,), NaN where absent
    recommended : bool (n,), whether the event answers one of our recommendations (it carries a request_id)
    features : the event's features, or None; events may share one mapping
    """

    user_id: list[str]
    item_id: list[str]
    type: npt.NDArray[np.int8]
    ts_ms: npt.NDArray[np.int64]
    value: npt.NDArray[np.float64]
    recommended: npt.NDArray[np.bool_]
    features: list[Mapping[str, object] | None]

    def __len__(self) -> int:
        return len(self.user_id)

    def before(self, ts_ms: int) -> "Interactions":
        """Those before a time."""
        n = int(np.searchsorted(self.ts_ms, ts_ms))
        return Interactions(
            self.user_id[:n],
            self.item_id[:n],
            self.type[:n],
            self.ts_ms[:n],
            self.value[:n],
            self.recommended[:n],
            self.features[:n],
        )


@dataclass(frozen=True, slots=True)
class EventDay:
    """One day's events, impressions among them, without their order.

    day : days since the epoch; events : how many
    checksum : sum mod 2^64 of a hash of each whole row; comparable within one database and its version
    """

    day: int
    events: int
    checksum: int


class EventView(Protocol):
    """The events of one domain up to a time, and its catalogue, as they were at one moment."""

    def days(self) -> list[EventDay]:
        """Every day with events, oldest first."""

    def copy(self, days: Collection[int], receive: Callable[[bytes], object]) -> None:
        """The events of some days, ordered by (time, event id), as CSV rows of `VIEW_COLUMNS` without a header.

        A call of `receive` has some whole rows. An absent field is empty, an empty text is `""`.
        """

    def items(self) -> list[Item]:
        """The catalogue of the domain, by item id."""
