"""Numbers that a simulation found, with one standard error each."""

from dataclasses import dataclass

import numpy as np

from benchmarks.canary_worlds import F64, Mask


@dataclass(frozen=True)
class Estimate:
    """A simulated number and its standard error."""

    value: float
    error: float

    @classmethod
    def share(cls, mask: Mask) -> "Estimate":
        """Of a mask (runs,). Of none and of all the error is that of one: a simulation proves no 0.

        >>> Estimate.share(np.arange(100) < 4)
        Estimate(value=0.04, error=0.019595917942265423)
        """
        n, hits = len(mask), int(mask.sum())
        p = min(max(hits, 1), max(n - 1, 1)) / n
        return cls(hits / n, float(np.sqrt(p * (1.0 - p) / n)))

    @classmethod
    def quantile(cls, values: F64, at: float) -> "Estimate":
        """Of values (runs,), some infinite; the error is half the distance of the order statistics one standard error away."""
        n, sorted_values = len(values), np.sort(values)
        spread = np.sqrt(n * at * (1.0 - at))
        low, middle, high = (sorted_values[int(np.clip(n * at + k * spread, 0, n - 1))] for k in (-1, 0, 1))
        return cls(float(middle), float(high - low) / 2.0 if np.isfinite(high) else float("inf"))

    def percent(self) -> str:
        return f"{self.value:.2%} +- {self.error:.2%}"

    def users(self) -> str:
        return f"{self.value:,.0f} +- {self.error:,.0f}" if np.isfinite(self.value) else "not within the run"
