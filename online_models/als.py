"""Implicit-feedback ALS of Hu, Koren and Volinsky (2008): the least squares behind fold-in and new items.

- Confidence c = 1 + alpha r: r sums the strengths of a user's events with an item, the newest weighing most.
- Fold-in is exact, one Cholesky solve per user: it was measured to be what pays, more than refitting items.
- Items newer than the model collect their own normal equations from the stream; they merge by `+`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from online_models.contracts.events import TYPE_CODES, EventType
from online_models.contracts.ids import hash64
from online_models.history import UserHistory
from online_models.normal_equations import solve, solve_users

F32 = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

POSITIVE_RATING: Final = 3.5
"""The lowest rating, of 5, that says something positive."""

_BEST_RATING: Final = 5.0
_CLICK, _PURCHASE, _RATING, _WATCH = (
    TYPE_CODES[kind] for kind in (EventType.CLICK, EventType.PURCHASE, EventType.RATING, EventType.WATCH)
)


@dataclass(frozen=True, slots=True)
class FoldIn:
    """How histories become user vectors.

    alpha : confidence per unit of strength; regularization : ridge on the user vector
    half_life_events : an event followed by this many later ones counts half; infinite for no decay
    """

    alpha: float = 10.0
    regularization: float = 0.05
    half_life_events: float = 10.0

    def __post_init__(self) -> None:
        """Refuse what has no unique solution."""
        if not (self.alpha > 0 and self.regularization > 0 and self.half_life_events > 0):
            raise ValueError(f"expected positive alpha, regularization and half-life, got {self}")

    @classmethod
    def of(cls, hyperparameters: Mapping[str, float]) -> Self:
        """From a manifest's `alpha`, `regularization` and `recency_half_life_events`."""
        return cls(
            alpha=hyperparameters["alpha"],
            regularization=hyperparameters["regularization"],
            half_life_events=hyperparameters["recency_half_life_events"],
        )


def event_strength(type: npt.NDArray[np.int8], value: npt.NDArray[np.float64]) -> F32:
    """How much each event speaks for its item: 0 for those that say nothing positive.

    click 1; purchase 4; watch 1 + log10(1 + minutes); rating 3.5 to 5 as rating - 2.5; impression and skip 0.

    Parameters
    ----------
    type : (n,), index into `EVENT_TYPES`; value : (n,), seconds watched or rating, NaN where absent

    >>> kinds, value = np.array([0, 1, 2, 3, 4, 4], np.int8), np.array([np.nan, np.nan, 540, 9.9, 4, 3])
    >>> event_strength(kinds, value).tolist()
    [0.0, 1.0, 2.0, 4.0, 1.5, 0.0]
    """
    number = np.nan_to_num(value, nan=0.0)
    watched = 1.0 + np.log10(1.0 + np.maximum(number, 0.0) / 60.0)
    rated = np.where(number >= POSITIVE_RATING, np.minimum(number, _BEST_RATING) - 2.5, 0.0)
    return np.select(
        [type == _CLICK, type == _WATCH, type == _PURCHASE, type == _RATING], [1.0, watched, 4.0, rated], 0.0
    ).astype(np.float32)


def recency_weights(strength: F32, half_life_events: float) -> F32:
    """Strengths (r,), oldest first, times 2^(-later / half-life), where `later` events came after each.

    >>> recency_weights(np.ones(3, np.float32), 1.0).tolist()
    [0.25, 0.5, 1.0]
    """
    later = np.arange(len(strength))[::-1]
    weights: F32 = (strength * np.exp2(-later / half_life_events)).astype(np.float32)
    return weights


def gramian(factors: F32) -> F32:
    """YtY (k, k) of factors Y (n, k)."""
    return np.ascontiguousarray(factors.T @ factors)


class ItemIndex:
    """Row numbers of items by the 64-bit hash of their id.

    >>> index = ItemIndex.of(["a", "b"])
    >>> index.rows(np.array([hash64("b"), hash64("?"), hash64("a")], np.uint64)).tolist()
    [1, -1, 0]
    """

    __slots__ = ("_hashes", "_row")

    def __init__(self, hashes: npt.NDArray[np.uint64]) -> None:
        """hashes : (items,), in row order. Raises ValueError when two are equal."""
        self._row = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._row]
        if np.any(self._hashes[1:] == self._hashes[:-1]):
            raise ValueError(f"expected distinct items, got {len(hashes) - len(np.unique(hashes))} repeated")

    @classmethod
    def of(cls, item_ids: Sequence[str]) -> Self:
        """From item ids in row order. Raises ValueError when one is repeated."""
        return cls(np.fromiter(map(hash64, item_ids), np.uint64, len(item_ids)))

    def __len__(self) -> int:
        return len(self._hashes)

    def rows(self, item_hashes: npt.NDArray[np.uint64]) -> Rows:
        """Row of each item hash (n,); -1 where unknown."""
        if not len(self):
            return np.full(len(item_hashes), -1, np.int64)
        place = np.minimum(np.searchsorted(self._hashes, item_hashes), len(self) - 1)
        return np.where(self._hashes[place] == item_hashes, self._row[place], -1)


def fold_in(
    indptr: npt.NDArray[np.integer],
    indices: npt.NDArray[np.integer],
    confidence: F32,
    item_factors: F32,
    item_gramian: F32,
    regularization: float,
) -> F32:
    """Exact user vectors for fixed item factors; zeros for a user without entries, or with a singular system.

    Parameters
    ----------
    indptr : (users + 1,); indices, confidence : (entries,), CSR rows of distinct items with their c >= 1
    item_factors : Y (items, k); item_gramian : YtY (k, k)

    Returns
    -------
    float32 (users, k)

    Raises
    ------
    ValueError
        When an index is out of range, or the regularization is not positive.

    References
    ----------
    Hu, Koren, Volinsky: Collaborative filtering for implicit feedback datasets. ICDM 2008.
    """
    if len(indices) and (indices.min() < 0 or indices.max() >= len(item_factors)):
        raise ValueError(f"expected rows in [0, {len(item_factors)}), got {indices.min()} to {indices.max()}")
    if len(indptr) == 0 or indptr[-1] != len(indices) or len(indices) != len(confidence):
        raise ValueError(f"expected CSR rows, got {len(indices)} indices and {len(confidence)} confidences")
    if regularization <= 0:
        raise ValueError(f"expected a positive regularization, got {regularization}")
    users = np.zeros((len(indptr) - 1, item_factors.shape[1]), np.float32)
    solve_users(
        np.ascontiguousarray(indptr, np.int64),
        np.ascontiguousarray(indices, np.int64),
        np.ascontiguousarray(confidence, np.float32),
        np.ascontiguousarray(item_factors, np.float32),
        np.ascontiguousarray(item_gramian, np.float32),
        regularization,
        users,
    )
    return users


def fold_in_histories(
    histories: Sequence[UserHistory], index: ItemIndex, item_factors: F32, item_gramian: F32, how: FoldIn
) -> F32:
    """User vectors of bounded histories; zeros for one without a known item.

    An event's age counts every later event of the history, also those of items the model does not know; the
    weighted strengths of an item's events add up.

    Parameters
    ----------
    histories : `users` of them; index : rows of item_factors (items, k); item_gramian : (k, k)

    Returns
    -------
    float32 (users, k)

    Raises
    ------
    ValueError
        When the index and the factors are not of one length.
    """
    if len(index) != len(item_factors):
        raise ValueError(f"expected {len(item_factors)} indexed items, got {len(index)}")
    many = np.array([len(history.recent) for history in histories], np.int64)
    if not many.sum():
        return np.zeros((len(histories), item_factors.shape[1]), np.float32)
    recent = np.concatenate([history.recent for history in histories])
    user = np.repeat(np.arange(len(histories)), many)
    later = np.cumsum(many)[user] - 1 - np.arange(len(recent))
    # r_ui = sum over events of strength * 2^(-later / half-life)
    weight = recent["strength"] * np.exp2(-later / how.half_life_events)
    rows = index.rows(recent["item"])
    known = rows >= 0
    indptr = np.append(0, np.cumsum(np.bincount(user[known], minlength=len(histories))))
    r = csr_array((weight[known], rows[known], indptr), shape=(len(histories), len(index)))
    r.sum_duplicates()
    # c_ui = 1 + alpha r_ui
    confidence = (1.0 + how.alpha * r.data).astype(np.float32)
    return fold_in(r.indptr, r.indices, confidence, item_factors, item_gramian, how.regularization)


def fold_in_history(history: UserHistory, index: ItemIndex, item_factors: F32, item_gramian: F32, how: FoldIn) -> F32:
    """One user's vector (k,), as `fold_in_histories` has it."""
    vector: F32 = fold_in_histories([history], index, item_factors, item_gramian, how)[0]
    return vector


def item_equations(item: Rows, confidence: F32, user_factors: F32, items: int) -> F32:
    """What events add to the normal equations [A | b] of items newer than the model; equations merge by `+`.

    Parameters
    ----------
    item : (n,), which of the `items` new items each event is about
    confidence : (n,), c of the event; a user's events with one item count like those of so many users
    user_factors : (n, k), x of the event's user

    Returns
    -------
    float32 (items, k, k + 1), for each item the sums of (c - 1) x xt and of c x

    Raises
    ------
    ValueError
        When an item is out of range or the columns differ in length.

    >>> c, x = np.array([3], np.float32), np.array([[1, 2]], np.float32)
    >>> item_equations(np.array([0]), c, x, 1)[0].tolist()
    [[2.0, 4.0, 3.0], [4.0, 8.0, 6.0]]
    """
    if not len(item) == len(confidence) == len(user_factors):
        raise ValueError(f"expected one length, got {len(item)}, {len(confidence)} and {len(user_factors)}")
    if len(item) and (item.min() < 0 or item.max() >= items):
        raise ValueError(f"expected items in [0, {items}), got {item.min()} to {item.max()}")
    k = user_factors.shape[1]
    equations = np.zeros((items, k, k + 1), np.float32)
    for new in np.unique(item):
        of = item == new
        X, c = user_factors[of], confidence[of]
        # A += Xt (C - I) X, b += Xt c
        equations[new, :, :k] = (X.T * (c - np.float32(1))) @ X
        equations[new, :, k] = X.T @ c
    return equations


def solve_item(equations: F32, user_gramian: F32, regularization: float) -> F32:
    """The vector (k,) of a new item from its normal equations (k, k + 1) and XtX (k, k) of all known users.

    Raises
    ------
    ValueError
        When the regularization is not positive.
    """
    if regularization <= 0:
        raise ValueError(f"expected a positive regularization, got {regularization}")
    k = len(equations)
    # (XtX + lambda I + Xt (C - I) X) y = Xt c
    A = user_gramian.astype(np.float64) + equations[:, :k] + regularization * np.eye(k)
    b = equations[:, k].astype(np.float64)
    if not solve(A, b):
        raise ValueError("expected a positive definite Gramian")
    return b.astype(np.float32)


def top_k(scores: F32, k: int, excluded: Rows) -> Rows:
    """Rows of the k best scores (items,), best first, ties by row number; fewer when fewer are left.

    excluded : rows to leave out; negative ones (unknown items) are ignored, and so are NaN scores

    >>> top_k(np.array([1, 3, 3, 9], np.float32), 2, np.array([3, -1])).tolist()
    [1, 2]
    """
    if k < 1:
        raise ValueError(f"expected k >= 1, got {k}")
    left = np.where(np.isnan(scores), np.float32(-np.inf), scores)
    left[excluded[excluded >= 0]] = -np.inf
    least = np.partition(left, len(left) - k)[len(left) - k] if k < len(left) else -np.inf
    candidates = np.flatnonzero((left >= least) & (left > -np.inf))
    return candidates[np.argsort(-left[candidates], kind="stable")[:k]]
