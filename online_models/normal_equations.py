"""The k x k normal equations of weighted ridge regression, built and solved in place by compiled loops.

- float32, as the factors are; a row that loses a pivot in rounding is built and solved again in float64.
- Inner loops run the full width, triangle or not, and take four rows at a time: only that becomes vector
  code, three to five times faster than the triangle's half as many steps.
- A solution that is not finite is none: a row with one is left as it is.
"""

import numpy as np
import numpy.typing as npt
from numba import njit

F32 = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]

_LARGEST = float(np.finfo(np.float32).max)


@njit(cache=True, nogil=True)
def solve_users(
    indptr: Rows,
    indices: Rows,
    confidence: F32,
    Y: F32,
    YtY: F32,
    regularization: float,
    wanted: npt.NDArray[np.bool_],
    users: F32,
    base: float = 1.0,
) -> None:
    """Fill the `wanted` (users,) of `users` (users, k) with the solution for their CSR row of confidences over Y (items, k).

    An item pulls by c - 1 + base: by c where each is a preference of 1, by c - 1 where one of c = 1 is no preference any more.

    Empty rows, and rows that are singular in float64 too, are left as they are.
    """
    k = Y.shape[1]
    A, b, block = np.empty((k, k), np.float32), np.empty(k, np.float32), np.empty((4, k), np.float32)
    A64, b64, block64 = np.empty((k, k)), np.empty(k), np.empty((4, k))
    for u in range(indptr.size - 1):
        if not wanted[u] or indptr[u] == indptr[u + 1]:
            continue
        of, c = indices[indptr[u] : indptr[u + 1]], confidence[indptr[u] : indptr[u + 1]]
        _user_equations(of, c, Y, YtY, regularization, base, A, b, block)
        if solve(A, b):
            users[u] = b
        else:
            _user_equations(of, c, Y, YtY, regularization, base, A64, b64, block64)
            if solve(A64, b64) and np.abs(b64).max() <= _LARGEST:
                users[u] = b64


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _user_equations(
    indices: Rows,
    confidence: F32,
    Y: F32,
    YtY: F32,
    regularization: float,
    base: float,
    A: Floats,
    b: Floats,
    block: Floats,
) -> None:
    """Fill A (k, k) and b (k,); `block` (4, k) is scratch."""
    n, k = indices.size, b.size
    # A = YtY + lambda I + sum_i (c_i - 1) y_i y_it, b = sum_i (c_i - 1 + base) y_i
    A[:], b[:] = YtY, 0
    for r in range(k):
        A[r, r] += regularization
    c, more = np.ones(4, block.dtype), np.zeros(4, block.dtype)  # c - 1 + base and c - 1
    for start in range(0, n, 4):
        for lane in range(4):
            entry = start + lane
            if entry < n:
                more[lane], block[lane] = confidence[entry] - 1, Y[indices[entry]]
                c[lane] = more[lane] + base
            else:
                more[lane], block[lane] = 0, 0
        y0, y1, y2, y3 = block[0], block[1], block[2], block[3]
        for r in range(k):
            w0, w1, w2, w3 = more[0] * y0[r], more[1] * y1[r], more[2] * y2[r], more[3] * y3[r]
            a = A[r]
            for s in range(k):
                a[s] += w0 * y0[s] + w1 * y1[s] + w2 * y2[s] + w3 * y3[s]
        for s in range(k):
            b[s] += c[0] * y0[s] + c[1] * y1[s] + c[2] * y2[s] + c[3] * y3[s]


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def solve(A: Floats, b: Floats) -> bool:
    """b becomes A^-1 b and the upper triangle of A its U, A = UtU.

    False when rounding has lost a pivot, or the solution is not finite.
    """
    k = b.size
    lost = 16 * k * np.finfo(A.dtype).eps  # what is left of a diagonal entry when only rounding errors are
    for j in range(k):
        least = lost * A[j, j]
        # U_j = (A_j - sum_{i<j} U_ij U_i) / sqrt(pivot)
        aj = A[j]
        whole = j - j % 4
        for i in range(0, whole, 4):
            a0, a1, a2, a3 = A[i], A[i + 1], A[i + 2], A[i + 3]
            u0, u1, u2, u3 = a0[j], a1[j], a2[j], a3[j]
            for s in range(k):
                aj[s] -= u0 * a0[s] + u1 * a1[s] + u2 * a2[s] + u3 * a3[s]
        for i in range(whole, j):
            ai, u = A[i], A[i, j]
            for s in range(k):
                aj[s] -= u * ai[s]
        if not aj[j] > least:
            return False
        aj *= A.dtype.type(1) / np.sqrt(aj[j])
    # Ut z = b, then U x = z
    for j in range(k):
        b[j] /= A[j, j]
        for s in range(j + 1, k):
            b[s] -= b[j] * A[j, s]
    for j in range(k - 1, -1, -1):
        rest = b[j]
        for s in range(j + 1, k):
            rest -= A[j, s] * b[s]
        b[j] = rest / A[j, j]
    return bool(np.isfinite(b).all())
