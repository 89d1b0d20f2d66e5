"""Splits by time alone: everything in a history happened strictly before everything in its holdout.

- One cut (`split`) judges a candidate; a rolling origin (`sliding_splits`, `expanding_splits`) tells how a recipe fares as time
  goes on.
- Events at the very time of a cut are held out, all of them: a basket is never torn between the two sides.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from online_models.errors import TrainingError
from retrain_workers.data.datasets import Dataset


@dataclass(frozen=True, slots=True)
class Split:
    """`history` lies strictly before `cut_ms`; `holdout` are the positive events from then on."""

    history: Dataset
    holdout: Dataset
    cut_ms: int


def split(dataset: Dataset, holdout_fraction: float, not_before_ms: int | None = None) -> Split:
    """Cut the data in time so that about the last `holdout_fraction` of the positive events are held out.

    Events at the very time of the cut are held out, all of them. With `not_before_ms` the holdout begins no
    earlier: what a champion has been trained on is no test of it.

    Raises
    ------
    TrainingError
        When nothing positive would be left before the cut.

    >>> column = np.arange(4)
    >>> events = Dataset("ab", "xy", column % 2, column % 2, column * 10, np.ones(4, np.float32), column < 0)
    >>> cut = split(events, 0.25)
    >>> cut.cut_ms, cut.history.ts_ms.tolist(), cut.holdout.ts_ms.tolist()
    (30, [0, 10, 20], [30])
    """
    times = np.sort(dataset.ts_ms[dataset.strength > 0])
    if len(times) == 0:
        raise TrainingError("expected positive events, got none")
    cut_ms = int(times[min(int(len(times) * (1 - holdout_fraction)), len(times) - 1)])
    if not_before_ms is not None:
        cut_ms = max(cut_ms, not_before_ms)
    if times[0] >= cut_ms:
        raise TrainingError(f"expected positive events before the cut at {cut_ms} ms, got none")
    late = dataset.ts_ms >= cut_ms
    return Split(dataset.take(~late), dataset.take(late & (dataset.strength > 0)), cut_ms)


def sliding_splits(dataset: Dataset, history_ms: int, holdout_ms: int) -> Iterator[Split]:
    """A window of fixed length that moves on by its holdout: histories [cut - history_ms, cut), holdouts [cut, cut + holdout_ms).

    The first cut is `history_ms` after the oldest event. Every positive event from then on is held out exactly once, except
    where a window has nothing positive in its history.

    Raises
    ------
    TrainingError
        When a length is not positive.

    >>> column = np.arange(6, dtype=np.int32)
    >>> events = Dataset("abcdef", "uvwxyz", column, column, column * 10, np.ones(6, np.float32), column < 0)
    >>> [(each.history.ts_ms.tolist(), each.holdout.ts_ms.tolist()) for each in sliding_splits(events, 20, 20)]
    [([0, 10], [20, 30]), ([20, 30], [40, 50])]
    """
    yield from _rolling(dataset, history_ms, holdout_ms, sliding=True)


def expanding_splits(dataset: Dataset, first_ms: int, holdout_ms: int) -> Iterator[Split]:
    """A growing history: everything before the cut, the first of which is `first_ms` after the oldest event.

    Holdouts, and errors, are those of `sliding_splits`.

    >>> column = np.arange(6, dtype=np.int32)
    >>> events = Dataset("abcdef", "uvwxyz", column, column, column * 10, np.ones(6, np.float32), column < 0)
    >>> [(each.history.ts_ms.tolist(), each.holdout.ts_ms.tolist()) for each in expanding_splits(events, 20, 20)]
    [([0, 10], [20, 30]), ([0, 10, 20, 30], [40, 50])]
    """
    yield from _rolling(dataset, first_ms, holdout_ms, sliding=False)


def _rolling(dataset: Dataset, history_ms: int, holdout_ms: int, *, sliding: bool) -> Iterator[Split]:
    if history_ms <= 0 or holdout_ms <= 0:
        raise TrainingError(f"expected windows longer than 0 ms, got {history_ms} ms and {holdout_ms} ms")
    times, positive = dataset.ts_ms, dataset.strength > 0
    if not positive.any():
        return
    first_ms = int(times.min()) + history_ms
    # Windows without anything to hold out are never looked at: a log may pause for years.
    for number in np.unique((times[positive] - first_ms) // holdout_ms).tolist():
        cut_ms = first_ms + number * holdout_ms
        earlier = times < cut_ms
        if sliding:
            earlier &= times >= cut_ms - history_ms
        if number >= 0 and (earlier & positive).any():
            later = (times >= cut_ms) & (times < cut_ms + holdout_ms) & positive
            yield Split(dataset.take(earlier), dataset.take(later), cut_ms)
