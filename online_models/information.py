"""Mutual information of coded features with a target of few classes, from tables of joint counts.

- A table holds the integer joint counts of a feature's cells and the target's classes. Tables merge by `+`, so any split of a
  stream over batches, processes and restarts gives the same information to the bit.
- A missing value is a cell of its own and costs nothing: its counts are the target's less those of what is present.
- The mutual information of a sample grows with the number of cells, whatever they tell. Miller and Madow's correction is right
  for few cells only, so the mean and deviation under independence are computed: a table with given margins is one of binomials
  given their sum, and these moments are sums over its cells (Holst 1979). They are those of shuffling the target over and over,
  without a shuffle, and from counts alone.

References
----------
Miller: Note on the bias of information estimates. Information Theory in Psychology, 1955.
Holst: Two conditional limit theorems with applications. Annals of Statistics 7 (1979).
Vinh, Epps, Bailey: Information theoretic measures for clusterings comparison. JMLR 11 (2010).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
from numba import njit

Cells = npt.NDArray[np.uint16]
Floats = npt.NDArray[np.float64]
Joint = npt.NDArray[np.int64]
Target = npt.NDArray[np.int8]
Pair = tuple[int, int]

PAIR_CELLS: Final = 4_096

_FEW: Final = 1_024
"""Counts below this have their logarithms and moments in a table."""
_NORMAL: Final = 100.0
"""Variance of a binomial from which on its moments are those of a normal one."""
_XLOGX: Final = np.array([0.0] + [n * np.log(n) for n in range(1, _FEW)])


class Coded(Protocol):
    """The present values of one feature as cells.

    rows : int32 (k,) non-decreasing, the event of each value; None when every event has one, in order
    cells : uint16 (k,)
    """

    @property
    def rows(self) -> npt.NDArray[np.int32] | None:
        """The event of each value."""

    @property
    def cells(self) -> Cells:
        """The cell of each value."""


@dataclass(frozen=True, slots=True)
class Information:
    """What features tell of the target, in nats; each float64 (F,), pairs after features.

    events : labelled events
    raw : mutual information of the sample
    corrected : less Miller and Madow's bias, which may be below 0
    expected, deviation : mean and standard deviation of `raw` if feature and target were independent, with the same margins
    """

    events: Floats
    raw: Floats
    corrected: Floats
    expected: Floats
    deviation: Floats

    @property
    def score(self) -> Floats:
        """The information beyond chance, in nats: `raw` less `expected`."""
        return self.raw - self.expected

    @property
    def z(self) -> Floats:
        """The score in standard deviations of chance; 0 where chance has none."""
        return np.divide(self.score, self.deviation, out=np.zeros_like(self.raw), where=self.deviation > 0)


class Tables:
    """How the joint counts of some features, and of pairs of them, lie in one flat vector.

    Parameters
    ----------
    cells : of each feature, how many cells there are: its codes are below
    classes : of the target
    pairs : places of features that are looked at together, hashed to at most `PAIR_CELLS` cells

    Raises
    ------
    ValueError
        When there are fewer than two classes, a feature without cells, or a pair of unknown features.

    >>> from typing import NamedTuple
    >>> class Dense(NamedTuple):
    ...     rows: None
    ...     cells: Cells
    >>> tables = Tables([2])
    >>> told = tables.count([Dense(None, np.array([0, 0, 1, 1], np.uint16))], np.array([0, 0, 1, -1], np.int8))
    >>> told.reshape(3, 2).tolist()  # cells 0 and 1, then missing
    [[2, 0], [0, 1], [0, 0]]
    >>> round(float(tables.information(told).raw[0]), 4)
    0.6365
    """

    def __init__(self, cells: Sequence[int], classes: int = 2, pairs: Iterable[Pair] = ()) -> None:
        self.cells, self.classes, self.pairs = tuple(cells), classes, tuple(pairs)
        if not 2 <= classes <= 127:
            raise ValueError(f"expected 2 to 127 classes, got {classes}")
        if not all(0 < each <= 65_536 for each in self.cells):
            raise ValueError(f"expected 1 to 65536 cells of each feature, got {self.cells}")
        if not all(0 <= one < other < len(self.cells) for one, other in self.pairs):
            raise ValueError(
                f"expected pairs of different features, the lower first, of {len(self.cells)}, got {self.pairs}"
            )
        sizes = [*self.cells, *(min(self.cells[a] * self.cells[b], PAIR_CELLS) for a, b in self.pairs)]
        # a row of each cell, and one of missing values
        self._starts = np.cumsum([0, *((size + 1) * classes for size in sizes)])

    def empty(self) -> Joint:
        """The counts of no events, int64."""
        return np.zeros(self._starts[-1], np.int64)

    def count(self, coded: Sequence[Coded], target: Target) -> Joint:
        """The counts of a batch; those of several batches add up.

        Parameters
        ----------
        target : int8 (n,), the class of each event, or negative for one without a label, which is left out

        Raises
        ------
        ValueError
            When features, rows or target are not as long as each other, or a class or cell is out of range.
        """
        joint = self.empty()
        self._check(coded, target)
        labels = np.bincount(target[target >= 0], minlength=self.classes)
        for at, feature in enumerate(coded):
            table = self._table(joint, at)
            if feature.rows is None:
                inside = _count_dense(feature.cells, target, table)
            else:
                inside = _count_sparse(feature.rows, feature.cells, target, labels, table)
            if not inside:
                raise ValueError(f"expected cells below {self.cells[at]} and rows below {len(target)} of feature {at}")
        for at, (a, b) in enumerate(self.pairs, start=len(coded)):
            one, other = coded[a], coded[b]
            pair = (_rows(one), one.cells, _rows(other), other.cells)
            _count_pair(*pair, self.cells[a], self.cells[b], target, labels, self._table(joint, at))
        return joint

    def _check(self, coded: Sequence[Coded], target: Target) -> None:
        if len(coded) != len(self.cells):
            raise ValueError(f"expected {len(self.cells)} features, got {len(coded)}")
        if target.dtype != np.int8 or target.ndim != 1 or (len(target) and target.max() >= self.classes):
            raise ValueError(
                f"expected an int8 target (n,) of classes below {self.classes}, got {target.dtype} {target}"
            )
        for at, feature in enumerate(coded):
            if len(feature.cells) != len(target if feature.rows is None else feature.rows):
                raise ValueError(f"expected a row for each of {len(feature.cells)} cells of feature {at}")

    def _table(self, joint: Joint, at: int) -> Joint:
        return joint[self._starts[at] : self._starts[at + 1]].reshape(-1, self.classes)

    def information(self, joint: Joint) -> Information:
        """What the features, then the pairs, tell of the target by counts of `count` or sums of such."""
        return Information(*np.ascontiguousarray(_information(joint, self._starts, self.classes).T))


def mutual_information(coded: Sequence[Coded], cells: Sequence[int], target: Target, classes: int = 2) -> Information:
    """What each feature of a batch tells of the target, see `Tables`."""
    tables = Tables(cells, classes)
    return tables.information(tables.count(coded, target))


def _rows(feature: Coded) -> npt.NDArray[np.int32]:
    return np.arange(len(feature.cells), dtype=np.int32) if feature.rows is None else feature.rows


@njit(cache=True, nogil=True)
def _count_dense(cells: Cells, target: Target, table: Joint) -> bool:
    """Add every event to its cell; False when a cell is out of range. table : (cells + 1, classes), missing last"""
    flat, size, classes = table.reshape(-1), table.shape[0] - 1, table.shape[1]
    for i in range(cells.size):
        if cells[i] >= size:
            return False
        if target[i] >= 0:
            flat[cells[i] * classes + target[i]] += 1
    return True


@njit(cache=True, nogil=True)
def _count_sparse(rows: npt.NDArray[np.int32], cells: Cells, target: Target, labels: Joint, table: Joint) -> bool:
    """Add each value to its cell and the events without any to the last row; False when something is out of range."""
    flat, size, classes = table.reshape(-1), table.shape[0] - 1, table.shape[1]
    missing, before = table[size], -1
    missing += labels
    for i in range(rows.size):
        row = rows[i]
        if cells[i] >= size or row < 0 or row >= target.size:
            return False
        label = target[row]
        if label >= 0:
            flat[cells[i] * classes + label] += 1
            missing[label] -= row != before
        before = row
    return True


@njit(cache=True, nogil=True)
def _count_pair(
    rows: npt.NDArray[np.int32],
    cells: Cells,
    other_rows: npt.NDArray[np.int32],
    other_cells: Cells,
    size: int,
    other_size: int,
    target: Target,
    labels: Joint,
    table: Joint,
) -> None:
    """Add each combination of values of one event to its cell; an event that lacks either to the last row."""
    exact, missing = size * other_size < table.shape[0], table[-1]
    missing += labels
    start, before = 0, -1
    for i in range(rows.size):
        row = rows[i]
        while start < other_rows.size and other_rows[start] < row:
            start += 1
        label, j = target[row], start
        while label >= 0 and j < other_rows.size and other_rows[j] == row:
            code = np.uint64(cells[i]) * np.uint64(other_size) + np.uint64(other_cells[j])
            # Fibonacci hashing: the upper 12 bits of a product
            at = code if exact else (code * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(52)
            table[at, label] += 1
            missing[label] -= row != before
            before = row
            j += 1


@njit(cache=True, nogil=True)
def _xlogx(count: int) -> float:
    return float(_XLOGX[count] if count < _FEW else count * np.log(count))


@njit(cache=True, nogil=True, error_model="numpy")
def _information(joint: Joint, starts: Joint, classes: int) -> Floats:
    """Of each table, (F, 5): events, mutual information in nats, the same corrected, its null mean and null deviation."""
    found = np.zeros((starts.size - 1, 5))
    chances, known = np.zeros(classes), np.empty((classes, _FEW, 4))
    for at in range(len(found)):
        table = joint[starts[at] : starts[at + 1]].reshape(-1, classes)
        labels = table.sum(axis=0)
        events = labels.sum()
        if events:
            raw, bias = _sample_information(table, labels)
            mean, variance = _null(table, labels, chances, known)
            found[at] = np.array([events, raw, raw - bias, mean / events, np.sqrt(variance) / events])
    return found


@njit(cache=True, nogil=True, error_model="numpy")
def _sample_information(table: Joint, labels: Joint) -> tuple[float, float]:
    """Mutual information I of cell and class in nats, and Miller and Madow's estimate of its bias."""
    events, filled, values, total = labels.sum(), 0, 0, 0.0
    for cell in range(table.shape[0]):
        size = 0
        for label in range(table.shape[1]):
            count = table[cell, label]
            size += count
            filled += count > 0
            total += _xlogx(count)
        values += size > 0
        total -= _xlogx(size)
    present = 0
    for count in labels:
        present += count > 0
        total -= _xlogx(count)
    # n I = sum_xy c ln c - sum_x s_x ln s_x - sum_y n_y ln n_y + n ln n
    return max(0.0, (total + _xlogx(events)) / events), (filled - values - present + 1) / (2 * events)


@njit(cache=True, nogil=True, error_model="numpy")
def _null(table: Joint, labels: Joint, chances: Floats, known: Floats) -> tuple[float, float]:
    """Mean and variance of n I over tables with these margins whose columns are independent.

    By the chain rule n I is a sum over classes: this class against the later ones among the events of neither an earlier
    one. Each term is that of a target of two classes, given the terms before it. chances (classes,) and known (classes,
    _FEW, 4) hold what earlier tables found of each class; features without repeated values share it all.
    """
    left, mean, variance = labels.sum(), 0.0, 0.0
    for label in range(labels.size - 1):
        if 0 < labels[label] < left:
            if chances[label] != labels[label] / left:
                chances[label], known[label, :, 0] = labels[label] / left, -1.0
            more = _null_of_two(table, label, chances[label], known[label])
            mean, variance = mean + more[0], variance + more[1]
        left -= labels[label]
    return mean, variance


@njit(cache=True, nogil=True, error_model="numpy")
def _null_of_two(table: Joint, label: int, p: float, known: Floats) -> tuple[float, float]:
    """Mean and variance of T = sum_x g(c_x), c_x binomial (s_x, p), given S = sum_x (c_x - s_x p) = 0.

    E T and Var T, less the parts of T that are linear and quadratic in S (Hermite expansion in S / sd S).
    """
    mean, variance, linear, quadratic, events, values = 0.0, 0.0, 0.0, 0.0, 0, 0
    for cell in range(table.shape[0]):
        size = 0
        for later in range(label, table.shape[1]):
            size += table[cell, later]
        if size == 0:
            continue
        events, values = events + size, values + 1
        if size < _FEW:
            if known[size, 0] < 0:
                known[size] = np.array(_moments(size, p))
            e, v, a, b = known[size, 0], known[size, 1], known[size, 2], known[size, 3]
        else:
            e, v, a, b = _moments(size, p)
        mean, variance, linear, quadratic = mean + e, variance + v, linear + a, quadratic + b
    if values < 2:
        return 0.0, 0.0
    spread = events * p * (1 - p)
    return mean - quadratic / spread / 2, max(0.0, variance - linear**2 / spread - (quadratic / spread) ** 2 / 2)


@njit(cache=True, nogil=True, error_model="numpy")
def _moments(size: int, p: float) -> tuple[float, float, float, float]:
    """E g, Var g, Cov(g, x), Cov(g, x^2) of g(c) = c ln(c / sp) + (s - c) ln((s - c) / sq) with c binomial, x = c - sp."""
    q = 1 - p
    spread = size * p * q
    if spread > _NORMAL:
        # g = x^2 / 2spq + ...; the next order matters to the mean only
        return 0.5 + (1 / p + 1 / q - 1) / (12 * size), 0.5, 0.0, spread
    log_odds, at_none = np.log(q / p), _xlogx(size) + size * np.log(q)
    mode = min(int((size + 1) * p), size)
    reach = int(10 * np.sqrt(spread)) + 20
    low, high = max(0, mode - reach), min(size, mode + reach)
    total = mean = square = along = curve = x2 = 0.0
    weight = 1.0  # of the binomial, relative to its mode
    for c in range(mode, high + 1):
        g, x = _xlogx(c) + _xlogx(size - c) - at_none + c * log_odds, c - size * p
        total, mean, square = total + weight, mean + weight * g, square + weight * g * g
        along, curve, x2 = along + weight * g * x, curve + weight * g * x * x, x2 + weight * x * x
        weight *= (size - c) * p / ((c + 1) * q)
    weight = 1.0
    for c in range(mode - 1, low - 1, -1):
        weight *= (c + 1) * q / ((size - c) * p)
        g, x = _xlogx(c) + _xlogx(size - c) - at_none + c * log_odds, c - size * p
        total, mean, square = total + weight, mean + weight * g, square + weight * g * g
        along, curve, x2 = along + weight * g * x, curve + weight * g * x * x, x2 + weight * x * x
    mean /= total
    return mean, max(0.0, square / total - mean * mean), along / total, (curve - mean * x2) / total
