"""Test-then-train: every group of events is predicted from what came before it, all unseen items ranked, then learned.

- Global and temporal: one cut for all users, and a stretch before it for whatever is to be chosen without the test.
- All items met so far are ranked but those that the user has met: none is sampled. Ties go to the item met first.
- A target that nobody had met, or that a model gives no score, is a miss: rank -1.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
from numba import njit

from online_models.als import top_k
from online_models.errors import SourceError
from online_models.evaluation.log import Log, Moment

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

CUTOFF: Final = 10
TUNING_SHARE: Final = 0.125
"""Of what comes before the test: with a test of the last 20 %, what is chosen is chosen on 70 to 80 %."""

LEAST_TEST: Final = 20
"""Events below which a test tells nothing."""


class Model(Protocol):
    """Something that ranks, and learns from one group of events after the other."""

    def scores(self, at: Moment) -> F32:
        """Of all items met so far, (at.items,) by row; -inf or NaN for one that cannot be ranked."""

    def learn(self, at: Moment) -> None:
        """Take in what happened. Called once for each group, in order, after the group was predicted."""


@dataclass(frozen=True, slots=True)
class Split:
    """Groups of a log: from `tuning` on things may be chosen, `test` begins the test; all before are for learning."""

    tuning: int
    test: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a model made of the groups begin : end of a log.

    ranks : int64 (n,), of each event's item among all that its user had not met, from 0; -1 for a miss
    lists : int64 (groups, CUTOFF), rows recommended to each group's user, -1 where there were fewer
    predict_seconds, learn_seconds : (groups,)
    """

    ranks: I64
    lists: I64
    predict_seconds: F64
    learn_seconds: F64


def split_of(log: Log, share: float) -> Split:
    """The cut at a share of the events, at the first group that begins there.

    Raises
    ------
    SourceError
        When the share is not within (0, 1), or too little is left on a side.
    """
    if not 0 < share < 1:
        raise SourceError(f"expected a split within (0, 1), got {share}")
    tuning, test = (
        int(np.searchsorted(log.begins, int(len(log) * part))) for part in (share * (1 - TUNING_SHARE), share)
    )
    events = len(log) - int(log.begins[min(test, log.groups)])
    if not 0 < tuning < test or events < LEAST_TEST:
        raise SourceError(
            f"expected at least {LEAST_TEST} events after the split and some groups before it, "
            f"got {events} of {len(log)} positive events in {log.groups} groups"
        )
    return Split(tuning, test)


def prequential(
    model: Model, log: Log, begin: int, end: int, clock: Callable[[], float] = time.perf_counter
) -> Outcome:
    """Go through the groups begin : end.

    Raises
    ------
    ValueError
        When a model does not score exactly the items met so far.
    """
    first, last = int(log.begins[begin]), int(log.begins[end])
    ranks, lists = np.full(last - first, -1), np.full((end - begin, CUTOFF), -1)
    seconds = np.zeros((2, end - begin))
    for group in range(begin, end):
        at = log.moment(group)
        before = clock()
        scores = model.scores(at)
        predicted = clock()
        if scores.shape != (at.items,):
            raise ValueError(f"group {group}: expected scores of {at.items} items, got {scores.shape}")
        met = log.item[at.history]
        best = top_k(scores, CUTOFF, met) if at.items else met
        lists[group - begin, : len(best)] = best
        ranks[at.begin - first : at.end - first] = ranks_of(scores, met, log.item[at.begin : at.end])
        learning = clock()
        model.learn(at)
        seconds[:, group - begin] = predicted - before, clock() - learning
    return Outcome(ranks, lists, *seconds)


def ranks_of(scores: F32, met: I64, targets: I64) -> I64:
    """Ranks (m,) of target rows among all items (items,) but those met (h,), from 0, ties by row; -1 for one that is not ranked.

    >>> ranks_of(np.array([3, 9, 3, np.nan], np.float32), np.array([1]), np.array([2, 0, 3, 7])).tolist()
    [1, 0, -1, -1]
    """
    left = np.where(np.isnan(scores), np.float32(-np.inf), scores)
    left[met] = -np.inf
    return _ranks(left, targets)


@njit(cache=True, nogil=True)
def _ranks(scores: F32, targets: I64) -> I64:
    ranks = np.full(targets.size, -1)
    for n in range(targets.size):
        target = targets[n]
        if target >= scores.size or scores[target] == -np.inf:
            continue
        score, better = scores[target], 0
        for item in range(scores.size):
            better += scores[item] > score or (scores[item] == score and item < target)
        ranks[n] = better
    return ranks
