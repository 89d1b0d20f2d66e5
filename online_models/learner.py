"""One version of a model, kept fresh: its items move with the stream, its blend learns what to believe; both rank for a user.

- Users are folded in over the items as they were trained: a vector is a function of the history and the artifact alone, and was
  measured to rank better (hit@10 on three logs, by 2 to 7 %) than one folded in over items that move under it.
- Items move: each positive event pulls its item towards its user, from a prior that reproduces the trained vector.
- The stream job, the readers and the offline evaluation run this same code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from online_models import als
from online_models.blend import Blend
from online_models.contexts import contexts_of
from online_models.contracts.artifacts import Manifest
from online_models.contracts.ids import ItemId, hash64
from online_models.errors import ArtifactError, StoreError
from online_models.evidence import (
    FEATURES,
    QUERIES,
    Scratch,
    add_nearby,
    add_products,
    clear,
    combined_query,
    features_of,
    gather,
    popularity_scores,
    products,
    scratch_for,
)
from online_models.history import EMPTY, ENTRY, SEEN, UserHistory, concatenated, merge_all
from online_models.item_updates import UserBasis, move_items
from online_models.recency import recent_confidences
from online_models.ridge import Ridge
from online_models.sources import Sources, steps_of
from online_models.two_tower import UserTower

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

RECENT_HALF_LIFE: Final = 3.0
LONG_HALF_LIFE: Final = 30.0
"""Half-lives in events of the two vectors of a user: what they want now, and what they have long liked."""

TWO_TOWER_FILE: Final = "two_tower.safetensors"
_TOWER: Final = QUERIES.index("two_tower")

CHOICES: Final = 300
"""Items that stand for all others when the blend learns from a choice."""


@dataclass(frozen=True, slots=True)
class MovedItem:
    """An item's vector float32 (k,) as the stream has moved it, by an event at `ts_ms`; `weight` is how much it has behind it."""

    ts_ms: int
    weight: float
    vector: F32


@dataclass(frozen=True, slots=True)
class Trained:
    """What a version was trained to.

    ids : items in row order; factors : float32 (items, k), their vectors; weights : float64 (items,), each one's sum of c - 1
    gramian : YtY (k, k); user_gramian : XtX (k, k) of so many `users`
    tower : the two-tower network over the same items in the same order, where the artifact has one
    """

    ids: list[str]
    factors: F32
    weights: F64
    gramian: F32
    user_gramian: F32
    users: int
    fold_in: als.FoldIn
    tower: UserTower | None = None


class FoldIns:
    """The user vectors of one version: pure functions of a history and the trained items."""

    def __init__(self, trained: Trained) -> None:
        self._index = als.ItemIndex.of(trained.ids)
        self._factors, self._gramian, self._how = trained.factors, trained.gramian, trained.fold_in
        self._ridge = Ridge.of(trained.gramian, trained.fold_in.regularization)
        self._tower = trained.tower

    @property
    def items(self) -> int:
        """Items of the version."""
        return len(self._factors)

    @property
    def k(self) -> int:
        """Length of a vector."""
        return int(self._factors.shape[1])

    def queries(self, entries: npt.NDArray[np.void], many: I64) -> F32:
        """What users ask for, float32 (n, QUERIES, k): their recent and their long vector, nothing for the two towers.

        entries : ENTRY (m,), their histories one after the other, oldest first; many : (n,), entries of each
        """
        found = np.zeros((len(many), len(QUERIES), self.k), np.float32)
        columns = self._columns(entries)
        for query, half_life in enumerate((RECENT_HALF_LIFE, LONG_HALF_LIFE)):
            found[:, query] = self._folded(columns, many, half_life, fading=True)
        return found

    def of_histories(self, histories: Sequence[UserHistory]) -> F32:
        """The vectors of users by their histories, float32 (n, 2, k): recent and long."""
        many = np.array([len(history.recent) for history in histories], np.int64)
        entries = concatenated([history.recent for history in histories])
        return np.ascontiguousarray(self.queries(entries, many)[:, :2])

    def tower_query(self, entries: npt.NDArray[np.void]) -> F32 | None:
        """What the user tower asks for after a history, ENTRY (n,), oldest first: float32 (t,); None without two towers."""
        if self._tower is None:
            return None
        rows = self._index.rows(entries["item"])
        return self._tower.query(self._tower.vector(rows))

    def users(self, entries: npt.NDArray[np.void], many: I64) -> F32:
        """The users (n, k) as training knows them: all of their events alike."""
        return self._folded(self._columns(entries), many, np.inf, fading=False)

    def _columns(self, entries: npt.NDArray[np.void]) -> tuple[I64, F32, I64]:
        """Times, strengths and rows of the items, each (m,)."""
        ts_ms, strength = np.ascontiguousarray(entries["ts_ms"]), np.ascontiguousarray(entries["strength"])
        return ts_ms, strength, self._index.rows(entries["item"])

    def _folded(self, columns: tuple[I64, F32, I64], many: I64, half_life: float, *, fading: bool) -> F32:
        how = self._how
        rows = recent_confidences(*columns, many, how.alpha, half_life, np.inf)
        return als.fold_in(*rows, self._factors, self._gramian, how.regularization, self._ridge, fading=fading)


class VersionLearner:
    """vectors : float32 (items, k), of all items of the sources by row; zeros for those of which nothing is known
    weights : float64 (items,), how much each of them has behind it
    tower_vectors : float32 (items, t), what the query of the user tower is multiplied with; None without two towers
    """

    def __init__(self, trained: Trained, sources: Sources, blend: Blend | None = None) -> None:
        self.fold_ins = FoldIns(trained)
        self.sources = sources
        self.blend = blend or Blend.begin()
        self._alpha = trained.fold_in.alpha
        self._basis = UserBasis.of(trained.user_gramian, trained.users, trained.fold_in.regularization)
        rows = sources.rows_of(trained.ids)
        self.vectors = np.zeros((len(sources.items), self.fold_ins.k), np.float32)
        self.weights = np.zeros(len(sources.items))
        self.vectors[rows], self.weights[rows] = trained.factors, trained.weights
        self.tower_vectors = (
            None if trained.tower is None else _at(rows, trained.tower.search_vectors(), len(self.vectors))
        )
        self._begin = self.weights.copy()
        self._scratch = scratch_for(0)

    def restore(self, moved: Mapping[ItemId, MovedItem]) -> None:
        """Go on from where items had moved to. Raises StoreError when a vector is not one of this version."""
        rows = self.sources.rows_of(list(moved))
        self.grow()
        for row, (item, known) in zip(rows.tolist(), moved.items(), strict=True):
            if known.vector.shape != (self.fold_ins.k,) or not np.isfinite(known.vector).all():
                raise StoreError(
                    f"item {item}: expected a finite vector ({self.fold_ins.k},), got {known.vector.shape}"
                )
            if not 0 <= known.weight < np.inf:
                raise StoreError(f"item {item}: expected a weight >= 0, got {known.weight}")
            self.vectors[row], self.weights[row] = known.vector, known.weight

    def grow(self) -> None:
        """Room for all items of the sources."""
        more = len(self.sources.items) - len(self.vectors)
        if more > 0:
            self.vectors = np.append(self.vectors, np.zeros((more, self.fold_ins.k), np.float32), axis=0)
            self.weights = np.append(self.weights, np.zeros(more))
            if self.tower_vectors is not None:
                nothing = np.zeros((more, self.tower_vectors.shape[1]), np.float32)
                self.tower_vectors = np.append(self.tower_vectors, nothing, axis=0)

    def move_items(self, item: I64, strength: F32, users: F32) -> None:
        """Events (n,) in the order of the log: each pulls its item (row) towards its user (k,); a user of zeros does not.

        Raises ValueError when a row is out of range.
        """
        self.grow()
        known = users.any(axis=1)
        if known.any():
            confidence = (1.0 + self._alpha * strength[known]).astype(np.float32)
            move_items(self.vectors, self.weights, item[known], confidence, users[known], self._basis)

    def encode_moved(self) -> bytes:
        """The vectors of all items that differ from the trained ones, for readers."""
        rows = np.flatnonzero(self.weights != self._trained_weights(len(self.weights)))
        return encode_item_vectors([self.sources.items.ids[row] for row in rows.tolist()], self.vectors[rows])

    def _trained_weights(self, items: int) -> F64:
        return np.append(self._begin, np.zeros(items - len(self._begin)))

    def known(self) -> npt.NDArray[np.bool_]:
        """Which items (items,) anything is known of: others cannot be ranked, and nothing is learned from their being taken."""
        self.grow()
        return self.sources.popularity.counted() | (self.weights > 0)

    def scores(
        self, context: I64, events: int, queries: F32, shares: F32, tower: F32 | None = None
    ) -> tuple[F32, Scratch]:
        """Blended scores (items,) and what the neighbours gave, which the caller clears."""
        self.grow()
        items = len(self.sources.items)
        if len(self._scratch.follows) < items:
            self._scratch = scratch_for(2 * items)
        weights = self.blend.of(events)
        clear(self._scratch)
        gather(context, self.sources.followers.arrays, self.sources.companions.arrays, self._scratch)
        scores = np.empty(items, np.float32)
        popularity_scores(shares, weights, scores)
        add_products(self.vectors, combined_query(weights, queries), scores)
        if tower is not None and self.tower_vectors is not None:
            add_products(self.tower_vectors, weights[_TOWER] * tower, scores)
        add_nearby(weights, self._scratch, scores)
        scores[~self.known()] = -np.inf
        return scores, self._scratch

    def rank(
        self,
        context: I64,
        events: int,
        queries: F32,
        ts_ms: int,
        excluded: I64,
        count: int,
        tower: F32 | None = None,
    ) -> tuple[I64, F32]:
        """Rows and scores of the best items, best first.

        Parameters
        ----------
        context : (n,), rows of the user's recent items, oldest first; -1 for an unknown one
        events : how long the user's history is
        queries : (QUERIES, k); excluded : (m,), rows that are not to be ranked
        tower : (t,), see `FoldIns.tower_query`
        """
        scores, scratch = self.scores(context, events, queries, self.sources.popularity.shares(ts_ms), tower)
        clear(scratch)
        best = als.top_k(scores, count, excluded)
        return best, scores[best]

    def learn_choice(
        self,
        context: I64,
        events: int,
        queries: F32,
        ts_ms: int,
        excluded: I64,
        taken: I64,
        tower: F32 | None = None,
    ) -> I64:
        """Let the blend learn that of all items but the excluded ones these rows (m,) were taken; parameters as `rank`.

        Returns the place (m,) of each taken item in the ranking before the step, from 0; `CHOICES` when it is beyond.
        """
        shares = self.sources.popularity.shares(ts_ms)
        scores, scratch = self.scores(context, events, queries, shares, tower)
        best = als.top_k(scores, CHOICES, excluded)
        place = np.full(len(taken), CHOICES)
        for n, row in enumerate(taken.tolist()):
            at = np.flatnonzero(best == row)
            place[n] = at[0] if len(at) else CHOICES
        features = np.empty((len(best), len(FEATURES)), np.float32)
        features_of(best, self.vectors, queries, shares, scratch, features)
        clear(scratch)
        if tower is not None and self.tower_vectors is not None:
            features[:, _TOWER] = products(self.tower_vectors[best], tower)
        self.blend.learn(events, features, place[place < CHOICES])
        return place


def _at(rows: I64, vectors: F32, items: int) -> F32:
    """Vectors (n, t) at rows (n,) of so many items, zeros elsewhere."""
    placed = np.zeros((items, vectors.shape[1]), np.float32)
    placed[rows] = vectors
    return placed


def trained_of(
    manifest: Manifest,
    tensors: Mapping[str, npt.NDArray[Any]],
    ids: Sequence[str],
    tower: Mapping[str, npt.NDArray[Any]] | None = None,
) -> Trained:
    """What an artifact of kind `als` was trained to.

    Parameters
    ----------
    tensors : those of its `factors.safetensors`; tower : those of its `two_tower.safetensors`, where it has one

    Raises
    ------
    ArtifactError
        When the two towers are not over the same items.

    An artifact that was made before weights were kept counts each item as met by an average user.
    """
    towers = None if tower is None else UserTower.of(tower)
    if towers is not None and len(towers) != len(ids):
        raise ArtifactError(f"two towers: expected {len(ids)} items as in the factors, got {len(towers)}")
    factors = tensors["item_factors"]
    weights = tensors.get("item_weights", np.ones(len(factors), np.float32))
    return Trained(
        ids=list(ids),
        factors=factors,
        weights=weights.astype(np.float64),
        gramian=tensors["item_gramian"],
        user_gramian=tensors["user_gramian"],
        users=max(1, len(tensors["user_factors"])),
        fold_in=als.FoldIn.of(manifest.hyperparameters),
        tower=towers,
    )


def encode_item_vectors(ids: Sequence[str], vectors: F32) -> bytes:
    """Items and their vectors (n, k) as bytes (safetensors)."""
    return save({"items": np.frombuffer(msgspec.json.encode(ids), np.uint8), "vectors": np.ascontiguousarray(vectors)})


def decode_item_vectors(raw: bytes) -> tuple[list[str], F32]:
    """From `encode_item_vectors`. Raises StoreError when the bytes are torn."""
    try:
        tensors = load(raw)
        ids, vectors = msgspec.json.decode(tensors["items"].tobytes(), type=list[str]), tensors["vectors"]
    except (SafetensorError, KeyError, ValueError, msgspec.DecodeError) as error:
        raise StoreError(f"item vectors: expected what `encode_item_vectors` gives: {error!r}") from error
    if vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != len(ids) or not np.isfinite(vectors).all():
        raise StoreError(
            f"item vectors: expected finite float32 vectors of {len(ids)} items, got {vectors.dtype} {vectors.shape}"
        )
    return ids, vectors


def warm_up() -> None:
    """Compile everything that learning and ranking need, so that no event and no request waits for a compiler."""
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(4, 2)).astype(np.float32)
    YtY = als.gramian(factors)
    trained = Trained(list("abcd"), factors, np.ones(4), YtY, YtY, 4, als.FoldIn())
    sources = Sources()
    learner = VersionLearner(trained, sources)
    entries = np.array([(1, 1, hash64("a"), 1.0), (2, 2, hash64("b"), 1.0)], ENTRY)
    user = np.zeros(2, np.int64)
    contexts = contexts_of([EMPTY], user, entries)
    merge_all([EMPTY], entries, user, entries[["ts_ms", "item"]].astype(SEEN), user)
    steps = steps_of(sources.rows_of(["a", "b"]), entries["ts_ms"], contexts, sources.items)
    sources.learn(steps)
    learner.move_items(steps.item, entries["strength"], learner.fold_ins.users(entries, np.array([1, 1])))
    queries = learner.fold_ins.queries(entries, np.array([2]))[0]
    learner.learn_choice(np.array([0, 1]), 2, queries, 3, np.array([0, 1]), np.array([2]))
    learner.rank(np.array([0, 1]), 2, queries, 3, np.array([0, 1]), 2)
