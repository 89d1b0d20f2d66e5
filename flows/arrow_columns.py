"""Feature columns of a table, made from Arrow's own buffers, without a Python object per cell.

- A column is made when it is asked for: numbers are copied past their nulls, words are hashed once per distinct text of a
  dictionary or else byte by byte in place.
- What a cell means is what `MappingColumns` makes of the decoded event; a column of any other type is left to that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import njit

from online_models import columns as slow
from online_models.contracts.columns import EMPTY, Column, take
from online_models.contracts.events import Event, Selected
from online_models.hashing import Text, hash_bytes, text_of

Bools = npt.NDArray[np.bool_]
Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int32]
Numbers = npt.NDArray[np.float64]
_Cell = TypeVar("_Cell", np.float64, np.int32)
_Known = TypeVar("_Known", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Texts:
    """A column of n texts, each distinct one looked at once where a dictionary says which those are.

    cells : the column itself (n,)
    values : large_string (d,), without nulls unless `codes` is None
    codes : int32 (n,), index into `values`; None when `values` are the n cells themselves. At nulls: any number
    """

    cells: pa.Array
    values: pa.Array
    codes: Indices | None

    def utf8(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
        """Where each value starts and the last ends, int64 (d + 1,), in the bytes of all."""
        _, offsets, data = self.values.buffers()
        if not len(self.values):
            return np.zeros(1, np.int64), np.empty(0, np.uint8)
        starts = np.frombuffer(offsets, np.int64)[self.values.offset :][: len(self.values) + 1]
        return starts, np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)

    def raws(self) -> list[bytes]:
        """The bytes of each value."""
        starts, data = self.utf8()
        return [data[start:end].tobytes() for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)]

    def lengths(self) -> npt.NDArray[np.int64]:
        """Bytes of each value, int64 (d,)."""
        return np.diff(self.utf8()[0])

    def hashes(self) -> Hashes:
        """`ids.hash64` of each value, uint64 (d,)."""
        starts, data = self.utf8()
        return _hash_texts(starts, text_of(data))

    def unusable(self) -> Bools:
        """Whether a value holds NUL or is not UTF-8, bool (d,)."""
        starts, data = self.utf8()
        used = data[starts[0] : starts[-1]]
        bad = np.zeros(len(self.values), np.bool_)
        if not len(used):
            return bad
        if not used.min():
            nuls = np.flatnonzero(used == 0) + starts[0]
            bad[np.searchsorted(starts, nuls, side="right") - 1] = True
        if used.max() >= 0x80:
            try:
                self.values.validate(full=True)
            except pa.ArrowInvalid:
                bad |= [not _is_utf8(raw) for raw in self.raws()]
        return bad

    def per_cell(self, of_values: npt.NDArray[_Known]) -> npt.NDArray[_Known]:
        """What is known of each value (d,), for each cell (n,); anything at nulls."""
        return of_values if self.codes is None else of_values.take(self.codes, mode="clip")

    def anywhere(self, of_values: Bools) -> Bools:
        """In which cells a value for which `of_values` (d,) is true stands, bool (n,)."""
        if not of_values.any():
            return np.zeros(len(self.cells), np.bool_)
        cells, valid = self.per_cell(of_values), valid_of(self.cells)
        return cells if valid is None else cells & valid


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def texts_of(column: pa.Array) -> Texts | None:
    """The texts of a text column, plain or as a dictionary; None of any other column.

    >>> texts_of(pa.array(["a", None, "a"]).dictionary_encode()).codes.tolist()
    [0, 0, 0]
    """
    if pa.types.is_dictionary(column.type):
        if not _is_text(column.type.value_type):
            return None
        codes = _plain(column.indices).astype(np.int32, copy=False)
        values = column.dictionary.cast(pa.large_string())
        if not len(values):  # then all cells are null
            values = pa.array([""], pa.large_string())
        return Texts(column, values, codes)
    if _is_text(column.type):
        return Texts(column, column.cast(pa.large_string()), None)
    return None


def usual(column: pa.Array) -> pa.Array:
    """The same cells, as a dictionary only where one of few texts without nulls says each distinct text once."""
    if not pa.types.is_dictionary(column.type):
        return column
    few = len(column.dictionary) <= 2 * len(column)
    if few and _is_text(column.type.value_type) and not column.dictionary.null_count:
        return column
    return column.dictionary_decode()


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def numbers_of(column: pa.Array) -> Numbers | None:
    """Float64 (n,) of a column of numbers, anything at nulls; None of any other column. Not to be written to."""
    numbers = plain_numbers(column)
    return None if numbers is None else numbers.astype(np.float64, copy=False)


def plain_numbers(column: pa.Array) -> npt.NDArray[Any] | None:
    """As `numbers_of`, of the column's own type; half precision, which compiled code does not know, as single."""
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return None
    numbers = _plain(column)
    return numbers.astype(np.float32) if numbers.dtype == np.float16 else numbers


def _plain(column: pa.Array) -> npt.NDArray[Any]:
    """What a column of numbers has in memory (n,), nulls too."""
    kind = np.dtype(column.type.to_pandas_dtype())
    data = column.buffers()[1]
    if data is None:
        return np.zeros(len(column), kind)
    return np.frombuffer(data, kind, len(column), column.offset * kind.itemsize)


def valid_of(column: pa.Array) -> Bools | None:
    """Bool (n,), False at nulls; None when there are none."""
    if not column.null_count:
        return None
    valid: Bools = column.is_valid().to_numpy(zero_copy_only=False)
    return valid


def _bitmap(column: pa.Array) -> tuple[npt.NDArray[np.uint8], int]:
    """Arrow's validity bits of a column with nulls, and which of them is the first cell's."""
    bits = column.buffers()[0]
    return np.frombuffer(bits, np.uint8), column.offset


class ArrowColumns:
    """`FeatureColumns` of the rows of a table where `keep` (n,) is true (None: of all).

    arrays : feature name -> Arrow array (n,) as `usual` gives it
    events : the events of the kept rows, for columns of a type that numbers and words are not usually kept in

    A column of words is kept once it is made: more than one reader asks for it, and hashes are dear.
    """

    def __init__(self, arrays: Mapping[str, pa.Array], keep: Bools | None, events: Sequence[Event]) -> None:
        self._arrays = arrays
        self._keep = keep
        self._events = events
        self._words: dict[str, Column] = {}

    def names(self) -> tuple[str, ...]:
        """All features that a row of the table carries."""
        return tuple(name for name, array in self._arrays.items() if array.null_count < len(array))

    def column(self, name: str) -> Column:
        """One feature's numbers or words."""
        if name in self._words:
            return self._words[name]
        made = self._made(name)
        if len(made.words):
            self._words[name] = made
        return made

    def _made(self, name: str) -> Column:
        array = self._arrays.get(name)
        if array is None or array.null_count == len(array):
            return EMPTY
        column = column_of(array)
        if column is None:
            return slow.MappingColumns([event.features for event in self._events]).column(name)
        return column if self._keep is None else take(column, self._keep)

    def take(self, rows: Bools) -> "ArrowColumns":
        """The features of the events where `rows` is true."""
        places = np.flatnonzero(rows) if self._keep is None else np.flatnonzero(self._keep)[rows]
        keep = np.zeros(len(rows) if self._keep is None else len(self._keep), np.bool_)
        keep[places] = True
        return ArrowColumns(self._arrays, keep, Selected(self._events, np.flatnonzero(rows)))


def column_of(array: pa.Array) -> Column | None:
    """The column of a feature whose type says what its cells are; None of other types."""
    texts = texts_of(array)
    if texts is not None:
        return _word_column(array, texts)
    if is_word_list(array.type):
        return _list_column(array)
    numbers = plain_numbers(array)
    if numbers is None:
        return None
    if not array.null_count:  # a copy: compiled code would tell an array that it may not write to from others
        return Column(None, numbers.astype(np.float64))
    return Column(*_present(numbers, array, np.float64))


def is_word_list(kind: pa.DataType) -> bool:
    """Whether cells are lists of texts."""
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return False
    inner = kind.value_type
    return _is_text(inner.value_type if pa.types.is_dictionary(inner) else inner)


def _word_column(array: pa.Array, texts: Texts) -> Column:
    hashes = texts.hashes()
    if not array.null_count:
        return Column(word_rows=None, words=texts.per_cell(hashes), text=lambda place: str(array[place].as_py()))
    codes = np.arange(len(array), dtype=np.int32) if texts.codes is None else texts.codes
    rows, present = _present(codes, array, np.int32)
    return Column(
        word_rows=rows, words=hashes.take(present, mode="clip"), text=lambda place: str(array[int(rows[place])].as_py())
    )


def _list_column(array: pa.Array) -> Column:
    inner, offsets = list_parts(array)
    texts = texts_of(inner)
    assert texts is not None  # `is_word_list` of its type
    valid = valid_of(array)
    hashes = texts.per_cell(texts.hashes())
    rows, words, places = _distinct_words(offsets, np.ones(len(array), np.bool_) if valid is None else valid, hashes)
    return Column(word_rows=rows, words=words, text=lambda place: str(inner[int(places[place])].as_py()))


def list_parts(array: pa.Array) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """The elements of the lists of n rows, and where each row's begin and the last ends, int64 (n + 1,)."""
    offsets = array.offsets.to_numpy().astype(np.int64)
    first, last = int(offsets[0]), int(offsets[-1])
    return usual(array.values.slice(first, last - first)), offsets - first


def _present(cells: npt.NDArray[Any], array: pa.Array, kind: type[_Cell]) -> tuple[Indices, npt.NDArray[_Cell]]:
    """The rows where an array has a value, int32 (k,), and the cells (n,) that stand there as numbers of a kind (k,)."""
    bits, first = _bitmap(array)
    count = len(array) - array.null_count
    rows, present = np.empty(count + 1, np.int32), np.empty(count + 1, kind)
    _compact(bits, first, cells, rows, present)
    return rows[:count], present[:count]


@njit(cache=True, nogil=True)
def _hash_texts(starts: npt.NDArray[np.int64], data: Text) -> Hashes:
    """`ids.hash64` of the texts between `starts` (d + 1,) in UTF-8 bytes, uint64 (d,)."""
    hashes = np.empty(len(starts) - 1, np.uint64)
    for k in range(len(hashes)):
        hashes[k] = hash_bytes(data, starts[k], starts[k + 1])
    return hashes


@njit(cache=True, nogil=True)
def _compact(
    bits: npt.NDArray[np.uint8],
    first: int,
    cells: npt.NDArray[Any],
    rows: Indices,
    present: npt.NDArray[Any],
) -> None:
    # Every cell is written, and one without its bit written over: without a branch, as nulls are hard to foresee.
    k = 0
    for row in range(len(cells)):
        rows[k] = row
        present[k] = cells[row]
        at = first + row
        k += (bits[at >> 3] >> (at & 7)) & 1


@njit(cache=True, nogil=True)
def _distinct_words(
    offsets: npt.NDArray[np.int64], valid: Bools, hashes: Hashes
) -> tuple[Indices, Hashes, npt.NDArray[np.int64]]:
    """Row, hash and place of each word, without those that their row has already: one hash set, marked anew per row."""
    longest = 1
    for row in range(len(valid)):
        longest = max(longest, offsets[row + 1] - offsets[row])
    slots = 1
    while slots < 2 * longest:
        slots *= 2
    held, holder = np.empty(slots, np.uint64), np.full(slots, -1, np.int64)
    total = offsets[-1] - offsets[0]
    rows, words, places = np.empty(total, np.int32), np.empty(total, np.uint64), np.empty(total, np.int64)
    k = 0
    for row in range(len(valid)):
        if not valid[row]:
            continue
        for place in range(offsets[row], offsets[row + 1]):
            word = hashes[place]
            slot = np.int64(word & np.uint64(slots - 1))
            while holder[slot] == row and held[slot] != word:
                slot = (slot + 1) & (slots - 1)
            if holder[slot] == row:
                continue
            held[slot], holder[slot] = word, row
            rows[k], words[k], places[k] = row, word, place
            k += 1
    return rows[:k], words[:k], places[:k]
