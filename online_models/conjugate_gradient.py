"""A few conjugate gradient steps towards a user's vector, from the vector that they had before or from zero.

- Preconditioned by M^-1, M = YtY + lambda I: then only as many directions are left as the user has items. On MovieLens two
  steps from zero come closer than three plain ones do, and a step costs the same.
- M p is carried along (M z = r), so that a step reads M^-1 and the user's items once, and the Gramian never.
- A step only ever comes closer, in the norm of the system: stopping after any of them is safe.
"""

import numpy as np
import numpy.typing as npt
from numba import njit

from online_models.normal_equations import F32, Rows


@njit(cache=True, nogil=True)
def refine_users(
    indptr: Rows,
    indices: Rows,
    confidence: F32,
    Y: F32,
    YtY: F32,
    regularization: float,
    inverse: F32,
    steps: int,
    users: F32,
) -> npt.NDArray[np.bool_]:
    """Move each of `users` (users, k) that has entries by `steps` steps; inverse : M^-1 (k, k).

    Returns (users,), which of them are lost: their steps or their vector are not finite.

    References
    ----------
    Takács, Pilászy, Tikk: Applications of the conjugate gradient method for implicit feedback collaborative filtering.
    RecSys 2011. With a preconditioner: Golub, Van Loan, Matrix Computations, 11.5.
    """
    lost = np.zeros(indptr.size - 1, np.bool_)
    scratch = np.empty((5, Y.shape[1]), np.float32)
    for u in range(indptr.size - 1):
        if indptr[u] < indptr[u + 1]:
            of, c = indices[indptr[u] : indptr[u + 1]], confidence[indptr[u] : indptr[u + 1]]
            _residual(of, c, Y, YtY, np.float32(regularization), users[u], scratch[0])
            lost[u] = not (_descend(of, c, Y, inverse, steps, users[u], scratch) and np.isfinite(users[u]).all())
    return lost


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _residual(indices: Rows, c: F32, Y: F32, YtY: F32, regularization: np.float32, x: F32, r: F32) -> None:
    """r = b - A x = sum_i (c_i - (c_i - 1) y_it x) y_i - (YtY + lambda I) x."""
    k = x.size
    for s in range(k):
        r[s] = -regularization * x[s]
    for q in range(k):
        # A start from zero, and a sparse one, need not read the Gramian.
        if x[q] != 0:
            row, t = YtY[q], x[q]
            for s in range(k):
                r[s] -= t * row[s]
    for i in range(indices.size):
        y, t = Y[indices[i]], np.float32(0)
        for s in range(k):
            t += y[s] * x[s]
        t = c[i] - (c[i] - np.float32(1)) * t
        for s in range(k):
            r[s] += t * y[s]


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _descend(indices: Rows, c: F32, Y: F32, inverse: F32, steps: int, x: F32, scratch: F32) -> bool:
    """`steps` steps of x (k,), whose residual r is scratch[0]; fewer where nothing is left, or where c < 1 makes A indefinite.

    False when a product is not finite.
    """
    r, z, p, Mp, Ap = scratch[0], scratch[1], scratch[2], scratch[3], scratch[4]
    before = np.float32(0)
    p[:], Mp[:] = 0, 0
    for _ in range(steps):
        # z = M^-1 r
        _times(inverse, r, z)
        rz = _dot(r, z)
        # p = z + beta p with beta = rz' / rz, and so M p = r + beta M p
        beta = rz / before if before > 0 else np.float32(0)
        for s in range(x.size):
            p[s] = z[s] + beta * p[s]
            Mp[s] = r[s] + beta * Mp[s]
        # A p = M p + sum_i (c_i - 1) (y_it p) y_i
        Ap[:] = Mp
        for i in range(indices.size):
            y = Y[indices[i]]
            t = (c[i] - np.float32(1)) * _dot(y, p)
            for s in range(x.size):
                Ap[s] += t * y[s]
        pAp = _dot(p, Ap)
        if not (np.isfinite(rz) and np.isfinite(pAp)):
            return False
        if rz <= 0 or pAp <= 0:
            break
        # x += alpha p, r -= alpha A p with alpha = rz / ptAp
        alpha = rz / pAp
        for s in range(x.size):
            x[s] += alpha * p[s]
            r[s] -= alpha * Ap[s]
        before = rz
    return True


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _times(A: F32, x: F32, y: F32) -> None:
    """y = A x of a symmetric A, by rows: vector code."""
    y[:] = 0
    for q in range(x.size):
        row, t = A[q], x[q]
        for s in range(x.size):
            y[s] += t * row[s]


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _dot(x: F32, y: F32) -> np.float32:
    t = np.float32(0)
    for s in range(x.size):
        t += x[s] * y[s]
    return t
