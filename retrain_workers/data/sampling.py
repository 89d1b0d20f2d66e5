"""Which events a training sees, and against what: negatives, what their number does to log-odds, and replay of old events.

- A negative is drawn by a hash of the seed and of the event itself, not by the next of a stream of random numbers: what is drawn
  for an event is the same in whatever order and batches the events arrived.
- Negatives are first what the user was shown lately and did not take, weighted by inverse propensity; what is missing is drawn by
  popularity^0.5 (Mikolov et al. 2013 took 0.75 for words) from what the user has never met.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from online_models.contracts.ids import hashes_of
from online_models.interactions import DAY_MS
from retrain_workers.data.datasets import Dataset
from retrain_workers.data.impressions import Impressions, inverse_propensity

Keys = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
F64 = npt.NDArray[np.float64]

POPULARITY_POWER: Final = 0.5

_DRAWS: Final = 32
"""Draws for one negative before what is left is listed: a user may have met nearly all that is popular."""

# Constants of SplitMix64 (Steele, Lea and Flood 2014), whose finalizer spreads every input bit over all output bits.
_GAMMA: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX_1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2: Final = np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31, _S11 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(11)


@njit(cache=True, nogil=True)
def _mixed(z: np.uint64) -> np.uint64:
    """SplitMix64 of a word."""
    z = z + _GAMMA
    z = (z ^ (z >> _S30)) * _MIX_1
    z = (z ^ (z >> _S27)) * _MIX_2
    return z ^ (z >> _S31)


@njit(cache=True, nogil=True)
def _joined(left: Keys, right: Keys) -> Keys:
    """A word for each pair (n,); the left one is mixed first, so that their order tells."""
    words = np.empty(left.size, np.uint64)
    for row in range(left.size):
        words[row] = _mixed(_mixed(left[row]) ^ right[row])
    return words


@njit(cache=True, nogil=True)
def _unit(word: np.uint64) -> float:
    """A word's upper 53 bits as a number in [0, 1)."""
    return float(word >> _S11) * 2.0**-53


def event_keys(dataset: Dataset) -> Keys:
    """A word for each event (n,), made of user, item, time, strength, and a count among events that are equal in all of them."""
    key = hashes_of(dataset.users)[dataset.user]
    bits = dataset.strength.astype(np.float32).view(np.uint32)
    for part in (dataset.item_hashes()[dataset.item], dataset.ts_ms.view(np.uint64), bits.astype(np.uint64)):
        key = _joined(key, part)
    order = np.argsort(key, kind="stable")
    first = np.searchsorted(key[order], key[order])
    nth = np.empty(len(key), np.uint64)
    nth[order] = np.arange(len(key)) - first
    return _joined(key, nth)


def logit_correction(rate: float) -> float:
    """What is added to the logits of a model that has seen a share of the negatives, so that they hold for all of them: log w.

    q = p / (p + (1 - p) / w), with w the rate that negatives were kept at; logit(q) = logit(p) + log(w)

    References
    ----------
    He et al. (2014). Practical lessons from predicting clicks on ads at Facebook. ADKDD.

    >>> round(logit_correction(0.25), 3)  # of a logit of 0 it makes a probability of 0.2
    -1.386
    """
    return float(np.log(rate))


def replayed(old: int, new: int, share: float, seed: int) -> Rows:
    """Which of the `old` examples are replayed beside `new` ones against forgetting: rows, increasing, drawn evenly.

    share : as many as this share of the new ones, or all there are

    >>> replayed(10, 8, 0.5, seed=0).tolist(), replayed(2, 100, 0.5, seed=0).tolist()
    ([2, 3, 7, 9], [0, 1])
    """
    many = min(old, round(share * new))
    return np.sort(np.random.default_rng((seed, old)).choice(old, many, replace=False))


@dataclass(frozen=True, slots=True)
class Negatives:
    """For each of n events k items that were not taken.

    item : int32 (n, k), -1 where the catalogue has no more; distinct in a row
    weight : float32 (n, k), inverse propensity of a shown item, 1 of a drawn one, 0 where there is none
    """

    item: npt.NDArray[np.int32]
    weight: npt.NDArray[np.float32]


class _Shown(NamedTuple):
    """Impressions that were not taken, as CSR rows of users, oldest first: times, items and weights (s,)."""

    indptr: Rows
    ts_ms: Rows
    item: npt.NDArray[np.int32]
    weight: npt.NDArray[np.float32]


class _Met(NamedTuple):
    """Items of users as CSR rows, increasing: everything met, and what they took."""

    indptr: Rows
    item: npt.NDArray[np.int32]
    taken: Bools


class _Events(NamedTuple):
    """The n events that negatives are wanted for."""

    user: npt.NDArray[np.int32]
    ts_ms: Rows
    key: Keys


def negatives(
    dataset: Dataset,
    rows: npt.NDArray[np.integer],
    count: int,
    seed: int,
    impressions: Impressions | None = None,
    *,
    max_weight: float = 10.0,
    shown_ms: int = DAY_MS,
) -> Negatives:
    """Items that the users of some events did not take, `count` for each event.

    First the impressions of at most `shown_ms` before the event, newest first, that were not clicked, of items that the user
    has taken nowhere in the dataset. The rest is drawn by popularity^0.5, of items that the user has not even met in it.
    Impressions of items that the dataset does not know are left out.

    Parameters
    ----------
    dataset : what the training may know, nothing from after the cut; rows : (n,), its events that negatives are wanted for
    max_weight : where inverse propensities are clipped; an impression without a propensity weighs 1
    """
    events = _Events(dataset.user[rows], dataset.ts_ms[rows], event_keys(dataset)[rows])
    popularity = np.bincount(dataset.positive().item, minlength=len(dataset.items)) ** POPULARITY_POWER
    shown = _shown(dataset, impressions, max_weight)
    item, weight = _negatives(
        events, _met(dataset), shown, np.cumsum(popularity), count, np.uint64(seed % 2**64), shown_ms
    )
    return Negatives(item, weight)


def _met(dataset: Dataset) -> _Met:
    items = len(dataset.items)
    pair, place = np.unique(dataset.user.astype(np.int64) * items + dataset.item, return_inverse=True)
    taken = np.bincount(place, dataset.strength > 0, len(pair)) > 0
    indptr = np.searchsorted(pair, np.arange(len(dataset.users) + 1) * items)
    return _Met(indptr, (pair % max(items, 1)).astype(np.int32), taken)


def _shown(dataset: Dataset, impressions: Impressions | None, max_weight: float) -> _Shown:
    if impressions is None:
        empty = np.empty(0, np.int64)
        return _Shown(
            np.zeros(len(dataset.users) + 1, np.int64), empty, empty.astype(np.int32), empty.astype(np.float32)
        )
    user, item = _rows_in(dataset.users, impressions.user_id), _rows_in(dataset.items, impressions.item_id)
    known = np.flatnonzero((user >= 0) & (item >= 0) & ~impressions.clicked)
    order = known[np.lexsort((item[known], impressions.ts_ms[known], user[known]))]
    weight = inverse_propensity(impressions.propensity[order], max_weight)
    indptr = np.searchsorted(user[order], np.arange(len(dataset.users) + 1))
    return _Shown(indptr, impressions.ts_ms[order], item[order], weight)


def _rows_in(names: Sequence[str], ids: Sequence[str]) -> npt.NDArray[np.int32]:
    row = {name: number for number, name in enumerate(names)}
    return np.fromiter((row.get(each, -1) for each in ids), np.int32, len(ids))


@njit(cache=True, nogil=True)
def _negatives(
    events: _Events, met: _Met, shown: _Shown, cumulative: F64, count: int, seed: np.uint64, shown_ms: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """See `negatives`; cumulative : (items,), running sum of the weights that items are drawn by."""
    item = np.full((events.user.size, count), -1, np.int32)
    weight = np.zeros((events.user.size, count), np.float32)
    for row in range(events.user.size):
        user, ts_ms = events.user[row], events.ts_ms[row]
        filled = _fill_shown(item[row], weight[row], user, ts_ms, met, shown, shown_ms)
        _fill_drawn(item[row], weight[row], filled, user, met, cumulative, _mixed(seed) ^ events.key[row])
    return item, weight


@njit(cache=True, nogil=True)
def _fill_shown(
    item: npt.NDArray[np.int32],
    weight: npt.NDArray[np.float32],
    user: int,
    ts_ms: int,
    met: _Met,
    shown: _Shown,
    shown_ms: int,
) -> int:
    """Newest impressions at or before the event; returns how many places are filled."""
    start, end, filled = shown.indptr[user], shown.indptr[user + 1], 0
    place = start + np.searchsorted(shown.ts_ms[start:end], ts_ms, side="right") - 1
    while place >= start and filled < item.size and shown.ts_ms[place] >= ts_ms - shown_ms:
        candidate = shown.item[place]
        at = _place_of(met, user, candidate)
        if (at < 0 or not met.taken[at]) and candidate not in item[:filled]:
            item[filled], weight[filled] = candidate, shown.weight[place]
            filled += 1
        place -= 1
    return filled


@njit(cache=True, nogil=True)
def _fill_drawn(
    item: npt.NDArray[np.int32],
    weight: npt.NDArray[np.float32],
    filled: int,
    user: int,
    met: _Met,
    cumulative: F64,
    word: np.uint64,
) -> None:
    """Draw the rest, without replacement."""
    for place in range(filled, item.size):
        found = -1
        for _ in range(_DRAWS):
            word = _mixed(word)
            # the first item whose running sum is above the draw: with probability weight / sum
            candidate = np.searchsorted(cumulative, _unit(word) * cumulative[-1], side="right")
            if candidate < cumulative.size and _is_open(item[:place], user, met, candidate):
                found = candidate
                break
        if found < 0:
            word = _mixed(word)
            found = _drawn_from_rest(item[:place], user, met, cumulative, _unit(word))
        if found < 0:
            return
        item[place], weight[place] = found, 1.0


@njit(cache=True, nogil=True)
def _is_open(chosen: npt.NDArray[np.int32], user: int, met: _Met, candidate: int) -> bool:
    return _place_of(met, user, candidate) < 0 and candidate not in chosen


@njit(cache=True, nogil=True)
def _drawn_from_rest(chosen: npt.NDArray[np.int32], user: int, met: _Met, cumulative: F64, unit: float) -> int:
    """A draw from the items that are open alone: by weight, evenly where none has any, -1 where none is open."""
    total, rest = 0.0, 0
    for candidate in range(cumulative.size):
        if _is_open(chosen, user, met, candidate):
            total += _share(cumulative, candidate)
            rest += 1
    left = unit * (total if total > 0.0 else rest)
    last = -1
    for candidate in range(cumulative.size):
        share = _share(cumulative, candidate) if total > 0.0 else 1.0
        if share > 0.0 and _is_open(chosen, user, met, candidate):
            last = candidate
            if left < share:
                break
            left -= share
    return last


@njit(cache=True, nogil=True)
def _share(cumulative: F64, candidate: int) -> float:
    return float(cumulative[candidate] - (cumulative[candidate - 1] if candidate > 0 else 0.0))


@njit(cache=True, nogil=True)
def _place_of(met: _Met, user: int, item: int) -> int:
    """Where an item stands among those of a user, -1 when they have not met it."""
    start, end = met.indptr[user], met.indptr[user + 1]
    place = start + np.searchsorted(met.item[start:end], item)
    if place < end and met.item[place] == item:
        return int(place)
    return -1
