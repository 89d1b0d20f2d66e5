"""Recorded logs in every format as columns; bad rows and damage are counted with their reasons and stop nothing."""

import gzip
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings

from flows.chunks import Chunk
from flows.formats import open_reader
from flows.parse import parse
from online_models.contracts.events import EVENT_TYPES, Event, TimeBounds, timestamp_ms
from online_models.errors import SourceError
from online_models.stores.recorded import Recorded, read_log
from tests.log_files import WRITERS, as_table
from tests.samples import event
from tests.strategies import BOUNDS, dirty_log, logs, ndjson, sample_log, times

LOG = sample_log(2_000, 4)


def rows_of(recorded: Recorded) -> list[tuple[str, str, str, str, int, float]]:
    """The columns as rows, an absent value as -1."""
    columns = (recorded.user, recorded.item, recorded.domain, recorded.type, recorded.ts_ms, recorded.value)
    assert {len(column) for column in columns} == {len(recorded)}
    return [
        (recorded.users[user], recorded.items[item], recorded.domains[domain], EVENT_TYPES[kind].value, ts_ms, value)
        for user, item, domain, kind, ts_ms, value in zip(
            *(column.tolist() for column in columns[:5]), np.nan_to_num(recorded.value, nan=-1).tolist(), strict=True
        )
    ]


def expected_of(log: Sequence[Event]) -> list[tuple[str, str, str, str, int, float]]:
    return [
        (
            each.user_id,
            each.item_id,
            each.domain,
            each.type.value,
            timestamp_ms(each.ts),
            -1 if each.value is None else each.value,
        )
        for each in log
    ]


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_events(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name, LOG)
    recorded = read_log([tmp_path / name])
    assert rows_of(recorded) == expected_of(LOG)
    assert recorded.refused == {}


def test_files_are_read_one_after_the_other(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_bytes(ndjson(LOG[:700]))
    WRITERS["a.parquet"](tmp_path / "b.parquet", LOG[700:])
    assert rows_of(read_log([tmp_path / "a.ndjson", tmp_path / "b.parquet"])) == expected_of(LOG)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(logs(times=times))
def test_any_valid_log_comes_back(tmp_path: Path, log: list[Event]) -> None:
    (tmp_path / "a.ndjson").write_bytes(ndjson(log))
    assert rows_of(read_log([tmp_path / "a.ndjson"])) == expected_of(log)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_of_a_dirty_text_the_same_rows_are_refused_as_by_the_stream_job(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(dirty_log(sample_log(60, seed), seed).dirty)
    accepted, refused = list[Event](), 0
    with closing(open_reader(path)) as reader:
        while (piece := reader.read()) is not None:
            parsed = parse(Chunk("log", str(path), piece.end, piece.content, piece.rejects), BOUNDS)
            accepted += parsed.batch.events
            refused += len(parsed.rejects)
    recorded = read_log([path], BOUNDS)
    assert rows_of(recorded) == expected_of(accepted)
    assert sum(each.count for each in recorded.refused.values()) == refused > 8


def test_reasons_are_counted_by_their_kind_and_the_first_is_told_in_full(tmp_path: Path) -> None:
    lines = [msgspec.json.encode(event(number, ts=number)) for number in range(8)]
    lines[2], lines[5], lines[6] = b'{"event_id": 5}', b"{}", b'{"event_id": 7}'
    (tmp_path / "a.ndjson").write_bytes(b"\n".join(lines))
    recorded = read_log([tmp_path / "a.ndjson"], TimeBounds(1, 3))
    assert recorded.ts_ms.tolist() == [1, 3]
    assert {kind: refused.count for kind, refused in recorded.refused.items()} == {
        "ts: expected within […, …] ms, got …": 3,
        "Expected `str`, got `int` - at `$.event_id`": 2,
        "Object missing required field `event_id`": 1,
    }
    first = recorded.refused["ts: expected within […, …] ms, got …"].first
    assert first == f"{tmp_path}/a.ndjson, row 1: ts: expected within [1, 3] ms, got 0"


CSV_HEADER = "event_id,type,user_id,item_id,ts,domain,value,other"
CSV_ROW = "00000000-0000-4000-8000-00000000000{0},{1},u,i,{0},movies,4.5,x"


def test_csv_rows_that_are_none_are_refused_one_by_one(tmp_path: Path) -> None:
    good, bad = [CSV_ROW.format(number, "rating") for number in (1, 2)], [CSV_ROW.format(3, "view"), "a,b", "", '"x"y']
    text = (
        "\n".join([CSV_HEADER, good[0], *bad, good[1]]).encode() + b"\n" + good[0].encode().replace(b",u,", b",\xff,")
    )
    (tmp_path / "a.csv").write_bytes(text)
    recorded = read_log([tmp_path / "a.csv"])
    assert recorded.ts_ms.tolist() == [1, 2]
    assert recorded.value.tolist() == [4.5, 4.5]
    assert sum(refused.count for refused in recorded.refused.values()) == 4
    assert {"row: not UTF-8", "row: expected … cells, got …", "Invalid enum value … - at `$.type`"} < set(
        recorded.refused
    )


@pytest.mark.parametrize("text", ["", "a,a\n1,2", "one,two\n1,2"])
def test_csv_without_a_header_of_event_fields_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(SourceError, match="expected a CSV header"):
        read_log([tmp_path / "a.csv"])


@pytest.mark.parametrize("ending", [".ndjson.gz", ".ndjson.zst", ".csv.gz", ".csv.zst"])
def test_of_a_torn_or_altered_stream_what_came_before_is_kept(tmp_path: Path, ending: str) -> None:
    WRITERS[f"a{ending}"](tmp_path / f"a{ending}", LOG)
    whole = (tmp_path / f"a{ending}").read_bytes()
    for damaged in (whole[: 9 * len(whole) // 10], whole[: 8 * len(whole) // 10] + b"damage" * 40):
        (tmp_path / f"a{ending}").write_bytes(damaged)
        recorded = read_log([tmp_path / f"a{ending}"])
        assert rows_of(recorded) == expected_of(LOG)[: len(recorded)]
        assert 0.3 * len(LOG) < len(recorded) < len(LOG)
        reasons = [refused.first for kind, refused in recorded.refused.items() if kind.startswith("compressed stream")]
        assert len(reasons) == 1


def test_a_table_that_breaks_gives_the_rows_before_the_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(as_table(LOG), path, row_group_size=500, compression="zstd")
    whole = bytearray(path.read_bytes())
    begin = pq.ParquetFile(path).metadata.row_group(2).column(0).data_page_offset
    whole[begin : begin + 60] = b"\xff" * 60
    path.write_bytes(whole)
    recorded = read_log([path])
    assert len(recorded) < len(LOG)
    assert [kind[:16] for kind in recorded.refused] == ["table is corrupt"]


def test_tables_without_columns_of_events_and_files_that_are_none_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    for name in ("b.parquet", "b.arrow"):
        (tmp_path / name).write_bytes(b"no table at all")
    for name, message in (
        ("a.parquet", "columns named like event fields, got a"),
        ("b.parquet", "not a Parquet file"),
        ("b.arrow", "not an Arrow IPC file"),
        ("missing.ndjson", "cannot be read"),
        ("missing.csv.gz", "cannot be read"),
        ("a.xlsx", "expected a name ending in"),
    ):
        with pytest.raises(SourceError, match=message):
            read_log([tmp_path / name])


def test_a_too_long_line_is_refused_and_the_next_is_read(tmp_path: Path) -> None:
    long = msgspec.json.encode(event(1, features={"text": "x" * 300_000}))
    (tmp_path / "a.ndjson").write_bytes(
        b"\xef\xbb\xbf" + b"\n".join([ndjson([event(0)]).strip(), long, b"  ", ndjson([event(2)])])
    )
    recorded = read_log([tmp_path / "a.ndjson"])
    assert len(recorded) == 2
    assert [refused.count for refused in recorded.refused.values()] == [1]


def test_zstd_of_many_frames_and_more_than_one_buffer_is_read(tmp_path: Path) -> None:
    pack = zstandard.ZstdCompressor().compress
    (tmp_path / "a.ndjson.zst").write_bytes(b"".join(pack(ndjson([each])) for each in LOG))
    assert rows_of(read_log([tmp_path / "a.ndjson.zst"])) == expected_of(LOG)
    (tmp_path / "b.ndjson.gz").write_bytes(b"".join(gzip.compress(ndjson([each])) for each in LOG[:50]))
    assert len(read_log([tmp_path / "b.ndjson.gz"])) == 50


def test_without_zstandard_there_is_a_message_that_says_what_to_install(tmp_path: Path) -> None:
    WRITERS["a.ndjson.zst"](tmp_path / "a.ndjson.zst", LOG)
    program = (
        "import sys; sys.modules['zstandard'] = None\n"
        "from pathlib import Path\n"
        "from online_models.stores.recorded import read_log\n"
        f"read_log([Path({str(tmp_path / 'a.ndjson.zst')!r})])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "SourceError" in done.stderr
    assert "zstd needs zstandard: pip install 'penstock[flow]'" in done.stderr
