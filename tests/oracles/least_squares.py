"""Weighted ridge regression by dense solves in float64: the oracle of fold-ins and of streaming items, with seeded inputs."""

import numpy as np
import numpy.typing as npt

from online_models.recency import Confidences

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


def dense_fold_in(Y: F32, rows: npt.NDArray[np.integer], c: F32, regularization: float, *, fading: bool = False) -> F64:
    """x = (Yt C Y + lambda I)^-1 Yt C p, with C the identity and p zero but for the entries: 1, or fading (c - 1) / c."""
    items, k = Y.shape
    C, preference, Yd = np.ones(items), np.zeros(items), Y.astype(np.float64)
    C[rows] = c.astype(np.float64)
    preference[rows] = 1 - 1 / C[rows] if fading else 1
    A, b = (Yd.T * C) @ Yd + regularization * np.eye(k), (Yd.T * C) @ preference
    return np.linalg.solve(A, b).astype(np.float64)


def dense_users(Y: F32, entries: Confidences, regularization: float, *, fading: bool = False) -> F64:
    """`dense_fold_in` of each CSR row, zeros where it is empty: (users, k)."""
    users = np.zeros((len(entries.indptr) - 1, Y.shape[1]))
    for user in range(len(users)):
        of = slice(entries.indptr[user], entries.indptr[user + 1])
        if of.start < of.stop:
            users[user] = dense_fold_in(Y, entries.indices[of], entries.confidence[of], regularization, fading=fading)
    return users


def factors(rng: np.random.Generator, rows: int, k: int) -> F32:
    """Normal factors of expected length 1."""
    return rng.normal(scale=k**-0.5, size=(rows, k)).astype(np.float32)


def drawn_entries(rng: np.random.Generator, users: int, items: int, most: int | None = None) -> Confidences:
    """Each user with 0 to `most` (all) of the items, in any order."""
    most = items if most is None else min(most, items)
    rows = [rng.permutation(items)[: rng.integers(0, most + 1)] for _ in range(users)]
    indptr = np.cumsum([0, *map(len, rows)])
    confidence = (1 + rng.exponential(10, indptr[-1])).astype(np.float32)
    return Confidences(indptr, np.concatenate(rows), confidence)
