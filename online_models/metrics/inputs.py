"""What the metrics take in: columns of finite numbers, of 0 and 1, and lists of catalogue rows; all else is a ValueError.

- Checked once, at the border, so that no figure is a silent NaN. Columns of no events pass: whether a metric has a value
  without any is its own affair.
"""

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.number | np.bool_]
Lists = npt.NDArray[np.integer]
"""Catalogue rows (n, k) of what n events were recommended, -1 where fewer than k were."""

Floats = npt.NDArray[np.float64]
Pairs = tuple[Floats, Floats]


def numbers(name: str, values: Numbers) -> Floats:
    """The values (n,) as float64; every one is finite."""
    column = np.asarray(values, np.float64)
    if column.ndim != 1:
        raise ValueError(f"expected {name} (n,), got shape {column.shape}")
    _none(~np.isfinite(column), column, f"finite {name}")
    return column


def real_pairs(predicted: Numbers, observed: Numbers) -> Pairs:
    """Predictions (n,) and what came, both any finite number."""
    return _as_long("predicted", numbers("predicted", predicted), numbers("observed", observed))


def scored_pairs(scores: Numbers, observed: Numbers) -> Pairs:
    """Scores (n,), any finite number, and outcomes (n,), each 0 or 1."""
    outcomes = numbers("observed", observed)
    _none((outcomes != 0) & (outcomes != 1), outcomes, "observed outcomes of 0 or 1")
    return _as_long("scores", numbers("scores", scores), outcomes)


def probable_pairs(predicted: Numbers, observed: Numbers) -> Pairs:
    """Probabilities (n,) and outcomes (n,), each 0 or 1."""
    probabilities = numbers("predicted", predicted)
    _none((probabilities < 0) | (probabilities > 1), probabilities, "predicted probabilities in [0, 1]")
    return scored_pairs(probabilities, observed)


def catalogue_rows(lists: Lists, items: int) -> npt.NDArray[np.int64]:
    """Lists (n, k) of rows of a catalogue of `items`, -1 where fewer than k were recommended."""
    if items < 1:
        raise ValueError(f"expected a catalogue of at least one item, got {items}")
    if lists.ndim != 2 or not np.issubdtype(lists.dtype, np.integer):
        raise ValueError(f"expected lists of whole numbers (n, k), got {lists.dtype} of shape {lists.shape}")
    _none((lists < -1) | (lists >= items), lists, f"rows in [0, {items}) or -1")
    return lists.astype(np.int64, copy=False)


def item_counts(counts: Numbers) -> Floats:
    """Counts (items,), none negative and one at least positive."""
    column = numbers("counts", counts)
    _none(column < 0, column, "counts >= 0")
    if not column.any():
        raise ValueError(f"expected a positive count, got none in {len(column)}")
    return column


def some(name: str, column: npt.NDArray[np.generic]) -> None:
    """Raise unless there is an event."""
    if not len(column):
        raise ValueError(f"expected at least one of {name}, got none")


def _as_long(name: str, one: Floats, observed: Floats) -> Pairs:
    if len(one) != len(observed):
        raise ValueError(f"expected {name} and observed of one length, got {len(one)} and {len(observed)}")
    return one, observed


def _none(bad: npt.NDArray[np.bool_], values: npt.NDArray[np.generic], expected: str) -> None:
    if bad.any():
        place = np.unravel_index(int(bad.argmax()), bad.shape)
        raise ValueError(f"expected {expected}, got {values[place]} at {', '.join(map(str, place))}")
