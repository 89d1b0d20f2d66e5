"""Whether predicted probabilities mean what they say: in total, and bin by bin.

- Bins of equal mass by default: click probabilities crowd near 0, where bins of equal width would put them all in one.
- A bin is an interval of predictions, so equal predictions share one, whatever the order of the events.
"""

import enum
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from online_models.metrics.inputs import Floats, Numbers, probable_pairs, some


class Binning(enum.StrEnum):
    """How [0, 1] is cut into bins: as many events in each (as far as ties allow), or as wide each."""

    EQUAL_MASS = "equal mass"
    EQUAL_WIDTH = "equal width"


@dataclass(frozen=True, slots=True)
class Reliability:
    """The reliability table: what was predicted and what came in each bin that has events, by rising prediction.

    events : int64 (b,); predicted, observed : float64 (b,), means over the bin's events
    """

    events: npt.NDArray[np.int64]
    predicted: Floats
    observed: Floats


def calibration_ratio(predicted: Numbers, observed: Numbers) -> float:
    """Ones predicted for each one observed: 1 is calibrated in total, above 1 promises too much.

    Parameters
    ----------
    predicted : (n,), probabilities that the outcome is 1
    observed : (n,), outcomes, each 0 or 1

    Raises
    ------
    ValueError
        When the columns differ in length, a probability lies outside [0, 1], or no outcome is 1.

    >>> calibration_ratio(np.array([0.5, 0.25, 0.75]), np.array([0, 0, 1]))
    1.5

    References
    ----------
    He et al.: Practical lessons from predicting clicks on ads at Facebook. ADKDD 2014.
    """
    probability, outcome = probable_pairs(predicted, observed)
    if not outcome.any():
        raise ValueError(f"expected an outcome of 1, got none in {len(outcome)}")
    return float(probability.sum() / outcome.sum())


def reliability(
    predicted: Numbers, observed: Numbers, bins: int = 10, binning: Binning = Binning.EQUAL_MASS
) -> Reliability:
    """Mean prediction and mean outcome in each of at most `bins` bins of predictions.

    Raises
    ------
    ValueError
        When bins < 1, there is no event, the columns differ in length, a probability lies outside [0, 1] or an outcome is
        neither 0 nor 1.

    >>> table = reliability(np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 0, 0, 1]), bins=2)
    >>> table.events.tolist(), table.predicted.round(3).tolist(), table.observed.tolist()
    ([2, 2], [0.15, 0.85], [0.0, 0.5])
    """
    if bins < 1:
        raise ValueError(f"expected bins >= 1, got {bins}")
    probability, outcome = probable_pairs(predicted, observed)
    some("events", probability)
    place = np.searchsorted(_cuts(probability, bins, binning), probability)  # (n,), bin b is (cut b - 1, cut b]
    events = np.bincount(place, minlength=bins)
    filled = events > 0
    sums = (np.bincount(place, weights=column, minlength=bins) for column in (probability, outcome))
    return Reliability(events[filled], *(total[filled] / events[filled] for total in sums))


def expected_calibration_error(
    predicted: Numbers, observed: Numbers, bins: int = 10, binning: Binning = Binning.EQUAL_MASS
) -> float:
    """Mean distance between prediction and outcome of a bin, bins weighing by their events. Raises as `reliability` does.

    It is above 0 by chance even for a calibrated model, the more so the fewer events a bin has.

    >>> round(expected_calibration_error(np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 0, 0, 1]), bins=2), 3)
    0.25

    References
    ----------
    Naeini, Cooper, Hauskrecht: Obtaining well calibrated probabilities using Bayesian binning. AAAI 2015.
    Roelofs et al.: Mitigating bias in calibration error estimation. AISTATS 2022 (equal mass).
    """
    table = reliability(predicted, observed, bins, binning)
    # ECE = sum_b n_b / n |predicted_b - observed_b|
    return float(table.events @ np.abs(table.predicted - table.observed) / table.events.sum())


def _cuts(probability: Floats, bins: int, binning: Binning) -> Floats:
    """Where the bins of probabilities (n,) meet, rising (bins - 1,)."""
    if binning is Binning.EQUAL_WIDTH:
        return np.linspace(0, 1, bins + 1)[1:-1]
    # cut b is the ceil(b n / bins)th smallest: in whole numbers, as a rounded quantile can fall on either side of an event
    last = -(-np.arange(1, bins) * len(probability) // bins) - 1
    return np.sort(probability)[last]
