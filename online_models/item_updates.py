"""Streaming item vectors for fixed users: trained items start from a prior that reproduces them, new ones from nothing.

- In full: each item has its normal equations [A | b], to which every event adds; k (k + 1) numbers an item.
- In brief: each item has its vector and one weight. What its events have added to A is taken for that weight's share of XtX,
  so that all items are solved in one eigenbasis; only the event at hand counts exactly.
- Event by event in compiled code: results depend on the order of events alone, to the bit, never on where a batch is cut.
- An event that is not finite, has c < 1 or would overflow float32 is left out.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from numba import njit

from online_models.normal_equations import F32, Rows, solve

F64 = npt.NDArray[np.float64]

_LARGEST_TERM = 2.0**100
"""Of what one event adds: 2^28 of them still fit into float32."""


def trained_equations(item_factors: F32, weights: F64, users: int, user_gramian: F32, regularization: float) -> F32:
    """Where the normal equations [A | b] of trained items begin: solved as they are, they give the trained vectors.

    What an item was trained on is no longer known one by one; its sum of (c - 1) x xt is taken for that many average users.

    Parameters
    ----------
    item_factors : y_0 (items, k)
    weights : w (items,), each item's sum of c - 1 in training
    users : how many there are in `user_gramian`, XtX (k, k)

    Returns
    -------
    float32 (items, k, k + 1), for each item (s - 1) XtX and (s XtX + lambda I) y_0 with s = 1 + w / users

    Raises
    ------
    ValueError
        When a weight is negative or not finite, there is no user, or the columns differ in length.

    References
    ----------
    Hu, Koren, Volinsky: Collaborative filtering for implicit feedback datasets. ICDM 2008.

    >>> trained_equations(np.ones((1, 1), np.float32), np.array([6.0]), 3, np.full((1, 1), 5, np.float32), 1.0).tolist()
    [[[10.0, 16.0]]]
    """
    if len(weights) != len(item_factors) or not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError(f"expected {len(item_factors)} weights >= 0, got {len(weights)} from {weights.min(initial=0)}")
    if users < 1:
        raise ValueError(f"expected users >= 1, got {users}")
    XtX, Y, k = user_gramian.astype(np.float64), item_factors.astype(np.float64), len(user_gramian)
    equations = np.empty((len(Y), k, k + 1), np.float32)
    # A_0 - XtX - lambda I = (s - 1) XtX with s = 1 + w / n
    equations[:, :, :k] = (weights / users)[:, None, None] * XtX
    # b_0 = (s XtX + lambda I) y_0
    equations[:, :, k] = (1 + weights / users)[:, None] * (Y @ XtX) + regularization * Y
    return equations


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
    k = user_factors.shape[1]
    return with_events(np.zeros((items, k, k + 1), np.float32), item, confidence, user_factors)


def with_events(equations: F32, item: Rows, confidence: F32, user_factors: F32) -> F32:
    """The normal equations (items, k, k + 1) after events (n,), oldest first; parameters and raises as `item_equations`."""
    _check_events(item, confidence, user_factors, len(equations))
    after = equations.astype(np.float32)  # a copy
    _add_events(
        after,
        np.ascontiguousarray(item, np.int64),
        np.ascontiguousarray(confidence, np.float32),
        np.ascontiguousarray(user_factors, np.float32),
    )
    return after


def solve_items(equations: F32, user_gramian: F32, regularization: float) -> F32:
    """Vectors (items, k) of normal equations (items, k, k + 1) over XtX (k, k); zeros where they have no finite solution.

    Raises
    ------
    ValueError
        When the regularization is not positive.
    """
    if not regularization > 0:
        raise ValueError(f"expected a positive regularization, got {regularization}")
    vectors = np.zeros(equations.shape[:2], np.float32)
    _solve_items(np.ascontiguousarray(equations, np.float32), user_gramian.astype(np.float64), regularization, vectors)
    return vectors


def solve_item(equations: F32, user_gramian: F32, regularization: float) -> F32:
    """The vector (k,) of one item from its normal equations (k, k + 1) and XtX (k, k) of all known users.

    Raises
    ------
    ValueError
        When the regularization is not positive, or there is no finite solution.
    """
    if not regularization > 0:
        raise ValueError(f"expected a positive regularization, got {regularization}")
    vectors = np.zeros((1, len(equations)), np.float32)
    one = np.ascontiguousarray(equations[None], np.float32)
    if _solve_items(one, user_gramian.astype(np.float64), regularization, vectors) < 1:
        raise ValueError("expected a positive definite Gramian")
    vector: F32 = vectors[0]
    return vector


@dataclass(frozen=True, slots=True)
class UserBasis:
    """The users' Gramian in its eigenbasis, XtX = V diag(e) Vt.

    values : e, float64 (k,), none below 0; vectors : V, float64 (k, k)
    users : how many there are; regularization : lambda
    """

    values: F64
    vectors: F64
    users: int
    regularization: float

    @classmethod
    def of(cls, user_gramian: F32, users: int, regularization: float) -> Self:
        """Decompose XtX (k, k) of so many users.

        Raises
        ------
        ValueError
            When there is no user, the regularization is not positive or the Gramian is not finite.
        """
        if users < 1 or not regularization > 0 or not np.isfinite(user_gramian).all():
            raise ValueError(
                f"expected users, a regularization and a finite Gramian, got {users} users and {regularization}"
            )
        values, vectors = np.linalg.eigh(user_gramian.astype(np.float64))
        return cls(np.maximum(values, 0.0), np.ascontiguousarray(vectors), users, regularization)


def moved_items(
    item_factors: F32, weights: F64, item: Rows, confidence: F32, user_factors: F32, basis: UserBasis
) -> tuple[F32, F64]:
    """Vectors and weights of items after events (n,), oldest first, in O(k) numbers an item and O(k^2) steps an event.

    A new item is (0, 0) before its first event, and exact after it.

    Parameters
    ----------
    item_factors : y (items, k); weights : w (items,), each item's sum of c - 1 so far, its training included
    item, confidence, user_factors : of each event which item, c, and x of its user (n, k)

    Returns
    -------
    float32 (items, k) and float64 (items,)

    Raises
    ------
    ValueError
        When an item is out of range or the columns differ in length.

    References
    ----------
    Sherman, Morrison: Adjustment of an inverse matrix corresponding to a change in one element. Annals of Mathematical
    Statistics 21, 1950. He, Zhang, Kan, Chua: Fast matrix factorization for online recommendation with implicit feedback.
    SIGIR 2016.

    >>> basis = UserBasis.of(np.full((1, 1), 2, np.float32), users=4, regularization=1.0)
    >>> one = np.ones(1, np.float32)
    >>> vectors, weights = moved_items(np.zeros((1, 1), np.float32), np.zeros(1), np.array([0]), 2 * one, one[None], basis)
    >>> vectors.tolist(), weights.tolist()  # (2 + 1 + (2 - 1) * 1 * 1) y = 2 * 1
    ([[0.5]], [1.0])
    """
    vectors, after = item_factors.astype(np.float32), weights.astype(np.float64)  # copies
    move_items(vectors, after, item, confidence, user_factors, basis)
    return vectors, after


def move_items(
    item_factors: F32, weights: F64, item: Rows, confidence: F32, user_factors: F32, basis: UserBasis
) -> None:
    """`moved_items` in place: the float32 (items, k) and float64 (items,) that are given take the events in."""
    _check_events(item, confidence, user_factors, len(item_factors))
    _move(
        item_factors,
        weights,
        np.ascontiguousarray(item, np.int64),
        np.ascontiguousarray(confidence, np.float32),
        np.ascontiguousarray(user_factors, np.float32),
        basis.values,
        basis.vectors,
        float(basis.users),
        basis.regularization,
    )


def _check_events(item: Rows, confidence: F32, user_factors: F32, items: int) -> None:
    if not len(item) == len(confidence) == len(user_factors):
        raise ValueError(f"expected one length, got {len(item)}, {len(confidence)} and {len(user_factors)}")
    if len(item) and (item.min() < 0 or item.max() >= items):
        raise ValueError(f"expected items in [0, {items}), got {item.min()} to {item.max()}")


@njit(cache=True, nogil=True)
def _usable(c: np.float32, x: F32) -> bool:
    """Whether c >= 1 and all of (c - 1) x xt and c x stay below the largest term."""
    largest = 0.0
    for s in range(x.size):
        size = abs(np.float64(x[s]))
        if not size <= _LARGEST_TERM:
            return False
        largest = max(largest, size)
    return bool(c >= 1 and c * max(largest, largest * largest) <= _LARGEST_TERM)


@njit(cache=True, nogil=True)
def _add_events(equations: F32, item: Rows, confidence: F32, users: F32) -> None:
    """Each event in turn: A += (c - 1) x xt, b += c x."""
    k = users.shape[1]
    for n in range(item.size):
        c, x, Ab = confidence[n], users[n], equations[item[n]]
        if not _usable(c, x):
            continue
        for r in range(k):
            # A += (c - 1) x xt
            row, t = Ab[r], (c - np.float32(1)) * x[r]
            for s in range(k):
                row[s] += t * x[s]
            # b += c x
            row[k] += c * x[r]


@njit(cache=True, nogil=True)
def _solve_items(equations: F32, XtX: F64, regularization: float, vectors: F32) -> int:
    """Fill the vectors (items, k) of items whose system has a finite solution; how many have."""
    k, solved = XtX.shape[0], 0
    A, b = np.empty((k, k)), np.empty(k)
    for i in range(vectors.shape[0]):
        # (XtX + lambda I + A) y = b
        A[:], b[:] = XtX + equations[i, :, :k], equations[i, :, k]
        for r in range(k):
            A[r, r] += regularization
        if solve(A, b) and np.abs(b).max() <= np.finfo(np.float32).max:
            vectors[i] = b
            solved += 1
    return solved


@njit(cache=True, nogil=True)
def _move(
    vectors: F32,
    weights: F64,
    item: Rows,
    confidence: F32,
    users: F32,
    e: F64,
    V: F64,
    n_users: float,
    regularization: float,
) -> None:
    """Each event in turn; `e` and `V` are the eigenvalues and -vectors of XtX."""
    q, moved = np.empty(e.size), np.empty(e.size)
    for n in range(item.size):
        c, x, i = confidence[n], users[n], item[n]
        if not _usable(c, x):
            continue
        # P = s XtX + lambda I with s = 1 + w / n
        s = 1.0 + weights[i] / n_users
        xq, xy = _direction(x, vectors[i], e, V, s, regularization, q)
        # (P + (c - 1) x xt) y' = P y + c x, so y' = y + (c - (c - 1) xt y) / (1 + (c - 1) xt q) q with q = P^-1 x
        step = (c - (c - 1.0) * xy) / (1.0 + (c - 1.0) * xq)
        for r in range(e.size):
            moved[r] = vectors[i, r] + step * q[r]
        if np.abs(moved).max() <= np.finfo(np.float32).max:
            vectors[i] = moved
            weights[i] += c - 1.0


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _direction(x: F32, y: F32, e: F64, V: F64, s: float, regularization: float, q: F64) -> tuple[float, float]:
    """q = V diag(1 / (s e + lambda)) Vt x, and the products xt q and xt y."""
    k = x.size
    rotated = np.zeros(k)
    for r in range(k):
        row, t = V[r], np.float64(x[r])
        for j in range(k):
            rotated[j] += t * row[j]
    for j in range(k):
        rotated[j] /= s * e[j] + regularization
    xq, xy = 0.0, 0.0
    for r in range(k):
        row, across = V[r], 0.0
        for j in range(k):
            across += row[j] * rotated[j]
        q[r] = across
        xq += across * x[r]
        xy += np.float64(x[r]) * y[r]
    return xq, xy
