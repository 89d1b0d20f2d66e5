"""A piece of a table as columns of events, from Arrow's buffers, and its bad rows as rejects with their reasons.

- Each field marks the rows that it cannot vouch for. Only these become objects and are judged one by one by the contract,
  so every row has the verdict, the reason and the values that it has alone.
- Features and events are made when they are asked for; `features` as a map or JSON text are decoded row by row.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import njit

from flows.arrow_columns import (
    ArrowColumns,
    Bools,
    Hashes,
    Texts,
    is_word_list,
    list_parts,
    numbers_of,
    plain_numbers,
    texts_of,
    usual,
    valid_of,
)
from flows.arrow_events import ArrowEvents
from flows.chunks import FEATURE_PREFIX, Chunk, Parsed, Rows, Table
from flows.decode import parse_slow
from flows.tables import cells, milliseconds, rows_at
from online_models.contracts.events import (
    MAX_ID_LENGTH,
    TYPE_CODES,
    EventBatch,
    TimeBounds,
    timestamp_ms,
)
from online_models.hashing import Text, hash_bytes, text_of

Times = npt.NDArray[np.int64]

_CODES = {kind.value.encode(): code for kind, code in TYPE_CODES.items()}
_UUID_LENGTH = 36
_DASH = np.array([place in (8, 13, 18, 23) for place in range(_UUID_LENGTH)])
_LOWER = np.zeros(256, np.uint8)
"""A byte of a UUID in lower case; 0 for a byte of none."""
for _byte in b"-0123456789abcdefABCDEF":
    _LOWER[_byte] = bytes([_byte]).lower()[0]
_LARGEST_NATURAL = 2**31 - 1


class _Fields:
    """The columns of all n rows of a piece, as in `EventBatch`; where `suspect` (n,) is true they may hold anything.

    domain : int32 (n,), index into `domains`, whatever their order
    """

    def __init__(self, batch: pa.RecordBatch, bounds: TimeBounds) -> None:
        self.suspect = np.zeros(batch.num_rows, np.bool_)
        self.domains: dict[str, int] = {}
        self._columns = {
            name: usual(column)
            for name, column in zip(batch.schema.names, batch.columns, strict=True)
            if not name.startswith(FEATURE_PREFIX)
        }
        self.event_hash = self._event_hashes()
        self.user_hash = self._id_hashes("user_id")
        self.item_hash = self._id_hashes("item_id")
        self.type = self._types()
        self.ts_ms = self._times(bounds)
        self.value = self._numbers("value")
        self.domain = self._domains()
        self.requested = self._texts_present("request_id")
        self._texts_present("model_version")
        self._numbers("propensity")
        self._naturals("position")
        self._naturals("rollout_id")

    def put(self, rows: npt.NDArray[np.int64], known: EventBatch) -> None:
        """Take the columns of some rows (k,) from their events (k,)."""
        for name in ("event_hash", "user_hash", "item_hash", "type", "ts_ms", "value", "requested"):
            getattr(self, name)[rows] = getattr(known, name)
        codes = [self.domains.setdefault(name, len(self.domains)) for name in known.domains]
        self.domain[rows] = np.array(codes, np.int32)[known.domain]

    def _required(self, name: str, encoded: bool = False) -> Texts | None:
        """The texts of a field that every row must have; what has none is marked. encoded : as a dictionary in any case"""
        column = self._columns.get(name)
        if column is not None and encoded and not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        texts = None if column is None else texts_of(column)
        if texts is None:
            self.suspect[:] = True
        elif texts.cells.null_count:
            self.suspect |= ~present(texts.cells)
        return texts

    def _event_hashes(self) -> Hashes:
        texts = self._required("event_id")
        if texts is None:
            return np.zeros(len(self.suspect), np.uint64)
        lower = np.empty(_UUID_LENGTH, np.uint8)
        hashes, usual_form = _hash_ids(*texts.utf8(), lower, text_of(lower))
        self.suspect |= ~texts.per_cell(usual_form)
        return texts.per_cell(hashes)

    def _id_hashes(self, name: str) -> Hashes:
        texts = self._required(name)
        if texts is None:
            return np.zeros(len(self.suspect), np.uint64)
        self.suspect |= texts.anywhere(_not_ids(texts))
        return texts.per_cell(texts.hashes())

    def _types(self) -> npt.NDArray[np.int8]:
        texts = self._required("type", encoded=True)
        if texts is None:
            return np.zeros(len(self.suspect), np.int8)
        codes = np.array([_CODES.get(name, -1) for name in texts.raws()], np.int8)
        self.suspect |= texts.anywhere(codes < 0)
        return texts.per_cell(codes)

    def _domains(self) -> npt.NDArray[np.int32]:
        texts = self._required("domain", encoded=True)
        if texts is None:
            return np.zeros(len(self.suspect), np.int32)
        bad = _not_ids(texts)
        self.suspect |= texts.anywhere(bad)
        names = ["" if wrong else raw.decode() for raw, wrong in zip(texts.raws(), bad.tolist(), strict=True)]
        codes = [self.domains.setdefault(name, len(self.domains)) for name in names]
        return texts.per_cell(np.array(codes, np.int32))

    def _times(self, bounds: TimeBounds) -> Times:
        column = self._columns.get("ts")
        if column is None:
            self.suspect[:] = True
            return np.zeros(len(self.suspect), np.int64)
        if pa.types.is_timestamp(column.type):
            column = milliseconds(column)
        if texts_of(column) is not None:
            ts_ms = self._spelled_times(column)
        else:
            ts_ms = self._integers(column)
        valid = valid_of(column)
        if valid is not None:
            self.suspect |= ~valid
        self.suspect |= (ts_ms < bounds.earliest_ms) | (ts_ms > bounds.latest_ms)
        return ts_ms

    def _spelled_times(self, column: pa.Array) -> Times:
        ts_ms = np.zeros(len(column), np.int64)
        for row, cell in enumerate(cells(column)):
            try:
                ts_ms[row] = timestamp_ms(cell) if isinstance(cell, str) else 0
            except (ValueError, OverflowError):
                self.suspect[row] = True
            else:
                self.suspect[row] |= not isinstance(cell, str)
        return ts_ms

    def _integers(self, column: pa.Array) -> Times:
        """Int64 (n,) of integers and of whole floats, 0 at nulls; other cells are marked."""
        numbers = numbers_of(column)
        valid = valid_of(column)
        if numbers is None:
            self.suspect |= np.ones(len(column), np.bool_) if valid is None else valid
            return np.zeros(len(column), np.int64)
        # A double below 2^53 stands for one integer only; no time and no position is near that.
        fits = (np.abs(numbers) < 2.0**53) & (numbers == np.floor(numbers))
        self.suspect |= ~fits if valid is None else ~fits & valid
        return np.where(fits if valid is None else fits & valid, numbers, 0.0).astype(np.int64)

    def _naturals(self, name: str) -> None:
        column = self._columns.get(name)
        if column is not None and column.null_count < len(column):
            integers = self._integers(column)
            self.suspect |= (integers < 0) | (integers > _LARGEST_NATURAL)

    def _numbers(self, name: str) -> npt.NDArray[np.float64]:
        """Float64 (n,), NaN at nulls; what is not finite is marked."""
        column = self._columns.get(name)
        if column is None or column.null_count == len(column):
            return np.full(len(self.suspect), np.nan)
        numbers, valid = numbers_of(column), valid_of(column)
        if numbers is None:
            self.suspect |= present(column)
            return np.full(len(self.suspect), np.nan)
        self.suspect |= unusable(column)
        return numbers.copy() if valid is None else np.where(valid, numbers, np.nan)

    def _texts_present(self, name: str) -> Bools:
        """Where an optional text is given and not empty, bool (n,); what is no such text is marked."""
        column = self._columns.get(name)
        if column is None or column.null_count == len(column):
            return np.zeros(len(self.suspect), np.bool_)
        texts = texts_of(column)
        if texts is None:
            self.suspect |= present(column)
            return np.zeros(len(self.suspect), np.bool_)
        lengths = texts.lengths()
        self.suspect |= texts.anywhere((lengths > MAX_ID_LENGTH) | texts.unusable())
        return texts.anywhere(lengths > 0)


def parse_table(chunk: Chunk, table: Table, bounds: TimeBounds) -> Parsed:
    """Columns of the valid events of a piece of a table, and a reject for each row that is not one.

    >>> row = {"event_id": "00000000-0000-0000-0000-000000000001", "type": "click", "user_id": "u", "item_id": "i"}
    >>> rows = [{**row, "ts": 5, "domain": "movies", "features.age": 33}, {**row, "ts": 5}]
    >>> table = Table(pa.RecordBatch.from_pylist(rows), 100)
    >>> parsed = parse_table(Chunk("log", "a.parquet", 102, table), table, TimeBounds(0, 9))
    >>> parsed.batch.features.column("age").numbers, [(row.offset, row.reason) for row in parsed.rejects]
    (array([33.]), [(101, 'Object missing required field `domain`')])
    """
    fields = _Fields(table.batch, bounds)
    arrays = feature_arrays(table.batch)
    if arrays is None:
        fields.suspect[:] = True
    else:
        for name, array in arrays.items():
            fields.suspect |= present(array) if "\x00" in name else unusable(array)
    suspect = np.flatnonzero(fields.suspect)
    slow = parse_slow(chunk, Rows(rows_at(table.batch, suspect), (table.offset + suspect).tolist()), bounds)
    accepted = slow.batch.offset - table.offset
    fields.put(accepted, slow.batch)
    keep = ~fields.suspect
    keep[accepted] = True
    if arrays is None:
        return slow
    return Parsed(_batch(fields, arrays, keep, chunk, table), slow.rejects)


def _batch(
    fields: _Fields,
    arrays: dict[str, pa.Array],
    keep: Bools,
    chunk: Chunk,
    table: Table,
) -> EventBatch:
    everything = bool(keep.all())
    rows = np.flatnonzero(keep)
    events = ArrowEvents(table.batch, None if everything else rows)
    domain, domains = _in_order(fields.domain[keep], list(fields.domains))
    return EventBatch(
        events=events,
        event_hash=fields.event_hash[keep],
        user_hash=fields.user_hash[keep],
        item_hash=fields.item_hash[keep],
        type=fields.type[keep],
        ts_ms=fields.ts_ms[keep],
        value=fields.value[keep],
        domain=domain,
        domains=domains,
        offset=table.offset + rows,
        requested=fields.requested[keep],
        features=ArrowColumns(arrays, None if everything else keep, events),
        source=chunk.path,
        position=chunk.position,
    )


def _in_order(codes: npt.NDArray[np.int32], names: list[str]) -> tuple[npt.NDArray[np.int16], tuple[str, ...]]:
    """Codes (n,) and the names they stand for, numbered in order of appearance."""
    first = np.full(len(names), len(codes), np.int64)
    np.minimum.at(first, codes, np.arange(len(codes)))
    order = np.argsort(first, kind="stable")[: np.count_nonzero(first < len(codes))]
    renumbered = np.empty(len(names), np.int16)
    renumbered[order] = np.arange(len(order), dtype=np.int16)
    return renumbered[codes], tuple(names[place] for place in order.tolist())


def feature_arrays(batch: pa.RecordBatch) -> dict[str, pa.Array] | None:
    """Feature -> its column, from `features.<name>` and a struct `features`; None when only rows tell who has which."""
    arrays: dict[str, pa.Array] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if name == "features" and column.null_count < len(column):
            if not pa.types.is_struct(column.type):
                return None
            parts = zip((field.name for field in column.type), column.flatten(), strict=True)
        elif name.startswith(FEATURE_PREFIX):
            parts = zip([name.removeprefix(FEATURE_PREFIX)], [column], strict=True)
        else:
            continue
        for feature, part in parts:
            if feature in arrays:
                return None
            arrays[feature] = usual(part)
    return arrays


def present(column: pa.Array) -> Bools:
    """Where a column has a value, bool (n,)."""
    valid = valid_of(column)
    return np.ones(len(column), np.bool_) if valid is None else valid


def unusable(column: pa.Array) -> Bools:
    """Where a column holds what may not be a feature, bool (n,): all but finite numbers and texts without NUL."""
    if column.null_count == len(column):
        return np.zeros(len(column), np.bool_)
    texts = texts_of(column)
    if texts is not None:
        return texts.anywhere(texts.unusable())
    if is_word_list(column.type):
        return _unusable_lists(column)
    numbers = plain_numbers(column)
    if numbers is None:
        return present(column)
    finite = np.isfinite(numbers)
    return np.zeros(len(column), np.bool_) if finite.all() else ~finite & present(column)


def _unusable_lists(column: pa.Array) -> Bools:
    inner, offsets = list_parts(column)
    texts = texts_of(inner)
    assert texts is not None  # `is_word_list` of its type
    bad = texts.anywhere(texts.unusable()) | ~present(inner)
    if not bad.any():
        return np.zeros(len(column), np.bool_)
    before: Times = np.append(0, np.cumsum(bad))
    within: Bools = before[offsets[1:]] > before[offsets[:-1]]
    return within & present(column)


def _not_ids(texts: Texts) -> Bools:
    lengths = texts.lengths()  # in bytes: not fewer than characters
    bad: Bools = (lengths == 0) | (lengths > MAX_ID_LENGTH)
    return bad | texts.unusable()


@njit(cache=True, nogil=True)
def _hash_ids(
    starts: Times, data: npt.NDArray[np.uint8], lower: npt.NDArray[np.uint8], lowered: Text
) -> tuple[Hashes, Bools]:
    """`ids.hash64` of the lower-case form of each UUID in the usual form, uint64 (n,), and which are in it, bool (n,).

    lower, lowered : room for one id (36,), and the same as a text
    """
    count = len(starts) - 1
    hashes, fits = np.zeros(count, np.uint64), np.zeros(count, np.bool_)
    for k in range(count):
        if starts[k + 1] - starts[k] != _UUID_LENGTH:
            continue
        usual_form = True
        for i in range(_UUID_LENGTH):
            byte = data[starts[k] + i]
            lower[i] = _LOWER[byte]
            usual_form &= (_LOWER[byte] != 0) & ((byte == 45) == _DASH[i])
        fits[k] = usual_form
        hashes[k] = hash_bytes(lowered, 0, _UUID_LENGTH)
    return hashes, fits
