"""The candidate sources that all versions of a model share: rules from item to next item, items met together, popularity.

- They learn event by event in the order of the log and are equal to the bit however the log is cut or the job restarted.
- As bytes they are safetensors: what the stream job restarts from is what the readers rank by.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import msgspec
import numpy as np
import numpy.typing as npt
from numba import njit
from safetensors import SafetensorError
from safetensors.numpy import load, save

from online_models.contexts import Contexts
from online_models.errors import StoreError
from online_models.item_table import ItemTable
from online_models.neighbours import CAPACITY, NeighbourArrays, Neighbours, add_pair
from online_models.popularity import Popularity, PopularityArrays, count_item

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

FOLLOW_WINDOW: Final = 10
"""Events after an item within which another one follows it, the nearer the more."""

TOGETHER_WINDOW: Final = 30
"""Events within which two items are met together."""

FOLLOW_MASS: Final = 300.0
TOGETHER_MASS: Final = 600.0

_SCHEMA: Final = 1
_NEED_FOLLOW: Final = FOLLOW_WINDOW * CAPACITY
_NEED_TOGETHER: Final = 2 * TOGETHER_WINDOW * CAPACITY


@dataclass(frozen=True, slots=True)
class Steps:
    """Positive events in the order of the log, and what their users had just met.

    item, ts_ms : int64 (n,), row in the item table and event time
    context : int32 (m,), rows of the items met before, oldest first; event n has context[ptr[n] : ptr[n + 1]]
    ptr : int64 (n + 1,)
    """

    item: I64
    ts_ms: I64
    context: I32
    ptr: I64

    def __len__(self) -> int:
        return len(self.item)

    def slice(self, begin: int, end: int) -> "Steps":
        """The events begin : end."""
        first, last = self.ptr[begin], self.ptr[end]
        return Steps(
            self.item[begin:end], self.ts_ms[begin:end], self.context[first:last], self.ptr[begin : end + 1] - first
        )


class Sources:
    """items : the rows of all of them; followers, companions, popularity : what is known of each item"""

    def __init__(
        self,
        items: ItemTable | None = None,
        followers: Neighbours | None = None,
        companions: Neighbours | None = None,
        popularity: Popularity | None = None,
    ) -> None:
        # an empty table is given, and is false
        self.items = ItemTable() if items is None else items
        self.followers = Neighbours(FOLLOW_MASS) if followers is None else followers
        self.companions = Neighbours(TOGETHER_MASS) if companions is None else companions
        self.popularity = Popularity() if popularity is None else popularity
        self._grow()

    def rows_of(self, ids: list[str]) -> I64:
        """Rows (n,) of items, new ones added."""
        rows = self.items.add(ids)
        self._grow()
        return rows

    def learn(self, steps: Steps) -> None:
        """Take in events. Raises ValueError when a row is out of range, or the columns do not fit each other."""
        rows = len(self.items)
        for column in (steps.item, steps.context):
            if len(column) and not (column.min() >= 0 and column.max() < rows):
                raise ValueError(f"expected rows in [0, {rows}), got {column.min()} to {column.max()}")
        if (
            not len(steps.ts_ms) == len(steps) == len(steps.ptr) - 1
            or steps.ptr[0] < 0
            or (np.diff(steps.ptr) < 0).any()
        ):
            raise ValueError(f"expected {len(steps)} events, got {len(steps.ts_ms)} times and contexts at {steps.ptr}")
        if steps.ptr[-1] > len(steps.context):
            raise ValueError(f"expected {steps.ptr[-1]} items of contexts, got {len(steps.context)}")
        done = 0
        while done < len(steps):
            self.followers.make_room(_NEED_FOLLOW)
            self.companions.make_room(_NEED_TOGETHER)
            done = _learn(
                steps.item,
                steps.ts_ms,
                steps.context,
                steps.ptr,
                done,
                self.followers.arrays,
                self.followers.mass_limit,
                self.companions.arrays,
                self.companions.mass_limit,
                self.popularity.arrays,
            )

    def encode(self) -> bytes:
        """All of it as bytes; the same state gives the same bytes."""
        tensors = {
            **{f"followers.{name}": array for name, array in self.followers.packed().items()},
            **{f"companions.{name}": array for name, array in self.companions.packed().items()},
            **{f"popularity.{name}": array for name, array in self.popularity.packed().items()},
            "items": np.frombuffer(msgspec.json.encode(self.items.ids), np.uint8),
            "schema": np.array([_SCHEMA]),
        }
        return save({name: np.ascontiguousarray(array) for name, array in tensors.items()})

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """From `encode`. Raises StoreError when the bytes are torn or of another schema."""
        try:
            tensors = load(raw)
            if tensors["schema"].tolist() != [_SCHEMA]:
                raise StoreError(f"sources: expected schema {_SCHEMA}, got {tensors['schema'].tolist()}")
            parts: dict[str, dict[str, npt.NDArray[np.generic]]] = {"followers": {}, "companions": {}, "popularity": {}}
            for name, tensor in tensors.items():
                part, _, field = name.partition(".")
                if field:
                    parts[part][field] = tensor
            items = ItemTable.of(msgspec.json.decode(tensors["items"].tobytes(), type=list[str]))
            followers = Neighbours.unpacked(FOLLOW_MASS, **parts["followers"])  # type: ignore[arg-type]
            companions = Neighbours.unpacked(TOGETHER_MASS, **parts["companions"])  # type: ignore[arg-type]
            popularity = Popularity.unpacked(**parts["popularity"])  # type: ignore[arg-type]
        except (SafetensorError, KeyError, TypeError, ValueError, msgspec.DecodeError) as error:
            raise StoreError(f"sources: expected what `Sources.encode` gives: {error!r}") from error
        if not len(items) == len(followers) == len(companions) == len(popularity):
            raise StoreError(f"sources: expected all of {len(items)} distinct items, got {len(followers)} rows")
        return cls(items, followers, companions, popularity)

    def _grow(self) -> None:
        for part in (self.followers, self.companions, self.popularity):
            part.grow(len(self.items))


def restored(published: bytes | None, log: Sequence[bytes]) -> Sources:
    """Where sources stand after a published state (None: nothing) and the steps logged since.

    Raises StoreError when bytes are torn, or the steps do not go on from that state.
    """
    sources = Sources() if published is None else Sources.decode(published)
    for raw in log:
        new_items, steps = decode_steps(raw)
        sources.rows_of(new_items)
        try:
            sources.learn(steps)
        except ValueError as error:
            raise StoreError(f"steps: expected to go on from {len(sources.items)} items: {error}") from error
    return sources


def steps_of(item: I64, ts_ms: I64, contexts: Contexts, items: ItemTable) -> Steps:
    """Events (n,) with those of the last `TOGETHER_WINDOW` items of their contexts that are in the table."""
    n = len(item)
    first = np.maximum(contexts.ptr[:-1], contexts.ptr[1:] - TOGETHER_WINDOW)
    many = contexts.ptr[1:] - first
    ptr = np.concatenate([[0], np.cumsum(many)])
    entry = np.arange(int(ptr[-1])) - np.repeat(ptr[:-1] - first, many)
    row = items.rows(contexts.entries["item"][entry])
    kept = np.bincount(np.repeat(np.arange(n), many)[row >= 0], minlength=n)
    return Steps(
        item, np.array(ts_ms, np.int64), row[row >= 0].astype(np.int32), np.concatenate([[0], np.cumsum(kept)])
    )


def encode_steps(new_items: list[str], steps: Steps) -> bytes:
    """The steps of one batch as bytes, with the items that they met first, in the order of their rows."""
    return save(
        {
            "new_items": np.frombuffer(msgspec.json.encode(new_items), np.uint8),
            "item": np.ascontiguousarray(steps.item),
            "ts_ms": np.ascontiguousarray(steps.ts_ms),
            "context": np.ascontiguousarray(steps.context),
            "ptr": np.ascontiguousarray(steps.ptr),
        }
    )


def decode_steps(raw: bytes) -> tuple[list[str], Steps]:
    """From `encode_steps`. Raises StoreError when the bytes are torn."""
    try:
        tensors = load(raw)
        new_items = msgspec.json.decode(tensors["new_items"].tobytes(), type=list[str])
        columns = [np.array(tensors[name]) for name in ("item", "ts_ms", "context", "ptr")]
    except (SafetensorError, KeyError, ValueError, msgspec.DecodeError) as error:
        raise StoreError(f"steps: expected what `encode_steps` gives: {error!r}") from error
    kinds = [(column.dtype.name, column.ndim) for column in columns]
    if kinds != [("int64", 1), ("int64", 1), ("int32", 1), ("int64", 1)] or not len(columns[3]):
        raise StoreError(f"steps: expected int64 columns and an int32 one, got {kinds}")
    return new_items, Steps(*columns)


@njit(cache=True, nogil=True)
def _learn(
    item: I64,
    ts_ms: I64,
    context: I32,
    ptr: I64,
    begin: int,
    followers: NeighbourArrays,
    follow_limit: np.float32,
    companions: NeighbourArrays,
    together_limit: np.float32,
    popularity: PopularityArrays,
) -> int:
    """Take in events from `begin` until a pool could be full; returns the first event that is left."""
    one = np.float32(1)
    for n in range(begin, item.size):
        if (
            followers.used[0] + _NEED_FOLLOW > followers.item.size
            or companions.used[0] + _NEED_TOGETHER > companions.item.size
        ):
            return n
        i, last = item[n], ptr[n + 1]
        for place in range(max(ptr[n], last - TOGETHER_WINDOW), last):
            a = context[place]
            if a == i:
                continue
            if last - place <= FOLLOW_WINDOW:
                # w(a -> i) += 1 / distance
                add_pair(followers, a, i, one / np.float32(last - place), follow_limit)
            add_pair(companions, a, i, one, together_limit)
            add_pair(companions, i, a, one, together_limit)
        count_item(popularity, i, ts_ms[n])
    return item.size
