"""What every drift detector is, and what those over histograms share.

- A detector has `update(x)`, `drift_detected` and `snapshot()`; hyperparameters are checked in the constructor;
  `restore(snapshot)` and going on equals never having stopped.
- A histogram detector judges one window against a fixed reference. With too few events in either it has no
  verdict: `enough` is False, and `drift_detected` stays False without meaning "no drift".
"""

from abc import ABC, abstractmethod
from typing import ClassVar, Final, Protocol, Self, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from online_models.contracts.features import FeatureKind
from online_models.histograms import Assignment, Counts, rebin

Plain = str | int | float | bool | None | npt.NDArray[np.generic]
Snapshot = tuple[Plain, ...]
Floats = npt.NDArray[np.float64]
Histogram = Counts | Floats
"""Counts, or counts scaled to what they can tell."""

X_contra = TypeVar("X_contra", contravariant=True)

MIN_EVENTS: Final = 500
"""Below this, in window or reference, the calibrated thresholds of the histogram detectors do not hold."""


class Detector(Protocol[X_contra]):
    """A drift detector over observations of type X."""

    def update(self, x: X_contra, /) -> None:
        """Take in the next observation. Raises ValueError when it has another form than the detector's."""

    @property
    def drift_detected(self) -> bool:
        """Whether the latest update showed drift."""

    @property
    def statistic(self) -> float:
        """What the latest update measured; 0 before any verdict."""

    @property
    def threshold(self) -> float:
        """What the statistic is compared with."""

    def snapshot(self) -> Snapshot:
        """The whole state as plain values and arrays, beginning with the detector's name and a schema version."""

    @classmethod
    def restore(cls, snapshot: Snapshot, /) -> Self:
        """The detector behind a snapshot. Raises ValueError when it is another detector's or another version's."""


class Reading(msgspec.Struct, frozen=True, gc=False):
    """What one detector says of one window.

    enough : whether there were enough events for a verdict
    p_value : of the statistic where the detector is a test, else None
    events : of the window
    """

    detector: str
    statistic: float
    threshold: float
    drift_detected: bool
    enough: bool
    p_value: float | None = None
    events: int = 0


class HistogramDetector(ABC):
    """A detector over fine histograms: the window's counts against the reference's.

    Parameters
    ----------
    reference : int64 (bins + 3,), `[under, bins ..., over, missing]`
    kind : how the counts were made, and so how they become coarse bins
    threshold : drift from this statistic on; the detector's own by default
    min_events : fewest events of window and of reference for a verdict

    Raises
    ------
    ValueError
        When a hyperparameter is out of range or the reference is no histogram.
    """

    name: ClassVar[str]
    usual_threshold: ClassVar[float]
    SCHEMA_VERSION: ClassVar[int] = 1

    def __init__(
        self,
        reference: Counts,
        kind: FeatureKind,
        *,
        threshold: float | None = None,
        min_events: int = MIN_EVENTS,
    ) -> None:
        threshold = self.usual_threshold if threshold is None else threshold
        if not 0 < threshold < np.inf:
            raise ValueError(f"{self.name}: expected a positive threshold, got {threshold}")
        if min_events < 1:
            raise ValueError(f"{self.name}: expected min_events >= 1, got {min_events}")
        self.reference = np.array(reference, np.int64)
        self.kind = kind
        self._threshold = float(threshold)
        self.min_events = min_events
        self._assignment: Assignment = rebin(self.reference, kind)
        self._coarse_reference = self._assignment.apply(self.reference)
        self._reading = Reading(self.name, 0.0, self.threshold, False, False)

    @property
    def reading(self) -> Reading:
        """What the latest window showed."""
        return self._reading

    @property
    def drift_detected(self) -> bool:
        """Whether the latest window drifted; False too when there is no verdict."""
        return self._reading.drift_detected

    @property
    def enough(self) -> bool:
        """Whether the latest window and the reference had enough events for a verdict."""
        return self._reading.enough

    @property
    def statistic(self) -> float:
        """What the latest window measured."""
        return self._reading.statistic

    @property
    def threshold(self) -> float:
        """Drift from this statistic on."""
        return self._threshold

    def update(self, counts: Counts, /) -> None:
        """Judge a window by its fine counts, int64 (bins + 3,).

        Raises
        ------
        ValueError
            When the counts have another shape than the reference.
        """
        coarse = self._assignment.apply(counts)
        events = int(coarse.sum())
        if min(events, int(self._coarse_reference.sum())) < self.min_events:
            self._reading = Reading(self.name, 0.0, self.threshold, False, False, events=events)
        else:
            self._reading = self._judge(counts, coarse)

    @abstractmethod
    def _judge(self, counts: Counts, coarse: Counts) -> Reading:
        """The reading of a window with enough events, from its fine (bins + 3,) and coarse (B,) counts."""

    def _reach(self, found: tuple[Floats, Floats], coarse: Counts) -> Reading:
        """The reading of a statistic and its p-value: drift when the statistic reaches the threshold."""
        statistic, p_value = map(float, found)
        drifted = statistic >= self.threshold
        return Reading(self.name, statistic, self.threshold, drifted, True, p_value, int(coarse.sum()))

    def snapshot(self) -> Snapshot:
        """`(name, schema version, kind, reference, threshold, min_events, then the latest reading)`."""
        reading = self._reading
        return (
            *(self.name, self.SCHEMA_VERSION, self.kind.value, self.reference.copy()),
            *(self.threshold, self.min_events),
            *(reading.statistic, reading.drift_detected, reading.enough, reading.p_value, reading.events),
        )

    @classmethod
    def restore(cls, snapshot: Snapshot, /) -> Self:
        """The detector behind a snapshot of this class.

        Raises
        ------
        ValueError
            When the snapshot is another detector's or another version's.
        """
        match snapshot:
            case (
                cls.name,
                cls.SCHEMA_VERSION,
                str(kind),
                np.ndarray() as reference,
                float(threshold),
                int(min_events),
                float(statistic),
                bool(drift_detected),
                bool(enough),
                (float() | None) as p_value,
                int(events),
            ):
                counts = reference.astype(np.int64)
                detector = cls(counts, FeatureKind(kind), threshold=threshold, min_events=min_events)
                detector._reading = Reading(cls.name, statistic, threshold, drift_detected, enough, p_value, events)
                return detector
            case _:
                raise not_a_snapshot_of(cls.name, cls.SCHEMA_VERSION, snapshot)


def not_a_snapshot_of(name: str, schema_version: int, snapshot: Snapshot) -> ValueError:
    """The error of a detector that is given something else than its own snapshot."""
    return ValueError(f"expected a snapshot of ({name}, {schema_version}), got one of {snapshot[:2]}")


def proportions(reference: Histogram, current: Histogram) -> tuple[Floats, Floats]:
    """Smoothed shares q of the reference and p of the window, each (..., B), over the bins that either has filled.

    Half a count is added to each bin (Jeffreys), so that an empty bin on one side stays finite; bins that are empty
    on both sides, padding among them, say nothing and have share 0.
    """
    filled = (reference > 0) | (current > 0)
    q, p = np.where(filled, reference + 0.5, 0.0), np.where(filled, current + 0.5, 0.0)
    return q / q.sum(-1, keepdims=True), p / p.sum(-1, keepdims=True)


def laid_out(reference: Histogram, current: Histogram) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
    """Histograms (..., c) one after the other (C,), and where each begins and ends (F, 2), for kernels over many features.

    >>> laid_out(np.array([1, 2]), np.array([[3, 4], [5, 6]]))[0].tolist()
    [1.0, 2.0, 1.0, 2.0]
    """
    held, now = np.broadcast_arrays(reference, current)
    cells = held.shape[-1]
    ends = np.arange(cells, held.size + 1, cells)
    return held.astype(np.float64).ravel(), now.astype(np.float64).ravel(), np.stack([ends - cells, ends], 1)


def per_event(reference: Histogram, current: Histogram) -> Floats:
    """1/n + 1/m of windows (..., B), the variance that a difference of two shares has per unit of a share."""
    totals: Floats = 1 / current.sum(-1) + 1 / reference.sum(-1)
    return totals


def degrees(reference: Histogram, current: Histogram) -> Floats:
    """Degrees of freedom (...) of two histograms (..., B): the bins that either has filled, less one."""
    filled: Floats = ((reference > 0) | (current > 0)).sum(-1) - 1.0
    return filled


def log_ratio(p: Floats, q: Floats) -> Floats:
    """ln(p / q), and 0 where p is 0."""
    ratio: Floats = np.log(np.where(p > 0, p, 1.0) / np.where(p > 0, q, 1.0))
    return ratio
