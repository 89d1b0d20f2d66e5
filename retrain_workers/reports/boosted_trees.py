"""Gradient boosted trees on a few point-in-time features, as a yardstick: what a plain tabular model makes of the same data.

- Features of a (user, item) pair: how much the user has done, how popular the item is and how new, how long it has been quiet,
  the product of the ALS vectors, and how much of the item's categories the user knows from before.
- Each example is told by the state of the world at the beginning of its slice of time alone, and the state's factors are older
  than all examples: nothing that the model sees of an example was learned from it.
- Two stages, in training as in ranking: the best by ALS and by popularity are candidates, the trees put them in order.
- Few candidates are taken, so that some of the others are enough to learn from; the log-odds are corrected for those left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Self

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from online_models.als import ItemIndex
from online_models.contracts.ids import hashes_of
from online_models.contracts.jobs import TrainAls
from online_models.errors import TrainingError
from online_models.history import UserHistory
from online_models.interactions import DAY_MS
from retrain_workers import als
from retrain_workers.data.datasets import Dataset, decay_weights
from retrain_workers.data.sampling import logit_correction
from retrain_workers.data.splits import Split
from retrain_workers.validation.evaluation import Case, Hashes, Popularity, cases_of, popularity_of

FEATURES: Final = ("user events", "item popularity", "item age", "item quiet", "als", "categories in common")

SLICES: Final = 3
"""Stretches of time that examples come from, one after the other."""
EXAMPLES_SHARE: Final = 0.3
"""Share of the positive events, the latest, that are examples."""

BY_ALS: Final = 100
BY_POPULARITY: Final = 50
NEGATIVES: Final = 20
"""Candidates that a user did not take, drawn per user of a slice."""

LEAST_EXAMPLES: Final = 50

F32 = npt.NDArray[np.float32]
Categories = Mapping[str, Sequence[str]]
"""Item id -> its categories."""


@dataclass(frozen=True, slots=True)
class State:
    """What is known before a moment.

    popularity : log of one more than an item's decayed strength (items,); age, quiet : days since its first and last event,
        on a log scale (items,); tastes : bool (items, categories)
    """

    ranker: als.AlsRanker
    factors: F32
    index: ItemIndex
    hashes: Hashes
    popular: Popularity
    popularity: F32
    age: F32
    quiet: F32
    tastes: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, known: Dataset, model: als.AlsModel, categories: Categories, half_life_days: float) -> Self:
        """The state after the events of `known`; the factors may be older."""
        now_ms = int(known.ts_ms.max(initial=0))
        items = len(known.items)
        strength = known.strength * decay_weights(known.ts_ms, half_life_days)
        first, last = np.full(items, now_ms), np.zeros(items, np.int64)
        np.minimum.at(first, known.item, known.ts_ms)
        np.maximum.at(last, known.item, known.ts_ms)
        met = np.bincount(known.item, minlength=items) > 0
        days = [np.where(met, (now_ms - ts_ms) / DAY_MS, 1e4) for ts_ms in (first, last)]
        factors = np.zeros((items, model.item_factors.shape[1]), np.float32)
        place = ItemIndex.of(known.items).rows(hashes_of(model.items))
        factors[place[place >= 0]] = model.item_factors[place >= 0]
        return cls(
            ranker=als.AlsRanker(model),
            factors=factors,
            index=ItemIndex.of(known.items),
            hashes=known.item_hashes(),
            popular=popularity_of(known, half_life_days),
            popularity=np.log1p(np.bincount(known.item, strength, items)).astype(np.float32),
            age=np.log1p(days[0]).astype(np.float32),
            quiet=np.log1p(days[1]).astype(np.float32),
            tastes=_tastes(known.items, categories),
        )

    def candidates(self, histories: Sequence[UserHistory]) -> list[npt.NDArray[np.int64]]:
        """Rows of the items that are worth ordering for each history: none that it has met."""
        by_als = self.ranker.top(histories, BY_ALS)
        by_popularity = self.popular.top(histories, BY_POPULARITY)
        return [self._rows(np.union1d(*pair)) for pair in zip(by_als, by_popularity, strict=True)]

    def features(self, histories: Sequence[UserHistory], rows: Sequence[npt.NDArray[np.int64]]) -> F32:
        """Features (m, FEATURES) of each history's items, one history after the other."""
        vectors = self.ranker.vectors(histories)
        parts = [self._features(*each) for each in zip(histories, vectors, rows, strict=True)]
        return np.concatenate(parts) if parts else np.empty((0, len(FEATURES)), np.float32)

    def _features(self, history: UserHistory, vector: F32, rows: npt.NDArray[np.int64]) -> F32:
        met = self._rows(history.recent["item"])
        taste = self.tastes[met].sum(axis=0) / max(1, len(met))  # (categories,), share of what the user has met
        has = self.tastes[rows]
        common = (has @ taste) / np.maximum(1, has.sum(axis=1))
        events = np.full(len(rows), np.log1p(len(history.seen)))
        als_score = self.factors[rows] @ vector
        columns = (events, self.popularity[rows], self.age[rows], self.quiet[rows], als_score, common)
        return np.column_stack(columns).astype(np.float32)

    def _rows(self, hashes: Hashes) -> npt.NDArray[np.int64]:
        rows = self.index.rows(hashes)
        return rows[rows >= 0]


@dataclass(frozen=True, slots=True)
class TreesRanker:
    """The trees at work; see `evaluation.Ranker`.

    correction : of log-odds, for the candidates that were no examples. What was taken from outside the candidates is an example
        all the same, so that the odds are high by the share of it: 15 to 30 % in small worlds
    """

    state: State
    trees: HistGradientBoostingClassifier
    correction: float

    def top(self, histories: Sequence[UserHistory], count: int) -> list[Hashes]:
        """The best candidates by the trees."""
        rows = self.state.candidates(histories)
        scores = self._log_odds(histories, rows)
        return [
            self.state.hashes[row[np.lexsort((row, -score))[:count]]] for row, score in zip(rows, scores, strict=True)
        ]

    def scores(self, histories: Sequence[UserHistory], items: Hashes) -> npt.NDArray[np.float64]:
        """Log-odds (n,) that each history's item (n,), as one of its candidates, is taken; NaN for an unknown item."""
        rows = self.state.index.rows(items)
        found = np.full(len(rows), np.nan)
        known = np.flatnonzero(rows >= 0)
        if len(known):
            each = self._log_odds([histories[n] for n in known.tolist()], list(rows[known][:, None]))
            found[known] = np.concatenate(each)
        return found

    def files(self) -> dict[str, bytes]:
        """What there would be to keep: the nodes of the trees, and the factors that a feature comes from."""
        nodes = [tree.nodes.tobytes() for stage in self.trees._predictors for tree in stage]
        return {"trees": b"".join(nodes), "factors": self.state.factors.tobytes()}

    def _log_odds(
        self, histories: Sequence[UserHistory], rows: Sequence[npt.NDArray[np.int64]]
    ) -> list[npt.NDArray[np.float64]]:
        features = self.state.features(histories, rows)
        with threadpool_limits(1):
            odds = self.trees.decision_function(features) if len(features) else np.empty(0)
        return np.split(odds + self.correction, np.cumsum([len(each) for each in rows])[:-1])


def fit(
    dataset: Dataset, job: TrainAls, recency_half_life_events: float, categories: Categories | None = None
) -> TreesRanker:
    """Trees fitted to the newest of the dataset, over the factors of what came before, then given the factors of all of it.

    Raises
    ------
    TrainingError
        When there are too few examples.
    """
    categories = categories or {}
    cuts = _cuts(dataset)
    older = als.fit(dataset.take(dataset.ts_ms < cuts[0]), job, recency_half_life_events)
    rng = np.random.default_rng(job.seed)
    examples = [_examples(dataset, older, (begin, end), job, categories, rng) for begin, end in pairwise(cuts)]
    features, labels = (np.concatenate(column) for column in list(zip(*examples, strict=True))[:2])
    if len(labels) < LEAST_EXAMPLES or len(np.unique(labels)) < 2:
        raise TrainingError(f"expected at least {LEAST_EXAMPLES} examples of both kinds, got {len(labels)}")
    trees = HistGradientBoostingClassifier(
        max_iter=150, learning_rate=0.08, max_leaf_nodes=15, min_samples_leaf=20, l2_regularization=1.0,
        early_stopping=False, random_state=job.seed,
    )  # fmt: skip
    with threadpool_limits(1):
        trees.fit(features, labels)
    model = als.fit(dataset, job, recency_half_life_events)
    rate = np.count_nonzero(labels == 0) / sum(others for _, _, others in examples)
    return TreesRanker(State.of(dataset, model, categories, job.half_life_days), trees, logit_correction(rate))


def _cuts(dataset: Dataset) -> list[int]:
    """Event times (SLICES + 1,) between which the examples lie, an even number of positive events in each slice."""
    times = np.sort(dataset.ts_ms[dataset.strength > 0])
    if len(times) < LEAST_EXAMPLES:
        raise TrainingError(f"expected at least {LEAST_EXAMPLES} positive events, got {len(times)}")
    at = (len(times) * (1 - EXAMPLES_SHARE * (1 - np.arange(SLICES) / SLICES))).astype(np.int64)
    return [*times[at].tolist(), int(times[-1]) + 1]


def _examples(
    dataset: Dataset,
    older: als.AlsModel,
    slice_ms: tuple[int, int],
    job: TrainAls,
    categories: Categories,
    rng: np.random.Generator,
) -> tuple[F32, npt.NDArray[np.int8], int]:
    """Features and labels of one slice, of what users took and of drawn candidates that they did not take; and how many
    candidates they did not take in all."""
    begin, end = slice_ms
    before = dataset.take(dataset.ts_ms < begin)
    during = dataset.take((dataset.ts_ms >= begin) & (dataset.ts_ms < end) & (dataset.strength > 0))
    cases = cases_of(Split(before, during, begin))
    if not cases:
        return np.empty((0, len(FEATURES)), np.float32), np.empty(0, np.int8), 0
    state = State.of(before, older, categories, job.half_life_days)
    histories = [case.history for case in cases]
    drawn = [_drawn(state, case, rows, rng) for case, rows in zip(cases, state.candidates(histories), strict=True)]
    features = state.features(histories, [rows for rows, _, _ in drawn])
    labels = np.concatenate([labels for _, labels, _ in drawn]).astype(np.int8)
    return features, labels, sum(others for _, _, others in drawn)


def _drawn(
    state: State, case: Case, candidates: npt.NDArray[np.int64], rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_], int]:
    taken = state.index.rows(case.relevant)
    taken = taken[taken >= 0]
    others = np.setdiff1d(candidates, taken)
    drawn = rng.choice(others, min(NEGATIVES, len(others)), replace=False)
    return np.concatenate([taken, drawn]), np.arange(len(taken) + len(drawn)) < len(taken), len(others)


def _tastes(items: Sequence[str], categories: Categories) -> npt.NDArray[np.bool_]:
    names = sorted({name for item in items for name in categories.get(item, ())})
    column = {name: number for number, name in enumerate(names)}
    found = np.zeros((len(items), len(names)), np.bool_)
    for row, item in enumerate(items):
        found[row, [column[name] for name in categories.get(item, ())]] = True
    return found
