"""Metrics over the last events of a stream: a sliding window of them for what is no running mean.

- The window holds the events themselves, so its value is that of the batch metric on the same events, to the bit. Reading
  costs what the batch metric costs, updating a copy of the batch.
- Memory is bounded by `size` rows: 16 bytes each of predictions, 8 k each of recommendations.
- A window without a value (no event; one class only, for AUC) says None: to a stream that is no error.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Final, Self

import numpy as np
import numpy.typing as npt

from online_models.metrics.beyond_accuracy import covered_share, gini, recommendation_counts
from online_models.metrics.calibration import Binning, calibration_ratio, expected_calibration_error
from online_models.metrics.inputs import (
    Floats,
    Lists,
    Numbers,
    Pairs,
    catalogue_rows,
    numbers,
    probable_pairs,
    real_pairs,
    scored_pairs,
)
from online_models.metrics.pointwise import auc, cross_entropy, mae, normalised_cross_entropy, rmse
from online_models.metrics.prequential import Snapshot, not_a_snapshot_of

Array = npt.NDArray[Any]

SIZE: Final = 10_000
"""Events of a window by default: a rate of 10 % has a standard error of 0.3 % on them."""


class SlidingWindow(ABC):
    """The last `size` events of a stream in columns.

    Parameters
    ----------
    size : events at most
    row : for each column, zeros of the shape and dtype of a row of it

    Raises
    ------
    ValueError
        When the size is below 1.
    """

    name: ClassVar[str]
    SCHEMA_VERSION: ClassVar[int] = 1
    _hyperparameters: ClassVar[Mapping[str, type]] = {"size": int}

    def __init__(self, size: int, *row: Array) -> None:
        if size < 1:
            raise ValueError(f"{self.name}: expected a size of at least one event, got {size}")
        self.size = size
        self._count, self._next = 0, 0
        self._ring = tuple(np.zeros((size, *cell.shape), cell.dtype) for cell in row)

    @property
    def count(self) -> int:
        """Events so far, those no longer in the window among them."""
        return self._count

    @property
    @abstractmethod
    def value(self) -> float | None:
        """The metric of the events in the window; None where it has no value."""

    @property
    def columns(self) -> tuple[Array, ...]:
        """The events in the window, oldest first, as copies."""
        if self._count < self.size:
            return tuple(column[: self._count].copy() for column in self._ring)
        return tuple(np.concatenate([column[self._next :], column[: self._next]]) for column in self._ring)

    @abstractmethod
    def check(self, *columns: Any, **named: Any) -> None:
        """Raise the ValueError that `update` would raise, and change nothing."""

    @abstractmethod
    def update(self, *columns: Any, **named: Any) -> None:
        """Take in a batch of events in their order; whole, or not at all when refused."""

    def _take_in(self, *batch: Array) -> None:
        """Add checked columns of one length."""
        events = len(batch[0])
        kept = min(events, self.size)
        slots = (self._next + np.arange(kept)) % self.size
        for column, new in zip(self._ring, batch, strict=True):
            column[slots] = new[events - kept :]
        self._count, self._next = self._count + events, (self._next + kept) % self.size

    def snapshot(self) -> Snapshot:
        """`(name, schema version, count, hyperparameters ..., columns ...)`, the columns oldest first."""
        chosen = (getattr(self, name) for name in self._hyperparameters)
        return self.name, self.SCHEMA_VERSION, self._count, *chosen, *self.columns

    @classmethod
    def restore(cls, snapshot: Snapshot, /) -> Self:
        """The metric behind a snapshot.

        Raises
        ------
        ValueError
            When it is another metric's or another version's, or holds events that the metric could not.
        """
        match snapshot:
            case (cls.name, cls.SCHEMA_VERSION, int(count), *state):
                chosen: list[Any] = [part for part in state if not isinstance(part, np.ndarray)]
                columns = [part for part in state if isinstance(part, np.ndarray)]
            case _:
                raise not_a_snapshot_of(cls.name, cls.SCHEMA_VERSION, snapshot)
        if list(map(type, chosen)) != list(cls._hyperparameters.values()):
            raise not_a_snapshot_of(cls.name, cls.SCHEMA_VERSION, snapshot)
        window = cls(*chosen)
        if [len(column) for column in columns] != [min(count, window.size)] * len(window._ring):
            raise not_a_snapshot_of(cls.name, cls.SCHEMA_VERSION, snapshot)
        window.update(*columns)
        window._count = count
        return window


class WindowedMean(SlidingWindow):
    """Mean of the last `size` figures: hit rate, NDCG, novelty, diversity, whatever single events have a figure of.

    >>> recent = WindowedMean(size=2)
    >>> recent.update(np.array([1.0, 0.0, 0.0]))
    >>> recent.value, recent.count
    (0.0, 3)
    """

    name: ClassVar[str] = "windowed mean"

    def __init__(self, size: int = SIZE) -> None:
        super().__init__(size, np.zeros(()))

    @property
    def value(self) -> float | None:
        """The mean; None before the first figure."""
        (figures,) = self.columns
        return float(figures.mean()) if len(figures) else None

    def check(self, figures: Numbers) -> None:
        """Raise ValueError unless the figures are a column (n,) of finite ones."""
        numbers("figures", figures)

    def update(self, figures: Numbers) -> None:
        """Take in figures (n,). Raises ValueError when one is not finite; none is taken in then."""
        self._take_in(numbers("figures", figures))


class PredictionWindow(SlidingWindow):
    """The last `size` predictions and what came, for a metric of such pairs."""

    def __init__(self, size: int = SIZE) -> None:
        super().__init__(size, np.zeros(()), np.zeros(()))

    @property
    def value(self) -> float | None:
        """The metric of the pairs in the window; None where it has no value."""
        predicted, observed = self.columns
        return self._of(predicted, observed) if len(observed) else None

    @abstractmethod
    def _of(self, predicted: Floats, observed: Floats) -> float | None:
        """The metric of at least one pair (n,), (n,)."""

    def _pairs(self, predicted: Numbers, observed: Numbers) -> Pairs:
        """The checked columns of a batch."""
        return probable_pairs(predicted, observed)

    def check(self, predicted: Numbers, observed: Numbers) -> None:
        """Raise the ValueError that the batch metric would raise of the form of these columns."""
        self._pairs(predicted, observed)

    def update(self, predicted: Numbers, observed: Numbers) -> None:
        """Take in predictions (n,) and what came (n,). Raises ValueError as the batch metric does; none is taken in then."""
        self._take_in(*self._pairs(predicted, observed))


class WindowedRmse(PredictionWindow):
    """`rmse` of the last `size` events."""

    name: ClassVar[str] = "windowed RMSE"

    def _of(self, predicted: Floats, observed: Floats) -> float:
        return rmse(predicted, observed)

    def _pairs(self, predicted: Numbers, observed: Numbers) -> Pairs:
        return real_pairs(predicted, observed)


class WindowedMae(PredictionWindow):
    """`mae` of the last `size` events."""

    name: ClassVar[str] = "windowed MAE"

    def _of(self, predicted: Floats, observed: Floats) -> float:
        return mae(predicted, observed)

    def _pairs(self, predicted: Numbers, observed: Numbers) -> Pairs:
        return real_pairs(predicted, observed)


class WindowedAuc(PredictionWindow):
    """`auc` of the last `size` events; None while they are of one class.

    >>> recent = WindowedAuc(size=3)
    >>> recent.update(np.array([0.9, 0.2]), np.array([0, 0]))
    >>> recent.value
    >>> recent.update(np.array([0.8, 0.3]), np.array([1, 0]))
    >>> recent.value
    1.0
    """

    name: ClassVar[str] = "windowed AUC"

    def _of(self, predicted: Floats, observed: Floats) -> float | None:
        return auc(predicted, observed) if _mixed(observed) else None

    def _pairs(self, predicted: Numbers, observed: Numbers) -> Pairs:
        return scored_pairs(predicted, observed)


class WindowedCrossEntropy(PredictionWindow):
    """`cross_entropy` of the last `size` events."""

    name: ClassVar[str] = "windowed cross-entropy"

    def _of(self, predicted: Floats, observed: Floats) -> float:
        return cross_entropy(predicted, observed)


class WindowedNormalisedCrossEntropy(PredictionWindow):
    """`normalised_cross_entropy` of the last `size` events, against their own base rate; None while they are of one class."""

    name: ClassVar[str] = "windowed normalised cross-entropy"

    def _of(self, predicted: Floats, observed: Floats) -> float | None:
        return normalised_cross_entropy(predicted, observed) if _mixed(observed) else None


class WindowedCalibrationRatio(PredictionWindow):
    """`calibration_ratio` of the last `size` events; None while none of them is a 1."""

    name: ClassVar[str] = "windowed calibration ratio"

    def _of(self, predicted: Floats, observed: Floats) -> float | None:
        return calibration_ratio(predicted, observed) if observed.any() else None


class WindowedCalibrationError(PredictionWindow):
    """`expected_calibration_error` of the last `size` events.

    Raises
    ------
    ValueError
        When size or bins are below 1.
    """

    name: ClassVar[str] = "windowed calibration error"
    _hyperparameters: ClassVar[Mapping[str, type]] = {"size": int, "bins": int, "binning": str}

    def __init__(self, size: int = SIZE, bins: int = 10, binning: Binning | str = Binning.EQUAL_MASS) -> None:
        super().__init__(size)
        if bins < 1:
            raise ValueError(f"{self.name}: expected bins >= 1, got {bins}")
        self.bins, self.binning = bins, Binning(binning).value

    def _of(self, predicted: Floats, observed: Floats) -> float:
        return expected_calibration_error(predicted, observed, self.bins, Binning(self.binning))


class RecommendationWindow(SlidingWindow):
    """What the last `size` events were recommended, for a metric of how often each item was.

    Parameters
    ----------
    items : of the catalogue
    k : recommendations of an event at most
    size : events at most

    Raises
    ------
    ValueError
        When one of them is below 1.
    """

    _hyperparameters: ClassVar[Mapping[str, type]] = {"items": int, "k": int, "size": int}

    def __init__(self, items: int, k: int, size: int = SIZE) -> None:
        if min(items, k) < 1:
            raise ValueError(f"{self.name}: expected items and k >= 1, got {items} and {k}")
        super().__init__(size, np.zeros(k, np.int64))
        self.items, self.k = items, k

    @property
    def value(self) -> float | None:
        """The metric of the counts; None while nothing was recommended."""
        (lists,) = self.columns
        counts = recommendation_counts(lists, self.items)
        return self._of(counts) if counts.any() else None

    @abstractmethod
    def _of(self, counts: npt.NDArray[np.int64]) -> float:
        """The metric of recommendation counts (items,), one of them positive."""

    def check(self, lists: Lists) -> None:
        """Raise ValueError unless the lists are rows (n, k) of the catalogue or -1."""
        rows = catalogue_rows(lists, self.items)
        if rows.shape[1] != self.k:
            raise ValueError(f"{self.name}: expected lists (n, {self.k}), got shape {rows.shape}")

    def update(self, lists: Lists) -> None:
        """Take in lists (n, k) of catalogue rows, -1 where there was none. Raises as `check` does; none is taken in then."""
        self.check(lists)
        self._take_in(lists)


class WindowedCoverage(RecommendationWindow):
    """Share of the catalogue that the last `size` events were recommended.

    >>> recent = WindowedCoverage(items=4, k=2, size=2)
    >>> recent.update(np.array([[0, 1], [2, 3], [2, -1]]))
    >>> recent.value
    0.5
    """

    name: ClassVar[str] = "windowed coverage"

    def _of(self, counts: npt.NDArray[np.int64]) -> float:
        return covered_share(counts)


class WindowedGini(RecommendationWindow):
    """`gini` of how often the last `size` events were recommended each item of the catalogue."""

    name: ClassVar[str] = "windowed Gini"

    def _of(self, counts: npt.NDArray[np.int64]) -> float:
        return gini(counts)


def _mixed(observed: Floats) -> bool:
    """Whether the outcomes (n,) are of both classes."""
    return 0 < int(np.count_nonzero(observed)) < len(observed)
