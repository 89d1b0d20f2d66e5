"""Verdicts over several detectors, and the plain words that explain them.

- A feature has drifted when two of PSI, KS and KL say so: each alone has blind spots (KS cannot see missing values)
  or false alarms (a p-value below 0.05 is one window in twenty).
- A loss of accuracy needs no second witness: more than a tenth below its baseline is enough.
"""

from dataclasses import dataclass
from typing import Final

from online_models.drift.base import Reading
from online_models.drift.verdict import Verdict

DROP_FRACTION: Final = 0.10

_MEANING: Final = {
    "psi": "the shares of its values have shifted",
    "ks": "its distribution lies elsewhere",
    "kl": "the reference no longer describes it",
}


@dataclass(frozen=True, slots=True)
class Agreement:
    """A verdict and the readings behind it."""

    verdict: Verdict
    readings: tuple[Reading, ...]

    @property
    def alarms(self) -> tuple[Reading, ...]:
        """The readings that say drift."""
        return tuple(reading for reading in self.readings if reading.drift_detected)

    def explain(self, feature: str) -> str:
        """The verdict on a feature in plain words, with the numbers."""
        match self.verdict:
            case Verdict.INCONCLUSIVE:
                events = min(reading.events for reading in self.readings)
                return f"{feature}: no verdict, too few events in the window ({events}) or in the reference"
            case Verdict.STABLE if not self.alarms:
                return f"{feature}: as in the reference"
            case Verdict.STABLE:
                lone = explain(feature, self.alarms[0])
                return f"{lone}; one detector of {len(self.readings)} alone is no drift"
            case _:
                return "; ".join(explain(feature, alarm) for alarm in self.alarms)


def two_of_three(psi: Reading, ks: Reading, kl: Reading) -> Agreement:
    """Drift when at least two of the readings say so; inconclusive unless all had enough events.

    >>> far = Reading("psi", 0.3, 0.1, drift_detected=True, enough=True)
    >>> near = Reading("ks", 0.01, 0.05, drift_detected=False, enough=True, p_value=0.6)
    >>> code = Reading("kl", 0.2, 0.05, drift_detected=True, enough=True)
    >>> two_of_three(far, near, code).verdict.value, two_of_three(far, near, near).verdict.value
    ('drift', 'stable')
    """
    readings = (psi, ks, kl)
    if not all(reading.enough for reading in readings):
        return Agreement(Verdict.INCONCLUSIVE, readings)
    agreeing = sum(reading.drift_detected for reading in readings)
    return Agreement(Verdict.DRIFT if agreeing >= 2 else Verdict.STABLE, readings)


def explain(feature: str, reading: Reading) -> str:
    """One alarm in plain words.

    >>> explain("genres", Reading("psi", 0.31, 0.1, drift_detected=True, enough=True, events=2000))
    'genres: PSI 0.310 >= 0.1 over 2000 events: the shares of its values have shifted'
    """
    p_value = "" if reading.p_value is None else f" (p = {reading.p_value:.2g})"
    return (
        f"{feature}: {reading.detector.upper()} {reading.statistic:.3f} >= {reading.threshold:g}{p_value} "
        f"over {reading.events} events: {_MEANING.get(reading.detector, 'it has changed')}"
    )


def drop_exceeds(mean_before: float, mean_after: float, fraction: float = DROP_FRACTION) -> bool:
    """Whether a rate fell by more than `fraction` of what it was.

    Raises
    ------
    ValueError
        When the fraction is not between 0 and 1.

    >>> drop_exceeds(0.20, 0.17), drop_exceeds(0.20, 0.19), drop_exceeds(0.0, 0.0)
    (True, False, False)
    """
    if not 0 < fraction < 1:
        raise ValueError(f"expected a fraction between 0 and 1, got {fraction}")
    return mean_before > 0 and mean_before - mean_after > fraction * mean_before


def explain_drop(rate: str, mean_before: float, mean_after: float) -> str:
    """A drop of a rate in plain words.

    >>> explain_drop("hit rate", 0.20, 0.15)
    'hit rate fell from 0.2000 to 0.1500, by 25.0 %'
    """
    percent = 100 * (mean_before - mean_after) / mean_before if mean_before else 0.0
    return f"{rate} fell from {mean_before:.4f} to {mean_after:.4f}, by {percent:.1f} %"
