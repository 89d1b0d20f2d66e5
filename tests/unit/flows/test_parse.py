"""Parsing a chunk: its events as columns, every other row a reject with reason, offset and bytes."""

import math
import uuid
from pathlib import Path

import hypothesis.strategies as st
import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from flows.chunks import KEPT_BYTES, Chunk, Lines, Parsed, Rows
from flows.parse import parse
from online_models.contracts.events import (
    EVENT_TYPES,
    Event,
    EventType,
    TimeBounds,
    reason_to_reject,
    timestamp_ms,
)
from online_models.contracts.ids import hash64
from tests.reading import admitted, events_of, parse_log, rejects_of, rows_of
from tests.strategies import BOUNDS, DirtyLog, dirty_log, dirty_logs, logs, ndjson, sample_log

EVENT = sample_log(1, seed=1)[0]


def parse_text(blob: bytes, offset: int = 0, terminated: bool = True) -> Parsed:
    return parse(Chunk("log", "a.ndjson", offset + len(blob), Lines(blob, offset, terminated)), BOUNDS)


def parse_rows(*rows: dict[str, object]) -> Parsed:
    return parse(Chunk("log", "a.parquet", len(rows), Rows(rows, range(len(rows)))), BOUNDS)


def judge(line: bytes, bounds: TimeBounds) -> Event | str:
    """The oracle: one line on its own, by the contract's own functions."""
    try:
        event = msgspec.json.decode(line, type=Event)
        ts_ms = timestamp_ms(event.ts)
    except (msgspec.DecodeError, ValueError, OverflowError, RecursionError):
        return "unreadable"
    return reason_to_reject(event, ts_ms, bounds) or event


@st.composite
def spoiled_lines(draw: st.DrawFn) -> list[bytes]:
    """Lines of a valid log, some with a byte replaced, removed or added anywhere."""
    lines = []
    for event in draw(logs(max_size=8)):
        line = msgspec.json.encode(event)
        for _ in range(draw(st.integers(0, 2))):
            at = draw(st.integers(0, len(line)))
            gone = draw(st.integers(0, 1))
            line = line[:at] + draw(st.binary(max_size=1)).replace(b"\n", b"") + line[at + gone :]
        lines.append(line)
    return lines


@settings(deadline=None)
@given(spoiled_lines())
def test_a_chunk_is_judged_as_each_line_alone(lines: list[bytes]) -> None:
    parsed = parse_text(b"".join(line + b"\n" for line in lines))
    verdicts = [judge(line, BOUNDS) for line in lines if line.strip()]

    accepted = [verdict for verdict in verdicts if isinstance(verdict, Event)]
    ids = [str(uuid.UUID(event.event_id)) for event in accepted]
    assert parsed.batch.event_hash.tolist() == [hash64(event_id) for event_id in ids]
    assert [(e.user_id, e.ts, e.features) for e in parsed.batch.events] == [
        (e.user_id, e.ts, e.features) for e in accepted
    ]
    refused = [verdict for verdict in verdicts if isinstance(verdict, str)]
    assert len(parsed.rejects) == len(refused)
    for row, reason in zip(parsed.rejects, refused, strict=True):
        assert reason == "unreadable" or row.reason == reason[:300]


@settings(deadline=None)
@given(logs())
def test_columns_hold_what_the_events_say(log: list[Event]) -> None:
    parsed = parse_text(ndjson(log), offset=100)
    batch = parsed.batch

    assert parsed.rejects == []
    assert list(batch.events) == log
    assert batch.event_hash.tolist() == [hash64(event.event_id) for event in log]
    assert batch.user_hash.tolist() == [hash64(event.user_id) for event in log]
    assert batch.item_hash.tolist() == [hash64(event.item_id) for event in log]
    assert [EVENT_TYPES[code] for code in batch.type] == [event.type for event in log]
    assert batch.ts_ms.tolist() == [timestamp_ms(event.ts) for event in log]
    assert [None if math.isnan(value) else value for value in batch.value] == [event.value for event in log]
    assert [batch.domains[code] for code in batch.domain] == [event.domain for event in log]
    assert batch.domains == tuple(dict.fromkeys(event.domain for event in log))
    starts = np.cumsum([100, *(len(msgspec.json.encode(event)) + 1 for event in log)])[:-1]
    assert batch.offset.tolist() == starts.tolist()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(log=dirty_logs())
def test_a_dirty_log_gives_the_events_of_the_clean_one_and_each_bad_row_a_reject(log: DirtyLog, tmp_path: Path) -> None:
    assert_clean_result(log, tmp_path)


@pytest.mark.parametrize("seed", range(3))
def test_a_large_dirty_log_gives_the_events_of_the_clean_one(seed: int, tmp_path: Path) -> None:
    assert_clean_result(dirty_log(sample_log(6000, seed), seed, faults=200, duplicates=100), tmp_path)


def assert_clean_result(log: DirtyLog, folder: Path) -> None:
    clean, dirty = folder / "clean.ndjson", folder / "dirty.ndjson"
    clean.write_bytes(log.clean)
    dirty.write_bytes(log.dirty)
    parsed = parse_log(dirty)

    assert rows_of(admitted(parsed)) == rows_of(part.batch for part in parse_log(clean))
    assert len(events_of(parsed)) == sum(len(batch) for batch in admitted(parsed)) + len(log.duplicates)
    rejects = rejects_of(parsed)
    assert [row.offset for row in rejects] == [row.offset for row in log.bad]
    for row, expected in zip(rejects, log.bad, strict=True):
        assert expected.reason in row.reason
        assert (row.raw, row.length) == (expected.raw[:KEPT_BYTES], len(expected.raw))
        assert row.source == str(dirty)


@pytest.mark.parametrize(
    ("field", "entry"),
    [
        ("value", math.nan),
        ("value", -math.inf),
        ("propensity", math.inf),
        ("features", {"a": math.nan}),
        ("features", {"a": "x\x00"}),
        ("features", {"a": ["x", "\x00"]}),
        ("user_id", ""),
        ("item_id", "x" * 257),
        ("domain", "a\x00"),
        ("request_id", "x" * 257),
        ("model_version", "\x00"),
        ("position", -1),
        ("rollout_id", 2**31),
        ("ts", BOUNDS.latest_ms + 1),
        ("ts", 2**70),
        ("ts", "2020-01-01T00:00:00"),
        ("type", "view"),
        ("event_id", "1234"),
    ],
)
def test_a_row_of_a_table_is_refused_alone_and_for_the_field_at_fault(field: str, entry: object) -> None:
    plain = [msgspec.structs.replace(event, features=None) for event in sample_log(3, seed=2)]
    rows: list[dict[str, object]] = [msgspec.to_builtins(event) for event in plain]
    rows[1][field] = entry
    parsed = parse_rows(*rows)

    assert [event.event_id for event in parsed.batch.events] == [rows[0]["event_id"], rows[2]["event_id"]]
    assert [row.offset for row in parsed.rejects] == [1]
    assert field in parsed.rejects[0].reason
    assert msgspec.json.decode(parsed.rejects[0].raw)["domain"] == msgspec.json.decode(
        msgspec.json.encode(rows[1]["domain"])
    )


def test_ids_that_differ_in_spelling_meet() -> None:
    spellings = [EVENT.event_id, EVENT.event_id.upper(), EVENT.event_id.replace("-", ""), f"{{{EVENT.event_id}}}"]
    parsed = parse_text(ndjson([msgspec.structs.replace(EVENT, event_id=spelling) for spelling in spellings]))

    assert set(parsed.batch.event_hash.tolist()) == {hash64(EVENT.event_id)}
    assert [event.event_id.lower() for event in parsed.batch.events] == [EVENT.event_id] * 4


def test_empty_lines_and_carriage_returns_are_no_rows() -> None:
    line = msgspec.json.encode(EVENT)
    parsed = parse_text(b"\n" + line + b"\r\n\r\n  \n")
    assert (list(parsed.batch.events), parsed.rejects) == ([EVENT], [])
    assert parsed.batch.offset.tolist() == [1]


def test_a_last_line_without_newline_is_an_event_when_it_is_whole() -> None:
    assert parse_text(msgspec.json.encode(EVENT), terminated=False).batch.events[:] == [EVENT]


def test_a_cut_last_line_is_called_so_and_no_other_line_is() -> None:
    whole = msgspec.json.encode(EVENT)
    rejects = parse_text(b"broken\n" + whole[:-5], terminated=False).rejects
    assert ["truncated last line" in row.reason for row in rejects] == [False, True]
    assert (rejects[1].offset, rejects[1].raw) == (7, whole[:-5])


def test_two_events_on_one_line_are_one_bad_row() -> None:
    line = msgspec.json.encode(EVENT)
    parsed = parse_text(line + line + b"\n" + line[:-1] + b"\n}\n")
    assert (len(parsed.batch), len(parsed.rejects)) == (0, 3)


def test_the_last_of_repeated_keys_counts() -> None:
    line = msgspec.json.encode(EVENT)[:-1] + b',"user_id":"other"}\n'
    assert parse_text(line).batch.events[0].user_id == "other"


def test_a_reason_and_its_bytes_are_bounded() -> None:
    event = msgspec.structs.replace(EVENT, ts="x" * 200_000)
    (row,) = parse_text(ndjson([event])).rejects
    assert (len(row.reason), len(row.raw)) == (300, KEPT_BYTES)
    assert row.length == len(msgspec.json.encode(event))


def test_nesting_without_end_is_a_bad_row() -> None:
    line = msgspec.json.encode(EVENT)[:-1] + b',"deep":' + b"[" * 100_000
    (row,) = parse_text(line + b"\n").rejects
    assert "recursion" in row.reason


def test_an_empty_chunk_has_empty_columns_and_its_position() -> None:
    batch = parse_text(b"\n\n", offset=5).batch
    assert (len(batch), batch.position, batch.source) == (0, 7, "a.ndjson")
    assert [column.dtype for column in (batch.event_hash, batch.type, batch.ts_ms, batch.value, batch.domain)] == [
        np.uint64, np.int8, np.int64, np.float64, np.int16,
    ]  # fmt: skip


def test_a_batch_has_only_the_domains_of_its_events() -> None:
    foreign = msgspec.structs.replace(EVENT, domain="elsewhere", ts=0)
    assert parse_text(ndjson([foreign, EVENT])).batch.domains == (EVENT.domain,)


def test_each_type_has_its_wire_code() -> None:
    log = [msgspec.structs.replace(EVENT, type=kind) for kind in EventType]
    assert parse_text(ndjson(log)).batch.type.tolist() == [0, 1, 2, 3, 4, 5]
