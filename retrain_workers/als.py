"""Implicit-feedback ALS, refitted from scratch by `implicit`: model, artifact files, and ranking by fold-in.

- Confidence c = 1 + alpha · r, where r sums a user's decayed strengths with an item (Hu, Koren, Volinsky
  2008): the same equations as the fold-in of serving and of the stream.
- One thread, a seed, and ids in sorted order: the same data and settings give the same bytes.
- Ranking is by fold-in even for users that the model knows: what is judged is what the stream job will serve.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

import msgspec
import numpy as np
import numpy.typing as npt
from implicit.cpu.als import AlternatingLeastSquares
from implicit.recommender_base import ModelFitError
from safetensors.numpy import load, save
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from online_models import als
from online_models.contracts.artifacts import GoldenQuery
from online_models.contracts.ids import hashes_of
from online_models.contracts.jobs import Start, TrainAls
from online_models.embedding_space import Axes, EmbeddingColumns, coordinates
from online_models.errors import ArtifactError, TrainingError
from online_models.history import UserHistory
from online_models.learner import Trained
from online_models.two_tower import UserTower
from retrain_workers.attempt import Attempt
from retrain_workers.data.datasets import Dataset, decayed_preferences, popular_rows
from retrain_workers.data.references import Places
from retrain_workers.data.training_data import TrainingData
from retrain_workers.validation.evaluation import CUTOFF, Hashes, Popularity, Ranker, history_of, rows_by_user
from retrain_workers.validation.gate import Check, Gate
from retrain_workers.validation.served_ranker import ServedRanker

KIND: Final = "als"

GOLDEN_QUERIES: Final = 5
GOLDEN_HISTORY: Final = 10
GOLDEN_GAP: Final = 1e-3
"""Two scores closer than this share of the largest are not told apart."""

PLACED_USERS: Final = 1_000
"""Users whose places stand for all in the reference of embedding features."""

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class AlsModel:
    """Factors of the users and items that something positive is known of.

    users, items, popular : ids in row order, and item ids best first
    user_factors : (users, k); item_factors : (items, k)
    item_weights : (items,), each item's sum of c - 1: how firmly it stands where it is
    hyperparameters : what a fold-in needs, and how the factors were found
    """

    users: Sequence[str]
    items: Sequence[str]
    popular: Sequence[str]
    user_factors: F32
    item_factors: F32
    item_weights: F32
    hyperparameters: Mapping[str, float]

    def files(self) -> dict[str, bytes]:
        """The artifact's files, without the manifest."""
        tensors = {
            "item_factors": self.item_factors,
            "user_factors": self.user_factors,
            "item_weights": self.item_weights,
            "item_gramian": als.gramian(self.item_factors),
            "user_gramian": als.gramian(self.user_factors),
            "item_axes": self._axes(self.item_factors).packed(),
            "user_axes": self._axes(self.user_factors).packed(),
        }
        return {
            "factors.safetensors": save(tensors),
            "items.json": msgspec.json.encode(self.items),
            "users.json": msgspec.json.encode(self.users),
            "popular.json": msgspec.json.encode(self.popular),
        }

    @property
    def start(self) -> Start:
        """What the training began with."""
        return Start.COLD

    @classmethod
    def of(cls, files: Mapping[str, bytes], hyperparameters: Mapping[str, float]) -> Self:
        """The model in an artifact's verified files. Raises ArtifactError when they are not those of `files`."""
        try:
            tensors = load(files["factors.safetensors"])
            users, items, popular = (
                msgspec.json.decode(files[name], type=list[str])
                for name in ("users.json", "items.json", "popular.json")
            )
            weights = tensors.get("item_weights", np.ones(len(items), np.float32))
            return cls(
                users, items, popular, tensors["user_factors"], tensors["item_factors"], weights, hyperparameters
            )
        except (KeyError, msgspec.DecodeError) as error:
            raise ArtifactError(f"not the files of an {KIND} artifact: {error!r}") from error

    def trained(self, tower: UserTower | None = None) -> Trained:
        """As the stream job and the readers take it, with towers over the same items where there are some."""
        return Trained(
            ids=list(self.items),
            factors=self.item_factors,
            weights=self.item_weights.astype(np.float64),
            gramian=als.gramian(self.item_factors),
            user_gramian=als.gramian(self.user_factors),
            users=max(1, len(self.user_factors)),
            fold_in=als.FoldIn.of(self.hyperparameters),
            tower=tower,
        )

    def ranker(self, tower: UserTower | None = None) -> ServedRanker:
        """The model at work, as it would be served."""
        return ServedRanker(self.trained(tower), self.popular)

    def _axes(self, vectors: F32) -> Axes:
        return Axes.of(self.item_factors, vectors)

    def places(self, dataset: Dataset) -> Places:
        """Where the events of a dataset lie in the model's space: what embedding drift is measured against.

        Items by their factors, users by a fold-in of their history; for the events of an even sample of users, as in the stream
        job.
        """
        item_hash = dataset.item_hashes()
        rows = als.ItemIndex.of(self.items).rows(item_hash)[dataset.item]  # (n,)
        known = np.flatnonzero(rows >= 0).astype(np.int32)
        items = coordinates(self.item_factors[rows[known]], self._axes(self.item_factors))
        # users in the order of their hashes: any number of them is an even sample
        sample = np.argsort(hashes_of(dataset.users))[:PLACED_USERS]
        rows_of, none = rows_by_user(dataset), np.empty(0, np.int64)
        histories = [history_of(dataset, rows_of.get(user, none), item_hash) for user in sample.tolist()]
        vectors = AlsRanker(self).vectors(histories)
        place = np.full(len(dataset.users), -1)
        place[sample[vectors.any(axis=1)]] = np.flatnonzero(vectors.any(axis=1))
        placed = np.flatnonzero(place[dataset.user] >= 0).astype(np.int32)
        users = coordinates(vectors[place[dataset.user[placed]]], self._axes(self.user_factors))
        return Places(np.isin(dataset.user, sample), EmbeddingColumns((known, items), (placed, users)))

    def checks(self, gate: Gate) -> Sequence[Check]:
        """Nothing beside what is asked of all."""
        return ()

    def golden(self, dataset: Dataset) -> list[GoldenQuery]:
        """See `golden_queries`."""
        return golden_queries(self, dataset)


@dataclass(frozen=True, slots=True)
class AlsTrainer:
    """Fits `job` to a dataset; see `trainers.Trainer`."""

    job: TrainAls
    recency_half_life_events: float

    def __post_init__(self) -> None:
        """Refuse settings that cannot give a model."""
        job = self.job
        positive = min(job.factors, job.iterations, job.alpha, job.regularization, job.half_life_days) > 0
        if not (positive and 0 < job.holdout_fraction < 1):
            raise TrainingError(f"expected positive settings and a holdout fraction in (0, 1), got {job}")

    def from_nothing(self) -> None:
        """Every training begins at nothing."""
        return

    def rival(self, recommender: Ranker, data: TrainingData) -> Ranker:
        """Recommender beside recommender."""
        return recommender

    def fit(self, data: TrainingData, attempt: Attempt) -> AlsModel:
        """See `fit`."""
        attempt.report("als")
        return fit(data.dataset, self.job, self.recency_half_life_events)


def fit(dataset: Dataset, job: TrainAls, recency_half_life_events: float) -> AlsModel:
    """Factors of everything positive in the dataset.

    min over X, Y of  Σ_ui c_ui (p_ui - x_u · y_i)² + lambda (Σ_u |x_u|² + Σ_i |y_i|²)
    with c_ui = 1 + alpha · r_ui, and p_ui = 1 where r_ui > 0
    """
    preferences = decayed_preferences(dataset, job.half_life_days)
    user_rows = np.flatnonzero(np.diff(preferences.indptr))
    item_rows = np.flatnonzero(np.bincount(preferences.indices, minlength=len(dataset.items)))
    preferences = preferences[user_rows][:, item_rows]
    user_factors, item_factors = _factorize(preferences, job)
    return AlsModel(
        users=[dataset.users[row] for row in user_rows.tolist()],
        items=[dataset.items[row] for row in item_rows.tolist()],
        popular=[dataset.items[row] for row in popular_rows(dataset, job.half_life_days).tolist()],
        user_factors=user_factors,
        item_factors=item_factors,
        item_weights=np.float32(job.alpha) * np.asarray(preferences.sum(axis=0), np.float32).ravel(),
        hyperparameters={
            "factors": job.factors,
            "iterations": job.iterations,
            "alpha": job.alpha,
            "regularization": job.regularization,
            "half_life_days": job.half_life_days,
            "seed": job.seed,
            "recency_half_life_events": recency_half_life_events,
        },
    )


def _factorize(preferences: csr_matrix, job: TrainAls) -> tuple[F32, F32]:
    confidence = preferences.copy()
    confidence.data = 1 + np.float32(job.alpha) * preferences.data  # `implicit` takes c itself where p = 1
    with threadpool_limits(1):
        model = AlternatingLeastSquares(
            factors=job.factors,
            regularization=job.regularization,
            iterations=job.iterations,
            random_state=job.seed,
            num_threads=1,
        )
        try:
            model.fit(confidence, show_progress=False)
        except ModelFitError as error:
            raise TrainingError(f"the factors are not finite with {job}") from error
    return np.ascontiguousarray(model.user_factors), np.ascontiguousarray(model.item_factors)


class AlsRanker:
    """Ranks by one fold-in of the whole history; by popularity where the history holds no item of the model."""

    def __init__(self, model: AlsModel) -> None:
        self._factors = model.item_factors
        self._gramian = als.gramian(model.item_factors)
        self._index = als.ItemIndex.of(model.items)
        self._hashes: Hashes = hashes_of(model.items)
        self._fold_in = als.FoldIn.of(model.hyperparameters)
        self._popularity = Popularity(hashes_of(model.popular))

    def top(self, histories: Sequence[UserHistory], count: int) -> list[Hashes]:
        """See `evaluation.Ranker`."""
        return [
            self._best(vector, history, count) if vector.any() else self._popularity.unseen(history, count)
            for vector, history in zip(self.vectors(histories), histories, strict=True)
        ]

    def vectors(self, histories: Sequence[UserHistory]) -> F32:
        """User vectors (users, k) by fold-in; zeros for a history without a known item."""
        return als.fold_in_histories(histories, self._index, self._factors, self._gramian, self._fold_in)

    def _best(self, vector: F32, history: UserHistory, count: int) -> Hashes:
        seen = self._index.rows(history.seen["item"])
        return self._hashes[als.top_k(self._factors @ vector, count, seen)]


def golden_queries(model: AlsModel, dataset: Dataset) -> list[GoldenQuery]:
    """A few users' newest distinct items, oldest first, and the best other items by a fold-in of them.

    Each item of a query counts as one event of strength 1. A list ends before the first two scores that rounding
    on another machine could swap.
    """
    rows = als.ItemIndex.of(model.items).rows(dataset.item_hashes())  # (dataset items,)
    queries: list[GoldenQuery] = []
    for user in np.unique(dataset.user):
        items = rows[dataset.item[(dataset.user == user) & (dataset.strength > 0)]]
        query = _golden_query(model, _newest_distinct(items, GOLDEN_HISTORY))
        if query.history and query.expected:
            queries.append(query)
        if len(queries) == GOLDEN_QUERIES:
            break
    return queries


def _newest_distinct(items: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    _, last = np.unique(items[::-1], return_index=True)
    return items[np.sort(len(items) - 1 - last)][-count:]


def _golden_query(model: AlsModel, history: npt.NDArray[np.int64]) -> GoldenQuery:
    how = als.FoldIn.of(model.hyperparameters)
    # c = 1 + alpha · 2^(-later / half-life)
    weight = als.recency_weights(np.ones(len(history), np.float32), how.half_life_events)
    confidence = (1 + how.alpha * weight).astype(np.float32)
    bounds = np.array([0, len(history)])
    Y = model.item_factors
    vector = als.fold_in(bounds, history, confidence, Y, als.gramian(Y), how.regularization)[0]
    scores = Y @ vector
    expected = als.top_k(scores, CUTOFF + 1, history)
    gaps = -np.diff(scores[expected])
    clear = gaps > GOLDEN_GAP * np.abs(scores).max(initial=0)
    return GoldenQuery(history.tolist(), expected[: int(np.cumprod(clear).sum())].tolist())
