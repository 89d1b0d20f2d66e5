"""What a language model tells the readers beforehand: scores of active users' candidates, and of new items by segment of users.

- No request waits for the language model: its scores are computed here and read with what else is known of the user.
- A segment is a cluster of the users' long vectors; for all of it speaks the user nearest to its middle. Items that are new to
  the recommender are scored for these users alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from online_models.contracts.events import Item
from online_models.contracts.ids import ModelVersion, UserId, hashes_of
from online_models.history import UserHistory
from online_models.language_scores import LARGEST_SCORE, SegmentScores, encode_scores
from online_models.learner import FoldIns, trained_of
from online_models.ports import LanguageScoreWrites
from retrain_workers.als import AlsModel
from retrain_workers.attempt import Attempt
from retrain_workers.champions import Champion
from retrain_workers.data.datasets import Dataset
from retrain_workers.data.training_data import TrainingData
from retrain_workers.lora.ranking import ItemTexts, candidate_scores
from retrain_workers.lora.scoring import Scorer
from retrain_workers.validation.evaluation import history_of, rows_by_user

USERS_AT_ONCE: Final = 64
SEGMENTS: Final = 64
USERS_PER_SEGMENT: Final = 10
NEW_ITEMS: Final = 200
"""Newest items of the catalogue that the recommender does not know, at most so many."""

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Scoring:
    """A language model at work beside a champion's recommender, of whose best items it scores so many candidates."""

    champion: Champion
    scorer: Scorer
    items: ItemTexts
    candidates: int

    @cached_property
    def factors(self) -> AlsModel:
        """The champion's."""
        return AlsModel.of(self.champion.files, self.champion.manifest.hyperparameters)


@dataclass(frozen=True, slots=True)
class ActiveUser:
    """A user and their history at the end of the data."""

    user_id: UserId
    history: UserHistory


def publish(
    model: Scoring,
    version: ModelVersion,
    data: TrainingData,
    language: LanguageScoreWrites,
    most: int,
    ttl: timedelta,
    attempt: Attempt,
) -> int:
    """Write what a language model says under its version's name, and at last that it is all there; how many users it has scored.
    Idempotent.

    most : users with the newest events that are scored; ttl : how long that counts
    """
    name, users, scored = model.champion.manifest.model, active_users(data.dataset, most), 0
    for scores in user_scores(model, users, attempt):
        language.put_scores(name, version, scores, ttl)
        scored += len(scores)
    if (segments := segment_scores(model, users, data.catalogue)) is not None:
        language.put_segments(name, version, segments.encode(), ttl)
    language.put_complete(name, version, model.champion.manifest.space, ttl)
    return scored


def active_users(dataset: Dataset, most: int) -> list[ActiveUser]:
    """The users with the newest positive events, newest first, at most so many."""
    item_hash = dataset.item_hashes()
    rows = rows_by_user(dataset)
    newest = {user: int(dataset.ts_ms[each[dataset.strength[each] > 0]].max(initial=-1)) for user, each in rows.items()}
    order = sorted((user for user, ts_ms in newest.items() if ts_ms >= 0), key=lambda user: (-newest[user], user))
    return [
        ActiveUser(UserId(dataset.users[user]), history_of(dataset, rows[user], item_hash)) for user in order[:most]
    ]


def user_scores(model: Scoring, users: Sequence[ActiveUser], attempt: Attempt) -> Iterator[dict[UserId, bytes]]:
    """Scores of each user's candidates as bytes, some users at a time; a user without a candidate that has a text is left out."""
    for start in range(0, len(users), USERS_AT_ONCE):
        some = users[start : start + USERS_AT_ONCE]
        histories = [each.history for each in some]
        lists = model.champion.ranker.top(histories, model.candidates)
        found = candidate_scores(model.scorer, model.items, histories, lists)
        attempt.report("scoring", start + len(some), len(users))
        yield {
            each.user_id: encode_scores(ranked[known], _bounded(scores[known]))
            for each, ranked, scores in zip(some, lists, found, strict=True)
            if (known := np.isfinite(scores)).any()
        }


def segment_scores(model: Scoring, users: Sequence[ActiveUser], catalogue: Mapping[str, Item]) -> SegmentScores | None:
    """Scores of new items by segment; None when there is no new item, or nobody whose vector tells anything."""
    new = new_items(model, catalogue)
    vectors = _long_vectors(model, users)
    known = np.flatnonzero(vectors.any(axis=1))
    if not new or not len(known):
        return None
    centroids, speakers = segments_of(vectors[known], max(1, min(SEGMENTS, len(known) // USERS_PER_SEGMENT)))
    hashes = hashes_of(new)
    histories = [users[known[speaker]].history for speaker in speakers.tolist()]
    scores = candidate_scores(model.scorer, model.items, histories, [hashes] * len(histories))
    space = model.champion.manifest.space
    return SegmentScores(centroids, hashes, np.array([_bounded(each) for each in scores]), space)


def new_items(model: Scoring, catalogue: Mapping[str, Item]) -> list[str]:
    """Ids of the newest items of the catalogue that the recommender does not know."""
    known = set(model.factors.items)
    new = [item for item in catalogue.values() if item.item_id not in known]
    new.sort(key=lambda item: (-(item.available_ms or 0), item.item_id))
    return [item.item_id for item in new[:NEW_ITEMS]]


def segments_of(vectors: F32, many: int) -> tuple[F32, npt.NDArray[np.int64]]:
    """Clusters of users (n, k) by direction: centroids float32 (many, k) of length 1, and (many,) the row nearest to each.

    Spherical k-means: Dhillon, Modha: Concept decompositions for large sparse text data. Machine Learning 42, 2001.
    """
    directions = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    with threadpool_limits(1):
        found = KMeans(many, n_init=1, random_state=0).fit(directions.astype(np.float64))
    lengths = np.linalg.norm(found.cluster_centers_, axis=1, keepdims=True)
    centroids = (found.cluster_centers_ / np.maximum(lengths, 1e-12)).astype(np.float32)
    speakers: npt.NDArray[np.int64] = np.argmax(centroids @ directions.T, axis=1)
    return centroids, speakers


def _long_vectors(model: Scoring, users: Sequence[ActiveUser]) -> F32:
    """float32 (users, k); zeros for a user who has met no item of the factors."""
    tensors = load(model.champion.files["factors.safetensors"])
    fold_ins = FoldIns(trained_of(model.champion.manifest, tensors, model.factors.items))
    vectors: F32 = fold_ins.of_histories([each.history for each in users])[:, 1]
    return vectors


def _bounded(scores: npt.NDArray[np.float64]) -> F32:
    return np.clip(scores, -LARGEST_SCORE, LARGEST_SCORE).astype(np.float32)
