"""What the detectors over a stream of numbers share: values come in batches, the state is one vector.

- `drift_detected` and `statistic` speak of the latest batch; how a stream is cut into batches changes nothing else.
- As in river, whose detections DDM, EDDM and Page-Hinkley reproduce, the value after a detection starts afresh.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Final, Self

import numpy as np
import numpy.typing as npt
from numba import njit

from online_models.drift.base import Snapshot, not_a_snapshot_of

Floats = npt.NDArray[np.float64]

DETECTED, STATISTIC, DETECTIONS, ENDED, OWN = range(5)
"""Places in the state: of the latest batch, whether and how much; of all, how many; whether the next value starts afresh.
What follows belongs to the detector."""

_SHARED: Final = (0.0,) * OWN


class StreamDetector(ABC):
    """A detector over values (n,) in their order.

    Parameters
    ----------
    fresh : the detector's own part of the state as a stream begins
    """

    name: ClassVar[str]
    SCHEMA_VERSION: ClassVar[int] = 1

    def __init__(self, fresh: Sequence[float]) -> None:
        self._state = np.array([*_SHARED, *fresh], np.float64)

    @property
    def drift_detected(self) -> bool:
        """Whether the latest update held a detection."""
        return bool(self._state[DETECTED])

    @property
    def statistic(self) -> float:
        """The largest that the latest update held."""
        return float(self._state[STATISTIC])

    @property
    def detections(self) -> int:
        """All detections so far."""
        return int(self._state[DETECTIONS])

    @property
    @abstractmethod
    def threshold(self) -> float:
        """What the statistic is compared with."""

    def update(self, x: Floats, /) -> None:
        """Take in values (n,) in their order.

        Raises
        ------
        ValueError
            When a value is not one of the detector's; none is taken in then.
        """
        values = np.ascontiguousarray(x, np.float64)
        if values.ndim != 1 or not self._takes(values):
            raise ValueError(f"{self.name}: expected {self._values} (n,), got {values[:8]} of shape {values.shape}")
        self._state[DETECTED] = self._state[STATISTIC] = 0.0
        self._take_in(values)

    _values: ClassVar[str] = "finite values"

    def _takes(self, values: Floats) -> bool:
        return bool(np.isfinite(values).all())

    @abstractmethod
    def _take_in(self, values: Floats) -> None:
        """Move the state by values (n,)."""

    @abstractmethod
    def _hyperparameters(self) -> tuple[int | float | str, ...]:
        """As the constructor takes them, in order."""

    def snapshot(self) -> Snapshot:
        """`(name, schema version, hyperparameters in order, state)`."""
        return (self.name, self.SCHEMA_VERSION, *self._hyperparameters(), self._state.copy())

    def _resume(self, state: npt.NDArray[np.generic], snapshot: Snapshot) -> Self:
        """This detector, as far as a snapshot's state says."""
        if state.shape != self._state.shape:
            raise not_a_snapshot_of(self.name, self.SCHEMA_VERSION, snapshot)
        self._state = state.astype(np.float64)
        return self


def are_errors(values: Floats) -> bool:
    """Whether all values are 0 or 1."""
    return bool(((values == 0) | (values == 1)).all())


@njit(cache=True, nogil=True)
def note(state: Floats, statistic: float, drifted: bool) -> None:
    """What one value showed."""
    state[STATISTIC] = max(state[STATISTIC], statistic)
    if drifted:
        state[DETECTED] = state[ENDED] = 1.0
        state[DETECTIONS] += 1.0
