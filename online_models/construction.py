"""Feature construction: from the source a FeatureSpec declares to a column, identical in the stream, in training and in serving.

- Nothing is fitted: a constructed value depends on its own event alone, so it is the same wherever it is computed.
- A cross hashes the hashes of its parts (Weinberger et al. 2009, "Feature Hashing for Large Scale Multitask Learning"):
  no text is built before somebody asks for it.
"""

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final, Protocol, assert_never

import numpy as np
import numpy.typing as npt
from numba import njit

from online_models.contracts.columns import Column, FeatureColumns, Rows
from online_models.contracts.events import EVENT_TYPES
from online_models.contracts.features import FeatureKind, FeatureSpec
from online_models.contracts.ids import hash64

Hashes = npt.NDArray[np.uint64]
Text = Callable[[int], str]

FEATURES: Final = "features."
TOKENS: Final = "tokens:features."
NLL: Final = "nll:features."
EMBEDDINGS: Final = ("embedding.user.", "embedding.item.")

CLOCK: Final = ("hour", "minute", "weekday")
"""Sources whose numbers are as good as words: a categorical feature takes them as they are."""

_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 86_400_000
_TOKEN: Final = re.compile(r"\w+")
_TYPE_HASHES: Final = np.array([hash64(kind.value) for kind in EVENT_TYPES], np.uint64)

# Constants of SplitMix64 (Steele, Lea and Flood 2014), whose finalizer spreads every input bit over all output bits.
_GAMMA: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX_1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2: Final = np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31 = np.uint64(27), np.uint64(30), np.uint64(31)


class Identified(Protocol):
    """An event as far as its identifiers go."""

    @property
    def user_id(self) -> str: ...
    @property
    def item_id(self) -> str: ...


class Observed(Protocol):
    """Columns of n events, all that features are constructed from; an `EventBatch` is one.

    type : int8 (n,), index into `EVENT_TYPES`; ts_ms : int64 (n,), UTC epoch ms; value : float64 (n,), NaN where absent
    item_hash, user_hash : uint64 (n,); events : the n events, read only for the texts that are shown to people
    """

    @property
    def type(self) -> npt.NDArray[np.int8]: ...
    @property
    def ts_ms(self) -> npt.NDArray[np.int64]: ...
    @property
    def value(self) -> npt.NDArray[np.float64]: ...
    @property
    def item_hash(self) -> Hashes: ...
    @property
    def user_hash(self) -> Hashes: ...
    @property
    def events(self) -> Sequence[Identified]: ...
    @property
    def features(self) -> FeatureColumns: ...


def check_source(source: str) -> None:
    """Raise ValueError when a source is none that `FeatureSpec` knows.

    >>> check_source("hour*features.genres")
    >>> check_source("colour")
    Traceback (most recent call last):
    ValueError: expected a source of FeatureSpec, got 'colour'
    """
    plain = ("value", "hour", "minute", "weekday", "type", "item_id", "user_id")
    for part in source.split("*"):
        named = any(part.startswith(prefix) and part != prefix for prefix in (FEATURES, TOKENS, NLL, *EMBEDDINGS))
        if part not in plain and not named:
            raise ValueError(f"expected a source of FeatureSpec, got {source!r}")


def construct(spec: FeatureSpec, observed: Observed) -> Column:
    """The column of a declared feature, of all n events whatever their type.

    A categorical feature has one word an event: an event with several has no value. With `edges` its numbers become
    the word of the half-open bucket they fall in; those of a clock are words in any case.

    Raises
    ------
    ValueError
        When the source is unknown.
    """
    check_source(spec.source)
    parts = [_part(part, observed) for part in spec.source.split("*")]
    column = parts[0] if len(parts) == 1 else _crossed(parts)
    match spec.kind:
        case FeatureKind.NUMERIC | FeatureKind.MULTI_VALUED:
            return column
        case FeatureKind.CATEGORICAL:
            if spec.edges:
                column = _bucketed(column, spec.edges)
            elif spec.source in CLOCK:
                column = _as_words(column)
            return _single(column)
        case _:
            assert_never(spec.kind)


def _part(source: str, observed: Observed) -> Column:
    events = observed.events
    match source:
        case "value":
            return _numbers(observed.value)
        case "hour":
            return _numbers(observed.ts_ms // _HOUR_MS % 24)
        case "minute":
            return _numbers(observed.ts_ms // 60_000 % 1440)
        case "weekday":
            return _numbers((observed.ts_ms // _DAY_MS + 3) % 7)  # 1970-01-01 was a Thursday
        case "type":
            kinds = observed.type
            return _words(_TYPE_HASHES[kinds], lambda place: EVENT_TYPES[kinds[place]].value)
        case "item_id":
            return _words(observed.item_hash, lambda place: events[place].item_id)
        case "user_id":
            return _words(observed.user_hash, lambda place: events[place].user_id)
        case _ if source.startswith(TOKENS):
            return _tokens(observed.features.column(source[len(TOKENS) :]))
        case _ if source.startswith(FEATURES):
            return observed.features.column(source[len(FEATURES) :])
        case _:
            return observed.features.column(source)  # what a live version says of events goes by its full name


def _numbers(numbers: npt.NDArray[np.float64] | npt.NDArray[np.int64]) -> Column:
    return Column(None, np.asarray(numbers, np.float64))


def _words(words: Hashes, text: Text) -> Column:
    return Column(word_rows=None, words=words, text=text)


def _single(column: Column) -> Column:
    """The column without the words of events that carry more than one."""
    rows = column.word_rows
    if rows is None or not (again := rows[1:] == rows[:-1]).any():
        return column
    places = np.flatnonzero(~(np.append(again, False) | np.append(False, again)))
    return Column(word_rows=rows[places], words=column.words[places], text=_at(column.text, places))


def _at(text: Text, places: npt.NDArray[np.integer]) -> Text:
    return lambda place: text(int(places[place]))


def _bucketed(column: Column, edges: Sequence[float]) -> Column:
    """The column with its numbers as words, `[a, b)` for a <= number < b."""
    borders = [-np.inf, *edges, np.inf]
    labels = [f"[{a}, {b})" for a, b in pairwise(borders)]
    hashes = np.array([hash64(label) for label in labels], np.uint64)
    rows, numbers = _present(column)
    bucket = np.searchsorted(np.asarray(edges, np.float64), numbers, side="right")
    return _joined(column, rows, hashes[bucket], lambda place: labels[bucket[place]])


def _present(column: Column) -> tuple[Rows | None, npt.NDArray[np.float64]]:
    """The numbers without NaN, and their rows."""
    rows, absent = column.number_rows, np.isnan(column.numbers)
    if not absent.any():
        return rows, column.numbers
    kept = np.flatnonzero(~absent)
    return kept.astype(np.int32) if rows is None else rows[kept], column.numbers[kept]


def _joined(column: Column, rows: Rows | None, words: Hashes, text: Text) -> Column:
    """The words of a column and, in the same order of events, others of events that have none."""
    if len(column.words) == 0:
        return Column(word_rows=rows, words=words, text=text)
    if len(words) == 0 or rows is None or column.word_rows is None:  # all events carry the one, so none the other
        return column if len(words) == 0 else Column(word_rows=rows, words=words, text=text)
    both = np.concatenate([column.word_rows, rows])
    order, first, old = np.argsort(both, kind="stable"), len(column.words), column.text
    return Column(
        word_rows=both[order],
        words=np.concatenate([column.words, words])[order],
        text=lambda place: old(int(order[place])) if order[place] < first else text(int(order[place]) - first),
    )


def _crossed(parts: Sequence[Column]) -> Column:
    """One word for every combination of what an event carries in each part."""
    crossed = _as_words(parts[0])
    for part in parts[1:]:
        crossed = _pairs(crossed, _as_words(part))
    return crossed


def _as_words(column: Column) -> Column:
    """The column with its numbers as words, one for each integer part (the floor, within 64 bits)."""
    rows, numbers = _present(column)
    floors = np.clip(np.floor(numbers), -(2.0**62), 2.0**62).astype(np.int64)
    return _joined(column, rows, _mixed(floors.view(np.uint64)), lambda place: str(floors[place]))


def _mixed(words: Hashes) -> Hashes:
    """SplitMix64 of each word (n,)."""
    z = words + _GAMMA
    z = (z ^ (z >> _S30)) * _MIX_1
    z = (z ^ (z >> _S27)) * _MIX_2
    mixed: Hashes = z ^ (z >> _S31)
    return mixed


def _pairs(left: Column, right: Column) -> Column:
    if left.word_rows is None and right.word_rows is None:
        rows, i = None, np.arange(len(left.words), dtype=np.int32)
        j = i
    else:
        a = np.arange(len(left.words), dtype=np.int32) if left.word_rows is None else left.word_rows
        b = np.arange(len(right.words), dtype=np.int32) if right.word_rows is None else right.word_rows
        i, j = _join(a, b)
        rows = a[i]
    # the left word is mixed once more than the right one, so that a*b is not b*a
    words = _mixed(_mixed(left.words[i]) ^ right.words[j])
    return Column(
        word_rows=rows, words=words, text=lambda place: f"{left.text(int(i[place]))} × {right.text(int(j[place]))}"
    )


@njit(cache=True, nogil=True)
def _join(a: Rows, b: Rows) -> tuple[Rows, Rows]:
    """Merge join of two non-decreasing arrays of rows: all pairs of places (i, j) with a[i] == b[j], by row."""
    pairs = 0
    for write in range(2):
        if write == 1:
            left, right = np.empty(pairs, np.int32), np.empty(pairs, np.int32)
        pairs, start = 0, 0
        for i in range(a.size):
            while start < b.size and b[start] < a[i]:
                start += 1
            j = start
            while j < b.size and b[j] == a[i]:
                if write == 1:
                    left[pairs], right[pairs] = i, j
                pairs += 1
                j += 1
    return left, right


def words_of(text: str) -> list[str]:
    """The lower-case words of a text, in their order.

    >>> words_of("Star Wars: Episode IV (1977)")
    ['star', 'wars', 'episode', 'iv', '1977']
    """
    return _TOKEN.findall(text.lower())


def _tokens(texts: Column) -> Column:
    """The distinct lower-case words of each event's texts; a text that comes often is split once."""
    rows = np.arange(len(texts.words)) if texts.word_rows is None else texts.word_rows
    split: dict[int, tuple[str, ...]] = {}
    found: dict[tuple[int, str], None] = {}
    for place, (row, hashed) in enumerate(zip(rows.tolist(), texts.words.tolist(), strict=True)):
        if hashed not in split:
            split[hashed] = tuple(dict.fromkeys(words_of(texts.text(place))))
        found.update(dict.fromkeys((row, token) for token in split[hashed]))
    tokens = [token for _, token in found]
    hash_of = {token: hash64(token) for token in set(tokens)}
    return Column(
        word_rows=np.fromiter((row for row, _ in found), np.int32, len(found)),
        words=np.fromiter(map(hash_of.__getitem__, tokens), np.uint64, len(tokens)),
        text=tokens.__getitem__,
    )
