"""Quantiles of numbers whose range nobody knows: KLL sketches (Karnin, Lang and Liberty 2016) by Apache DataSketches.

- For a first look at data, to declare ranges and edges from. Windows do not use them: the sketch decides by coin toss which
  numbers it keeps, the library takes no seed, and two runs over the same numbers give different sketches.
- All features are updated together from one array of rows.
"""

from collections.abc import Sequence
from typing import Final, Self

import datasketches
import numpy as np
import numpy.typing as npt

ACCURACY: Final = 200
"""The library's k: ranks are off by 1.33 % at most, in 99 of 100 cases."""


class KllQuantiles:
    """Quantiles of d features at once, in single precision and constant memory.

    Parameters
    ----------
    features : d
    accuracy : k, from 8 to 65535: larger is exacter and takes more memory

    Raises
    ------
    ValueError
        When `features` or `accuracy` is out of range.

    >>> sketch = KllQuantiles(2)
    >>> sketch.update(np.column_stack([np.arange(101.0), np.full(101, np.nan)]))
    >>> sketch.count.tolist(), sketch.quantiles([0.0, 0.5, 1.0]).tolist()
    ([101, 0], [[0.0, 50.0, 100.0], [nan, nan, nan]])
    """

    def __init__(self, features: int, accuracy: int = ACCURACY) -> None:
        if features < 1 or not 8 <= accuracy <= 65_535:
            raise ValueError(f"expected features and an accuracy in [8, 65535], got {features} and {accuracy}")
        self.features = features
        self.accuracy = accuracy
        self._sketch = datasketches.vector_of_kll_floats_sketches(accuracy, features)

    def update(self, rows: npt.NDArray[np.float64]) -> None:
        """Add rows (n, d); NaN is missing."""
        if rows.ndim != 2 or rows.shape[1] != self.features:
            raise ValueError(f"expected rows of {self.features} features, got shape {rows.shape}")
        self._sketch.update(np.ascontiguousarray(rows, np.float32))

    def merge(self, other: "KllQuantiles") -> None:
        """Add what another has seen."""
        if other.features != self.features:
            raise ValueError(f"expected sketches of {self.features} features, got {other.features}")
        self._sketch.merge(other._sketch)

    @property
    def count(self) -> npt.NDArray[np.int64]:
        """(d,), numbers seen of each feature."""
        return np.asarray(self._sketch.get_n(), np.int64)

    def quantiles(self, shares: Sequence[float]) -> npt.NDArray[np.float64]:
        """Quantiles (d, shares); NaN of a feature that nothing was seen of."""
        found = np.full((self.features, len(shares)), np.nan)
        for feature in np.flatnonzero(self.count).tolist():
            found[feature] = self._sketch.get_quantiles(list(shares), feature)[0]
        return found

    def packed(self) -> list[bytes]:
        """Each feature's sketch as bytes, in DataSketches' own format."""
        return [bytes(each) for each in self._sketch.serialize()]

    @classmethod
    def unpacked(cls, raw: Sequence[bytes], accuracy: int = ACCURACY) -> Self:
        """The sketches that `packed` gave."""
        made = cls(len(raw), accuracy)
        for feature, each in enumerate(raw):
            made._sketch.deserialize(each, feature)
        return made
