"""What all fold-ins over the same items share: M = YtY + lambda I, factored once, so that a short history costs an n x n solve.

- Woodbury's identity in symmetric form: with Z = S Yu L^-1t for M = L Lt, S = (C - I)^1/2 and Yu the n rows of a user,
  (M + Yut (C - I) Yu)^-1 Yut c = L^-1t Zt (I + Z Zt)^-1 S^-1 c, and the n x n matrix has no eigenvalue below 1.
- In float64, and for ten items of 64 factors still less than half the cost of the k x k system in float32; nothing to keep but
  k x k numbers.
- Longer rows, and those with a confidence below 1, are for `normal_equations`.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from numba import njit

from online_models.normal_equations import F32, Rows

F64 = npt.NDArray[np.float64]

_LEAST_EXTRA = 2.0**-40
"""Stands for c - 1 = 0, which has no S^-1; a thousandth of what float32 tells apart from c = 1."""

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Ridge:
    """M = YtY + lambda I of fixed item factors.

    gramian : YtY, float32 (k, k); regularization : lambda
    inverse : M^-1, float32 (k, k); whitener : L^-1t, float64 (k, k), M = L Lt
    """

    gramian: F32
    regularization: float
    inverse: F32
    whitener: F64

    @classmethod
    def of(cls, gramian: F32, regularization: float) -> Self:
        """Factor it once for all users.

        Raises
        ------
        ValueError
            When the regularization is not positive or the Gramian is not one.

        References
        ----------
        Hager: Updating the inverse of a matrix. SIAM Review 31, 1989.

        >>> Ridge.of(np.full((1, 1), 3, np.float32), 1.0).inverse.tolist()
        [[0.25]]
        """
        if not regularization > 0:
            raise ValueError(f"expected a positive regularization, got {regularization}")
        # M = L Lt
        M = gramian.astype(np.float64) + regularization * np.eye(len(gramian))
        try:
            whitener = np.ascontiguousarray(np.linalg.inv(np.linalg.cholesky(M)).T)
        except np.linalg.LinAlgError as error:
            raise ValueError(f"expected a positive definite Gramian: {error}") from error
        if not np.isfinite(whitener).all():
            raise ValueError("expected a finite Gramian")
        # M^-1 = L^-1t L^-1
        return cls(gramian, regularization, (whitener @ whitener.T).astype(np.float32), whitener)


def short(factors: int) -> int:
    """Rows up to which the n x n system is the cheaper one, measured at k = 32, 64 and 128."""
    return 3 * factors // 8


@njit(cache=True, nogil=True)
def solve_short_users(
    indptr: Rows, indices: Rows, confidence: F32, Y: F32, whitener: F64, longest: int, users: F32, base: float = 1.0
) -> npt.NDArray[np.bool_]:
    """Fill `users` (users, k) with the solution for each CSR row of at most `longest` confidences >= 1 over Y (items, k).

    `base` as in `normal_equations`. Returns (users,), which rows are still to do: the others, and those whose solution is not
    finite.
    """
    k = Y.shape[1]
    Z, K = np.empty((longest, k)), np.empty((longest, longest))
    s, a, w, x = np.empty(longest), np.empty(longest), np.empty(k), np.empty(k)
    left = np.zeros(indptr.size - 1, np.bool_)
    for u in range(indptr.size - 1):
        n = indptr[u + 1] - indptr[u]
        if n == 0:
            continue
        of, c = indices[indptr[u] : indptr[u + 1]], confidence[indptr[u] : indptr[u + 1]]
        left[u] = n > longest or not c.min() >= 1
        if not left[u]:
            for i in range(n):
                s[i] = np.sqrt(max(c[i] - 1.0, _LEAST_EXTRA))
                a[i] = (c[i] - 1.0 + base) / s[i]
            _whitened(of, s, Y, whitener, Z)
            _solve_small(Z, K, a[:n])
            _from_whitened(Z, a[:n], whitener, w, x)
            # NaN is not smaller either
            left[u] = not np.abs(x).max() <= _LARGEST
            if not left[u]:
                users[u] = x
    return left


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _whitened(indices: Rows, s: F64, Y: F32, whitener: F64, Z: F64) -> None:
    """Z = S Yu L^-1t in the first n rows of Z (longest, k); four rows of L^-1t at a time, for vector code."""
    k = Y.shape[1]
    whole = k - k % 4
    for i in range(indices.size):
        y, z = Y[indices[i]], Z[i]
        z[:] = 0
        for q in range(0, whole, 4):
            w0, w1, w2, w3 = whitener[q], whitener[q + 1], whitener[q + 2], whitener[q + 3]
            t0, t1, t2, t3 = s[i] * y[q], s[i] * y[q + 1], s[i] * y[q + 2], s[i] * y[q + 3]
            for r in range(k):
                z[r] += t0 * w0[r] + t1 * w1[r] + t2 * w2[r] + t3 * w3[r]
        for q in range(whole, k):
            row, t = whitener[q], s[i] * y[q]
            for r in range(k):
                z[r] += t * row[r]


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _solve_small(Z: F64, K: F64, a: F64) -> None:
    """a (n,) becomes (I + Z Zt)^-1 a; K is scratch, at least (n, n)."""
    n, k = a.size, Z.shape[1]
    for i in range(n):
        zi, li = Z[i], K[i]
        for j in range(i + 1):
            zj, t = Z[j], 0.0
            for r in range(k):
                t += zi[r] * zj[r]
            li[j] = t
        li[i] += 1
        # I + Z Zt = L Lt, row by row; L z = a
        for j in range(i):
            lj, t = K[j], li[j]
            for r in range(j):
                t -= li[r] * lj[r]
            li[j] = t / lj[j]
        pivot, t = li[i], a[i]
        for r in range(i):
            pivot -= li[r] * li[r]
            t -= li[r] * a[r]
        li[i] = np.sqrt(pivot)
        a[i] = t / li[i]
    # Lt x = z
    for i in range(n - 1, -1, -1):
        li = K[i]
        a[i] /= li[i]
        for r in range(i):
            a[r] -= li[r] * a[i]


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _from_whitened(Z: F64, a: F64, whitener: F64, w: F64, x: F64) -> None:
    """x = L^-1t w with w = Zt a."""
    k = x.size
    w[:] = 0
    for i in range(a.size):
        zi = Z[i]
        for r in range(k):
            w[r] += a[i] * zi[r]
    for q in range(k):
        row, t = whitener[q], 0.0
        for r in range(k):
            t += row[r] * w[r]
        x[q] = t
