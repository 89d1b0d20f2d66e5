"""Laws of parsing: the scanner with its fallback gives what the exact decoder gives, for any text, in every column."""

import json
import pickle

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given, settings

from flows.chunks import Chunk, Lines, Parsed
from flows.decode import parse_slow
from flows.parse import parse
from flows.scanner import scan
from online_models.contracts.columns import Column, FeatureColumns
from online_models.contracts.events import Event, EventType
from tests.strategies import BOUNDS, events, sample_log, spelled_times

NAMES = ("price", "genre", "genres", "Größe", "depth")
COLUMNS = ("event_hash", "user_hash", "item_hash", "type", "ts_ms", "value", "domain", "offset", "requested")


def parsed(text: bytes, terminated: bool = True, names: tuple[str, ...] = NAMES) -> Parsed:
    return parse(Chunk("log", "a.ndjson", 100 + len(text), Lines(text, 100, terminated)), BOUNDS, names)


def decoded(text: bytes, terminated: bool = True) -> Parsed:
    content = Lines(text, 100, terminated)
    return parse_slow(Chunk("log", "a.ndjson", 100 + len(text), content), content, BOUNDS)


def feature(column: Column, events: int) -> tuple[object, ...]:
    """All of a feature, bit by bit."""
    every = range(events)
    return (
        list(every) if column.number_rows is None else column.number_rows.tolist(),
        column.numbers.tobytes(),
        list(every) if column.word_rows is None else column.word_rows.tolist(),
        column.words.tolist(),
        [column.text(place) for place in range(len(column.words))],
    )


def assert_same(fast: Parsed, slow: Parsed) -> None:
    assert fast.rejects == slow.rejects
    for name in COLUMNS:
        one, other = getattr(fast.batch, name), getattr(slow.batch, name)
        assert (name, one.dtype, one.tobytes()) == (name, other.dtype, other.tobytes())
    assert (fast.batch.domains, fast.batch.position) == (slow.batch.domains, slow.batch.position)
    assert_same_features(fast.batch.features, slow.batch.features, len(slow.batch))
    # one alone, then all at once
    assert [fast.batch.events[row] for row in range(len(slow.batch))][:2] == slow.batch.events[:2]
    assert list(fast.batch.events) == list(slow.batch.events)


def assert_same_features(fast: FeatureColumns, slow: FeatureColumns, events: int) -> None:
    for name in (*NAMES, "unheard"):
        assert feature(fast.column(name), events) == feature(slow.column(name), events)


numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(0, 1),
    st.integers(-(10**25), 10**25),
    st.decimals(allow_nan=False, allow_infinity=False, places=4).map(float),
)
words = st.text(max_size=9) | st.sampled_from(["War", "Drama", "Été"])
features = st.dictionaries(
    st.sampled_from([*NAMES, "unheard", "other"]), st.one_of(numbers, words, st.lists(words, max_size=4)), max_size=6
)
spelled = spelled_times | st.sampled_from(
    ["2026-01-01T00:00:00Z", "2024-02-29T23:59:59.0005Z", "2026-01-01T00:00:00.25+00:00"]
)
strange = st.one_of(
    numbers, words, st.none(), st.booleans(), st.lists(numbers, max_size=2), st.dictionaries(words, words, max_size=2)
)


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    """An event in any order of keys, spaced and escaped in any way, with fields of others, or an odd value in one."""
    fields: dict[str, object] = json.loads(json.dumps(event_fields(draw(events(spelled)))))
    if draw(st.booleans()):
        fields["features"] = draw(features)
    if draw(st.integers(0, 9)) == 0:
        fields[draw(st.sampled_from([*fields, "extra"]))] = draw(strange)
    if draw(st.booleans()):
        fields = {key: fields[key] for key in draw(st.permutations(list(fields)))}
    spaces = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\t", "\r:  ")]))
    text = json.dumps(fields, separators=spaces, ensure_ascii=draw(st.booleans()))
    return (draw(st.sampled_from(["", " "])) + text).encode(errors="surrogatepass") + draw(
        st.sampled_from([b"", b"\r", b" "])
    )


def event_fields(event: Event) -> dict[str, object]:
    found = {name: getattr(event, name) for name in event.__struct_fields__}
    return {name: value for name, value in found.items() if value is not None or name == "propensity"}


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """Lines, some with bytes replaced, added, removed or cut off."""
    found = []
    for line in draw(st.lists(lines(), max_size=6)):
        for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
            at = draw(st.integers(0, len(line)))
            new = draw(
                st.binary(max_size=1) | st.sampled_from([bytes([mark]) for mark in b'0123456789eE+-.,:{}[]"\\ Zn'])
            )
            line = line[:at] + new + line[at + draw(st.integers(0, 2)) :]
        found.append(line[: draw(st.integers(0, len(line)))] if draw(st.integers(0, 9)) == 0 else line)
    return b"\n".join(found) + draw(st.sampled_from([b"\n", b"\n", b""]))


LINE = (
    b'{"event_id":"00000000-0000-0000-0000-0000000000ab","type":"watch","user_id":"u","item_id":"i",'
    b'"ts":1767225600000,"domain":"movies","value":2.5,"features":{"price":1}}\n'
)


@settings(deadline=None, max_examples=400)
@given(texts(), st.booleans())
@example(LINE.replace(b'"price":1', b'"price":1,"price":[]'), True)
@example(LINE.replace(b'"price":1', b'"genres":["a","b","a"],"genres":["b"]'), True)
@example(LINE.replace(b'"price":1', b'"genres":[' + b",".join(b'"%d"' % (i % 90) for i in range(200)) + b"]"), True)
@example(LINE.replace(b"000ab", b"000AB") + LINE, True)
@example(
    LINE + LINE.replace(b"movies", b"books") + LINE.replace(b'"u"', b'"\\u0075"').replace(b"movies", b"games"), True
)
@example(LINE.replace(b'"price":1', b'"price":1e400') + LINE.replace(b'"price":1', b'"price":-0'), True)
@example(LINE.replace(b'"u"', b'"\xed\xa0\x80"') + LINE.replace(b'"u"', '"ü"'.encode()), True)
@example(b"".join(LINE.replace(b"movies", b"m%d" % i) for i in range(80)), True)
@example(LINE + LINE[:-1], False)
@example(LINE + LINE[:-9], False)
@example(LINE[:-9] + b"\n" + LINE, False)
def test_scanned_and_decoded_texts_are_the_same(text: bytes, terminated: bool) -> None:
    assert_same(parsed(text, terminated), decoded(text, terminated))


@settings(deadline=None, max_examples=400)
@given(
    st.lists(
        st.one_of(
            numbers.map(repr), st.from_regex(r"-?[0-9]{1,21}(\.[0-9]{1,21})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
        )
    )
)
def test_a_number_is_the_float_that_the_decoder_makes_of_it(spellings: list[str]) -> None:
    text = b"".join(LINE.replace(b'"price":1', b'"price":' + each.encode()) for each in spellings)
    assert_same(parsed(text), decoded(text))


@settings(deadline=None, max_examples=400)
@given(
    st.lists(
        spelled_times.map(str)
        | st.from_regex(
            r"20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,8})?(Z|\+00:00)", fullmatch=True
        )
    )
)
def test_a_time_is_the_millisecond_that_the_contract_makes_of_it(spellings: list[str]) -> None:
    text = b"".join(LINE.replace(b"1767225600000", json.dumps(each).encode()) for each in spellings)
    assert_same(parsed(text), decoded(text))


@settings(deadline=None)
@given(texts(), st.integers(0, 2**32 - 1))
def test_some_events_of_a_batch_are_those_of_the_decoded_one(text: bytes, seed: int) -> None:
    fast, slow = parsed(text).batch, decoded(text).batch
    for _ in range(2):
        rows = np.random.default_rng(seed).random(len(slow)) < 0.7
        fast, slow = fast.take(rows), slow.take(rows)
        assert list(fast.events) == list(slow.events)
        assert_same_features(fast.features, slow.features, len(slow))


@settings(deadline=None)
@given(texts())
def test_a_batch_goes_to_another_process(text: bytes) -> None:
    assert_same(pickle.loads(pickle.dumps(parsed(text))), decoded(text))


def test_what_machines_write_is_scanned_not_decoded() -> None:
    """The laws above would hold too if every line surprised the scanner."""
    log = [event_fields(event) for event in sample_log(300, seed=3)]
    for row, fields in enumerate(log):
        fields["ts"] = ["2026-01-01T00:00:00Z", "2026-01-01T00:00:00.125Z", 1_767_225_600_000][row % 3]
        fields["type"] = list(EventType)[row % 6]
        fields["context"] = [None, True, 1.5e-7, "ü", ["a", 1]][row % 5]
        fields["features"] = {
            "price": row / 7,
            "genre": "Été",
            "genres": ["a", "b"],
            "depth": 10**row if row < 19 else -row,
        }
    plain = "".join(json.dumps(fields, ensure_ascii=False) + "\n" for fields in log).encode()
    dense = "".join(json.dumps(fields, ensure_ascii=False, separators=(",", ":")) + "\n" for fields in log).encode()
    for text in (plain, dense):
        assert scan(text, BOUNDS, NAMES).lines["known"].all()
        assert_same(parsed(text), decoded(text))


@pytest.mark.parametrize("count", [1, 7, 100])
def test_words_have_room_however_many_there_are(count: int) -> None:
    listed = b",".join(b'"w%d"' % i for i in range(60))
    text = LINE.replace(b'"price":1', b'"genres":[' + listed + b'],"price":3') * count
    assert scan(text, BOUNDS, NAMES).lines["known"].all()
    assert_same(parsed(text), decoded(text))
