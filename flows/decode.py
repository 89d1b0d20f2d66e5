"""A chunk of a log as columns of events by an exact decoder that makes an object of each, and rejects for its bad rows.

The slow and obviously right way, which the readers that make no objects must agree with and fall back to.

- A text is decoded at once where it can be shown that this gives an event per line; otherwise line by line, and only when
  that fails does the loop that catches each failure run.
- `reason_to_reject` decides; the columns find the few rows it must look at, so that a good row costs no call.
- Hashes are `ids.hash64`; an event id is hashed in canonical lower-case form, so that its spellings meet.
"""

import functools
import math
import re
import uuid
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from flows.chunks import Chunk, Lines, Parsed, Rows, reject
from online_models.columns import MappingColumns
from online_models.contracts.events import (
    EVENT_TYPES,
    MAX_ID_LENGTH,
    Event,
    EventBatch,
    Reject,
    TimeBounds,
    reason_to_reject,
    timestamp_ms,
)
from online_models.contracts.ids import hash64

_DECODER = msgspec.json.Decoder(Event)
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_NUL_ESCAPE = b"\\u0000"
_TYPE_CODES = {kind._value_: code for code, kind in enumerate(EVENT_TYPES)}  # hashing an Enum member is slow

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_UUID_LINE = np.frombuffer(b"00000000-0000-0000-0000-000000000000\n", np.uint8)
_CLASS = np.arange(256, dtype=np.uint8)
_CLASS[np.frombuffer(b"0123456789abcdef", np.uint8)] = ord("0")

_hash = functools.lru_cache(maxsize=65_536)(hash64)  # ids come again, chunk after chunk

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Decoded:
    """The well-typed events, the row each stands in, and why other rows are none: row -> reason."""

    events: list[Event]
    rows: Sequence[int]
    refused: dict[int, str]


@dataclass(frozen=True, slots=True)
class _Table:
    """Where each row of a chunk stands, int64 (n,), and its bytes, whether or not it is an event."""

    offsets: npt.NDArray[np.int64]
    raws: "Sequence[bytes] | _Text | _Encoded"
    terminated: bool


@dataclass(frozen=True, slots=True)
class _Text:
    """The lines of a text, which begin at `starts` (n,), cut out only when asked for."""

    blob: bytes
    starts: npt.NDArray[np.int64]

    def __getitem__(self, row: int) -> bytes:
        end = self.starts[row + 1] - 1 if row + 1 < len(self.starts) else len(self.blob)
        return self.blob[self.starts[row] : end].removesuffix(b"\n")


@dataclass(frozen=True, slots=True)
class _Encoded:
    """The bytes of rows that have no text of their own: their JSON, made only when asked for."""

    rows: Sequence[dict[str, object]]

    def __getitem__(self, row: int) -> bytes:
        return msgspec.json.encode(self.rows[row], enc_hook=str)


def parse_slow(chunk: Chunk, content: Lines | Rows, bounds: TimeBounds) -> Parsed:
    """Columns of the valid events of a chunk with this content, and a reject for each row that is not one."""
    match content:
        case Lines(blob=blob):
            starts = _line_starts(blob)
            table = _Table(starts + content.offset, _Text(blob, starts), content.terminated)
            decoded = _decode_text(blob, len(starts))
            plain = _NUL_ESCAPE not in blob
        case Rows(rows=rows, raws=raws):
            table = _Table(np.array(content.offsets, np.int64), raws or _Encoded(rows), content.terminated)
            decoded = _decode_rows(rows)
            plain = False
    return _parsed(decoded, table, chunk, bounds, plain)


def parse_lines(
    chunk: Chunk, lines: Sequence[bytes], offsets: npt.NDArray[np.int64], terminated: bool, bounds: TimeBounds
) -> Parsed:
    """As `parse_slow` for some of a chunk's lines, which stand at `offsets` (n,) of its source.

    terminated : False when the last one is the last of the file and has no newline
    """
    return _parsed(_decode_lines(lines), _Table(offsets, lines, terminated), chunk, bounds, plain=False)


def _parsed(decoded: _Decoded, table: _Table, chunk: Chunk, bounds: TimeBounds, plain: bool) -> Parsed:
    batch, refused = _batch(decoded, chunk, table.offsets, bounds, plain)
    return Parsed(batch, _rejects(chunk, table, decoded.refused | refused))


def split_lines(blob: bytes) -> list[bytes]:
    """The lines of a text without their newlines.

    >>> split_lines(b"a\\n\\nb\\n"), split_lines(b"a\\nb")
    ([b'a', b'', b'b'], [b'a', b'b'])
    """
    lines = blob.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return lines


def _line_starts(blob: bytes) -> npt.NDArray[np.int64]:
    """Where each line begins, int64 (n,); as many as `split_lines` gives."""
    newlines = np.flatnonzero(np.frombuffer(blob, np.uint8) == ord("\n"))
    starts = np.append(0, newlines + 1)
    return starts[starts < len(blob)]


def _decode_text(blob: bytes, lines: int) -> _Decoded:
    # No JSON value has a "}" and a "{" with only a newline between. So if each of the text's newlines is between these, it
    # is between values; then no line is without a value, and as many values as lines are one value a line.
    if blob.count(b"}\n{") == lines - 1:
        try:
            events = _DECODER.decode_lines(blob)
        except _UNREADABLE:
            pass
        else:
            if len(events) == lines:
                return _Decoded(events, range(lines), {})
    return _decode_lines(split_lines(blob))


def _decode_lines(lines: Sequence[bytes]) -> _Decoded:
    decode = _DECODER.decode
    try:
        return _Decoded(list(map(decode, lines)), range(len(lines)), {})
    except _UNREADABLE:
        pass
    events: list[Event] = []
    rows: list[int] = []
    refused: dict[int, str] = {}
    for row, line in enumerate(lines):
        try:
            events.append(decode(line))
            rows.append(row)
        except _UNREADABLE as error:
            if line.strip():
                refused[row] = _why_unreadable(line, error)
    return _Decoded(events, rows, refused)


def _why_unreadable(line: bytes, error: Exception) -> str:
    try:
        line.decode()
    except UnicodeDecodeError as mistake:
        return f"not UTF-8: byte {line[mistake.start]:#04x} at {mistake.start}"
    return str(error)


def _decode_rows(given: Sequence[dict[str, object]]) -> _Decoded:
    try:
        return _Decoded(msgspec.convert(given, list[Event]), range(len(given)), {})
    except _UNREADABLE:
        pass
    events: list[Event] = []
    rows: list[int] = []
    refused: dict[int, str] = {}
    for row, fields in enumerate(given):
        try:
            events.append(msgspec.convert(fields, Event))
            rows.append(row)
        except _UNREADABLE as error:
            refused[row] = str(error)
    return _Decoded(events, rows, refused)


def _rejects(chunk: Chunk, table: _Table, refused: dict[int, str]) -> list[Reject]:
    if not refused:
        return list(chunk.rejects)
    rejects = list(chunk.rejects)
    for row, reason in refused.items():
        cut = "" if table.terminated or row < len(table.offsets) - 1 else "truncated last line: "
        rejects.append(reject(cut + reason, chunk.path, int(table.offsets[row]), table.raws[row]))
    return sorted(rejects, key=lambda row: row.offset)


def _batch(
    decoded: _Decoded, chunk: Chunk, offsets: npt.NDArray[np.int64], bounds: TimeBounds, plain: bool
) -> tuple[EventBatch, dict[int, str]]:
    """The columns of the acceptable events, and why the others are not: row -> reason.

    plain : the text cannot hold a NUL, nor a number that is not finite
    """
    events, event_hash, suspect = _identify(decoded.events)
    ts_ms, refused = _times(events, bounds)
    suspect |= (ts_ms < bounds.earliest_ms) | (ts_ms > bounds.latest_ms)
    _mark_unusable(events, suspect, plain)
    for row in np.flatnonzero(suspect).tolist():
        if row not in refused:
            reason = reason_to_reject(events[row], int(ts_ms[row]), bounds)
            if reason is not None:
                refused[row] = reason
    keep = np.ones(len(events), np.bool_)
    keep[list(refused)] = False
    kept = [event for row, event in enumerate(events) if row not in refused] if refused else events
    domains = [event.domain for event in kept]
    codes = {domain: code for code, domain in enumerate(dict.fromkeys(domains))}
    batch = EventBatch(
        events=kept,
        event_hash=event_hash[keep],
        user_hash=_hashes([event.user_id for event in kept]),
        item_hash=_hashes([event.item_id for event in kept]),
        type=np.array([_TYPE_CODES[event.type._value_] for event in kept], np.int8),
        ts_ms=ts_ms[keep],
        value=np.array([event.value for event in kept], np.float64),  # None becomes NaN
        domain=np.fromiter(map(codes.__getitem__, domains), np.int16, len(domains)),
        domains=tuple(codes),
        offset=offsets[np.array(decoded.rows, np.int64)[keep]],
        requested=np.array([bool(event.request_id) for event in kept], np.bool_),
        features=MappingColumns([event.features for event in kept]),
        source=chunk.path,
        position=chunk.position,
    )
    return batch, {decoded.rows[row]: reason for row, reason in refused.items()}


def _identify(events: list[Event]) -> tuple[list[Event], npt.NDArray[np.uint64], Bools]:
    """Events with canonical ids, the hashes uint64 (n,) of these, and bool (n,) where the id is none.

    The usual form (8-4-4-4-12 hex digits) is checked for all rows at once as a byte matrix (n, 37).
    """
    count = len(events)
    text = ("\n".join([event.event_id for event in events]) + "\n").lower().encode()
    if len(text) == count * len(_UUID_LINE):
        forms = _CLASS[np.frombuffer(text, np.uint8)].reshape(count, len(_UUID_LINE))
        if bool((forms == _UUID_LINE).all()):
            hashes = [xxhash.xxh64_intdigest(line) for line in text.splitlines()]
            return events, np.array(hashes, np.uint64), np.zeros(count, np.bool_)
    ids = [canonical_id(event.event_id) for event in events]
    renamed = [with_id(event, known) for event, known in zip(events, ids, strict=True)]
    known_hashes = [0 if known is None else hash64(known) for known in ids]
    return renamed, np.array(known_hashes, np.uint64), np.array([known is None for known in ids], np.bool_)


def canonical_id(event_id: str) -> str | None:
    """A UUID in lower case and the usual form; None of what is none.

    >>> canonical_id("{00000000-0000-0000-0000-00000000000A}")
    '00000000-0000-0000-0000-00000000000a'
    """
    lower = event_id.lower()
    if _UUID.fullmatch(lower):
        return lower
    try:
        return str(uuid.UUID(event_id))
    except ValueError:
        return None


def with_id(event: Event, known: str | None) -> Event:
    """The event with its canonical id where its own has another form: PostgreSQL knows fewer of them than Python."""
    if known is None or len(known) == len(event.event_id):
        return event
    return msgspec.structs.replace(event, event_id=known)


def _times(events: Sequence[Event], bounds: TimeBounds) -> tuple[npt.NDArray[np.int64], dict[int, str]]:
    """Epoch ms int64 (n,), and why a row has none: row -> reason (its time is then 0)."""
    times = [event.ts for event in events]
    if set(map(type, times)) <= {int}:
        try:
            return np.array(times, np.int64), {}
        except OverflowError:
            pass
    ts_ms = np.zeros(len(events), np.int64)
    refused: dict[int, str] = {}
    for row, event in enumerate(events):
        try:
            moment = timestamp_ms(event.ts)
        except (ValueError, OverflowError) as error:
            refused[row] = f"ts: {error}"
            continue
        if bounds.earliest_ms <= moment <= bounds.latest_ms:
            ts_ms[row] = moment
        else:
            refused[row] = str(reason_to_reject(event, moment, bounds))
    return ts_ms, refused


def _hashes(texts: Sequence[str]) -> npt.NDArray[np.uint64]:
    """`hash64` of each text, uint64 (n,), computed once per distinct text."""
    known = {text: _hash(text) for text in set(texts)}
    return np.fromiter(map(known.__getitem__, texts), np.uint64, len(texts))


def _mark_unusable(events: Sequence[Event], suspect: Bools, plain: bool) -> None:
    """Mark in `suspect` (n,) the rows with a field, other than id and time, that `reason_to_reject` may refuse."""
    columns: list[tuple[Sequence[Hashable], Callable[..., bool]]] = [
        ([event.request_id for event in events], _is_text),
        ([event.model_version for event in events], _is_text),
        ([event.position for event in events], _is_natural),
        ([event.rollout_id for event in events], _is_natural),
    ]
    if not plain:
        columns.append(([event.value for event in events], math.isfinite))
        columns.append(([event.propensity for event in events], math.isfinite))
        suspect |= np.array([event.features is not None for event in events], np.bool_)
    for ids in ([e.user_id for e in events], [e.item_id for e in events], [e.domain for e in events]):
        if not _are_ids(set(ids)):
            suspect |= np.array([not _is_id(text) for text in ids], np.bool_)
    for column, acceptable in columns:
        bad = {entry for entry in set(column) if entry is not None and not acceptable(entry)}
        if bad:
            suspect |= np.array([entry in bad for entry in column], np.bool_)


def _are_ids(texts: set[str]) -> bool:
    """Whether all are: in three scans, without a call per text."""
    lengths = set(map(len, texts))
    return 0 not in lengths and max(lengths, default=0) <= MAX_ID_LENGTH and "\x00" not in "".join(texts)


def _is_id(text: str) -> bool:
    return 0 < len(text) <= MAX_ID_LENGTH and "\x00" not in text


def _is_text(text: str) -> bool:
    return len(text) <= MAX_ID_LENGTH and "\x00" not in text


def _is_natural(number: int) -> bool:
    return 0 <= number < 2**31
