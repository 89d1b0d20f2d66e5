"""Partitions: which events share a file, what the files hold, and what their hashes depend on."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from online_models.errors import ArtifactError, StoreError
from online_models.interactions import DAY_MS, EventDay
from retrain_workers.data.partitions import (
    BLOCK_DAYS,
    FILE_EVENTS,
    ROW_GROUP,
    SCHEMA,
    ContentHash,
    Part,
    Partition,
    PartitionWriter,
    is_whole,
    parts_of,
    read,
    table_of,
)

DAYS = st.lists(
    st.builds(EventDay, st.integers(0, 200), st.integers(1, FILE_EVENTS), st.integers(0, 2**64 - 1)),
    max_size=40,
    unique_by=lambda day: day.day,
).map(lambda days: sorted(days, key=lambda day: day.day))


@given(days=DAYS)
def test_every_day_is_in_one_part_and_a_block_is_one_file_unless_it_is_busy(days: list[EventDay]) -> None:
    parts = parts_of(days)
    assert [part.first_day for part in parts] == sorted({part.first_day for part in parts})
    for day in days:
        (part,) = [each for each in parts if each.first_day <= day.day < each.first_day + each.days]
        block = [each for each in days if each.day // BLOCK_DAYS == day.day // BLOCK_DAYS]
        if sum(each.events for each in block) <= FILE_EVENTS:
            checksum = sum(each.checksum for each in block) % 2**64
            events = sum(each.events for each in block)
            assert part == Part(day.day // BLOCK_DAYS * BLOCK_DAYS, BLOCK_DAYS, events, checksum)
        else:
            assert part == Part(day.day, 1, day.events, day.checksum)


def line(number: int, ts_ms: int, features: str = "") -> bytes:
    quoted = '"' + features.replace('"', '""') + '"' if features else ""
    return f"{number:036},u{number % 7},i{number % 5},click,{ts_ms},,r{number},{number % 10},,0.25,{quoted}\n".encode()


def lines(count: int, day: int = 0) -> list[bytes]:
    return [line(n, day * DAY_MS + n * 100, '{"genres": ["a, b"]}' if n % 3 else "") for n in range(count)]


def written(directory: Path, rows: Sequence[bytes], parts: Sequence[Part], piece: int) -> list[Partition]:
    directory.mkdir(exist_ok=True)
    with PartitionWriter(directory, parts) as writer:
        for start in range(0, len(rows), piece):
            writer.receive(b"".join(rows[start : start + piece]))
        return writer.partitions()


def test_a_view_of_several_parts_becomes_a_file_for_each(tmp_path: Path) -> None:
    rows = [*lines(50), *lines(70, day=1), *lines(30, day=30)]
    parts = [Part(0, 1, 50, 1), Part(1, 1, 70, 2), Part(28, 28, 30, 3)]
    found = written(tmp_path, rows, parts, piece=40)
    assert [each.part for each in found] == parts
    assert [len(read(tmp_path, each, ["ts_ms"])) for each in found] == [50, 70, 30]
    assert [(each.start_ms, each.end_ms) for each in found] == [
        (0, 4_900), (DAY_MS, DAY_MS + 6_900), (30 * DAY_MS, 30 * DAY_MS + 2_900),
    ]  # fmt: skip
    assert [each.name[:14] for each in found] == ["1970-01-01-1d-", "1970-01-02-1d-", "1970-01-29-28d"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(each.name for each in found)


def test_a_file_holds_what_came_and_is_the_same_however_it_came(tmp_path: Path) -> None:
    rows = lines(ROW_GROUP + 1_000)
    part = Part(0, 1, len(rows), 7)
    once = written(tmp_path / "once", rows, [part], piece=len(rows))
    for piece in (ROW_GROUP, 9_999):
        assert written(tmp_path / "again", rows, [part], piece) == once
    assert read(tmp_path / "once", once[0], SCHEMA.names).equals(table_of(b"".join(rows)))
    raw = (tmp_path / "again" / once[0].name).read_bytes()
    assert hashlib.sha256(raw).hexdigest() == once[0].file_sha256


def test_rows_that_the_digest_did_not_tell_are_refused_and_leave_no_file(tmp_path: Path) -> None:
    for parts in ([Part(0, 1, 9, 1)], [Part(0, 1, 10, 1), Part(1, 1, 5, 1)]):
        with pytest.raises(StoreError, match=r"expected \d+ events from day"):
            written(tmp_path, lines(10), parts, piece=10)
    assert not list(tmp_path.glob(".writing-*"))


TEXTS = st.text(st.sampled_from('",\n\r\\aé '), max_size=4)


def csv_of(rows: Sequence[tuple[str | None, str, float | None]]) -> bytes:
    def quoted(text: str | None) -> str:
        return "" if text is None else '"' + text.replace('"', '""') + '"'

    return "".join(
        f"e,{quoted(user)},i,click,5,{'' if value is None else repr(value)},{quoted(request)},,,,\n"
        for request, user, value in rows
    ).encode()


ROWS = st.lists(st.tuples(st.none() | TEXTS, TEXTS, st.none() | st.floats(allow_nan=False)), min_size=1, max_size=8)


@given(rows=ROWS)
def test_any_text_and_number_is_read_as_it_was_written(rows: list[tuple[str | None, str, float | None]]) -> None:
    table = table_of(csv_of(rows))
    found = zip(*(table[name].to_pylist() for name in ("request_id", "user_id", "value")), strict=True)
    assert list(found) == rows


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(rows=ROWS, other=ROWS, cut=st.integers(0, 8))
def test_the_content_hash_tells_rows_apart_but_not_how_they_are_cut(
    rows: list[tuple[str | None, str, float | None]], other: list[tuple[str | None, str, float | None]], cut: int
) -> None:
    def content(*tables: pa.Table) -> str:
        digest = ContentHash()
        for table in tables:
            digest.update(table)
        return digest.hexdigest()

    whole = table_of(csv_of(rows))
    assert content(whole.slice(0, cut), whole.slice(cut)) == content(whole)
    assert content(pa.concat_tables([whole.slice(0, cut), whole.slice(cut)])) == content(whole)
    assert (content(table_of(csv_of(other))) == content(whole)) == (repr(other) == repr(rows))


def test_torn_and_missing_files_are_noticed(tmp_path: Path) -> None:
    (partition,) = written(tmp_path, lines(10), [Part(0, 1, 10, 1)], piece=10)
    path = tmp_path / partition.name
    assert is_whole(tmp_path, partition)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    assert not is_whole(tmp_path, partition)
    with pytest.raises(ArtifactError, match="expected SHA-256"):
        read(tmp_path, partition, ["ts_ms"])
    path.unlink()
    assert not is_whole(tmp_path, partition)
    with pytest.raises(ArtifactError, match="No such file"):
        read(tmp_path, partition, ["ts_ms"])
