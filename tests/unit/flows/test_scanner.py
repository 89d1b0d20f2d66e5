"""Scanning NDJSON into columns: which lines it knows, and what it keeps of them; `laws/test_parse_laws.py` has the rest."""

import msgspec
import pytest

from flows.scanner import Scan, scan
from online_models.contracts.events import EVENT_TYPES, EventType
from online_models.contracts.ids import hash64
from tests.strategies import BOUNDS, ndjson, sample_log

LINE = (
    b'{"event_id":"00000000-0000-0000-0000-0000000000ab","type":"watch","user_id":"u","item_id":"i",'
    b'"ts":1767225600000,"domain":"movies","value":2.5,"features":{"price":1}}\n'
)


def read(text: bytes, *names: str) -> Scan:
    return scan(text, BOUNDS, names)


def known(text: bytes) -> list[bool]:
    return [bool(each) for each in read(text, "price").lines["known"]]


def test_a_line_is_its_fields() -> None:
    (line,) = read(LINE).lines
    assert (line["start"], line["end"], line["ts_ms"], line["value"]) == (0, len(LINE) - 1, 1_767_225_600_000, 2.5)
    assert EVENT_TYPES[line["type"]] == EventType.WATCH
    assert line["event_hash"] == hash64("00000000-0000-0000-0000-0000000000ab")
    assert (line["user_hash"], line["item_hash"], bool(line["requested"])) == (hash64("u"), hash64("i"), False)


def test_a_time_may_be_text() -> None:
    text = LINE.replace(b"1767225600000", b'"2026-01-01T00:00:00.25Z"')
    assert read(text).lines["ts_ms"].tolist() == [1_767_225_600_250]


def test_only_the_named_features_are_kept() -> None:
    found = read(LINE + LINE.replace(b'"price":1', b'"genres":["a","b","a"],"price":"cheap"'), "price", "genres")
    assert found.numbers[0].tolist() == [(1.0, 0)]
    assert [[word["row"] for word in words] for words in found.words] == [[1], [1, 1]]
    assert [word["hash"] for word in found.words[1]] == [hash64("a"), hash64("b")]


def test_a_line_that_surprises_late_leaves_nothing_behind() -> None:
    late = LINE.replace(b'"price":1}', b'"price":7,"genres":["x"]},"model_version":"\\n"')
    found = read(late + LINE, "price", "genres")
    assert found.lines["known"].tolist() == [False, True]
    assert (found.numbers[0].tolist(), len(found.words[1])) == ([(1.0, 1)], 0)


def test_any_order_of_keys_is_learnt() -> None:
    fields = msgspec.json.decode(LINE)
    turned = msgspec.json.encode(dict(reversed(fields.items()))) + b"\n"
    assert known(LINE + turned + turned + LINE) == [True] * 4


def test_domains_stand_in_order_of_appearance() -> None:
    found = read(b"".join(LINE.replace(b"movies", name) for name in (b"b", b"a", b"b")))
    assert (found.domains, found.lines["domain"].tolist()) == (("b", "a"), [0, 1, 0])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"u"', b'"\\u0075"'),
        (b'"u"', b'""'),
        (b'"u"', b'"' + b"x" * 257 + b'"'),
        (b'"u"', b'"\x1f"'),
        (b'"u"', b'"\xff"'),
        (b"0ab", b"0ag"),
        (b"0ab", b"0AB"),
        (b"-0000-", b"00000-"),
        (b'"watch"', b'"watched"'),
        (b"1767225600000", b"1767225600000.0"),
        (b"1767225600000", b"-1"),
        (b"1767225600000", b'"2026-02-29T00:00:00Z"'),
        (b"1767225600000", b'"2026-01-01T00:00:00"'),
        (b"2.5", b"1e400"),
        (b"2.5", b"02.5"),
        (b"2.5", b"2."),
        (b'"price":1', b'"price":true'),
        (b'"price":1', b'"price":1,"price":2'),
        (b'"price":1', b'"other":{"a":1}'),
        (b'"value":2.5', b'"user_id":"v"'),
        (b'"domain":"movies",', b""),
        (b"}}\n", b"},}\n"),
        (b"}}\n", b"}}}\n"),
        (b"}}\n", b"}\n"),
    ],
)
def test_what_is_not_known_to_be_right_is_left_to_the_decoder(old: bytes, new: bytes) -> None:
    assert LINE.count(old) >= 1
    assert known(LINE + LINE.replace(old, new, 1) + LINE) == [True, False, True]


def test_a_log_of_short_and_broken_lines_has_room() -> None:
    assert known(b"x\n" * 5000 + LINE) == [False] * 5000 + [True]


def test_a_last_line_without_newline_is_not_known() -> None:
    found = read(LINE + LINE[:-1])
    assert found.lines["known"].tolist() == [True, False]
    assert found.lines["end"].tolist() == [len(LINE) - 1, 2 * len(LINE) - 1]


def test_a_log_of_ours_is_known_line_by_line() -> None:
    assert read(ndjson(sample_log(500, seed=4))).lines["known"].all()
