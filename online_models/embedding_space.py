"""Embedding space as monitored features: where users and items lie in the space of one model version.

- A few coordinates instead of all factors: the principal axes of the item factors, so that what is watched is what tells
  items apart, each coordinate in standard deviations of what the version was trained on.
- Axes are part of the artifact: a coordinate means nothing in another version's space.
"""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from online_models.contracts.columns import Column

F32 = npt.NDArray[np.float32]

AXES: Final = 4
PREFIX: Final = "embedding."
ITEM: Final = "embedding.item."
USER: Final = "embedding.user."


@dataclass(frozen=True, slots=True)
class Axes:
    """How a vector (k,) becomes coordinates (d,): (vector @ directions - center) / scale.

    directions : float32 (k, d), orthonormal; center, scale : float32 (d,)
    """

    directions: F32
    center: F32
    scale: F32

    @classmethod
    def of(cls, item_factors: F32, vectors: F32, axes: int = AXES) -> Self:
        """The first principal axes of the item factors (i, k), scaled by the spread of vectors (n, k) along them.

        The sign of an axis is that of its largest component, so that the same factors give the same axes.

        >>> items = np.array([[2.0, 0.1], [-2.0, -0.1], [1.0, 0.0], [-1.0, 0.0]], np.float32)
        >>> coordinates(items, Axes.of(items, items, 1)).round(1).ravel().tolist()
        [1.3, -1.3, 0.6, -0.6]
        """
        _, _, rows = np.linalg.svd(item_factors - item_factors.mean(0), full_matrices=False)
        directions = rows[:axes].T.astype(np.float32)  # (k, d)
        signs = np.sign(np.take_along_axis(directions, np.abs(directions).argmax(0)[None], 0)[0])
        directions *= np.where(signs == 0, 1, signs)
        along = vectors @ directions
        scale = along.std(0)
        return cls(directions, along.mean(0).astype(np.float32), np.where(scale > 0, scale, 1).astype(np.float32))

    def packed(self) -> F32:
        """One tensor (k + 2, d) for the artifact."""
        # in rows: safetensors writes the bytes as they lie in memory
        return np.ascontiguousarray(np.vstack([self.directions, self.center, self.scale]))

    @classmethod
    def unpacked(cls, tensor: F32) -> Self:
        """The axes in a tensor that `packed` made."""
        return cls(tensor[:-2], tensor[-2], tensor[-1])


def coordinates(vectors: F32, axes: Axes) -> npt.NDArray[np.float64]:
    """Coordinates (n, d) of vectors (n, k), in standard deviations."""
    # (X V - mu) / sigma
    return ((vectors @ axes.directions - axes.center) / axes.scale).astype(np.float64)


class EmbeddingColumns:
    """`FeatureColumns` of coordinates: some of a batch's events have an item, some a user, whose place is known.

    items, users : (rows int32 (m,) of the events, coordinates (m, d))
    """

    def __init__(
        self,
        items: tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]],
        users: tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]],
    ) -> None:
        self._of = {ITEM: items, USER: users}

    def names(self) -> tuple[str, ...]:
        """`embedding.item.0` and so on."""
        return tuple(f"{kind}{axis}" for kind, (_, points) in self._of.items() for axis in range(points.shape[1]))

    def column(self, name: str) -> Column:
        """One coordinate; empty for an axis that is not there."""
        for kind, (rows, points) in self._of.items():
            axis = name.removeprefix(kind)
            if axis != name and axis.isdigit() and int(axis) < points.shape[1]:
                return Column(rows, np.ascontiguousarray(points[:, int(axis)]))
        return Column()

    def take(self, rows: npt.NDArray[np.bool_]) -> "EmbeddingColumns":
        """The coordinates of the events where `rows` (n,) is true."""
        renumbered = (np.cumsum(rows) - 1).astype(np.int32)
        items, users = ((renumbered[at[rows[at]]], points[rows[at]]) for at, points in (self._of[ITEM], self._of[USER]))
        return EmbeddingColumns(items, users)
