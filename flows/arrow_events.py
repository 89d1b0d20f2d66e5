"""Events of a table's rows as the sequence that a batch carries: none is decoded before somebody asks for it.

- A row alone is dear, since every column is touched; rows near each other are decoded a block at a time.
"""

from collections.abc import Iterator, Sequence
from typing import overload

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flows.decode import canonical_id, with_id
from flows.tables import rows_at, table_rows
from online_models.contracts.events import Event, Selected

BLOCK_ROWS = 1024


class ArrowEvents(Sequence[Event]):
    """The events of the rows (n,) of a batch, all when None, each of which must be one."""

    def __init__(self, batch: pa.RecordBatch, rows: npt.NDArray[np.intp] | None) -> None:
        self._batch = batch
        self._rows = rows
        self._last = -BLOCK_ROWS  # the event asked for last
        self._first = 0
        self._block: list[Event] = []

    def __len__(self) -> int:
        return int(self._batch.num_rows) if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Event: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Event]: ...
    def __getitem__(self, index: int | slice) -> Event | Sequence[Event]:
        if isinstance(index, slice):
            return Selected(self, np.arange(len(self))[index])
        place = range(len(self))[index]
        if not self._first <= place < self._first + len(self._block):
            follows = 0 <= place - self._last < BLOCK_ROWS
            self._first, self._block = place, self._decode(place, BLOCK_ROWS if follows else 1)
        self._last = place
        return self._block[place - self._first]

    def __iter__(self) -> Iterator[Event]:
        for start in range(0, len(self), BLOCK_ROWS):
            yield from self._decode(start, BLOCK_ROWS)

    def _decode(self, start: int, count: int) -> list[Event]:
        if self._rows is None:
            return [event_of(given) for given in table_rows(self._batch.slice(start, count))]
        return [event_of(given) for given in rows_at(self._batch, self._rows[start : start + count])]


def event_of(row: dict[str, object]) -> Event:
    """The event that a row spells, its id in the usual form, 8-4-4-4-12 digits, when it is a UUID at all.

    Raises
    ------
    msgspec.ValidationError
        When a field is missing or of the wrong type.
    """
    event = msgspec.convert(row, Event)
    return with_id(event, canonical_id(event.event_id))
