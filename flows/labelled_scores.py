"""Scores of shown items beside what became of these, as counts that merge exactly, and what they say: AUC and calibration.

- Counts in fixed bins of the score and sums in fixed point: however a stream is cut, they come out the same to the bit.
- People answer several times: the standard error is the larger of DeLong's and of a jackknife over groups of users.

With placements of the taken among the untaken and the reverse, both counted at half within a bin:

    AUC = 1/(P N) Σ_b taken_b (untaken_{<b} + untaken_b / 2)
    var = S10 / P + S01 / N       (sample variances of the placements)

References
----------
DeLong, DeLong, Clarke-Pearson: Comparing the areas under two or more correlated ROC curves. Biometrics 44, 1988.
Sun, Xu: Fast implementation of DeLong's algorithm. IEEE Signal Processing Letters 21(11), 2014 (placements from ranks).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

LOW, HIGH, BINS = -8.0, 8.0, 256
"""Bins of the score; one more on either side."""

GROUPS: Final = 16
"""Of users, by their hash."""

RELIABILITY_BINS: Final = 10
COARSE: Final = 16
"""Bins of the score that are one bin of a report."""

ONE: Final = float(2**24)
"""Fixed point of the sums."""

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Labelled:
    """Scores of shown items whose labels are known. Its arrays are added to in place, by their one owner.

    counts : int64 (groups, 2, bins + 2), untaken and taken items by group of users and bin of the score
    probability : int64 (bins + 2,), sums of sigmoid(score) by bin, in fixed point
    surprise : int64 (1,), sum of the negative log-likelihood of the labels, nats, in fixed point
    """

    counts: Counts = field(default_factory=lambda: np.zeros((GROUPS, 2, BINS + 2), np.int64))
    probability: Counts = field(default_factory=lambda: np.zeros(BINS + 2, np.int64))
    surprise: Counts = field(default_factory=lambda: np.zeros(1, np.int64))

    def add(self, users: Sequence[int], scores: Sequence[float], taken: Sequence[bool]) -> None:
        """Take in items: hashes of the users that they were shown to (n,), finite scores (n,), whether each was taken (n,)."""
        score, label = np.asarray(scores, np.float64), np.asarray(taken, np.int64)
        bins, group = bins_of(score), np.asarray(users, np.uint64) % np.uint64(GROUPS)
        np.add.at(self.counts, (group.astype(np.int64), label, bins), 1)
        # p = 1 / (1 + e^-s);  -ln p(label) = ln(1 + e^-s) or ln(1 + e^s)
        np.add.at(self.probability, bins, np.rint(ONE * np.exp(-np.logaddexp(0, -score))).astype(np.int64))
        self.surprise[0] += np.rint(ONE * np.logaddexp(0, np.where(label == 1, -score, score))).astype(np.int64).sum()

    def merged(self, other: "Labelled") -> "Labelled":
        """Both together, as one new object."""
        return Labelled(
            self.counts + other.counts, self.probability + other.probability, self.surprise + other.surprise
        )

    @property
    def by_label(self) -> Counts:
        """Untaken and taken items by bin (2, bins + 2)."""
        totals: Counts = self.counts.sum(axis=0)
        return totals

    @property
    def taken(self) -> int:
        """Items that were taken."""
        return int(self.counts[:, 1].sum())

    @property
    def shown(self) -> int:
        """Items, taken or not."""
        return int(self.counts.sum())


def bins_of(scores: Floats) -> npt.NDArray[np.int64]:
    """Bins of scores (n,): 0 below the range, BINS + 1 above it."""
    return np.clip(np.floor((scores - LOW) * (BINS / (HIGH - LOW))), -1, BINS).astype(np.int64) + 1


class Auc(NamedTuple):
    """An area under the ROC curve and its standard error."""

    value: float
    error: float


def auc(labelled: Labelled) -> Auc:
    """Of the binned scores; NaN where nothing or everything was taken, an infinite error where there is one item of a kind."""
    untaken, taken = labelled.by_label
    value = _area(untaken, taken)
    return Auc(value, max(_delong(untaken, taken, value), _jackknife(labelled.counts)))


def _area(untaken: Counts, taken: Counts) -> float:
    pairs = float(untaken.sum()) * float(taken.sum())
    below = np.cumsum(untaken) - untaken / 2
    return float(taken @ below) / pairs if pairs else math.nan


def _delong(untaken: Counts, taken: Counts, value: float) -> float:
    n, p = int(untaken.sum()), int(taken.sum())
    if min(n, p) < 2:
        return math.inf
    of_taken = (np.cumsum(untaken) - untaken / 2) / n
    of_untaken = 1 - (np.cumsum(taken) - taken / 2) / p
    s10 = float(taken @ (of_taken - value) ** 2) / (p - 1)
    s01 = float(untaken @ (of_untaken - value) ** 2) / (n - 1)
    return math.sqrt(s10 / p + s01 / n)


def _jackknife(counts: Counts) -> float:
    """Standard error from leaving out each group of users in turn; 0 where that leaves nothing to compare."""
    total = counts.sum(axis=0)
    without = np.array([_area(*(total - group)) for group in counts])
    if np.isnan(without).any():
        return 0.0
    # var = (G - 1) / G Σ_g (A_-g - mean)²
    return float(np.sqrt((len(without) - 1) / len(without) * ((without - without.mean()) ** 2).sum()))


def calibration_error(labelled: Labelled) -> float:
    """ECE of sigmoid(score) over neighbouring bins of about equal mass; NaN of nothing.

    ECE = Σ_b |Σ p - taken_b| / n
    """
    untaken, taken = labelled.by_label
    shown = untaken + taken
    if not shown.sum():
        return math.nan
    # A bin belongs to the part that its last item falls in
    part = np.minimum((np.cumsum(shown) - 1) * RELIABILITY_BINS // shown.sum(), RELIABILITY_BINS - 1)
    part = np.maximum(part, 0)
    gap = np.bincount(part, weights=labelled.probability / ONE - taken, minlength=RELIABILITY_BINS)
    return float(np.abs(gap).sum() / shown.sum())


def coarse(labelled: Labelled) -> tuple[list[str], list[int]]:
    """Labels and counts of coarse bins, as in the rows of other features."""
    shown = labelled.by_label.sum(axis=0)
    inside = shown[1:-1].reshape(-1, COARSE).sum(axis=1)
    borders = np.linspace(LOW, HIGH, BINS // COARSE + 1)
    between = [f"[{low:g}, {high:g})" for low, high in pairwise(borders.tolist())]
    labels = [f"< {LOW:g}", *between, f">= {HIGH:g}", "missing"]
    return labels, [int(shown[0]), *inside.tolist(), int(shown[-1]), 0]


Packed = tuple[Counts, Counts, Counts, int]


def packed(labelled: Labelled) -> Packed:
    """Cells with a count, their counts, the sums of probability: most of many cells are empty."""
    flat = labelled.counts.ravel()
    cells = np.flatnonzero(flat)
    return cells, flat[cells], labelled.probability.copy(), int(labelled.surprise[0])


def unpacked(values: Packed) -> Labelled:
    """The counts in `packed` values."""
    cells, counts, probability, surprise = values
    labelled = Labelled(probability=probability.copy(), surprise=np.array([surprise], np.int64))
    labelled.counts.ravel()[cells] = counts
    return labelled
