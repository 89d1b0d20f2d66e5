"""Models side by side on the same later events: what they rank and rate, and what they cost in time, disk and memory.

- All are fitted to the same history and asked for the same users; see `evaluation`. Standard errors are over users.
- A rating is predicted by a straight line from a model's score, found on one half of the users and used on the other: rankers
  have no idea of stars, and this asks how much their scores know of them. Beside it stands the mean rating.
- Times are CPU seconds of this process, so that a busy machine changes them little; memory is that of the arrays that a fitted
  model holds on to.
"""

import gc
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Final, Protocol, runtime_checkable

import msgspec
import numpy as np
import numpy.typing as npt

from online_models.contracts.events import Item
from online_models.contracts.jobs import TrainAls, TrainTwoTower
from online_models.errors import TrainingError
from online_models.history import UserHistory
from online_models.metrics import mae, rmse
from online_models.two_tower import UserTower
from retrain_workers import als
from retrain_workers.attempt import Unwatched
from retrain_workers.data.datasets import Dataset
from retrain_workers.data.splits import Split, split
from retrain_workers.reports import boosted_trees
from retrain_workers.two_tower import fitting
from retrain_workers.two_tower.examples import TowerData
from retrain_workers.two_tower.fitting import TwoTowerRanker
from retrain_workers.validation.evaluation import (
    CUTOFF,
    Case,
    Hashes,
    Popularity,
    Ranker,
    Scores,
    distinct_items,
    history_of,
    popularity_of,
    rows_by_user,
    score,
    unaided_cases,
)

F64 = npt.NDArray[np.float64]

MAX_RATINGS: Final = 5_000
"""More later ratings than this are thinned evenly."""


_SHARED: Final = (type, ModuleType, FunctionType, BuiltinFunctionType, np.dtype)


@runtime_checkable
class Scorer(Protocol):
    """A ranker that says what it thinks of single items."""

    def scores(self, histories: Sequence[UserHistory], items: Hashes) -> F64:
        """Scores (n,) of each history's item (n,), in any unit, NaN for an unknown item."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A model at work, and the files that it is kept in."""

    ranker: Ranker
    files: Mapping[str, bytes] = field(default_factory=dict)


Fit = Callable[[Dataset], Fitted]


class RatingErrors(msgspec.Struct, frozen=True):
    """Root mean squared and mean absolute error of predicted ratings, in stars or whatever ratings are given in."""

    rmse: float
    mae: float


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One model's figures.

    hit_rate, ndcg, mrr : at CUTOFF, means over users; ndcg_error : standard error of its mean
    coverage : share of the known items that are in somebody's list
    rating : None where there are no ratings, or the model scores no single item
    fit_cpu_seconds; rank_cpu_ms : for one user's list
    disk_bytes : of its files; memory_bytes : of the arrays that it holds
    """

    name: str
    hit_rate: float
    ndcg: float
    ndcg_error: float
    mrr: float
    coverage: float
    rating: RatingErrors | None
    fit_cpu_seconds: float
    rank_cpu_ms: float
    disk_bytes: int
    memory_bytes: int


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """A report: what was compared on, the models that could be fitted, and why others could not.

    mean_rating : errors of always predicting the mean
    """

    users: int
    items: int
    history_events: int
    cut_ms: int
    ratings: int
    mean_rating: RatingErrors | None
    rows: list[Row]
    left_out: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class _Rated:
    """Later ratings (n,): by whom (numbers of the dataset), with which history before the cut, of which item."""

    users: npt.NDArray[np.int32]
    histories: Sequence[UserHistory]
    items: Hashes
    values: F64


class AlsScorer(als.AlsRanker):
    """ALS, which scores single items too."""

    def scores(self, histories: Sequence[UserHistory], items: Hashes) -> F64:
        """x_u · y_i; NaN for an unknown item."""
        rows = self._index.rows(items)
        products = np.einsum("nk,nk->n", self.vectors(histories), self._factors[rows])
        return np.where(rows >= 0, products, np.nan)


@dataclass(frozen=True, slots=True)
class PopularityScorer(Popularity):
    """Popularity, which scores single items by their place."""

    def scores(self, histories: Sequence[UserHistory], items: Hashes) -> F64:
        """-log(1 + place); NaN for an unknown item."""
        order = np.argsort(self.order)
        at = np.minimum(np.searchsorted(self.order[order], items), max(0, len(order) - 1))
        known = self.order[order[at]] == items if len(order) else np.zeros(len(items), np.bool_)
        return np.where(known, -np.log1p(order[at]) if len(order) else 0.0, np.nan)


class TowerScorer(TwoTowerRanker):
    """Two towers, which score single items too."""

    def scores(self, histories: Sequence[UserHistory], items: Hashes) -> F64:
        """What a list is ordered by; NaN for an unknown item, or a history without a known one."""
        rows, found = self._index.rows(items), np.full(len(items), np.nan)
        for number, history in enumerate(histories):
            met = self._index.rows(history.recent["item"])
            if rows[number] >= 0 and (met >= 0).any():
                found[number] = self._tower.scores(self._tower.vector(met))[rows[number]]
        return found


def contenders(
    job: TrainAls,
    recency_half_life_events: float,
    catalogue: Mapping[str, Item] | None = None,
    towers: TrainTwoTower | None = None,
) -> dict[str, Fit]:
    """The models of a report: ALS, two towers if a job for them is given, boosted trees over ALS, and popularity.

    catalogue : what is known of items, by id
    """
    catalogue = catalogue or {}

    def fit_als(dataset: Dataset) -> Fitted:
        model = als.fit(dataset, job, recency_half_life_events)
        return Fitted(AlsScorer(model), model.files())

    def fit_trees(dataset: Dataset) -> Fitted:
        categories = {item_id: item.categories for item_id, item in catalogue.items()}
        ranker = boosted_trees.fit(dataset, job, recency_half_life_events, categories)
        return Fitted(ranker, ranker.files())

    def fit_popularity(dataset: Dataset) -> Fitted:
        popular = popularity_of(dataset, job.half_life_days)
        return Fitted(PopularityScorer(popular.order), {"popular": popular.order.tobytes()})

    def fit_towers(dataset: Dataset) -> Fitted:
        assert towers is not None, "left out below"
        items = [dataset.items[row] for row in np.unique(dataset.positive().item).tolist()]
        trained = fitting.train(TowerData.of(dataset, items, catalogue), towers, None, None, Unwatched())
        popular = popularity_of(dataset, job.half_life_days)
        return Fitted(TowerScorer(UserTower.of(trained.serving), items, popular), trained.files())

    with_towers = {} if towers is None else {"two-tower": fit_towers}
    return {"als": fit_als, **with_towers, "boosted trees": fit_trees, "popularity": fit_popularity}


def compare(
    dataset: Dataset,
    models: Mapping[str, Fit],
    holdout_fraction: float = 0.1,
    min_users: int = 20,
    ratings: F64 | None = None,
) -> Comparison:
    """Fit each model to what came before a cut, and measure it on what came after.

    Parameters
    ----------
    ratings : (n,), of the dataset's events, NaN where an event is no rating

    Raises
    ------
    TrainingError
        When there is nothing to compare on. A model that cannot be fitted is left out, with its reason.
    """
    parts = split(dataset, holdout_fraction)
    cases = unaided_cases(parts, min_users)
    if not cases:
        raise TrainingError(f"expected users with unseen items after {parts.cut_ms} ms, got none")
    rated = None if ratings is None else _rated(dataset, parts, ratings)
    rows, left_out = [], {}
    for name, fit in models.items():
        try:
            rows.append(_measured(name, fit, parts, cases, rated))
        except TrainingError as error:
            left_out[name] = str(error)
    constant = None if rated is None else _rating_errors(np.zeros(len(rated.values)), rated)
    return Comparison(
        users=len(cases),
        items=_known_items(parts.history),
        history_events=len(parts.history),
        cut_ms=parts.cut_ms,
        ratings=0 if rated is None else len(rated.values),
        mean_rating=constant,
        rows=rows,
        left_out=left_out,
    )


def _measured(name: str, fit: Fit, parts: Split, cases: Sequence[Case], rated: _Rated | None) -> Row:
    began = time.process_time()
    fitted = fit(parts.history)
    fit_seconds = time.process_time() - began
    fitted.ranker.top([cases[0].history], CUTOFF)  # compilers are not what is measured
    began = time.process_time()
    found = score(fitted.ranker, cases)
    rank_seconds = time.process_time() - began
    errors = None
    if rated is not None and isinstance(fitted.ranker, Scorer):
        errors = _rating_errors(fitted.ranker.scores(rated.histories, rated.items), rated)
    return Row(
        name=name,
        hit_rate=float(found.hit_rate.mean()),
        ndcg=float(found.ndcg.mean()),
        ndcg_error=_standard_error(found),
        mrr=float(found.mrr.mean()),
        coverage=distinct_items(found.lists) / max(1, _known_items(parts.history)),
        rating=errors,
        fit_cpu_seconds=fit_seconds,
        rank_cpu_ms=1_000 * rank_seconds / len(cases),
        disk_bytes=sum(map(len, fitted.files.values())),
        memory_bytes=held_bytes(fitted.ranker),
    )


def _standard_error(found: Scores) -> float:
    return float(found.ndcg.std(ddof=1) / np.sqrt(len(found))) if len(found) > 1 else 0.0


def _known_items(history: Dataset) -> int:
    return len(np.unique(history.positive().item))


def _rated(dataset: Dataset, parts: Split, ratings: F64) -> _Rated | None:
    """The ratings from the cut on; None where there are fewer than four, two for each line."""
    later = np.flatnonzero((dataset.ts_ms >= parts.cut_ms) & np.isfinite(ratings))
    later = later[:: -(-len(later) // MAX_RATINGS) or 1]
    users = dataset.user[later]
    if len(later) < 4 or len(np.unique(users)) < 2:
        return None
    past, item_hash, nothing = rows_by_user(parts.history), dataset.item_hashes(), np.empty(0, np.int64)
    known = {user: history_of(parts.history, past.get(user, nothing), item_hash) for user in np.unique(users).tolist()}
    histories = [known[user] for user in users.tolist()]
    return _Rated(users, histories, item_hash[dataset.item[later]], ratings[later])


def _rating_errors(scores: F64, rated: _Rated) -> RatingErrors:
    """Of ratings predicted by a line over the scores (n,) found on the other half of the users; an unknown item has the mean.

    rating = a + b score, by least squares
    """
    number = np.unique(rated.users, return_inverse=True)[1]
    half = number % 2 == 0
    predicted = np.empty(len(scores))
    for mine in (half, ~half):
        known = scores[~mine & np.isfinite(scores)]
        filled = np.where(np.isfinite(scores), scores, known.mean() if len(known) else 0.0)
        design = np.column_stack([np.ones(len(filled)), filled])  # (n, 2)
        line, *_ = np.linalg.lstsq(design[~mine], rated.values[~mine])
        predicted[mine] = design[mine] @ line
    return RatingErrors(rmse(predicted, rated.values), mae(predicted, rated.values))


def held_bytes(holder: object) -> int:
    """Bytes of all that an object holds on to, each thing once; not the code, and not what all share, such as modules.

    >>> held_bytes([np.zeros(1_000), np.zeros(1_000)]) // 1_000
    16
    """
    seen, waiting, total = {id(holder)}, [holder], 0
    while waiting:
        each = waiting.pop()
        total += sys.getsizeof(each)  # of an array with its data, unless it is a view
        more = list(gc.get_referents(each))
        if isinstance(each, np.ndarray) and each.base is not None:
            more.append(each.base)
        for part in more:
            if id(part) not in seen and not isinstance(part, _SHARED):
                seen.add(id(part))
                waiting.append(part)
    return total
