"""All detectors over all features of a window at once, with p-values that know what is usual.

What is usual is estimated for chi-square. PSI, KL and JS measure the same difference on the same bins, so that their
null distributions widen by the factor by which that of chi-square does; the distance of KS by its root.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import chdtrc, kolmogorov

from online_models.drift.base import Floats, degrees, per_event, proportions
from online_models.drift.buckets import word_tests
from online_models.drift.calibration import Habits, adjusted, detectable, either, residuals
from online_models.drift.js import js_of_shares
from online_models.drift.kl import kl_of_shares
from online_models.drift.ks import half_apart, largest_gaps
from online_models.drift.psi import psi_of_shares
from online_models.drift.references import References, coarsen
from online_models.drift.wasserstein import distances_moved, total_variation_distance

DETECTORS: Final = ("psi", "kl", "js", "ks", "wasserstein", "chi_square", "shares", "bursts", "popularity")


@dataclass(frozen=True, slots=True)
class Measured:
    """What the detectors say of F features.

    statistic, p_value : (F, D), NaN where a detector does not apply
    effect : (F,), divergence less its sampling bias, on PSI's scale; of all buckets where that is more than of the bins
    detectable : (F,), the smallest divergence found with 99 % power at a significance of q / F
    coarse : (F, B), the window's counts; roots : (F, B), by how much each bin has moved
    """

    statistic: Floats
    p_value: Floats
    effect: Floats
    detectable: Floats
    coarse: Floats
    roots: Floats


def measure(references: References, fine: Floats, draws: Floats, width: Floats, habits: Habits, q: Floats) -> Measured:
    """Measure a window.

    Parameters
    ----------
    fine : (C,), by `References.lay_out`, without features that are empty on either side
    draws : (F,), independent draws per counted value
    width : (F,), panes of the reference that are as long as the window
    q : (F,), share of false alarms
    """
    coarse = coarsen(fine, references.bounds, references.coarse_of, references.coarse.shape[1])
    held = references.coarse
    # The panes have shown how words that come in groups vary; without panes there are only so many draws
    shrunk = np.where(habits.panes > 0, 1.0, draws)
    unit = (1 / coarse.sum(1) + 1 / held.sum(1)) / shrunk
    roots = residuals(held * shrunk[:, None], coarse * shrunk[:, None])
    filled = degrees(held, coarse)
    usual, free = habits.usual(width), np.maximum(filled, 1.0)
    x2, factor, alone = adjusted(roots, unit, usual, habits)
    widened = np.maximum((roots**2).sum(1) / np.maximum(x2, 1e-9), 1.0)
    statistic = np.full((len(held), len(DETECTORS)), np.nan)
    p_value = statistic.copy()
    shares = proportions(held, coarse)
    bias = per_event(held, coarse)
    for place, (divergence, scale) in enumerate(((psi_of_shares, 1), (kl_of_shares, 2), (js_of_shares, 8))):
        statistic[:, place] = np.maximum(divergence(*shares) - filled / scale * bias, 0.0)
        raw = statistic[:, place] * scale / unit + free
        p_value[:, place] = np.where(statistic[:, place] > 0, chdtrc(free, raw / widened), 0.5)
    _distances(references, fine, coarse, widened / shrunk, statistic, p_value)
    statistic[:, 5], p_value[:, 5] = np.maximum(x2 - free, 0.0) * unit, either(x2, free, alone)
    # How much it has moved is one thing, whether that is unusual another: habits are in the p-values alone
    effect = np.maximum((roots**2).sum(1) - free, 0.0) * unit
    words = references.words
    if len(words):
        bounds = references.bounds[words] + np.array([1, -2])
        told = np.minimum(draws, references.independent)[words]
        found = word_tests(references.fine, fine, bounds, (habits.word * usual)[words], told)
        p_value[words, 6:], divergence_of = found
        statistic[words, 6:] = divergence_of[:, None]
        effect[words] = np.maximum(effect[words], divergence_of)
    least = detectable(free, unit * factor, q / max(len(held), 1))
    return Measured(statistic, p_value, effect, least, coarse, roots)


def _distances(
    references: References, fine: Floats, coarse: Floats, widened: Floats, statistic: Floats, p_value: Floats
) -> None:
    """KS and Wasserstein of ordered cells, total variation of words."""
    numeric, words = references.numeric, references.words
    if len(numeric):
        bounds = references.bounds[numeric] + np.array([0, -1])  # without the missing values
        statistic[numeric, 3] = largest_gaps(references.fine, fine, bounds)
        both = (
            side[numeric].sum(1) - side[numeric, references.missing[numeric]] for side in (references.coarse, coarse)
        )
        m, n = (np.maximum(each, 1.0) for each in both)
        p_value[numeric, 3] = kolmogorov(np.sqrt(m * n / (m + n) / widened[numeric]) * statistic[numeric, 3])
        statistic[numeric, 4] = distances_moved(references.fine, fine, bounds)
    if len(words):
        statistic[words, 3] = half_apart(references.coarse[words], coarse[words])
        p_value[words, 3] = p_value[words, 0]
        statistic[words, 4] = total_variation_distance(references.coarse[words], coarse[words])
