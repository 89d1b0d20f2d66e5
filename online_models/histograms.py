"""Fine histograms of the monitored features: counting, merging, and rebinning to coarse bins of a reference.

- A histogram is a vector of `bins + 3` int64 counts, `[under, bin 0 ... bin n-1, over, missing]`.
- Fine bins are uniform and fixed by the spec, so that any two histograms of a feature merge by `+`.
- Drift is measured on coarse bins: quantiles of the reference with open ends, or its most frequent buckets,
  and always a bin for missing values. One absurd value then moves one count, not the edges.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, assert_never

import numpy as np
import numpy.typing as npt
from numba import njit

from online_models.contracts.events import EVENT_TYPES, TYPE_CODES
from online_models.contracts.features import FeatureKind, FeatureSpec
from online_models.contracts.ids import hash64

Counts = npt.NDArray[np.int64]
Features = Mapping[str, object]

QUANTILE_BINS: Final = 10
TOP_BUCKETS: Final = 30

_HOUR_MS: Final = 3_600_000
_FEATURES: Final = "features."
_TYPE_HASHES: Final = np.array([hash64(kind.value) for kind in EVENT_TYPES], np.uint64)


def count_numeric(
    values: npt.NDArray[np.float64],
    pane: npt.NDArray[np.integer],
    panes: int,
    low: float,
    high: float,
    bins: int,
) -> Counts:
    """Histograms of numbers, one per pane.

    Bin b holds `low + b w <= value < low + (b + 1) w` with `w = (high - low) / bins`; NaN is missing.

    Parameters
    ----------
    values : (n,); pane : (n,), which histogram each value belongs to, in [0, panes)

    Returns
    -------
    int64 (panes, bins + 3)

    Raises
    ------
    ValueError
        When a pane is out of range, or the bins are not.

    >>> count_numeric(np.array([-1.0, 0.0, 0.9, 2.0, np.nan]), np.zeros(5, np.int64), 1, 0.0, 2.0, 2).tolist()
    [[1, 2, 0, 1, 1]]
    """
    if not (bins > 0 and low < high):
        raise ValueError(f"expected bins > 0 and low < high, got {bins} bins on [{low}, {high})")
    counts = np.zeros((panes, bins + 3), np.int64)
    _count_numbers(np.ascontiguousarray(values, np.float64), _checked(pane, panes), low, high, bins, counts)
    return counts


def count_hashed(
    hashes: npt.NDArray[np.uint64],
    pane: npt.NDArray[np.integer],
    missing_pane: npt.NDArray[np.integer],
    panes: int,
    buckets: int,
) -> Counts:
    """Histograms of hashed words, one per pane: bucket `hash mod buckets`; nothing is under or over.

    Parameters
    ----------
    hashes, pane : (n,), a word and its pane
    missing_pane : (m,), the pane of each event without a word

    Returns
    -------
    int64 (panes, buckets + 3)

    Raises
    ------
    ValueError
        When a pane is out of range, or there are no buckets.

    >>> words, none = np.array([4, 9], np.uint64), np.array([0])
    >>> count_hashed(words, np.zeros(2, np.int64), none, 1, 4).tolist()
    [[0, 1, 1, 0, 0, 0, 1]]
    """
    if buckets < 1:
        raise ValueError(f"expected at least one bucket, got {buckets}")
    counts = np.zeros((panes, buckets + 3), np.int64)
    _count_words(np.ascontiguousarray(hashes, np.uint64), _checked(pane, panes), buckets, counts)
    counts[:, -1] = np.bincount(_checked(missing_pane, panes), minlength=panes)
    return counts


def _checked(pane: npt.NDArray[np.integer], panes: int) -> npt.NDArray[np.int64]:
    if len(pane) and (pane.min() < 0 or pane.max() >= panes):
        raise ValueError(f"expected panes in [0, {panes}), got {pane.min()} to {pane.max()}")
    return np.ascontiguousarray(pane, np.int64)


@njit(cache=True, nogil=True)
def _count_numbers(
    values: npt.NDArray[np.float64],
    pane: npt.NDArray[np.int64],
    low: float,
    high: float,
    bins: int,
    counts: Counts,
) -> None:
    scale = bins / (high - low)
    for i in range(values.size):
        value = values[i]
        if value < low:
            cell = 0
        elif value >= high:
            cell = bins + 1
        elif value == value:
            cell = 1 + min(int((value - low) * scale), bins - 1)  # rounding may reach `bins` just below `high`
        else:
            cell = bins + 2
        counts[pane[i], cell] += 1


@njit(cache=True, nogil=True)
def _count_words(hashes: npt.NDArray[np.uint64], pane: npt.NDArray[np.int64], buckets: int, counts: Counts) -> None:
    divisor = np.uint64(buckets)
    for i in range(hashes.size):
        counts[pane[i], 1 + np.int64(hashes[i] % divisor)] += 1


def observe(
    spec: FeatureSpec,
    *,
    type: npt.NDArray[np.int8],
    ts_ms: npt.NDArray[np.int64],
    value: npt.NDArray[np.float64],
    item_hash: npt.NDArray[np.uint64],
    features: Sequence[Features | None],
    pane: npt.NDArray[np.integer],
    panes: int,
) -> Counts:
    """Histograms of one feature over event columns of one domain, one per pane.

    Only events of `spec.types` are counted. A number where words are expected, or the reverse, is missing. A
    multi-valued event counts each of its words once, a lone word as a list of one, an empty list as missing.

    Parameters
    ----------
    type : (n,), index into `EVENT_TYPES`; ts_ms, value, item_hash : (n,); features : n mappings or None
    pane : (n,), in [0, panes)

    Returns
    -------
    int64 (panes, bins + 3)

    Raises
    ------
    ValueError
        When `spec.source` is unknown or a pane is out of range.
    """
    carries = np.zeros(len(EVENT_TYPES), np.bool_)
    carries[[TYPE_CODES[kind] for kind in spec.types]] = True
    rows = np.flatnonzero(carries[type])
    pane = pane[rows]
    if spec.source.startswith(_FEATURES):
        name = spec.source.removeprefix(_FEATURES)
        given = [None if (each := features[row]) is None else each.get(name) for row in rows.tolist()]
        return _count_given(spec, given, pane, panes)
    match spec.source:
        case "value":
            return _count_numbers_of(spec, value[rows], pane, panes)
        case "hour":
            return _count_numbers_of(spec, ts_ms[rows] // _HOUR_MS % 24, pane, panes)
        case "type":
            return _count_words_of(spec, _TYPE_HASHES[type[rows]], pane, panes)
        case "item_id":
            return _count_words_of(spec, item_hash[rows], pane, panes)
        case unknown:
            known = "value, hour, type, item_id, features.<name>"
            raise ValueError(f"feature {spec.name}: expected a source of {known}; got {unknown!r}")


def _count_numbers_of(
    spec: FeatureSpec, values: npt.NDArray[np.generic], pane: npt.NDArray[np.integer], panes: int
) -> Counts:
    if spec.kind is FeatureKind.NUMERIC:
        return count_numeric(values.astype(np.float64), pane, panes, spec.low, spec.high, spec.bins)
    return _count_missing(spec, pane, panes)


def _count_words_of(
    spec: FeatureSpec, hashes: npt.NDArray[np.uint64], pane: npt.NDArray[np.integer], panes: int
) -> Counts:
    if spec.kind is FeatureKind.NUMERIC:
        return _count_missing(spec, pane, panes)
    return count_hashed(hashes, pane, pane[:0], panes, spec.bins)


def _count_missing(spec: FeatureSpec, pane: npt.NDArray[np.integer], panes: int) -> Counts:
    return count_hashed(np.empty(0, np.uint64), pane[:0], pane, panes, spec.bins)


def _count_given(spec: FeatureSpec, given: list[object], pane: npt.NDArray[np.integer], panes: int) -> Counts:
    match spec.kind:
        case FeatureKind.NUMERIC:
            numbers = np.array([each if each.__class__ is float else _number(each) for each in given], np.float64)
            return count_numeric(numbers, pane, panes, spec.low, spec.high, spec.bins)
        case FeatureKind.CATEGORICAL:
            return _count_word_lists([each if isinstance(each, str) else None for each in given], spec, pane, panes)
        case FeatureKind.MULTI_VALUED:
            lists = [tuple(each) if each.__class__ is list else each for each in given]
            return _count_word_lists(lists, spec, pane, panes)
        case _:
            assert_never(spec.kind)


def _count_word_lists(given: Sequence[object], spec: FeatureSpec, pane: npt.NDArray[np.integer], panes: int) -> Counts:
    """Each distinct value is looked into once: events share far fewer of them than there are events."""
    number = _Numbers()
    try:
        of = np.fromiter(map(number.__getitem__, given), np.int64, len(given))
    except TypeError:  # something unhashable among the words
        of = np.fromiter((number[tuple(_words(each))] for each in given), np.int64, len(given))
    words = [_words(each) for each in number]
    ends = np.cumsum([0, *map(len, words)])
    hashes = np.fromiter(map(_Hashes().__getitem__, chain.from_iterable(words)), np.uint64, int(ends[-1]))
    many = np.diff(ends)[of]
    # word w of event i stands at ends[of_i] + w
    place = np.arange(int(many.sum())) + np.repeat(ends[of] - (np.cumsum(many) - many), many)
    return count_hashed(hashes[place], np.repeat(pane, many), pane[many == 0], panes, spec.bins)


def _number(given: object) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float):
        return np.nan
    try:
        return float(given)
    except OverflowError:  # an int beyond 1e308
        return np.inf if given > 0 else -np.inf


def _words(given: object) -> tuple[str, ...] | set[str]:
    if isinstance(given, str):
        return (given,)
    return {word for word in given if isinstance(word, str)} if isinstance(given, list | tuple) else ()


class _Numbers(dict[object, int]):
    """Value -> its number, in the order in which values were first asked for."""

    def __missing__(self, value: object) -> int:
        self[value] = number = len(self)
        return number


class _Hashes(dict[str, int]):
    """Word -> its 64-bit hash, each word hashed once."""

    def __missing__(self, word: str) -> int:
        try:
            hashed = hash64(word)
        except UnicodeEncodeError:  # a lone surrogate, which JSON can smuggle in
            hashed = hash64(word.encode(errors="replace").decode())
        self[word] = hashed
        return hashed


@dataclass(frozen=True, slots=True)
class Assignment:
    """Fine cells to coarse bins.

    coarse_of : (fine cells,), the coarse bin of each fine cell; the last coarse bin is `missing`
    bins : number of coarse bins, that of missing values included
    """

    coarse_of: npt.NDArray[np.int64]
    bins: int

    def apply(self, counts: Counts) -> Counts:
        """Coarse counts (bins,) of fine counts (fine cells,)."""
        if counts.shape != self.coarse_of.shape:
            raise ValueError(f"expected counts of shape {self.coarse_of.shape}, got {counts.shape}")
        return np.bincount(self.coarse_of, counts, self.bins).astype(np.int64)


def rebin(reference: Counts, kind: FeatureKind, coarse: int | None = None) -> Assignment:
    """Coarse bins in which the reference is spread out.

    Numeric: about `coarse` quantile bins with open ends, fewer when single cells hold more than their share. A
    constant reference still has a bin of its own, between what is below and what is above it. Otherwise: the
    `coarse` most frequent buckets in that order, and one for all others. Missing values are the last bin.

    Parameters
    ----------
    reference : int64 (bins + 3,)
    coarse : `QUANTILE_BINS` or `TOP_BUCKETS` by default

    Raises
    ------
    ValueError
        When `coarse` is not positive or the reference is no histogram.

    >>> constant = np.array([0, 0, 9, 0, 0, 1])
    >>> rebin(constant, FeatureKind.NUMERIC).coarse_of.tolist()
    [0, 0, 1, 2, 2, 3]
    """
    if reference.ndim != 1 or len(reference) < 4 or reference.min() < 0:
        raise ValueError(f"expected bins + 3 counts, got shape {reference.shape}")
    if coarse is not None and coarse < 1:
        raise ValueError(f"expected at least one coarse bin, got {coarse}")
    match kind:
        case FeatureKind.NUMERIC:
            present = _quantile_bins(reference[:-1], coarse or QUANTILE_BINS)
        case FeatureKind.CATEGORICAL | FeatureKind.MULTI_VALUED:
            present = _frequent_bins(reference[:-1], coarse or TOP_BUCKETS)
        case _:
            assert_never(kind)
    missing = int(present.max()) + 1
    return Assignment(np.append(present, missing), missing + 1)


def _quantile_bins(cells: Counts, coarse: int) -> npt.NDArray[np.int64]:
    """Each cell (c,) goes to the quantile its middle rank lies in; quantiles without a cell are skipped."""
    # (sum_{j<i} m_j + m_i / 2) / m
    middle = (np.cumsum(cells) - cells / 2) / max(int(cells.sum()), 1)
    quantile = np.minimum((middle * coarse).astype(np.int64), coarse - 1)
    return np.unique(quantile, return_inverse=True)[1].astype(np.int64)


def _frequent_bins(cells: Counts, coarse: int) -> npt.NDArray[np.int64]:
    """Rank of each cell (c,) by its count, ties by position; the rarer and the unseen share the last bin."""
    order = np.argsort(-cells, kind="stable")[:coarse]
    top = order[cells[order] > 0]
    bins = np.full(len(cells), len(top), np.int64)
    bins[top] = np.arange(len(top))
    return bins
