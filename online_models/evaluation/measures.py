"""What a test's outcomes come to: accuracy with user-clustered errors, per segment, and what lies beyond accuracy.

- Accuracy is of events, coverage, novelty, Gini and diversity are of the lists that users were shown, one a group.
- Segments by what was known: of the user, by how many events came before; of the item, by how it stood as the test began.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from online_models.evaluation.contenders import Study
from online_models.evaluation.protocol import CUTOFF, Outcome
from online_models.metrics import (
    Estimate,
    clustered_difference,
    clustered_mean,
    covered_share,
    gini,
    hit_at,
    ndcg_at,
    novelty,
    per_segment,
    reciprocal_rank_at,
    recommendation_counts,
    vector_diversity,
)

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Words = npt.NDArray[np.str_]

USER_SEGMENTS: Final = {"0 events": 0, "1-4 events": 1, "5-19 events": 5, "20+ events": 20}
"""Least events of a user in each."""
ITEM_SEGMENTS: Final = ("head items", "tail items", "new items")
"""The fifth of the items with most events before the test, the others that had any, and those that had none."""
SEGMENTS: Final = (*USER_SEGMENTS, *ITEM_SEGMENTS)

HEAD_SHARE: Final = 0.2


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Of some events, by the rank of each one's item; `mrr` of the whole ranking."""

    hit: Estimate
    ndcg: Estimate
    mrr: Estimate


@dataclass(frozen=True, slots=True)
class Measured:
    """What a contender achieved.

    segments : name of a segment that has events -> accuracy there
    coverage : share of all items recommended at all; gini : of how often each was
    novelty_bits : mean self-information of what was recommended; diversity : mean 1 - cosine within a list
    predict_us : median of scoring all items for one user; learn_us : mean of learning from one event
    """

    accuracy: Accuracy
    segments: Mapping[str, Accuracy]
    coverage: float
    gini: float
    novelty_bits: float
    diversity: float
    predict_us: float
    learn_us: float


@dataclass(frozen=True, slots=True)
class Yardstick:
    """What all contenders of a study are measured against.

    users : int64 (n,), of each event of the test; segments : its two segments, (n,) each
    counts : float64 (items,), events of each item before the test; vectors : float32 (items, k), zeros for a new item
    """

    users: I64
    user_segment: Words
    item_segment: Words
    counts: F64
    vectors: npt.NDArray[np.float32]

    @classmethod
    def of(cls, study: Study) -> "Yardstick":
        """Of the test of a study."""
        log = study.log
        begin = int(log.begins[study.split.test])
        counts = np.bincount(log.item[:begin], minlength=len(log.ids)).astype(np.float64)
        known = study.factors(study.split.test).items
        vectors = np.zeros((len(log.ids), known.shape[1]), np.float32)
        vectors[: len(known)] = known
        events = np.diff(log.begins[study.split.test :])
        before = np.repeat(log.place[log.begins[study.split.test : -1]], events)
        return cls(log.user[begin:], user_segments(before), item_segments(counts)[log.item[begin:]], counts, vectors)


def user_segments(events: I64) -> Words:
    """The segment (n,) of users with so many events (n,).

    >>> user_segments(np.array([0, 4, 20])).tolist()
    ['0 events', '1-4 events', '20+ events']
    """
    least = np.array(list(USER_SEGMENTS.values()))
    return np.array(list(USER_SEGMENTS))[np.searchsorted(least, events, side="right") - 1]


def item_segments(counts: F64) -> Words:
    """The segment (items,) of items with so many events (items,) before the test; ties go to the item met first.

    >>> item_segments(np.array([9.0, 1.0, 0.0, 1.0, 1.0, 1.0])).tolist()
    ['head items', 'tail items', 'new items', 'tail items', 'tail items', 'tail items']
    """
    head, tail, new = ITEM_SEGMENTS
    known = int(np.count_nonzero(counts))
    segments = np.where(counts > 0, tail, new)
    segments[np.argsort(-counts, kind="stable")[: int(np.ceil(HEAD_SHARE * known))]] = head
    return segments


def measured(outcome: Outcome, against: Yardstick) -> Measured:
    """What an outcome comes to."""
    lists = outcome.lists[(outcome.lists >= 0).any(axis=1)]
    shown = recommendation_counts(lists, len(against.counts))
    return Measured(
        accuracy=accuracy_of(outcome.ranks, against.users),
        segments={
            **per_segment(accuracy_of, against.user_segment, outcome.ranks, against.users),
            **per_segment(accuracy_of, against.item_segment, outcome.ranks, against.users),
        },
        coverage=covered_share(shown),
        gini=gini(shown),
        novelty_bits=float(novelty(lists, against.counts).mean()),
        diversity=float(vector_diversity(lists, against.vectors).mean()),
        predict_us=1e6 * float(np.median(outcome.predict_seconds)),
        learn_us=1e6 * float(outcome.learn_seconds.sum()) / len(outcome.ranks),
    )


def accuracy_of(ranks: I64, users: I64) -> Accuracy:
    """Of events (n,) by the ranks of their items."""
    whole = int(ranks.max(initial=0)) + 1
    figures = hit_at(ranks, CUTOFF), ndcg_at(ranks, CUTOFF), reciprocal_rank_at(ranks, whole)
    return Accuracy(*(clustered_mean(each, users) for each in figures))


@dataclass(frozen=True, slots=True)
class Lead:
    """How far one contender is ahead of the best of the others in one metric, with the paired, user-clustered error."""

    metric: str
    best: str
    difference: Estimate

    @property
    def in_errors(self) -> float:
        """The difference in standard errors; 0 when there is none at all."""
        if self.difference.mean == 0:
            return 0.0
        return self.difference.mean / self.difference.standard_error if self.difference.standard_error else np.inf


def leads(ours: str, outcomes: Mapping[str, Outcome], users: I64) -> list[Lead]:
    """How far ahead of the best other one, in hit rate and in NDCG; empty when there is no other.

    users : (n,), of each event of the test
    """
    found = []
    for metric, figure in ((f"hit@{CUTOFF}", hit_at), (f"NDCG@{CUTOFF}", ndcg_at)):
        figures = {name: figure(outcome.ranks, CUTOFF) for name, outcome in outcomes.items()}
        mine = figures.pop(ours)
        if figures:
            best = max(figures, key=lambda name: figures[name].mean())
            found.append(Lead(metric, best, clustered_difference(mine, figures[best], users)))
    return found
