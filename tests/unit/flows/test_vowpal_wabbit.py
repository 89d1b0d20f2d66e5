"""Vowpal Wabbit text: namespaces become fields and features, as VW reads them, and no line is lost without a reason."""

import gzip
import uuid
from collections.abc import Callable
from pathlib import Path

import hypothesis.strategies as st
import pytest
import zstandard
from hypothesis import given, settings

from flows.chunks import Chunk, Parsed, Rows
from flows.formats import open_reader
from flows.parse import parse
from flows.sources import LogSource
from flows.vowpal_wabbit import VwMapping, vw_row, vw_rows
from online_models.contracts.events import Event
from tests.reading import chunks_of, events_of, rejects_of
from tests.strategies import BOUNDS, times

START = 1_700_000_000_000
COUNTED = VwMapping(start_ms=START)


def row_of(line: str, mapping: VwMapping = COUNTED, offset: int = 0) -> dict[str, object]:
    return vw_row(line, offset, "a.vw", mapping)


@pytest.mark.parametrize(
    ("line", "features"),
    [
        ("1 |genre war drama", {"genre": ["war", "drama"]}),
        ("1 |genre war", {"genre": "war"}),
        ("1 |age 23", {"age": "23"}),
        ("1 |age :23", {"age": 23.0}),
        ("1 |user_info age:23 city:Graz", {"user_info.age": 23.0, "user_info.city": "Graz"}),
        ("1 |price:2 :1.5 |x:0.5 y:4", {"price": 3.0, "x.y": 2.0}),
        ("1 | a b:2 c", {"words": ["a", "c"], "b": 2.0}),
        ("1 |a x |b y |a z", {"a": ["x", "z"], "b": "y"}),
        ("1 |a x y:2", {"a": "x", "a.y": 2.0}),
        ("1 |a n:-1e-3 m:+4", {"a.n": -0.001, "a.m": 4.0}),
        ("1 |a |b x", {"b": "x"}),
        ("1 |url page:http://x/y", {"url.page": "http://x/y"}),
        ("1 |a\tx\ty:2", {"a": ["x"], "a.y": 2.0} | {"a": "x"}),
        ("1", None),
        ("1 |", None),
    ],
)
def test_namespaces_become_features(line: str, features: dict[str, object] | None) -> None:
    assert row_of(line).get("features") == features


def test_a_namespace_of_numbers_may_leave_out_the_colon() -> None:
    mapping = VwMapping(start_ms=START, numbers=frozenset({"age"}))
    assert row_of("1 |age 23 |city 23", mapping)["features"] == {"age": 23.0, "city": "23"}
    assert row_of("1 |age unknown", mapping)["features"] == {"age": "unknown"}


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        ("1 ", "click"),
        ("0.5 2.0 0.1 ", "click"),
        ("0 ", "impression"),
        ("-1 ", "impression"),
        ("", "impression"),
        ("1", "impression"),
    ],
)
def test_a_positive_label_is_a_click(head: str, kind: str) -> None:
    """A word that touches the bar is a tag, not a label: so VW reads it."""
    assert row_of(f"{head}|a x", COUNTED)["type"] == kind


def test_namespaces_may_say_what_the_event_is() -> None:
    event_id = str(uuid.UUID(int=7))
    line = f"3 |type watch |user u 1 |item_id i:7 |ts 2026-01-01T00:00:00Z |domain films |event_id {event_id} |a x"
    assert row_of(line) == {
        "type": "watch", "user_id": "u 1", "item_id": "i:7", "ts": "2026-01-01T00:00:00Z", "domain": "films",
        "event_id": event_id, "features": {"a": "x"},
    }  # fmt: skip
    other = VwMapping(user_id=("u",), item_id=("m",), default_domain="ads", start_ms=START)
    row = row_of("1 |u 5 |user 6", other)
    assert (row["user_id"], row["item_id"], row["domain"], row["features"]) == ("5", "-", "ads", {"user": "6"})


@pytest.mark.parametrize(
    ("line", "ts"),
    [
        ("1 '1700000000|a x", 1_700_000_000_000),
        ("1 1700000000001|a x", 1_700_000_000_001),
        ("1 '1700000000 |a x", 1_700_000_000_000),
        ("1 |ts 1700000000.5", 1_700_000_000_500),
        ("1 |ts :1700000000001", 1_700_000_000_001),
        ("1 '1700000000|ts 1600000000", 1_600_000_000_000),
        ("1 'page7|a x", START + 50),
        ("1 |a x", START + 50),
    ],
)
def test_the_time_is_a_namespace_or_the_tag_or_counted(line: str, ts: int) -> None:
    assert row_of(line, offset=50)["ts"] == ts


def test_an_id_is_the_uuid_of_path_and_offset() -> None:
    expected = uuid.uuid5(uuid.uuid5(uuid.NAMESPACE_URL, "penstock:vowpal-wabbit"), "a.vw:50")
    assert row_of("1 |a x", offset=50)["event_id"] == str(expected)


def parse_text(text: bytes, mapping: VwMapping = COUNTED, terminated: bool = True) -> Parsed:
    rows, rejects = vw_rows(text, 100, terminated, "a.vw", mapping)
    return parse(Chunk("log", "a.vw", 100 + len(text), rows, rejects), BOUNDS)


BAD_LINES = {
    b"x 1 |a b": "label: expected a number, got 'x'",
    b"1:2:0.5 |a b": "label: expected a number, got '1:2:0.5'",
    b"1 2 3 4 |a b": "label: expected at most label, importance and base",
    b"\xff1 |a b": "not UTF-8: byte 0xff at 0",
    b"1 |a:b c": "scale: expected a number, got 'b'",
    b"1 |a b:1 |a.b x": "expected words or a number, got both",
    b"1 |a x :3": "expected words or a number, got both",
    b"1 |a b:nan": "features.a.b: expected a finite number",
    b"1 |ts soon": "ts: ",
    b"1 |ts nan": "ts: expected a finite number",
    b"1 |ts 5": "ts: expected within",
    b"1 |type view": "Invalid enum value 'view'",
    b"1 |user": "user_id: expected 1 to 256 characters",
    b"1 |event_id 7": "event_id: expected a UUID",
    b"1 |a x\x00": "NUL is not allowed",
}


def test_bad_lines_are_refused_alone_with_reason_offset_and_bytes() -> None:
    good = [b"1 |a %d" % k for k in range(len(BAD_LINES))]
    text = b"\r\n\n".join(line for pair in zip(good, BAD_LINES, strict=True) for line in pair)
    parsed = parse_text(text)
    assert [event.features for event in parsed.batch.events] == [{"a": str(k)} for k in range(len(good))]
    assert [row.raw for row in parsed.rejects] == list(BAD_LINES)
    assert [row.offset for row in parsed.rejects] == [100 + text.index(line) for line in BAD_LINES]
    assert [
        reason for row, reason in zip(parsed.rejects, BAD_LINES.values(), strict=True) if reason not in row.reason
    ] == []


def test_without_any_time_the_reason_names_the_remedies() -> None:
    (refused,) = parse_text(b"1 |a x\n", VwMapping()).rejects
    assert "namespace |ts" in refused.reason
    assert "vw_start" in refused.reason


def test_a_cut_last_line_says_so() -> None:
    assert parse_text(b"1 |a x\n1 |ts s", terminated=False).rejects[0].reason.startswith("truncated last line: ")
    assert parse_text(b"1 |a x\nx", terminated=False).rejects[0].reason.startswith("truncated last line: ")


words = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=6)
spaces = st.dictionaries(
    words.map(lambda name: f"n{name}"),
    st.lists(words, min_size=1, max_size=4) | st.dictionaries(words, st.floats(-1e9, 1e9), min_size=1, max_size=3),
    max_size=4,
)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([-1, 0, 1, 2.5]), times, words, spaces), max_size=6))
def test_what_a_line_was_written_from_is_read_back(log: list[tuple[float, int, str, dict[str, object]]]) -> None:
    lines, expected = [], []
    for label, ts, user, given_spaces in log:
        line, features = f"{label} |ts {ts} |user {user}", dict[str, object]()
        for name, content in given_spaces.items():
            if isinstance(content, list):
                line += f" |{name} {' '.join(content)}"
                features[name] = content if len(content) > 1 else content[0]
            elif isinstance(content, dict):
                line += f" |{name} " + " ".join(f"{word}:{number!r}" for word, number in content.items())
                features |= {f"{name}.{word}": number for word, number in content.items()}
        lines.append(line)
        ts_ms = ts if ts >= 10**11 else ts * 1000
        expected.append(("click" if label > 0 else "impression", ts_ms, user, features or None))
    rows, rejects = vw_rows("\n".join(lines).encode(), 0, True, "a.vw", VwMapping())
    assert rejects == ()
    found = [(row["type"], row["ts"], row["user_id"], row.get("features")) for row in rows.rows]
    assert found == expected


TEXT = b"".join(
    b"%d '%d|user u%d |item i%d |genre war%d drama |info age:%d\n"
    % (k % 3 - 1, START // 1000 + k, k % 7, k % 5, k % 11, k % 90)
    for k in range(9000)
)
PACKED: dict[str, Callable[[bytes], bytes]] = {
    ".vw": bytes,
    ".vw.gz": gzip.compress,
    ".vw.zst": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("ending", PACKED)
def test_a_log_is_read_whole_compressed_or_not_and_resumed_anywhere(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(PACKED[ending](b"\xef\xbb\xbf" + TEXT))
    source = LogSource([path])
    whole = chunks_of(source)
    parsed = [parse(chunk, BOUNDS) for chunk, _ in whole]
    events = events_of(parsed)
    assert rejects_of(parsed) == []
    assert len(whole) > 1
    assert [event.ts for event in events] == [START // 1000 * 1000 + 1000 * k for k in range(9000)]
    assert events[8].features == {"genre": ["war8", "drama"], "info.age": 8.0}
    assert len({event.event_id for event in events}) == 9000
    for done, (_, state) in enumerate(whole, start=1):
        assert chunks_of(LogSource([path]), state) == whole[done:]


def test_the_mapping_of_a_source_reaches_its_lines(tmp_path: Path) -> None:
    (tmp_path / "a.vw").write_bytes(b"1 |u 5\n0 |u 6\n")
    source = LogSource([tmp_path / "a.vw"], vw=VwMapping(user_id=("u",), start_ms=START))
    ((chunk, _),) = chunks_of(source)
    assert isinstance(chunk.content, Rows)
    events: list[Event] = events_of([parse(chunk, BOUNDS)])
    assert [(event.user_id, event.ts, event.type.value) for event in events] == [
        ("5", START, "click"),
        ("6", START + 7, "impression"),
    ]


def test_a_file_is_opened_by_its_ending_in_any_case(tmp_path: Path) -> None:
    (tmp_path / "A.VW").write_bytes(b"1 |a x\n")
    reader = open_reader(tmp_path / "A.VW", vw=COUNTED)
    piece = reader.read()
    reader.close()
    assert piece is not None
    assert piece.end == 7
