"""What every running metric of a stream is, and the running mean: each figure was predicted before it was learned from.

- A running metric has `update(...)`, `value` and `snapshot()`; hyperparameters are checked in the constructor, memory is
  bounded, how the stream is batched changes but the rounding, `restore(snapshot)` and going on equals never having stopped.
- A metric that is a mean of figures of single events runs through `Prequential`, which fades, or `WindowedMean`; what is no
  mean (AUC, coverage, ...) through its own sliding window, see `windows`.
"""

from typing import Any, ClassVar, Protocol, Self

import numpy as np
import numpy.typing as npt

Plain = str | int | float | npt.NDArray[np.generic]
Snapshot = tuple[Plain, ...]


class PrequentialMetric(Protocol):
    """A metric of a stream so far, or of the latest part of it."""

    @property
    def count(self) -> int:
        """Events so far, those that a window has let go among them."""

    @property
    def value(self) -> float | None:
        """What the metric is now; None where it has no value, as before the first event."""

    def check(self, *columns: Any, **named: Any) -> None:
        """Raise the ValueError that `update` would raise, and change nothing."""

    def update(self, *columns: Any, **named: Any) -> None:
        """Take in a batch of events in their order, as columns with a row for each; whole, or not at all when refused."""

    def snapshot(self) -> Snapshot:
        """The whole state as plain values and arrays, beginning with the metric's name and a schema version."""

    @classmethod
    def restore(cls, snapshot: Snapshot, /) -> Self:
        """The metric behind a snapshot. Raises ValueError when it is another metric's or another version's."""


def not_a_snapshot_of(name: str, schema_version: int, snapshot: Snapshot) -> ValueError:
    """The error of a metric that is given something else than its own snapshot."""
    return ValueError(f"expected a snapshot of ({name}, {schema_version}), got one of {snapshot[:2]}")


class Prequential:
    """Running mean of a stream of figures: each was predicted before it was learned from.

    Parameters
    ----------
    fading : weight of a figure relative to the next one, in (0, 1]; 1 is the plain mean

    Raises
    ------
    ValueError
        When fading is out of range.

    >>> plain, faded = Prequential(), Prequential(fading=0.5)
    >>> plain.update(np.array([0.0, 1.0])), faded.update(np.array([0.0, 1.0]))
    (None, None)
    >>> plain.mean, round(faded.mean, 3)
    (0.5, 0.667)

    References
    ----------
    Gama, Sebastião, Rodrigues: On evaluating stream learning algorithms. Machine Learning 90 (2013).
    """

    __slots__ = ("_count", "_fading", "_total", "_weight")

    name: ClassVar[str] = "prequential mean"
    SCHEMA_VERSION: ClassVar[int] = 1

    def __init__(self, fading: float = 1.0) -> None:
        if not 0 < fading <= 1:
            raise ValueError(f"expected fading in (0, 1], got {fading}")
        self._fading = float(fading)
        self._count, self._total, self._weight = 0, 0.0, 0.0

    @property
    def count(self) -> int:
        """Figures so far."""
        return self._count

    @property
    def mean(self) -> float | None:
        """Mean of the figures, later ones weighing more when they fade; None before the first."""
        return self._total / self._weight if self._count else None

    @property
    def value(self) -> float | None:
        """The mean."""
        return self.mean

    def check(self, figures: npt.NDArray[np.floating]) -> None:
        """Raise ValueError unless the figures are a column (n,) of finite ones."""
        if figures.ndim != 1 or not np.isfinite(figures).all():
            raise ValueError(f"expected finite figures (n,), got {figures[:8]} of shape {figures.shape}")

    def update(self, figures: npt.NDArray[np.floating]) -> None:
        """Take in figures (n,) in their order. Raises ValueError when one is not finite; none is taken in then."""
        self.check(figures)
        # S_n = sum_i fading^(n - i) x_i, N_n = sum_i fading^(n - i)
        weights = self._fading ** np.arange(len(figures) - 1, -1, -1.0)
        past = self._fading ** len(figures)
        self._total = past * self._total + float(weights @ figures)
        self._weight = past * self._weight + float(weights.sum())
        self._count += len(figures)

    def snapshot(self) -> Snapshot:
        """`(name, schema version, fading, count, total, weight)`."""
        return self.name, self.SCHEMA_VERSION, self._fading, self._count, self._total, self._weight

    @classmethod
    def restore(cls, snapshot: Snapshot, /) -> Self:
        """The mean behind a snapshot. Raises ValueError when it is another metric's or another version's."""
        match snapshot:
            case (cls.name, cls.SCHEMA_VERSION, float(fading), int(count), float(total), float(weight)):
                running = cls(fading)
                running._count, running._total, running._weight = count, total, weight
                return running
            case _:
                raise not_a_snapshot_of(cls.name, cls.SCHEMA_VERSION, snapshot)
