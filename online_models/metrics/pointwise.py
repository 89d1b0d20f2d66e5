"""How far predictions are from what came: RMSE and MAE, AUC, cross-entropy and its normalised form.

- What is a mean of figures of single events has those figures too (`squared_errors`, `absolute_errors`, `cross_entropies`),
  for `Prequential` and for `clustered_mean`.
- A metric without a value (no events; one class only, for AUC and normalised cross-entropy) is an error, not a guess.
"""

from typing import Final

import numpy as np

from online_models.metrics.inputs import Floats, Numbers, probable_pairs, real_pairs, scored_pairs, some

CLIP: Final = float(np.finfo(np.float64).eps)
"""Probabilities are kept this far from 0 and 1: one event that was called impossible costs 36 nats, not infinity."""


def squared_errors(predicted: Numbers, observed: Numbers) -> Floats:
    """(predicted - observed)^2 of each event (n,). Raises ValueError unless both are finite numbers (n,)."""
    predicted, observed = real_pairs(predicted, observed)
    errors: Floats = (predicted - observed) ** 2
    return errors


def absolute_errors(predicted: Numbers, observed: Numbers) -> Floats:
    """|predicted - observed| of each event (n,). Raises ValueError unless both are finite numbers (n,)."""
    predicted, observed = real_pairs(predicted, observed)
    return np.abs(predicted - observed)


def cross_entropies(predicted: Numbers, observed: Numbers) -> Floats:
    """Cross-entropy of each event (n,), in nats.

    Parameters
    ----------
    predicted : (n,), probabilities that the outcome is 1; kept `CLIP` away from 0 and 1
    observed : (n,), outcomes, each 0 or 1

    Raises
    ------
    ValueError
        When the columns differ in length, a probability lies outside [0, 1] or an outcome is neither 0 nor 1.

    >>> cross_entropies(np.array([0.5, 0.9]), np.array([0, 1])).round(3).tolist()
    [0.693, 0.105]
    """
    probability, outcome = probable_pairs(predicted, observed)
    # CE = -ln p for 1, -ln(1 - p) for 0
    told = np.where(outcome == 1, probability, 1 - probability)
    nats: Floats = -np.log(np.clip(told, CLIP, 1 - CLIP))
    return nats


def rmse(predicted: Numbers, observed: Numbers) -> float:
    """Root of the mean squared error. Raises ValueError unless both are finite numbers (n,), n > 0.

    >>> rmse(np.array([1.0, 2.0]), np.array([4.0, 6.0])) == 12.5**0.5
    True
    """
    return float(np.sqrt(_mean(squared_errors(predicted, observed))))


def mae(predicted: Numbers, observed: Numbers) -> float:
    """Mean absolute error. Raises ValueError unless both are finite numbers (n,), n > 0.

    >>> mae(np.array([1.0, 2.0]), np.array([4.0, 6.0]))
    3.5
    """
    return _mean(absolute_errors(predicted, observed))


def cross_entropy(predicted: Numbers, observed: Numbers) -> float:
    """Mean cross-entropy (log loss) in nats. Raises as `cross_entropies` does, and when there is no event.

    >>> round(cross_entropy(np.array([0.5, 0.9]), np.array([0, 1])), 3)
    0.399
    """
    return _mean(cross_entropies(predicted, observed))


def normalised_cross_entropy(predicted: Numbers, observed: Numbers) -> float:
    """Cross-entropy as a share of that of always predicting the base rate: below 1 is better than knowing nothing.

    Parameters
    ----------
    predicted : (n,), probabilities that the outcome is 1
    observed : (n,), outcomes, each 0 or 1; their mean is the base rate

    Raises
    ------
    ValueError
        As `cross_entropies` does, and when the outcomes are all the same: the base rate then has no entropy.

    >>> normalised_cross_entropy(np.array([0.25, 0.25, 0.25, 0.25]), np.array([0, 0, 0, 1]))
    1.0

    References
    ----------
    He et al.: Practical lessons from predicting clicks on ads at Facebook. ADKDD 2014.
    """
    events = cross_entropies(predicted, observed)
    base = _both_classes(observed) / len(events)
    # NCE = mean CE / -(p ln p + (1 - p) ln(1 - p)), p the base rate
    entropy = -(base * np.log(base) + (1 - base) * np.log(1 - base))
    return _mean(events) / float(entropy)


def auc(scores: Numbers, observed: Numbers) -> float:
    """Area under the ROC curve: the chance that a 1 has a higher score than a 0, a tie counting half.

    Parameters
    ----------
    scores : (n,), of any scale
    observed : (n,), outcomes, each 0 or 1

    Raises
    ------
    ValueError
        When the columns differ in length, a score is not finite, or the outcomes are not of both classes.

    >>> auc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([0, 0, 1, 1]))
    0.875

    References
    ----------
    Mann, Whitney: On a test of whether one of two random variables is stochastically larger. Ann. Math. Stat. 18 (1947).
    """
    scores, outcome = scored_pairs(scores, observed)
    ones = _both_classes(outcome)
    _, place, tied = np.unique(scores, return_inverse=True, return_counts=True)
    # midrank, from 1, of t equal scores that end at rank c: c - (t - 1) / 2
    midrank = (np.cumsum(tied) - (tied - 1) / 2)[place]
    # U = sum of the midranks of the ones - P (P + 1) / 2, AUC = U / (P N)
    above = midrank[outcome == 1].sum() - ones * (ones + 1) / 2
    return float(above / (ones * (len(outcome) - ones)))


def _both_classes(observed: Numbers) -> int:
    """How many of the outcomes (n,) are 1. Raises ValueError unless there are both 0s and 1s."""
    ones = int(np.count_nonzero(observed))
    if not 0 < ones < len(observed):
        raise ValueError(f"expected outcomes of 0 and of 1, got {len(observed) - ones} and {ones}")
    return ones


def _mean(figures: Floats) -> float:
    some("events", figures)
    return float(figures.mean())
