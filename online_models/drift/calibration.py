"""What is usual between stretches of the reference, so that only what is unusual is drift.

- An exact p-value answers "is anything different", and with enough events something always is: habits of the day, a
  deployment, chance in what is shown. Here a pane's shares are p + d + sampling noise, and the covariance of d, how
  shares usually move together, is estimated from the reference's panes (a random-effects model).
- In units of sampling noise the panes' covariance is I + D. Of its principal directions, those above what noise alone
  reaches (Baik, Ben Arous and Péché's edge) are habits: few, as drift of a mean moves all bins together. Their variance
  is corrected for the noise in it, and a window that moves along them is judged by Student's, as they are estimates.
  What remains beside them is one factor. Everything across the habits keeps its full power.
- Panes may resemble their neighbours. Windows of the reference against the rest of it show how much larger the
  statistic is than the model says, which is one factor more.
"""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from scipy.special import chdtrc, chdtri, fdtrc, ndtri

from online_models.drift.base import Floats
from online_models.histograms import Counts

MIN_PANES: Final = 40
"""Fewer stretches of a reference say too little of what is usual; then p-values are the exact ones."""

HABITS: Final = 4
"""Most directions of usual movement that are told apart."""

_MARGIN: Final = 1.1
"""How far above the edge of noise a direction must be: the largest of noise alone fluctuates by a few percent."""

_FEWEST: Final = 2.0
"""Expected events of a pane in a bin below which its movement says nothing of habits."""


def residuals(reference: Floats, current: Floats) -> Floats:
    """Signed roots (..., B) of each bin's part in the two-sample chi-square of counts (..., B).

    Pearson's part where the expectation allows; the likelihood ratio's in sparse bins, where one event that the
    reference never saw would otherwise weigh as much as 1/f.
    """
    m, n = reference.sum(-1, keepdims=True), current.sum(-1, keepdims=True)
    f = n / np.maximum(n + m, 1)
    k = reference + current
    expected = k * f
    away = current - expected
    pearson = away**2 / np.maximum(expected * (1 - f), 1e-12)
    sparse = 2 * (_entropy(current, expected) + _entropy(reference, k - expected))
    part = np.where(np.minimum(expected, k - expected) >= 5, pearson, sparse)
    roots: Floats = np.sign(away) * np.sqrt(np.maximum(part, 0.0))
    return roots


def _entropy(counts: Floats, expected: Floats) -> Floats:
    """counts ln(counts / expected), 0 where there are none."""
    terms: Floats = counts * np.log(np.where(counts > 0, counts, 1.0) / np.where(counts > 0, expected, 1.0))
    return terms


def independent(panes: Counts) -> float:
    """Independent draws per counted value, at most 1, by how coarse counts (K, B) of a reference's panes vary: rows that come in
    groups, such as a visitor's sitting, say less than as many strangers' rows. 1 where the panes do not show otherwise.

    >>> rng = np.random.default_rng(0)
    >>> strangers = rng.multinomial(500, [0.5, 0.3, 0.2], 60)
    >>> independent(strangers), independent(strangers[:, [0, 0, 1]] // 250 * 250 + 1) < 0.2
    (1.0, True)
    """
    held = panes[panes.sum(1) > 0].astype(np.float64)
    share = held.sum(0) / max(held.sum(), 1.0)
    heard = share > 0
    free = (len(held) - 1) * (int(heard.sum()) - 1)
    if len(held) < MIN_PANES or free < 1:
        return 1.0
    expected = held.sum(1, keepdims=True) * share[heard]
    # X2 / df of K samples, which is 1 of independent rows, and how far chance moves it
    effect = float(((held[:, heard] - expected) ** 2 / expected).sum()) / free
    return 1 / effect if effect > 1 + 3 * np.sqrt(2 / free) else 1.0


@dataclass(frozen=True, slots=True)
class Habits:
    """Usual movement of F features over B coarse bins, in units of shares over the root of the mean share.

    directions : (F, HABITS, B), orthonormal rows, 0 where there are fewer
    variance : (F, HABITS), between panes, along each direction
    rest : (F,), between panes, along every other direction
    factor : (F,), how much larger the statistic is in windows of the reference than the model says; at least 1
    word : (F,), variance between panes of a word's relative share
    panes : (F,), how many panes there were; 0 where the exact null holds
    """

    directions: Floats
    variance: Floats
    rest: Floats
    factor: Floats
    word: Floats
    panes: Floats

    @classmethod
    def none(cls, features: int, bins: int) -> Self:
        """Nothing is usual but chance."""
        rest, word, panes = np.zeros((3, features))
        directions = np.zeros((features, HABITS, bins))
        return cls(directions, np.zeros((features, HABITS)), rest, np.ones(features), word, panes)

    def learn(self, place: int, panes: Counts, width: int) -> None:
        """What is usual of one feature, from coarse counts (K, B) of its reference's panes, for windows of `width` panes.

        A window that the reference does not hold twice is judged by what is usual in half of the reference.
        """
        held = panes[panes.sum(1) > 0].astype(np.float64)
        if len(held) >= MIN_PANES:
            _learn_one(self, place, held, min(width, len(held) // 2))

    def usual(self, width: Floats) -> Floats:
        """1/w + 1/K (F,): a window of w panes and a reference of K each average over as many panes; 0 without panes."""
        shares: Floats = np.where(self.panes > 0, 1 / np.maximum(width, 1e-9) + 1 / np.maximum(self.panes, 1), 0.0)
        return shares

    def take(self, places: slice | list[int]) -> "Habits":
        """Those of some features."""
        return Habits(*(getattr(self, name)[places] for name in self.__slots__))


def adjusted(roots: Floats, unit: Floats, usual: Floats, habits: Habits) -> tuple[Floats, Floats, Floats]:
    """Chi-square (F,) of which what is usual is taken out, the factor (F,) by which directions without habit count, and
    the p-value (F,) of moving along a habit further than is usual, 1 without habits.

    Parameters
    ----------
    roots : (F, B), by `residuals`
    unit : (F,), 1/n + 1/m
    usual : (F,), by `Habits.usual`
    """
    along = np.einsum("fb,fhb->fh", roots, habits.directions)
    known = habits.variance > 0
    # z^2 / (1 + V (1/w + 1/K) / (1/n + 1/m)) is F with 1 and K - 1 degrees of freedom, as V is an estimate
    ratio = along**2 / (1 + habits.variance * (usual / unit)[:, None])
    freedom = np.maximum(habits.panes - 1, 1.0)[:, None]
    tail, judged = np.ones(known.shape), np.zeros(known.shape)
    tail[known] = np.maximum(fdtrc(1.0, np.broadcast_to(freedom, known.shape)[known], ratio[known]), 1e-300)
    judged[known] = chdtri(1.0, tail[known])
    across = np.maximum((roots**2).sum(1) - np.where(known, along**2, 0.0).sum(1), 0.0)
    factor = (1 + habits.rest * usual / unit) * habits.factor
    alone = np.minimum(tail.min(1) * known.sum(1), 1.0)
    return across / factor + judged.sum(1) / habits.factor, factor, np.where(known.any(1), alone, 1.0)


def either(statistic: Floats, free: Floats, alone: Floats) -> Floats:
    """p-value (F,) of moving at all (chi-square of `free` degrees) or along one habit: drift of a mean that also comes and
    goes by itself would be lost among the other directions."""
    whole = chdtrc(free, statistic)
    found: Floats = np.where(alone < 1, np.minimum(2 * np.minimum(whole, alone), 1.0), whole)
    return found


def _learn_one(habits: Habits, place: int, counts: Floats, width: int) -> None:
    events = counts.sum(1, keepdims=True)
    share = counts.sum(0) / counts.sum()
    usual, panes = float(events.mean()), len(counts)
    heard = share * usual >= _FEWEST
    if heard.sum() < 2:
        return
    away = np.where(heard, (counts / events - share) / np.sqrt(np.maximum(share, 1e-12)), 0.0)
    noise = away * np.sqrt(events)  # (K, B), I + D in units of sampling noise
    values, vectors = np.linalg.eigh(noise.T @ noise / (panes - 1))
    top, vectors = values[::-1][:HABITS], vectors[:, ::-1]
    free = int(heard.sum()) - 1
    spread = free / (panes - 1)
    kept = int((top > _MARGIN * (1 + np.sqrt(spread)) ** 2).sum())
    # l = v (1 + spread / (v - 1)) solved for v
    half = top[:kept] + 1 - spread
    variance = (half + np.sqrt(np.maximum(half**2 - 4 * top[:kept], 0.0))) / 2 - 1
    along = noise @ vectors[:, :kept]
    habits.directions[place, :kept, : len(share)] = vectors[:, :kept].T
    habits.variance[place, :kept] = np.maximum(variance, 0.0) * _persistence(along, variance, width) / usual
    remaining = max(free - kept, 1)
    habits.rest[place] = max((values.sum() - top[:kept].sum()) / remaining - 1, 0.0) / usual
    # Var(share) = p (1 - p) / n + p^2 V, each bin weighted by what it can tell of V
    over = (noise**2).sum(0) / (panes - 1) - (1 - share)
    weight = np.where(heard, share * usual, 0.0)
    habits.word[place] = max(float((over * weight).sum() / (weight**2).sum()), 0.0)
    habits.panes[place] = panes
    habits.factor[place] = _factor(habits, place, counts, width)


def _persistence(along: Floats, variance: Floats, width: int) -> Floats:
    """How much more the mean of `width` panes in a row varies along habits (K, h) than if panes were independent."""
    if width < 2 or not along.shape[1]:
        return np.ones(along.shape[1])
    sums = _sliding(along, width) / np.sqrt(width)
    windows = len(along) / width
    ratio = ((sums**2).mean(0) / (1 - 1 / windows) - 1) / np.maximum(variance, 1e-9)
    # Overlapping windows say as much as 4/3 as many disjoint ones
    certain = 1 + 2 * np.sqrt(2 / (4 / 3 * windows))
    found: Floats = np.where(ratio > certain, ratio, 1.0)
    return found


def _factor(habits: Habits, place: int, counts: Floats, width: int) -> float:
    """Mean statistic of the reference's windows against its rest, over what it should be; 1 when that may be chance."""
    window = _sliding(counts, width)
    rest = counts.sum(0) - window
    one = habits.take([place])
    many = Habits(*(np.repeat(getattr(one, name), len(window), 0) for name in one.__slots__))
    bins = habits.directions.shape[2]
    roots = np.zeros((len(window), bins))
    roots[:, : counts.shape[1]] = residuals(rest, window)
    unit = 1 / window.sum(1) + 1 / rest.sum(1)
    usual = np.full(len(window), 1 / width + 1 / (len(counts) - width))
    free = max(int((counts.sum(0) > 0).sum()) - 1, 1)
    ratio = float(adjusted(roots, unit, usual, many)[0].mean()) / free
    certain = 1 + 2 * np.sqrt(2 / (free * 4 / 3 * len(counts) / width))
    return ratio if ratio > certain else 1.0


def _sliding(panes: Floats, width: int) -> Floats:
    """Sums (K - width + 1, ...) of panes in a row."""
    total = np.cumsum(np.concatenate([np.zeros_like(panes[:1]), panes]), 0)
    sums: Floats = total[width:] - total[:-width]
    return sums


def detectable(free: Floats, unit: Floats, significance: Floats, power: float = 0.99) -> Floats:
    """The smallest divergence (F,) that a chi-square with `free` degrees of freedom finds with this power.

    The noncentral chi-square is taken as normal, mean free + L and variance 2 (free + 2 L), and solved for L: 7 to
    17 % more than the exact value for 4 to 31 degrees of freedom, so on the careful side.

    >>> float(detectable(np.array([10.0]), np.array([1 / 619 + 1 / 6190]), np.array([0.01 / 60]))[0].round(2))
    0.11
    """
    needed = chdtri(free, significance) - free
    z = float(-ndtri(1 - power))
    # L - z sqrt(2 free + 4 L) = needed
    noncentral = needed + 2 * z**2 + z * np.sqrt(4 * z**2 + 4 * needed + 2 * free)
    found: Floats = np.maximum(noncentral, 0.0) * unit
    return found
