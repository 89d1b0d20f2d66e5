"""What a batch shows of a text that was scanned but not decoded: its events and its features, each made when it is asked for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import msgspec
import numpy as np
import numpy.typing as npt

from flows.scanner import Records, Scan
from online_models.columns import MappingColumns
from online_models.contracts.columns import EMPTY, Column, FeatureColumns, take
from online_models.contracts.events import Event

_DECODER = msgspec.json.Decoder(Event)

_PATIENCE = 8
"""Once one in so many events was decoded alone, all are decoded at once: that takes a third of the time for each."""


class ScannedEvents(Sequence[Event]):
    """The n events that are the lines `text[start[i]:end[i]]`, int64 (n,) each, but for those that are `given` by their index."""

    def __init__(
        self, text: bytes, start: npt.NDArray[np.int64], end: npt.NDArray[np.int64], given: Mapping[int, Event]
    ) -> None:
        self._text, self._start, self._end, self._given = text, start, end, given
        self._asked = 0
        self._all: list[Event] | None = None

    def __len__(self) -> int:
        return len(self._start)

    @overload
    def __getitem__(self, index: int) -> Event: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Event]: ...
    def __getitem__(self, index: int | slice) -> Event | Sequence[Event]:
        if self._all is None and isinstance(index, int) and self._asked * _PATIENCE <= len(self):
            self._asked += 1
            row = index if index >= 0 else index + len(self)
            if row in self._given:
                return self._given[row]
            return _DECODER.decode(self._text[self._start[index] : self._end[index]])
        return self._decoded()[index]

    def __iter__(self) -> Iterator[Event]:
        return iter(self._decoded())

    def _decoded(self) -> list[Event]:
        if self._all is None:
            self._all = self._decode()
        return self._all

    def _decode(self) -> list[Event]:
        spans = zip(self._start.tolist(), self._end.tolist(), strict=True)
        if not self._given:
            # lines that stand one after another without a gap are a text already
            first, last = (int(self._start[0]), int(self._end[-1])) if len(self) else (0, 0)
            if last - first == int((self._end - self._start).sum()) + max(len(self) - 1, 0):
                return _DECODER.decode_lines(self._text[first:last])
            return _DECODER.decode_lines(b"\n".join([self._text[start:end] for start, end in spans]))
        decode, text, given = _DECODER.decode, self._text, self._given
        return [given[row] if row in given else decode(text[start:end]) for row, (start, end) in enumerate(spans)]


@dataclass(frozen=True, slots=True)
class ScannedColumns:
    """`FeatureColumns` of the n events of a scan.

    text, scan, names : the scan of a text for some features
    events : the n events, for features that were not asked for in the scan
    row_of : int32 (lines,), the event of each line; None when each line is one
    decoded, decoded_rows : features of the events that were not scanned, and which events, int32 (m,)
    """

    text: bytes
    scan: Scan
    names_scanned: tuple[str, ...]
    events: Sequence[Event]
    row_of: npt.NDArray[np.int32] | None
    decoded: FeatureColumns
    decoded_rows: npt.NDArray[np.int32]

    def names(self) -> tuple[str, ...]:
        """The names of the scan."""
        return self.names_scanned

    def column(self, name: str) -> Column:
        """One feature; one that was not scanned is read from the decoded events, which takes long."""
        if name not in self.names_scanned:
            return MappingColumns([event.features for event in self.events]).column(name)
        slot = self.names_scanned.index(name)
        numbers, words = self.scan.numbers[slot], self.scan.words[slot]
        rest = self.decoded.column(name) if len(self.decoded_rows) else EMPTY
        number_rows, number_order = self._rows(numbers, rest.number_rows)
        word_rows, word_order = self._rows(words, rest.word_rows)
        return Column(
            number_rows,
            np.concatenate([numbers["number"], rest.numbers])[number_order],
            word_rows,
            np.concatenate([words["hash"], rest.words])[word_order],
            _text_of(self.text, words, rest.text, word_order),
        )

    def _rows(
        self, scanned: Records, decoded: npt.NDArray[np.int32] | None
    ) -> tuple[npt.NDArray[np.int32] | None, npt.NDArray[np.int64] | slice]:
        """The events of scanned and decoded values, None for each event once, and the order that puts them in order."""
        rows: npt.NDArray[np.int32] = scanned["row"] if self.row_of is None else self.row_of[scanned["row"]]
        order: npt.NDArray[np.int64] | slice = slice(None)
        more = self.decoded_rows if decoded is None else self.decoded_rows[decoded]
        if len(more):
            rows = np.concatenate([rows, more])
            order = np.argsort(rows, kind="stable")
        every = len(rows) == len(self.events) and bool((np.diff(rows[order]) > 0).all())
        return (None if every else np.ascontiguousarray(rows[order])), order

    def take(self, rows: npt.NDArray[np.bool_]) -> FeatureColumns:
        """The features of the events where `rows` (n,) is true."""
        return TakenColumns(self, rows)


def _text_of(
    text: bytes, words: Records, other: Callable[[int], str], order: npt.NDArray[np.int64] | slice
) -> Callable[[int], str]:
    def read(place: int) -> str:
        at = place if isinstance(order, slice) else int(order[place])
        if at >= len(words):
            return other(at - len(words))
        return text[words[at]["start"] : words[at]["end"]].decode()

    return read


@dataclass(frozen=True, slots=True)
class TakenColumns:
    """`FeatureColumns` of some of the events of others: those where `rows` is true, bool (n,)."""

    of: FeatureColumns
    rows: npt.NDArray[np.bool_]

    def names(self) -> tuple[str, ...]:
        """The names of the others."""
        return self.of.names()

    def column(self, name: str) -> Column:
        """One feature of the events that are taken."""
        return take(self.of.column(name), self.rows)

    def take(self, rows: npt.NDArray[np.bool_]) -> FeatureColumns:
        """The features of the events where `rows` is true as well."""
        both = self.rows.copy()
        both[self.rows] = rows
        return TakenColumns(self.of, both)
