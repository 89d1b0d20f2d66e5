"""The best of many scores: one pass with a heap of those found so far, whose root is the worst of them."""

import numpy as np
import numpy.typing as npt
from numba import njit

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]


@njit(cache=True, nogil=True)
def best_of(scores: F32, count: int) -> tuple[I64, F32]:
    """Rows and values of the `count` best scores that are above -inf, best first, ties by row."""
    size = min(count, scores.size)
    rows, best = np.full(size, scores.size, np.int64), np.full(size, -np.inf, np.float32)
    for row in range(scores.size):
        if size and scores[row] > best[0]:
            best[0], rows[0] = scores[row], row
            sift(best, rows, size)
    held = unwound(best, rows)
    return rows[:held], best[:held]


@njit(cache=True, nogil=True)
def unwound(best: F32, rows: I64) -> int:
    """Put a heap in order, best first, ties by row; how many of its entries are above -inf."""
    for last in range(best.size - 1, 0, -1):
        best[0], best[last] = best[last], best[0]
        rows[0], rows[last] = rows[last], rows[0]
        sift(best, rows, last)
    held = 0
    while held < best.size and best[held] > -np.inf:
        held += 1
    return held


@njit(cache=True, nogil=True)
def sift(best: F32, rows: I64, size: int) -> None:
    """Let the root of a heap sink whose root is the worst: the lowest score, of equal ones the latest row."""
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            return
        other = child + 1
        if other < size and (best[other] < best[child] or (best[other] == best[child] and rows[other] > rows[child])):
            child = other
        if best[at] < best[child] or (best[at] == best[child] and rows[at] > rows[child]):
            return
        best[at], best[child] = best[child], best[at]
        rows[at], rows[child] = rows[child], rows[at]
        at = child
