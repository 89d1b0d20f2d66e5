"""File formats: each gives the same events, and damage costs what is damaged."""

import gzip
import tracemalloc
from contextlib import closing
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings

from flows.chunks import Chunk, Limits
from flows.formats import CsvReader, NdjsonReader, TextReader, ending_of, record_end
from flows.parse import parse
from flows.sources import LogSource
from online_models.contracts.events import Event
from tests.log_files import WRITERS, csv_text, write_csv, write_ndjson
from tests.reading import chunks_of, events_of, parse_log, rejects_of
from tests.strategies import BOUNDS, logs, ndjson, sample_log

LOG = sample_log(9000, seed=5)


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_events(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name, LOG)
    parsed = parse_log(tmp_path / name)
    assert rejects_of(parsed) == []
    assert events_of(parsed) == LOG


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(log=logs(max_size=6))
def test_ndjson_and_csv_agree_on_any_event(log: list[Event], tmp_path: Path) -> None:
    write_ndjson(tmp_path / "a.ndjson", log)
    write_csv(tmp_path / "a.csv", log)
    assert events_of(parse_log(tmp_path / "a.csv")) == events_of(parse_log(tmp_path / "a.ndjson")) == log


def test_features_have_columns_of_their_own(tmp_path: Path) -> None:
    required = {name: getattr(LOG[0], name) for name in ("event_id", "type", "user_id", "item_id", "ts", "domain")}
    row = {
        **required,
        "features.genres": '["a","b"]',
        "features.weight": "1.5",
        "features.word": "7up",
        "features.no": "",
    }
    (tmp_path / "a.csv").write_bytes(csv_text([row], list(row)))
    columns = {**required, "type": str(LOG[0].type), "features.genres": ["a", "b"], "features.weight": 1.5}
    columns |= {"features.word": "7up", "features.no": None}
    pq.write_table(pa.Table.from_pylist([columns]), tmp_path / "a.parquet")
    struct = {**required, "type": str(LOG[0].type)}
    struct["features"] = {"genres": ["a", "b"], "weight": 1.5, "word": "7up", "no": None}
    pq.write_table(pa.Table.from_pylist([struct]), tmp_path / "b.parquet")

    for name in ("a.csv", "a.parquet", "b.parquet"):
        (event,) = events_of(parse_log(tmp_path / name))
        assert event.features == {"genres": ["a", "b"], "weight": 1.5, "word": "7up"}


def test_bad_csv_rows_are_refused_alone(tmp_path: Path) -> None:
    good = LOG[:3]
    write_csv(tmp_path / "a.csv", good)
    lines = (tmp_path / "a.csv").read_bytes().split(b"\r\n")
    header, rows = lines[0], lines[1:4]
    bad = [b"too,few", b"\xff" + rows[0], b'x"' + rows[1].replace(b'"', b"")]
    body = [rows[0], bad[0], bad[1], b"", rows[1], rows[2], rows[0].replace(b",movies,", b",movies,many"), b'"open,']
    text = b"\r\n".join([header, *body])
    (tmp_path / "a.csv").write_bytes(text)

    parsed = parse_log(tmp_path / "a.csv")
    assert events_of(parsed) == good
    found = [(row.reason, row.offset) for row in rejects_of(parsed)]
    expected = ["cells, got 2", "not UTF-8: byte 0xff at 0", "`$.value`", "truncated last line"]
    assert [reason for (reason, _), part in zip(found, expected, strict=True) if part not in reason] == []
    assert [offset for _, offset in found] == [text.index(row) for row in (bad[0], bad[1], body[6], body[7])]


def test_a_quote_that_never_closes_costs_its_line_only(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", LOG[:200])
    text = (tmp_path / "a.csv").read_bytes()
    (tmp_path / "a.csv").write_bytes(text + b'"open\r\n' + b"".join(b"u%d,x\r\n" % k for k in range(50)))
    parsed = parse_log(tmp_path / "a.csv")
    assert events_of(parsed) == LOG[:200]
    assert rejects_of(parsed)[0].reason == "row: a quoted field is not closed"
    assert len(rejects_of(parsed)) == 51


@pytest.mark.parametrize("name", ["a.ndjson", "a.csv", "a.ndjson.zst", "a.ndjson.gz"])
def test_a_line_without_end_is_refused_in_little_memory(name: str, tmp_path: Path) -> None:
    size, row = 64 << 20, msgspec.json.encode(LOG[0])
    header = b""
    if "csv" in name:
        write_csv(tmp_path / "row.csv", LOG[:1])
        header, row = (tmp_path / "row.csv").read_bytes().split(b"\r\n", 1)
        header, row = header + b"\n", row.rstrip()
    text = header + row + b"\n" + b"x" * size + b"\n" + row + b"\n"
    pack = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}.get(Path(name).suffix, bytes)
    (tmp_path / name).write_bytes(pack(text))
    del text

    tracemalloc.start()
    parsed = parse_log(tmp_path / name)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 48 << 20
    assert events_of(parsed) == [LOG[0], LOG[0]]
    (reject,) = rejects_of(parsed)
    assert (reject.length, len(reject.raw), reject.offset) == (size, 64 * 1024, len(header) + len(row) + 1)


@pytest.mark.parametrize("pack", ["gz", "zst"])
@pytest.mark.parametrize("damage", ["cut", "altered", "followed by garbage"])
def test_a_damaged_stream_gives_the_rows_before_and_one_reject(pack: str, damage: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.ndjson.{pack}"
    WRITERS["a.ndjson.zst" if pack == "zst" else "a.ndjson.gz"](path, LOG)
    text = bytearray(path.read_bytes())
    if damage == "cut":
        del text[-len(text) // 3 :]
    elif damage == "altered":
        text[-len(text) // 3 : -len(text) // 3 + 50] = b"\x00\xff" * 25
    else:
        text += b"garbage, not a frame"
    path.write_bytes(text)

    source = LogSource([path])
    whole = chunks_of(source)
    parsed = [parse(chunk, BOUNDS) for chunk, _ in whole]
    events = events_of(parsed)
    assert events == LOG[: len(events)]
    assert len(events) == len(LOG) if damage == "followed by garbage" else len(LOG) // 3 < len(events) < len(LOG)
    found = ["stream ends early or is corrupt" in row.reason for row in rejects_of(parsed)]
    # altered gzip may decompress to noise, which is refused too, until a checksum or an impossible code ends it
    assert found == [True] or (damage == "altered" and found[-1] and found.count(True) == 1)
    assert [chunks_of(LogSource([path]), state) for _, state in whole] == [whole[k:] for k in range(1, len(whole) + 1)]


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.ipc"])
def test_a_damaged_table_gives_one_reject_and_the_next_file_is_read(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name, LOG)
    text = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(text[: len(text) * 2 // 3])
    write_ndjson(tmp_path / "b.ndjson", LOG[:5])
    whole = chunks_of(LogSource([tmp_path / name, tmp_path / "b.ndjson"]))
    parsed = [parse(chunk, BOUNDS) for chunk, _ in whole]
    (reject,) = rejects_of(parsed)
    assert reject.reason.startswith("table is corrupt")
    assert events_of(parsed)[-5:] == LOG[:5]
    for done, (_, state) in enumerate(whole, start=1):
        assert chunks_of(LogSource([tmp_path / name, tmp_path / "b.ndjson"]), state) == whole[done:]


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", LOG[:2])
    (tmp_path / "b.csv").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "a.csv").read_bytes())
    (tmp_path / "b.ndjson").write_bytes(b"\xef\xbb\xbf" + ndjson(LOG[:2]))
    assert events_of(parse_log(tmp_path / "b.csv")) == events_of(parse_log(tmp_path / "b.ndjson")) == LOG[:2]


@pytest.mark.parametrize("reader", [NdjsonReader, CsvReader])
@pytest.mark.parametrize("limits", [Limits(2000, 600), Limits(2000, 600, rows=3), Limits(100_000, 600)])
def test_pieces_keep_to_their_limits(reader: type[TextReader], limits: Limits, tmp_path: Path) -> None:
    path = tmp_path / "a"
    (write_csv if reader is CsvReader else write_ndjson)(path, LOG[:100])
    pieces = []
    with closing(reader(path, 0, limits)) as part:
        while (piece := part.read()) is not None:
            pieces.append(parse(Chunk("log", "a", piece.end, piece.content, piece.rejects), BOUNDS))
        assert part.read() is None
    assert events_of(pieces) == LOG[:100]
    assert all(len(piece.batch) <= (limits.rows or 100) for piece in pieces)
    assert len(pieces) >= 100 // (limits.rows or 100)


def test_a_line_of_the_limit_passes_and_one_byte_more_does_not(tmp_path: Path) -> None:
    line = msgspec.json.encode(LOG[0])
    for limit, events in ((len(line), 1), (len(line) - 1, 0)):
        (tmp_path / "a.ndjson").write_bytes(line + b"\n")
        source = LogSource([tmp_path / "a.ndjson"], limits=Limits(line_bytes=limit))
        parsed = [parse(chunk, BOUNDS) for chunk, _ in chunks_of(source)]
        assert (len(events_of(parsed)), len(rejects_of(parsed))) == (events, 1 - events)


def test_endings_are_known_in_any_case() -> None:
    assert ending_of(Path("A.NDJSON.GZ")) == ".ndjson.gz"
    assert record_end(b'"a', 0, 10) == 0
