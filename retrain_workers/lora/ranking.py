"""A recommender whose best items gain or lose by what the language model says of them, as readers rank.

- The model orders what a ranker has found; it finds nothing itself: every item of a catalogue would be too many to read.
- How much it counts is fitted on later choices, the recommender's score as it is: what the readers add to is no other.

    u_j = score_j + weight · z(s_j),   z over the scored candidates of one user, to mean 0 and deviation 1, 0 for other items
    P(j is taken) = softmax(u)_j over the candidates

References
----------
McFadden: Conditional logit analysis of qualitative choice behavior. 1974.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from online_models import als
from online_models.history import UserHistory
from online_models.language_scores import LanguageModel
from retrain_workers.lora.scoring import Scorer
from retrain_workers.validation.evaluation import Case, Hashes

F64 = npt.NDArray[np.float64]
F32 = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

MAX_CHOICES: Final = 300
"""More later choices than this cost scoring and move a weight by little."""

MIN_CHOICES: Final = 20
RIDGE: Final = 1.0
"""Of the fit, in units of one choice: few choices move the weight little from zero."""

LARGEST_WEIGHT: Final = 10.0


class ScoredRanker(Protocol):
    """A ranker that tells its scores, in log-odds up to a constant."""

    def ranked(self, histories: Sequence[UserHistory], count: int) -> list[tuple[Hashes, F32]]:
        """For each history the item hashes (<= count,) of the best unseen items, best first, and their scores."""


@dataclass(frozen=True, slots=True)
class ItemTexts:
    """Which row of the scorer's texts an item is: `ids` in row order."""

    index: als.ItemIndex
    recent: int

    @classmethod
    def of(cls, ids: Sequence[str], recent: int) -> "ItemTexts":
        """recent : newest items of a user that the prompt tells"""
        return cls(als.ItemIndex.of(ids), recent)

    def told(self, history: UserHistory) -> Rows:
        """Rows (<= recent,) of the newest known items of a history, oldest first."""
        rows = self.index.rows(history.recent["item"])
        return rows[rows >= 0][-self.recent :]


class LoraRanker:
    """See the module. candidates : so many of the recommender's best items are scored"""

    def __init__(self, base: ScoredRanker, scorer: Scorer, items: ItemTexts, weight: float, candidates: int) -> None:
        self._base, self._scorer, self._items = base, scorer, items
        self._weight, self._candidates = weight, candidates

    def top(self, histories: Sequence[UserHistory], count: int) -> list[Hashes]:
        """See `evaluation.Ranker`."""
        # of the unscored items no more than `count` can come up
        lists = self._base.ranked(histories, self._candidates + count)
        heads = [found[: self._candidates] for found, _ in lists]
        scores = candidate_scores(self._scorer, self._items, histories, heads)
        return [
            found[np.argsort(-(base + gains_of(said, self._weight, len(found))), kind="stable")[:count]]
            for (found, base), said in zip(lists, scores, strict=True)
        ]


def gains_of(scores: F64, weight: float, items: int) -> F64:
    """What scores (c,) of the first of so many items add to theirs (items,); an item without a score, NaN, gains nothing."""
    gains, known = np.zeros(items), np.flatnonzero(np.isfinite(scores))
    gains[known] = LanguageModel(weight).gains(scores[known].astype(np.float32))
    return gains


def candidate_scores(
    scorer: Scorer, items: ItemTexts, histories: Sequence[UserHistory], candidates: Sequence[Hashes]
) -> list[F64]:
    """Scores (c_u,) of each user's candidates (c_u,) by item hash; not a number for an item without a text."""
    rows = [items.index.rows(each) for each in candidates]
    found = scorer.score_users([items.told(each) for each in histories], [each[each >= 0] for each in rows])
    scores = [np.full(len(each), np.nan) for each in rows]
    for filled, row, values in zip(scores, rows, found, strict=True):
        filled[row >= 0] = values
    return scores


@dataclass(frozen=True, slots=True)
class Later:
    """Users who later took one of a recommender's candidates: their cases, the candidates and their scores."""

    cases: list[Case]
    candidates: list[Hashes]
    scores: list[F32]

    def __len__(self) -> int:
        return len(self.cases)


def later_choices(base: ScoredRanker, cases: Sequence[Case], candidates: int) -> Later:
    """Of cases, what people liked later, those that chose among the recommender's candidates; at most `MAX_CHOICES`."""
    lists = base.ranked([case.history for case in cases], candidates)
    found = [
        (case, ranked, scores)
        for case, (ranked, scores) in zip(cases, lists, strict=True)
        if np.isin(ranked, case.relevant).any()
    ][:MAX_CHOICES]
    return Later([case for case, *_ in found], [ranked for _, ranked, _ in found], [scores for *_, scores in found])


def fitted_weight(scorer: Scorer, items: ItemTexts, later: Later) -> float:
    """The weight that explains later choices best; 0 where the language model explains nothing."""
    said = candidate_scores(scorer, items, [case.history for case in later.cases], later.candidates)
    taken = [
        np.flatnonzero(np.isin(ranked, case.relevant))
        for case, ranked in zip(later.cases, later.candidates, strict=True)
    ]
    return fit_weight(later.scores, [gains_of(each, 1.0, len(each)) for each in said], taken)


def fit_weight(base: Sequence[npt.NDArray[np.floating]], z: Sequence[F64], taken: Sequence[Rows]) -> float:
    """The conditional logit of choices: base and z (c,) of each one's candidates, and the places of those taken.

    A taken item is compared with those that were not; the weight is not below zero.
    """

    def loss(weight: float) -> tuple[float, float]:
        value, slope = RIDGE / 2 * weight**2, RIDGE * weight
        for score, x, places in zip(base, z, taken, strict=True):
            u = score + weight * x
            share = np.exp(u - u.max())
            share /= share.sum()
            # -log P(taken), the mean over those taken
            value -= float(np.log(np.maximum(share[places], np.finfo(np.float64).tiny)).mean())
            slope -= float(x[places].mean() - share @ x)
        return value, slope

    if loss(0.0)[1] >= 0:
        return 0.0
    found = minimize_scalar(lambda weight: loss(weight)[0], bounds=(0.0, LARGEST_WEIGHT), method="bounded")
    return float(found.x)
