"""Scores of items for one user, and the best of them, on one thread.

- BLAS would split this small product over threads of its own, which spin while they wait for each other: on two busy
  cores a request then took 9 ms of CPU instead of 1.3 ms. A compiled loop is as fast as one BLAS thread.
- Factors may be read-only memory, a mapped file say. The kernels see everything as read-only, so that they compile once.
"""

import numpy as np
import numpy.typing as npt
from numba import njit

from online_models.top_k import sift, unwound

F32 = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


def scores(factors: F32, vector: F32) -> F32:
    """y_i . x of every item.

    Parameters
    ----------
    factors : Y, float32 (items, k), C-contiguous, rows y_i
    vector : x, float32 (k,)

    Returns
    -------
    float32 (items,)

    >>> scores(np.eye(2, dtype=np.float32), np.array([3, 4], np.float32)).tolist()
    [3.0, 4.0]
    """
    return dot_rows(read_only(factors), read_only(vector))


def scores_of(factors: F32, rows: Rows, vector: F32) -> F32:
    """y_i . x of the items in the given rows (m,): the values that `scores` has there.

    >>> scores_of(np.eye(2, dtype=np.float32), np.array([1]), np.array([3, 4], np.float32)).tolist()
    [4.0]
    """
    return dot_some(read_only(factors), rows, read_only(vector))


def best_rows(factors: F32, vector: F32, count: int) -> tuple[Rows, F32]:
    """The rows of the `count` best scores, and these: best first, ties by row; NaN and -inf are never among them.

    Parameters
    ----------
    factors : Y, float32 (items, k), C-contiguous
    vector : x, float32 (k,)

    Returns
    -------
    rows int64 (m,), scores float32 (m,), m = min(count, items with a score)

    Raises
    ------
    ValueError
        When count is below 1.

    >>> rows, found = best_rows(np.eye(3, dtype=np.float32), np.array([3, 4, 4], np.float32), 2)
    >>> rows.tolist(), found.tolist()
    ([1, 2], [4.0, 4.0])
    """
    if count < 1:
        raise ValueError(f"expected count >= 1, got {count}")
    return best_dots(read_only(factors), read_only(vector), min(count, len(factors)))


def read_only(array: F32) -> F32:
    """The same float32 memory as a plain read-only array; other types are converted."""
    view = np.asarray(array, np.float32).view()
    view.flags.writeable = False
    return view


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def dot_rows(factors: F32, vector: F32) -> F32:
    """The compiled loop of `scores`."""
    found = np.empty(len(factors), np.float32)
    for row in range(len(factors)):
        total = np.float32(0)
        for column in range(len(vector)):
            total += factors[row, column] * vector[column]
        found[row] = total
    return found


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def dot_some(factors: F32, rows: Rows, vector: F32) -> F32:
    """The compiled loop of `scores_of`."""
    found = np.empty(len(rows), np.float32)
    for place in range(len(rows)):
        total = np.float32(0)
        for column in range(len(vector)):
            total += factors[rows[place], column] * vector[column]
        found[place] = total
    return found


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def best_dots(factors: F32, vector: F32, count: int) -> tuple[Rows, F32]:
    """The compiled loop of `best_rows`: one pass over memory, with a heap of the best whose root is the worst of them."""
    rows = np.full(count, len(factors), np.int64)
    best = np.full(count, -np.inf, np.float32)
    for row in range(len(factors)):
        total = np.float32(0)
        for column in range(len(vector)):
            total += factors[row, column] * vector[column]
        if count and total > best[0]:  # of equal ones the earlier row stays
            best[0], rows[0] = total, row
            sift(best, rows, count)
    found = unwound(best, rows)
    return rows[:found], best[:found]
