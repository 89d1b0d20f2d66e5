"""Training data: one domain's stored interactions as numbered columns, and what they weigh.

- Users and items are numbered in the order of their sorted ids, so that the same events give the same matrix
  anywhere.
- Weights decay in event time, against the newest event: no clock is read.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from online_models.als import event_strength
from online_models.contracts.artifacts import DataWindow
from online_models.contracts.ids import hashes_of
from online_models.errors import TrainingError
from online_models.interactions import DAY_MS, Interactions

LEAST_SPAN_SHARE: Final = 0.25
"""Of the time from the first to the last event: what a half-life of a network's events is at least."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Events as columns of one length n, oldest first.

    users, items : sorted ids; what the numbers below count into
    user, item : int32 (n,)
    ts_ms : int64 (n,), event time
    strength : float32 (n,), preference; 0 says only that the user has met the item
    recommended : bool (n,), whether the event answers a recommendation
    """

    users: Sequence[str]
    items: Sequence[str]
    user: npt.NDArray[np.int32]
    item: npt.NDArray[np.int32]
    ts_ms: npt.NDArray[np.int64]
    strength: npt.NDArray[np.float32]
    recommended: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ts_ms)

    def take(self, rows: npt.NDArray[np.bool_]) -> "Dataset":
        """The events where `rows` (n,) is true, under the same numbering."""
        return replace(
            self,
            user=self.user[rows],
            item=self.item[rows],
            ts_ms=self.ts_ms[rows],
            strength=self.strength[rows],
            recommended=self.recommended[rows],
        )

    def item_hashes(self) -> npt.NDArray[np.uint64]:
        """64-bit hashes of all items (items,), in row order."""
        return hashes_of(self.items)

    def positive(self) -> "Dataset":
        """The events that say something positive."""
        return self.take(self.strength > 0)


def dataset_of(interactions: Interactions) -> Dataset:
    """The numbered columns of stored interactions."""
    users, user = _numbered(interactions.user_id)
    items, item = _numbered(interactions.item_id)
    strength = event_strength(interactions.type, interactions.value)
    return Dataset(users, items, user, item, interactions.ts_ms, strength.astype(np.float32), interactions.recommended)


def _numbered(ids: Sequence[str]) -> tuple[list[str], npt.NDArray[np.int32]]:
    names = sorted(set(ids))
    number = {name: row for row, name in enumerate(names)}
    return names, np.fromiter((number[name] for name in ids), np.int32, len(ids))


def refuse_too_little(dataset: Dataset, min_positive_events: int, min_items: int) -> None:
    """Raise TrainingError when the data hold no model. Permanent: a later trigger brings a later job."""
    positive = dataset.positive()
    items = len(np.unique(positive.item))
    if len(positive) < min_positive_events or items < min_items:
        raise TrainingError(
            f"expected at least {min_positive_events} positive events on {min_items} items, "
            f"got {len(positive)} on {items}"
        )


def decay_weights(
    ts_ms: npt.NDArray[np.int64], half_life_days: float, now_ms: int | None = None
) -> npt.NDArray[np.float64]:
    """What events (n,) still weigh: 2^(-age / half-life), by their age at `now_ms`, else at the newest of them.

    >>> decay_weights(np.array([0, 10, 20]) * DAY_MS, half_life_days=10).tolist()
    [0.25, 0.5, 1.0]
    """
    age_days = ((ts_ms.max(initial=0) if now_ms is None else now_ms) - ts_ms) / DAY_MS
    weight: npt.NDArray[np.float64] = np.exp2(-age_days / half_life_days)
    return weight


def half_life_over(ts_ms: npt.NDArray[np.int64], half_life_days: float) -> float:
    """A half-life for networks, which need many events: as asked, but at least `LEAST_SPAN_SHARE` of the events' span, in days.

    >>> half_life_over(np.array([0, 8 * DAY_MS]), 1.0), half_life_over(np.array([0, 8 * DAY_MS]), 5.0)
    (2.0, 5.0)
    """
    span_days = float(np.ptp(ts_ms)) / DAY_MS if len(ts_ms) else 0.0
    return max(half_life_days, LEAST_SPAN_SHARE * span_days)


def decayed_preferences(dataset: Dataset, half_life_days: float) -> csr_matrix:
    """Preferences r_ui of all users and items, float32 CSR (users, items), old events decayed in event time.

    r_ui = Σ_e strength_e · 2^(-(t_newest - t_e) / half-life), over the events e of user u with item i
    """
    positive = dataset.positive()
    weight = positive.strength * decay_weights(positive.ts_ms, half_life_days)
    shape = (len(dataset.users), len(dataset.items))
    return csr_matrix((weight.astype(np.float32), (positive.user, positive.item)), shape=shape)


def popular_rows(dataset: Dataset, half_life_days: float) -> npt.NDArray[np.int64]:
    """Item rows by decayed strength, most popular first, ties by id; only items with something positive."""
    popularity = decayed_preferences(dataset, half_life_days).sum(axis=0, dtype=np.float64)
    popularity = np.asarray(popularity).ravel()
    order = np.argsort(-popularity, kind="stable")
    return order[popularity[order] > 0]


def window_of(interactions: Interactions) -> DataWindow:
    """Which events these are: first and last event time, their number, and a hash of all that was read."""
    times = interactions.ts_ms
    start, end = (int(times.min()), int(times.max())) if len(times) else (0, 0)
    return DataWindow(start, end, len(times), content_sha256(interactions))


def content_sha256(interactions: Interactions) -> str:
    """Hex SHA-256 of every column: two trainings on the same data say so."""
    digest = hashlib.sha256()
    for ids in (interactions.user_id, interactions.item_id):
        digest.update(msgspec.json.encode(ids))
    columns: tuple[npt.NDArray[Any], ...] = (interactions.type, interactions.ts_ms, interactions.value)
    for column in columns:
        digest.update(np.ascontiguousarray(column).tobytes())
    digest.update(msgspec.json.encode(interactions.features, order="deterministic"))
    return digest.hexdigest()
