"""Choices to learn from: what a user took, beside what they did not, after what they had taken before.

- Items are row numbers of a catalogue of texts; users play no part beyond their history, so that new users work.
- A history holds events strictly before the choice: events at the very time of it could be its consequence.
- The taken item stands first among the candidates. No model sees that: candidates do not attend to each other.
"""

import hashlib
from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from retrain_workers.data.datasets import decay_weights
from retrain_workers.data.point_in_time import histories
from retrain_workers.data.sampling import replayed

F32 = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

TAKEN: Final = 0
"""Column of the taken item."""


@dataclass(frozen=True, slots=True)
class ChoiceGroups:
    """n choices as columns.

    history_indptr : (n + 1,), history_items : (m,), CSR rows of the newest items before each choice, oldest first
    candidates : (n, c), the taken item first; ts_ms : (n,), event time; weights : (n,), of each choice in the loss
    candidate_weights : (n, c), of each candidate in the pointwise loss: 1 of the taken one, of the others 1 on average
    """

    history_indptr: Rows
    history_items: Rows
    candidates: Rows
    ts_ms: Rows
    weights: F32
    candidate_weights: F32

    def __post_init__(self) -> None:
        """Refuse columns that do not belong together."""
        n, columns = len(self.candidates), (len(self.history_indptr) - 1, len(self.ts_ms), len(self.weights))
        if columns != (n, n, n) or self.history_indptr[-1] != len(self.history_items):
            raise ValueError(f"expected columns of {n} choices, got {columns} and {len(self.history_items)} items")
        if self.candidate_weights.shape != self.candidates.shape:
            raise ValueError(f"expected weights of {self.candidates.shape}, got {self.candidate_weights.shape}")
        if (self.candidates[:, 1:] == self.candidates[:, :1]).any():
            raise ValueError("expected candidates other than the taken item, got it twice")

    def __len__(self) -> int:
        return len(self.candidates)

    def history(self, choice: int) -> Rows:
        """Item rows (h,) before one choice, oldest first."""
        return self.history_items[self.history_indptr[choice] : self.history_indptr[choice + 1]]

    def histories(self) -> list[Rows]:
        """Item rows before each choice, oldest first."""
        return np.split(self.history_items, self.history_indptr[1:-1]) if len(self) else []

    def take(self, rows: Rows) -> "ChoiceGroups":
        """The choices of these row numbers, in this order."""
        kept = [self.history(row) for row in rows.tolist()]
        return ChoiceGroups(
            _indptr(np.array([len(each) for each in kept], np.int64)),
            np.concatenate(kept) if kept else np.empty(0, np.int64),
            self.candidates[rows],
            self.ts_ms[rows],
            self.weights[rows],
            self.candidate_weights[rows],
        )

    def sha256(self) -> str:
        """Of all columns."""
        digest = hashlib.sha256()
        for field in fields(self):
            digest.update(np.ascontiguousarray(getattr(self, field.name)).tobytes())
        return digest.hexdigest()


def choices_of(
    user: npt.NDArray[np.integer],
    item: npt.NDArray[np.integer],
    ts_ms: Rows,
    chosen: Rows,
    negatives: Rows,
    recent: int,
    weights: F32 | None = None,
    negative_weights: F32 | None = None,
) -> ChoiceGroups:
    """The choices that positive events were. Raises TrainingError when a history leaks.

    Parameters
    ----------
    user, item, ts_ms : (n,), positive events of any order in time; users and items by number
    chosen : (m,), which of the events become choices
    negatives : (m, c - 1), item rows that stand beside each of them
    recent : newest earlier items of the user that are told
    weights : (m,), None for 1
    negative_weights : (m, c - 1), how much each of the negatives counts beside the others of its choice; None for alike

    >>> chosen, negatives = np.array([2, 3]), np.array([[7], [8]])
    >>> found = choices_of(np.zeros(4, int), np.arange(4), np.array([0, 1, 1, 2]), chosen, negatives, recent=2)
    >>> [rows.tolist() for rows in found.histories()], found.candidates.tolist()
    ([[0], [1, 2]], [[2, 7], [3, 8]])
    """
    items: Rows = np.asarray(item, np.int64)
    before = histories(user, ts_ms, user[chosen], ts_ms[chosen])
    before.refuse_leak(ts_ms, ts_ms[chosen])
    indptr, events = replace(before, start=np.maximum(before.end - recent, before.start)).entries()
    return ChoiceGroups(
        indptr.astype(np.int64),
        items[events],
        np.column_stack([items[chosen], negatives]),
        ts_ms[chosen],
        np.ones(len(chosen), np.float32) if weights is None else weights,
        candidate_weights_of(np.ones(negatives.shape, np.float32) if negative_weights is None else negative_weights),
    )


def candidate_weights_of(negative: F32) -> F32:
    """Weights (n, c) of candidates whose negatives weigh `negative` (n, c - 1), above 0, beside each other.

    Self-normalised within a choice: what is taken keeps its share of the loss, whatever the propensities were.

    >>> candidate_weights_of(np.array([[1, 3]], np.float32)).tolist()
    [[1.0, 0.5, 1.5]]
    """
    relative = negative / negative.mean(axis=1, keepdims=True)
    return np.column_stack([np.ones(len(negative)), relative]).astype(np.float32)


def joined(*parts: ChoiceGroups) -> ChoiceGroups:
    """All choices of several groups of one width, one after the other."""
    lengths = np.concatenate([np.diff(part.history_indptr) for part in parts])
    return ChoiceGroups(
        _indptr(lengths),
        np.concatenate([part.history_items for part in parts]),
        np.concatenate([part.candidates for part in parts]),
        np.concatenate([part.ts_ms for part in parts]),
        np.concatenate([part.weights for part in parts]),
        np.concatenate([part.candidate_weights for part in parts]),
    )


def with_replay(new: ChoiceGroups, old: ChoiceGroups, share: float, seed: int) -> ChoiceGroups:
    """The new choices and, against forgetting, a sample of old ones: `share` as many as the new ones, or all there are."""
    rows = replayed(len(old), len(new), share, seed)
    return joined(new, old.take(rows)) if len(rows) else new


def decayed(groups: ChoiceGroups, half_life_days: float) -> ChoiceGroups:
    """The same choices, weighing 2^(-age / half-life) as much, their age counted from the newest."""
    weights = groups.weights * decay_weights(groups.ts_ms, half_life_days)
    return replace(groups, weights=weights.astype(np.float32))


def _indptr(lengths: Rows) -> Rows:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
