"""The events of NDJSON as columns, compiled: lines are read byte by byte by what the contract says of each key, not into objects.

- What stands before a value (`,"user_id": `) is compared with what stood there in lines before: logs are written by machines,
  so that is nearly always a match of a few words, also when some keys are missing. Any other is looked up by hash, and learnt.
- `reason_to_reject` is decided for each value on the way. A line with any surprise is left to the exact decoder, alone.
- Of the features only the declared ones are kept; a value of any other key is checked and skipped.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from flows.json_tokens import (
    BRACE,
    BRACKET,
    COLON,
    COMMA,
    END_BRACE,
    END_BRACKET,
    NEWLINE,
    QUOTE,
    SMALL_N,
    SURPRISE,
    after_space,
    integer,
    is_uuid,
    moment_ms,
    null_end,
    number,
    skipped,
    text_end,
)
from online_models.contracts.events import EVENT_TYPES, MAX_ID_LENGTH, TimeBounds
from online_models.contracts.ids import hash64
from online_models.hashing import Text, borrowed, byte_at, hash_bytes, text_of, word_at

Hashes = npt.NDArray[np.uint64]

_FIELDS = ("event_id", "type", "user_id", "item_id", "domain", "ts")
_OPTIONAL = ("request_id", "model_version", "value", "propensity", "position", "rollout_id", "features")
_EVENT_ID, _TYPE, _USER, _ITEM, _DOMAIN, _TS, _REQUEST, _VERSION, _VALUE, _PROPENSITY = range(10)
_POSITION, _ROLLOUT, _FEATURES = range(10, 13)
_REQUIRED = (1 << len(_FIELDS)) - 1

_UNKNOWN, _NO_KEY, _FULL = -1, -2, -3

_LEARNT = 256
"""Keys whose order is remembered: all that came so far, each before what it was seen before."""

_TRIES = 4
"""So many of these are tried, as some may be missing, before a key is looked up."""

_DOMAINS = 64
"""Domains of a chunk that are told apart here; events of more are left to the exact decoder."""

_LIST = 64
"""Words of a list that are read here."""

_SHORT_LINE = 128
"""Bytes of a line so short that few logs are of shorter ones."""

_TYPE_HASHES = np.array([hash64(kind.value) for kind in EVENT_TYPES], np.uint64)
_FIELD_HASHES = np.array([hash64(name) for name in _FIELDS + _OPTIONAL], np.uint64)

_UUID_BYTES = 36

LINE = np.dtype(
    [
        ("start", np.int64),
        ("end", np.int64),
        ("event_hash", np.uint64),
        ("user_hash", np.uint64),
        ("item_hash", np.uint64),
        ("ts_ms", np.int64),
        ("value", np.float64),
        ("domain", np.int16),
        ("type", np.int8),
        ("requested", np.bool_),
        ("known", np.bool_),
    ],
    align=True,
)
"""A line of the text: `text[start:end]`. If it is not `known`, nothing else of it means anything."""

NUMBER = np.dtype([("number", np.float64), ("row", np.int32)], align=True)
"""A number of a feature, in line `row`."""

WORD = np.dtype([("hash", np.uint64), ("start", np.int64), ("end", np.int64), ("row", np.int32)], align=True)
"""A word of a feature, `text[start:end]`, in line `row`."""

_FEATURE = np.dtype([("numbers", np.int64), ("words", np.int64), ("row", np.int64)])
"""How many numbers and words of a feature are kept, and the newest line with it."""

_KEY = np.dtype([("start", np.int64), ("length", np.int64), ("slot", np.int64)])
"""What stood before a value, `text[start : start + length]`, and whose value it is."""

_PLACE = np.dtype([("hash", np.uint64), ("start", np.int64), ("end", np.int64)])
"""A domain: `text[start:end]`."""

_SCOPE = np.dtype(
    [(name, np.int64) for name in ("earliest_ms", "latest_ms", "utf8", "domains", "domain_start", "domain_end")]
)
"""The bounds of time, whether the text is UTF-8, how many domains there are so far, and where the line's own stands."""

Records = npt.NDArray[np.void]
Record = np.void


@dataclass(frozen=True, slots=True)
class Scan:
    """What was read of a text.

    lines : `LINE` (n,)
    numbers, words : `NUMBER` and `WORD` of each named feature, in order
    domains : in order of appearance
    """

    lines: Records
    numbers: tuple[Records, ...]
    words: tuple[Records, ...]
    domains: tuple[str, ...]


def scan(text: bytes, bounds: TimeBounds, names: tuple[str, ...]) -> Scan:
    """Read the lines of `text`; the last one may have no newline, then it is not known.

    >>> line = b'{"event_id":"00000000-0000-0000-0000-000000000001","type":"click","user_id":"u",'
    >>> line += b'"item_id":"i","ts":5,"domain":"movies","features":{"price":2.5}}\\n'
    >>> found = scan(line + b"broken\\n", TimeBounds(0, 9), ("price",))
    >>> found.lines["known"].tolist(), found.numbers[0]["number"].tolist(), found.domains
    ([True, False], [2.5], ('movies',))
    """
    buffer, stop = text_of(np.frombuffer(text, np.uint8)), text.rfind(b"\n") + 1
    room = len(text) // _SHORT_LINE + 1  # memory that is not written to costs nothing, counting the lines would
    lines = np.empty(room, LINE)
    scope = np.array([(bounds.earliest_ms, bounds.latest_ms, _is_utf8(text), 0, 0, 0)], _SCOPE)
    hashes = np.array([hash64(name) for name in names], np.uint64)
    learnt, domains = np.zeros((2, _LEARNT), _KEY), np.zeros(_DOMAINS, _PLACE)
    features = np.array([(0, 0, -1)] * len(names), _FEATURE)
    numbers, words = np.empty((len(names), room), NUMBER), np.empty((len(names), room), WORD)
    at, row = 0, 0
    while at < stop:
        at, row = _scan_lines(buffer, at, stop, row, scope, lines, learnt, domains, hashes, features, numbers, words)
        if at < stop:
            lines, numbers, words = _enlarged(lines), _enlarged(numbers), _enlarged(words)
    if stop < len(text):
        lines = lines if row < len(lines) else _enlarged(lines)
        lines[row]["start"], lines[row]["end"], lines[row]["known"] = stop, len(text), False
        row += 1
    return Scan(
        lines[:row],
        tuple(kept[:count] for kept, count in zip(numbers, features["numbers"], strict=True)),
        tuple(kept[:count] for kept, count in zip(words, features["words"], strict=True)),
        tuple(text[start:end].decode() for _, start, end in domains[: scope[0]["domains"]].tolist()),
    )


def _enlarged(records: Records) -> Records:
    """The same with more than twice as much room in the last dimension."""
    room = np.empty((*records.shape[:-1], records.shape[-1] + _LIST), records.dtype)
    return np.concatenate([records, room], axis=-1)


def _is_utf8(text: bytes) -> bool:
    if text.isascii():
        return True
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


@njit(cache=True, nogil=True)
def _scan_lines(
    text: Text,
    at: int,
    stop: int,
    row: int,
    scope: Records,
    lines: Records,
    learnt: Records,
    domains: Records,
    hashes: Hashes,
    features: Records,
    numbers: Records,
    words: Records,
) -> tuple[int, int]:
    """Read the lines that begin in [at, stop); where and in which row it ended, early when there was no more room."""
    # Compiled functions count references to the arrays they are given, at every call, which is dear: so these are only borrowed.
    scope, lines, domains, hashes = borrowed(scope), borrowed(lines), borrowed(domains), borrowed(hashes)
    features, numbers, words, learnt = borrowed(features), borrowed(numbers), borrowed(words), borrowed(learnt)
    fields, keys = learnt[0], learnt[1]
    while at < stop and row < lines.size:
        end = _line(text, at, row, scope, lines, fields, keys, domains, hashes, features, numbers, words)
        if end < 0:
            _forget(row, features, numbers, words)
        if end == _FULL:
            break
        lines[row]["start"], lines[row]["known"] = at, end >= 0
        if end < 0:
            end = at
            while byte_at(text, end) != NEWLINE:
                end += 1
        lines[row]["end"] = end
        at, row = end + 1, row + 1
    return at, row


@njit(cache=True, nogil=True)
def _line(
    text: Text,
    at: int,
    row: int,
    scope: Records,
    lines: Records,
    fields: Records,
    keys: Records,
    domains: Records,
    hashes: Hashes,
    features: Records,
    numbers: Records,
    words: Records,
) -> int:
    """The place of the newline after one event."""
    line, given = lines[row], scope[0]
    seen, nth, place, utf8 = 0, 0, 0, given["utf8"] != 0
    line["value"], line["requested"] = np.nan, False
    at = after_space(text, at)
    while True:
        slot, at, place = _next_value(text, at, nth, _FIELD_HASHES, fields, place, utf8)
        if slot == _UNKNOWN:
            at = skipped(text, at, utf8)
        elif slot == _NO_KEY or seen >> slot & 1:
            return SURPRISE
        else:
            seen |= 1 << slot
            if slot == _FEATURES and byte_at(text, at) != SMALL_N:
                at = _features(text, at, row, utf8, keys, hashes, features, numbers, words)
            else:
                at = _field(text, at, slot, line, given)
        if at < 0:
            return at
        at = after_space(text, at)
        nth += 1
        if byte_at(text, at) == END_BRACE:
            break
    at = after_space(text, at + 1)
    if byte_at(text, at) != NEWLINE or seen & _REQUIRED != _REQUIRED:
        return SURPRISE
    line["domain"] = _domain(text, given, domains)
    return at if line["domain"] >= 0 else SURPRISE


@njit(cache=True, nogil=True, inline="always")
def _next_value(
    text: Text, at: int, nth: int, hashes: Hashes, learnt: Records, place: int, utf8: bool
) -> tuple[int, int, int]:
    """Which key the nth value of an object has, where that begins, and what place in `learnt` comes next.

    at : after the value before, or before the brace; place : where to look first
    """
    for there in range(place, min(place + _TRIES, _LEARNT)):
        length = learnt[there]["length"]
        if length == 0:
            break
        if _same(text, learnt[there]["start"], at, length):
            return learnt[there]["slot"], after_space(text, at + length), there + 1
    return _learn(text, at, nth, hashes, learnt, place, utf8)


@njit(cache=True, nogil=True)
def _learn(
    text: Text, at: int, nth: int, hashes: Hashes, learnt: Records, place: int, utf8: bool
) -> tuple[int, int, int]:
    """As `_next_value`, by hash; and what stood before the value is put in its place while there is room."""
    begin = at
    if byte_at(text, at) != (COMMA if nth else BRACE):
        return _NO_KEY, at, place
    at = after_space(text, at + 1)
    end = text_end(text, at + 1, utf8) if byte_at(text, at) == QUOTE else SURPRISE
    if end < 0:
        return _NO_KEY, at, place
    slot = _index(hashes, hash_bytes(text, at + 1, end))
    at = after_space(text, end + 1)
    if byte_at(text, at) != COLON:
        return _NO_KEY, at, place
    at = after_space(text, at + 1)
    if place < _LEARNT and learnt[_LEARNT - 1]["length"] == 0:
        for there in range(_LEARNT - 1, place, -1):
            learnt[there] = learnt[there - 1]
        learnt[place]["start"], learnt[place]["length"], learnt[place]["slot"] = begin, at - begin, slot
    return slot, at, place + 1


@njit(cache=True, nogil=True, inline="always")
def _same(text: Text, one: int, other: int, length: int) -> bool:
    if length < 8:
        different = word_at(text, one) ^ word_at(text, other)
        return bool(different << np.uint64(64 - 8 * length) == 0)
    last = length - 8
    for i in range(0, last, 8):
        if word_at(text, one + i) != word_at(text, other + i):
            return False
    return bool(word_at(text, one + last) == word_at(text, other + last))


@njit(cache=True, nogil=True)
def _index(hashes: Hashes, wanted: np.uint64) -> int:
    for i in range(hashes.size):
        if hashes[i] == wanted:
            return i
    return _UNKNOWN


@njit(cache=True, nogil=True)
def _field(text: Text, at: int, slot: int, line: Record, scope: Record) -> int:
    """The place after the value of a field, once it is kept."""
    if slot > _TS and byte_at(text, at) == SMALL_N:
        return null_end(text, at)
    if slot in (_VALUE, _PROPENSITY):
        at, amount = number(text, at)
        if slot == _VALUE:
            line["value"] = amount
        return at
    if slot in (_POSITION, _ROLLOUT):
        at, natural = integer(text, at)
        return at if 0 <= natural < 1 << 31 else SURPRISE
    if slot == _TS and byte_at(text, at) != QUOTE:
        at, ts_ms = integer(text, at)
        line["ts_ms"] = ts_ms
        return at if scope["earliest_ms"] <= ts_ms <= scope["latest_ms"] else SURPRISE
    if byte_at(text, at) != QUOTE:
        return SURPRISE
    if slot == _EVENT_ID:
        end = at + 1 + _UUID_BYTES
        if end >= text.size or not is_uuid(text, at + 1) or byte_at(text, end) != QUOTE:
            return SURPRISE
        line["event_hash"] = hash_bytes(text, at + 1, end)
        return end + 1
    start, end = at + 1, text_end(text, at + 1, scope["utf8"] != 0)
    if end < 0:
        return SURPRISE
    if slot == _DOMAIN:
        scope["domain_start"], scope["domain_end"] = start, end
    return end + 1 if _text_field(text, start, end, slot, line, scope) else SURPRISE


@njit(cache=True, nogil=True)
def _text_field(text: Text, start: int, end: int, slot: int, line: Record, scope: Record) -> bool:
    """Keep a field whose value is the text [start, end); whether it is acceptable."""
    known = end - start <= MAX_ID_LENGTH  # bytes: as many characters or fewer
    if slot == _TYPE:
        code = _index(_TYPE_HASHES, hash_bytes(text, start, end))
        line["type"] = code
        known = code >= 0
    elif slot == _TS:
        ts_ms = moment_ms(text, start, end)
        line["ts_ms"] = ts_ms
        known = ts_ms >= 0 and scope["earliest_ms"] <= ts_ms <= scope["latest_ms"]
    elif slot == _REQUEST:
        line["requested"] = end > start
    elif slot != _VERSION:
        known = known and end > start
        if slot == _USER:
            line["user_hash"] = hash_bytes(text, start, end)
        elif slot == _ITEM:
            line["item_hash"] = hash_bytes(text, start, end)
    return known


@njit(cache=True, nogil=True)
def _domain(text: Text, scope: Record, domains: Records) -> int:
    """The index of the line's domain, or a negative number when there are too many."""
    start, end, count = scope["domain_start"], scope["domain_end"], scope["domains"]
    hashed = hash_bytes(text, start, end)
    for index in range(count):
        if domains[index]["hash"] == hashed:
            return index
    if count == _DOMAINS:
        return _UNKNOWN
    domains[count]["hash"], domains[count]["start"], domains[count]["end"] = hashed, start, end
    scope["domains"] = count + 1
    return int(count)


@njit(cache=True, nogil=True)
def _features(
    text: Text,
    at: int,
    row: int,
    utf8: bool,
    keys: Records,
    hashes: Hashes,
    features: Records,
    numbers: Records,
    words: Records,
) -> int:
    """The place after the object of the features, once the declared ones are kept."""
    if byte_at(text, at) == BRACE:
        first = after_space(text, at + 1)
        if byte_at(text, first) == END_BRACE:
            return first + 1
    nth, place = 0, 0
    while True:
        slot, at, place = _next_value(text, at, nth, hashes, keys, place, utf8)
        if slot == _NO_KEY or (slot >= 0 and features[slot]["row"] == row):
            return SURPRISE
        if slot >= 0:
            features[slot]["row"] = row
        if byte_at(text, at) == QUOTE:
            at = _word(text, at, slot, row, utf8, features, words)
        elif byte_at(text, at) == BRACKET:
            at = _words(text, at, slot, row, utf8, features, words)
        else:
            at, amount = number(text, at)
            if slot >= 0 and at >= 0:
                count = features[slot]["numbers"]
                numbers[slot, count]["number"], numbers[slot, count]["row"] = amount, row
                features[slot]["numbers"] = count + 1
        if at < 0:
            return at
        at = after_space(text, at)
        nth += 1
        if byte_at(text, at) == END_BRACE:
            return at + 1


@njit(cache=True, nogil=True)
def _word(text: Text, at: int, slot: int, row: int, utf8: bool, features: Records, words: Records) -> int:
    """The place after a text, once it is kept as a word that is new to its line, if its feature is declared."""
    start, end = at + 1, text_end(text, at + 1, utf8)
    if end < 0:
        return SURPRISE
    if slot < 0:
        return end + 1
    count = features[slot]["words"]
    if count == words.shape[1]:
        return _FULL
    hashed, before = hash_bytes(text, start, end), count - 1
    while before >= 0 and words[slot, before]["row"] == row:
        if words[slot, before]["hash"] == hashed:
            return end + 1
        before -= 1
    word = words[slot, count]
    word["hash"], word["start"], word["end"], word["row"] = hashed, start, end, row
    features[slot]["words"] = count + 1
    return end + 1


@njit(cache=True, nogil=True)
def _words(text: Text, at: int, slot: int, row: int, utf8: bool, features: Records, words: Records) -> int:
    """The place after a list of texts."""
    at = after_space(text, at + 1)
    if byte_at(text, at) == END_BRACKET:
        return at + 1
    for _ in range(_LIST):
        at = after_space(text, at)
        if byte_at(text, at) != QUOTE:
            return SURPRISE
        at = _word(text, at, slot, row, utf8, features, words)
        if at < 0:
            return at
        at = after_space(text, at)
        if byte_at(text, at) == END_BRACKET:
            return at + 1
        if byte_at(text, at) != COMMA:
            return SURPRISE
        at += 1
    return SURPRISE


@njit(cache=True, nogil=True)
def _forget(row: int, features: Records, numbers: Records, words: Records) -> None:
    """Take back what was kept of a line."""
    for slot in range(features.size):
        feature = features[slot]
        if feature["row"] == row:
            feature["row"] = -1
            if feature["numbers"] and numbers[slot, feature["numbers"] - 1]["row"] == row:
                feature["numbers"] -= 1
            while feature["words"] and words[slot, feature["words"] - 1]["row"] == row:
                feature["words"] -= 1
