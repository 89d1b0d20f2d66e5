"""Means of figures of events with the error they have when the events of one user are not independent.

- The cluster is the user: a hundred events of one person tell less than one event each of a hundred. An error that takes them
  for independent promises too much.
- Analytic, no resampling: the linearised ratio of sums over users, so a user with more events weighs more, as in the mean.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from online_models.metrics.inputs import Numbers, numbers, some


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over events and its user-clustered standard error, infinite with a single user: then nothing is known of it."""

    mean: float
    standard_error: float
    events: int
    users: int


def clustered_mean(figures: Numbers, users: npt.NDArray[np.generic]) -> Estimate:
    """Mean of figures with its user-clustered standard error.

    With one event per user it is s / sqrt(n), s the standard deviation divided by n - 1.

    Parameters
    ----------
    figures : (n,), of each event
    users : (n,), whose event it is; ids or numbers

    Raises
    ------
    ValueError
        When there is no event, the columns differ in length, or a figure is not finite.

    >>> clustered_mean(np.array([1.0, 1.0, 0.0, 0.0]), np.array(["a", "a", "b", "b"]))
    Estimate(mean=0.5, standard_error=0.5, events=4, users=2)

    References
    ----------
    Liang, Zeger: Longitudinal data analysis using generalized linear models. Biometrika 73 (1986).
    Cameron, Miller: A practitioner's guide to cluster-robust inference. J. Human Resources 50 (2015): G / (G - 1).
    """
    column = numbers("figures", figures)
    some("figures", column)
    if users.shape != column.shape:
        raise ValueError(f"expected a user for each of {len(column)} figures, got shape {users.shape}")
    mean = float(column.mean())
    _, of = np.unique(users, return_inverse=True)
    residuals = np.bincount(of, weights=column - mean)  # (G,)
    groups = len(residuals)
    # SE = sqrt(G / (G - 1) sum_g (sum of residuals of g)²) / n
    error = float(np.sqrt(groups / (groups - 1) * (residuals @ residuals))) / len(column) if groups > 1 else np.inf
    return Estimate(mean, error, len(column), groups)


def clustered_difference(ours: Numbers, theirs: Numbers, users: npt.NDArray[np.generic]) -> Estimate:
    """Mean difference of two methods on the same events, ours - theirs, with its user-clustered standard error.

    Paired: what makes an event hard for both cancels. Raises as `clustered_mean` does.

    >>> hits, users = np.array([1.0, 0.0, 1.0, 1.0]), np.array([1, 1, 2, 3])
    >>> clustered_difference(hits, hits, users)
    Estimate(mean=0.0, standard_error=0.0, events=4, users=3)
    """
    one, other = numbers("ours", ours), numbers("theirs", theirs)
    if len(one) != len(other):
        raise ValueError(f"expected figures of the same events, got {len(one)} of ours and {len(other)} of theirs")
    return clustered_mean(one - other, users)
