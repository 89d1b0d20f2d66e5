"""A base ranker whose best items are put in a new order by the language model's scores.

- The model orders what a ranker has found; it finds nothing itself: every item of a catalogue would be too many to read.
- How much each side counts is a conditional logit fitted on later choices. The ranker tells only an order, so its side is the
  logarithm of the rank; without choices to tell, the model counts for nothing.

    u_j = base · z(-log(1 + rank_j)) + language_model · z(s_j),   z over the candidates of one user, to mean 0 and deviation 1
    P(j is taken) = softmax(u)_j

References
----------
McFadden: Conditional logit analysis of qualitative choice behavior. 1974.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from online_models import als
from online_models.history import UserHistory
from retrain_workers.evaluation import Case, Hashes, Ranker
from retrain_workers.lora.adapters import Blend
from retrain_workers.lora.scoring import Scorer

F64 = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

MAX_CHOICES: Final = 300
"""More later choices than this cost scoring and move two weights by little."""

MIN_CHOICES: Final = 20
RIDGE: Final = 1.0
"""Of the fit, in units of one choice: few choices move the weights little from zero."""

_LEAST_DEVIATION: Final = 1e-9


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
    """See the module. candidates : the first so many items of the base ranker get a new order, and come first"""

    def __init__(self, base: Ranker, scorer: Scorer, items: ItemTexts, blend: Blend, candidates: int) -> None:
        self._base, self._scorer, self._items = base, scorer, items
        self._blend, self._candidates = blend, candidates

    def top(self, histories: Sequence[UserHistory], count: int) -> list[Hashes]:
        """See `evaluation.Ranker`."""
        lists = self._base.top(histories, max(count, self._candidates))
        heads = [found[: self._candidates] for found in lists]
        scores = candidate_scores(self._scorer, self._items, histories, heads)
        return [
            np.concatenate([head[order_by(self._blend, score)], found[len(head) :]])[:count]
            for found, head, score in zip(lists, heads, scores, strict=True)
        ]


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


def order_by(blend: Blend, scores: F64) -> Rows:
    """Places (c,) of candidates in the order of u, best first; scores : (c,), in the base ranker's order."""
    features = features_of(scores)
    return np.argsort(-(features @ np.array([blend.base, blend.language_model])), kind="stable")


def features_of(scores: F64) -> F64:
    """z of both sides (c, 2) for scores (c,) in the base ranker's order; an item without a score has the mean."""
    rank = np.arange(len(scores))
    known = np.isfinite(scores)
    mean = scores[known].mean() if known.any() else 0.0
    return np.column_stack([_standard(-np.log1p(rank)), _standard(np.where(known, scores, mean))])


def fitted_blend(
    base: Ranker, scorer: Scorer, items: ItemTexts, cases: Sequence[Case], candidates: int
) -> Blend | None:
    """The weights that explain later choices best; None when fewer than `MIN_CHOICES` chose among the candidates.

    cases : what people liked later; each item of theirs among the base ranker's candidates is a choice
    """
    lists = base.top([case.history for case in cases], candidates)
    found = [(case, ranked) for case, ranked in zip(cases, lists, strict=True) if np.isin(ranked, case.relevant).any()]
    found = found[:MAX_CHOICES]
    if len(found) < MIN_CHOICES:
        return None
    scores = candidate_scores(scorer, items, [case.history for case, _ in found], [ranked for _, ranked in found])
    taken = [np.flatnonzero(np.isin(ranked, case.relevant)) for case, ranked in found]
    return fit_blend([features_of(each) for each in scores], taken)


def fit_blend(features: Sequence[F64], taken: Sequence[Rows]) -> Blend:
    """The conditional logit of choices: features (c, 2) of each one's candidates, and the places of those taken.

    A taken item is compared with those that were not; neither weight is below zero.
    """

    def loss(weights: F64) -> tuple[float, F64]:
        value, gradient = RIDGE / 2 * float(weights @ weights), RIDGE * weights
        for x, places in zip(features, taken, strict=True):
            u = x @ weights
            share = np.exp(u - u.max())
            share /= share.sum()
            # -log P(taken), the mean over those taken
            value -= float(np.log(share[places]).mean())
            gradient = gradient - (x[places].mean(0) - share @ x)
        return value, gradient

    found = minimize(loss, np.array([1.0, 0.0]), jac=True, bounds=[(0, None), (0, None)], method="L-BFGS-B")
    return Blend(float(found.x[0]), float(found.x[1]))


def _standard(values: F64) -> F64:
    deviation = values.std() if len(values) else 0.0
    return (values - values.mean()) / deviation if deviation > _LEAST_DEVIATION else np.zeros(len(values))
