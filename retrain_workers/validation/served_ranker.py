"""A version's own part of what readers rank by: its factors and its towers, in the blend that a new version begins with.

- What all versions of a model share, such as popularity and the neighbours of recent items, is left out: it says nothing of which
  of two versions is better.
- The blend's beginning weights, for what it learns of a version it learns when the version serves.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from online_models import als
from online_models.blend import BEGIN
from online_models.contracts.ids import hashes_of
from online_models.evidence import QUERIES, combined_query
from online_models.history import UserHistory, concatenated
from online_models.learner import FoldIns, Trained
from retrain_workers.validation.evaluation import Hashes, Popularity

F32 = npt.NDArray[np.float32]

_WEIGHTS = BEGIN.astype(np.float32)
_TOWER = QUERIES.index("two_tower")


class ServedRanker:
    """Ranks all items of a version by

        score_i = y_i · (w_recent u_recent + w_long u_long) + w_tower t_i · q

    with the recent and the long vector of the user, folded in, and the query q of the user tower where there are towers; by
    popularity where the history holds no item of the version.
    """

    def __init__(self, trained: Trained, popular: Sequence[str]) -> None:
        """popular : item ids, best first"""
        self._fold_ins = FoldIns(trained)
        self._factors = trained.factors
        self._towers = None if trained.tower is None else trained.tower.search_vectors()
        self._index, self._hashes = als.ItemIndex.of(trained.ids), hashes_of(trained.ids)
        self._popularity = Popularity(hashes_of(popular))

    def top(self, histories: Sequence[UserHistory], count: int) -> list[Hashes]:
        """See `evaluation.Ranker`."""
        return [found for found, _ in self.ranked(histories, count)]

    def ranked(self, histories: Sequence[UserHistory], count: int) -> list[tuple[Hashes, F32]]:
        """The best unseen items and their scores, (<= count,) each; popularity's are minus the log of the place."""
        many = np.array([len(history.recent) for history in histories], np.int64)
        queries = self._fold_ins.queries(concatenated([history.recent for history in histories]), many)
        return [self._best(history, query, count) for history, query in zip(histories, queries, strict=True)]

    def _best(self, history: UserHistory, queries: F32, count: int) -> tuple[Hashes, F32]:
        if not (self._index.rows(history.recent["item"]) >= 0).any():
            popular = self._popularity.unseen(history, count)
            return popular, -np.log1p(np.arange(len(popular), dtype=np.float32))
        scores = self._factors @ combined_query(_WEIGHTS, queries)  # (items,)
        tower = self._fold_ins.tower_query(history.recent)
        if tower is not None and self._towers is not None:
            scores += self._towers @ (_WEIGHTS[_TOWER] * tower)
        best = als.top_k(scores, count, self._index.rows(history.seen["item"]))
        return self._hashes[best], scores[best]
