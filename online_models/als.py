"""Implicit-feedback ALS of Hu, Koren and Volinsky (2008): the least squares behind fold-in and new items.

- Confidence c = 1 + alpha r: r sums the strengths of a user's events with an item, the newest weighing most.
- Fold-in is exact: an n x n solve for a short history where a `Ridge` is at hand, else a k x k Cholesky; or a few
  conjugate gradient steps from a vector that is nearly right.
- A vector depends on its own history alone, to the bit: neither on who else is folded in nor on when.
- Bad input gives zeros, never a factor that is not finite.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from online_models.conjugate_gradient import refine_users
from online_models.contracts.events import TYPE_CODES, EventType
from online_models.contracts.ids import hashes_of
from online_models.history import UserHistory, concatenated
from online_models.normal_equations import solve_users
from online_models.recency import Confidences, recent_confidences
from online_models.ridge import Ridge, short, solve_short_users
from online_models.top_k import best_of

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
    half_life_days : an event this much older than the newest of its history counts half; infinite for no decay
    """

    alpha: float = 10.0
    regularization: float = 0.05
    half_life_events: float = 10.0
    half_life_days: float = np.inf

    def __post_init__(self) -> None:
        """Refuse what has no unique solution."""
        if not all(
            value > 0 for value in (self.alpha, self.regularization, self.half_life_events, self.half_life_days)
        ):
            raise ValueError(f"expected positive alpha, regularization and half-lives, got {self}")

    @classmethod
    def of(cls, hyperparameters: Mapping[str, float]) -> Self:
        """From a manifest's `alpha`, `regularization`, `recency_half_life_events` and, where given, `recency_half_life_days`."""
        return cls(
            alpha=hyperparameters["alpha"],
            regularization=hyperparameters["regularization"],
            half_life_events=hyperparameters["recency_half_life_events"],
            half_life_days=hyperparameters.get("recency_half_life_days", np.inf),
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
    >>> index.rows(hashes_of(["b", "?", "a"])).tolist()
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
        return cls(hashes_of(item_ids))

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
    ridge: Ridge | None = None,
    *,
    fading: bool = False,
) -> F32:
    """Exact user vectors for fixed item factors; zeros for a user without entries, or without a finite solution.

    Parameters
    ----------
    indptr : (users + 1,); indices, confidence : (entries,), CSR rows of distinct items with their c >= 1
    item_factors : Y (items, k); item_gramian : YtY (k, k)
    ridge : of this Gramian and regularization; with one, users of up to 3 k / 8 items cost less, those of ten less than half
    fading : preferences are (c - 1) / c instead of 1, so that an item whose confidence has decayed to 1 says nothing any more;
        with recency weights it is what makes the old fade (Rendle et al.: Revisiting the performance of iALS. RecSys 2022)

    Returns
    -------
    float32 (users, k)

    Raises
    ------
    ValueError
        When an index is out of range, the regularization is not positive, or the ridge is another one.

    References
    ----------
    Hu, Koren, Volinsky: Collaborative filtering for implicit feedback datasets. ICDM 2008.
    """
    rows = _checked(Confidences(indptr, indices, confidence), item_factors, regularization)
    Y, YtY = np.ascontiguousarray(item_factors, np.float32), np.ascontiguousarray(item_gramian, np.float32)
    users = np.zeros((len(indptr) - 1, Y.shape[1]), np.float32)
    left, base = np.ones(len(users), np.bool_), 0.0 if fading else 1.0
    if ridge is not None:
        _check_ridge(ridge, YtY, regularization)
        left = solve_short_users(*rows, Y, ridge.whitener, short(Y.shape[1]), users, base)
    solve_users(*rows, Y, YtY, regularization, left, users, base)
    return users


def warm_fold_in(
    indptr: npt.NDArray[np.integer],
    indices: npt.NDArray[np.integer],
    confidence: F32,
    item_factors: F32,
    item_gramian: F32,
    regularization: float,
    start: F32,
    steps: int,
    ridge: Ridge | None = None,
) -> F32:
    """User vectors after a few conjugate gradient steps; zeros for a user without entries.

    Where steps end in something that is not finite the user is folded in exactly. Other parameters as in `fold_in`.

    Parameters
    ----------
    start : float32 (users, k), where each user's steps begin; a row that is not finite counts as zeros
    steps : of each user; 2 to 3 are enough, from zeros too

    Returns
    -------
    float32 (users, k)

    Raises
    ------
    ValueError
        As `fold_in`; also when `start` has another shape, or the Gramian is not positive semidefinite.

    References
    ----------
    Takács, Pilászy, Tikk: Applications of the conjugate gradient method for implicit feedback collaborative filtering.
    RecSys 2011.
    """
    rows = _checked(Confidences(indptr, indices, confidence), item_factors, regularization)
    Y, YtY = np.ascontiguousarray(item_factors, np.float32), np.ascontiguousarray(item_gramian, np.float32)
    if start.shape != (len(indptr) - 1, Y.shape[1]):
        raise ValueError(f"expected a start of {len(indptr) - 1} x {Y.shape[1]}, got {start.shape}")
    ridge = ridge or Ridge.of(YtY, regularization)
    _check_ridge(ridge, YtY, regularization)
    usable = np.isfinite(start).all(axis=1) & (np.diff(indptr) > 0)
    users = np.where(usable[:, None], start, np.float32(0)).astype(np.float32)
    lost = refine_users(*rows, Y, YtY, regularization, ridge.inverse, steps, users)
    users[lost] = 0
    solve_users(*rows, Y, YtY, regularization, lost, users, 1.0)
    return users


def _checked(rows: Confidences, item_factors: F32, regularization: float) -> tuple[Rows, Rows, F32]:
    """The rows as compiled code takes them. Raises ValueError when they are not CSR rows of these items."""
    indptr, indices, confidence = rows
    if len(indices) and (indices.min() < 0 or indices.max() >= len(item_factors)):
        raise ValueError(f"expected rows in [0, {len(item_factors)}), got {indices.min()} to {indices.max()}")
    if len(indptr) == 0 or indptr[-1] != len(indices) or len(indices) != len(confidence):
        raise ValueError(f"expected CSR rows, got {len(indices)} indices and {len(confidence)} confidences")
    if not regularization > 0:
        raise ValueError(f"expected a positive regularization, got {regularization}")
    return (
        np.ascontiguousarray(indptr, np.int64),
        np.ascontiguousarray(indices, np.int64),
        np.ascontiguousarray(confidence, np.float32),
    )


def _check_ridge(ridge: Ridge, YtY: F32, regularization: float) -> None:
    if ridge.regularization != regularization or ridge.gramian.shape != YtY.shape:
        raise ValueError(
            f"expected the ridge of {YtY.shape} and {regularization}, got {ridge.gramian.shape} and {ridge.regularization}"
        )


def confidences(histories: Sequence[UserHistory], index: ItemIndex, how: FoldIn) -> Confidences:
    """What bounded histories say of the items of the index.

    An event's age counts every later event of the history, and the time to its newest, also those of items that the model does
    not know; the weighted strengths of an item's events add up.
    """
    many = np.array([len(history.recent) for history in histories], np.int64)
    recent = concatenated([history.recent for history in histories])
    rows = index.rows(recent["item"])
    ts_ms, strength = np.ascontiguousarray(recent["ts_ms"]), np.ascontiguousarray(recent["strength"])
    return Confidences(
        *recent_confidences(ts_ms, strength, rows, many, how.alpha, how.half_life_events, how.half_life_days)
    )


def fold_in_histories(
    histories: Sequence[UserHistory],
    index: ItemIndex,
    item_factors: F32,
    item_gramian: F32,
    how: FoldIn,
    ridge: Ridge | None = None,
) -> F32:
    """User vectors of bounded histories, by their `confidences`; zeros for one without a known item.

    Parameters
    ----------
    histories : `users` of them; index : rows of item_factors (items, k); item_gramian : (k, k)
    ridge : as in `fold_in`

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
    rows = confidences(histories, index, how)
    return fold_in(*rows, item_factors, item_gramian, how.regularization, ridge)


def fold_in_history(
    history: UserHistory,
    index: ItemIndex,
    item_factors: F32,
    item_gramian: F32,
    how: FoldIn,
    ridge: Ridge | None = None,
) -> F32:
    """One user's vector (k,), as `fold_in_histories` has it."""
    vector: F32 = fold_in_histories([history], index, item_factors, item_gramian, how, ridge)[0]
    return vector


def top_k(scores: F32, k: int, excluded: Rows) -> Rows:
    """Rows of the k best scores (items,), best first, ties by row number; fewer when fewer are left.

    excluded : rows to leave out; negative ones (unknown items) are ignored, and so are NaN scores

    >>> top_k(np.array([1, 3, 3, 9], np.float32), 2, np.array([3, -1])).tolist()
    [1, 2]
    """
    if k < 1:
        raise ValueError(f"expected k >= 1, got {k}")
    left = np.array(scores, np.float32)
    left[excluded[excluded >= 0]] = -np.inf
    return best_of(left, k)[0]
