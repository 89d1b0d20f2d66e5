"""Recorded logs as a source: in order, paced, stopped, and resumed with exactly the rest."""

import gzip
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import bytewax.operators as op
import msgspec
import pytest
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, run_main

from flows.formats import open_reader
from flows.parse import parse
from flows.sources import LONGEST_PAUSE, LogSource
from online_models.errors import SourceError
from tests.log_files import WRITERS, write_ndjson
from tests.reading import chunks_of, events_of, parse_log
from tests.strategies import BOUNDS, ndjson, sample_log

START = datetime(2026, 1, 1, tzinfo=UTC)
LOG = sample_log(9000, seed=5)


@pytest.mark.parametrize("name", WRITERS)
def test_resumed_anywhere_it_gives_the_same_rest(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name, LOG)
    WRITERS[name](tmp_path / f"b{name}", sample_log(10, seed=6))
    source = LogSource([tmp_path / name, tmp_path / f"b{name}"])
    whole = chunks_of(source)
    assert len(whole) > 2
    for done, (_, state) in enumerate(whole, start=1):
        again = LogSource([tmp_path / name, tmp_path / f"b{name}"])
        assert chunks_of(again, state) == whole[done:]


@pytest.mark.parametrize("name", WRITERS)
def test_a_chunks_position_tells_its_rows_from_those_of_later_chunks(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name, LOG)
    batches = [parse(chunk, BOUNDS).batch for chunk, _ in chunks_of(LogSource([tmp_path / name]))]
    assert len(batches) > 1
    end = 0
    for batch in batches:
        assert batch.source == str(tmp_path / name)
        assert end <= batch.offset.min()
        assert batch.offset.max() < batch.position
        end = batch.position


def test_several_files_are_read_one_after_the_other_each_with_its_own_positions(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("1.ndjson", "2.csv.gz", "3.parquet", "4.ndjson")]
    for number, path in enumerate(paths):
        WRITERS[f"a{''.join(path.suffixes)}"](path, sample_log(4000, seed=number))
    chunks = [chunk for chunk, _ in chunks_of(LogSource(paths))]
    assert {chunk.partition for chunk in chunks} == {"log"}
    ends = {chunk.path: chunk.position for chunk in chunks}
    plain_csv = len(gzip.decompress(paths[1].read_bytes()))
    expected = [paths[0].stat().st_size, plain_csv, 4000, paths[3].stat().st_size]  # bytes of text, rows of the table
    assert list(ends.items()) == [(str(path), end) for path, end in zip(paths, expected, strict=True)]
    assert events_of(parse_log(paths)) == [event for number in range(4) for event in sample_log(4000, seed=number)]


def test_a_missing_file_an_unknown_ending_and_a_bad_header_are_source_errors(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be opened"):
        LogSource([tmp_path / "none.ndjson"])
    with pytest.raises(SourceError, match="expected a name ending"):
        LogSource([tmp_path / "a.txt"])
    with pytest.raises(SourceError, match="at least one log"):
        LogSource([])
    (tmp_path / "a.csv").write_bytes(b"a,a\n1,2\n")
    with pytest.raises(SourceError, match="distinct column names"):
        open_reader(tmp_path / "a.csv")


def three_files(folder: Path) -> list[Path]:
    paths = [folder / "1.ndjson", folder / "2.ndjson", folder / "3.ndjson"]
    for number, path in enumerate(paths):
        write_ndjson(path, sample_log(20, seed=number))
    return paths


@pytest.mark.parametrize("change", ["removed", "rewritten", "shortened", "finished file grown", "reordered"])
def test_a_changed_log_is_refused_before_it_is_read_on(change: str, tmp_path: Path) -> None:
    paths = three_files(tmp_path)
    _, (_, in_second_file), _ = chunks_of(LogSource(paths))
    match change:
        case "removed":
            paths = paths[1:]
        case "rewritten":
            paths[1].write_bytes(paths[1].read_bytes().replace(b'"u', b'"v'))
        case "shortened":
            paths[1].write_bytes(paths[1].read_bytes()[:-1])
        case "finished file grown":
            paths[0].write_bytes(paths[0].read_bytes() + b"\n")
        case _:
            paths = paths[::-1]
    with pytest.raises(SourceError, match="cannot resume"):
        LogSource(paths).build_part("step", "log", in_second_file)


def test_a_log_that_has_only_grown_is_read_on(tmp_path: Path) -> None:
    paths = three_files(tmp_path)
    (*_, (_, at_end)) = chunks_of(LogSource(paths))
    paths[2].write_bytes(paths[2].read_bytes() + ndjson(LOG[:3]))
    write_ndjson(tmp_path / "4.ndjson", LOG[3:5])
    rest = chunks_of(LogSource([*paths, tmp_path / "4.ndjson"]), at_end)
    assert events_of(parse(chunk, BOUNDS) for chunk, _ in rest) == LOG[:5]


def test_told_to_stop_it_ends_and_resumes_there(tmp_path: Path) -> None:
    write_ndjson(tmp_path / "a.ndjson", LOG)
    stop = threading.Event()
    with closing(LogSource([tmp_path / "a.ndjson"], stop=stop).build_part("step", "log", None)) as part:
        first = part.next_batch()
        stop.set()
        with pytest.raises(StopIteration):
            part.next_batch()
        state = part.snapshot()
    rest = chunks_of(LogSource([tmp_path / "a.ndjson"]), state)
    assert [*first, *(chunk for chunk, _ in rest)] == [
        chunk for chunk, _ in chunks_of(LogSource([tmp_path / "a.ndjson"]))
    ]


class Clock:
    """A wall clock that only the test moves."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


def arrivals(path: Path, speed: float) -> list[float]:
    """Wall seconds since the start at which each chunk comes; the clock jumps to each time the source asks for."""
    clock, found = Clock(), list[float]()
    with closing(LogSource([path], speed=speed, clock=clock).build_part("step", "log", None)) as part:
        try:
            while True:
                found += [(clock.now - START).total_seconds() for _ in part.next_batch()]
                clock.now = max(clock.now, part.next_awake() or clock.now)
        except StopIteration:
            return found


def test_a_paced_replay_keeps_event_time_divided_by_its_speed(tmp_path: Path) -> None:
    log = [msgspec.structs.replace(LOG[k], ts=BOUNDS.earliest_ms + 100 * k) for k in range(64 * 4)]
    write_ndjson(tmp_path / "a.ndjson", log)
    assert arrivals(tmp_path / "a.ndjson", speed=2.0) == pytest.approx([0, 3.2, 6.4, 9.6])


def test_a_row_from_the_far_future_does_not_stop_a_paced_replay(tmp_path: Path) -> None:
    log = [msgspec.structs.replace(LOG[k], ts=BOUNDS.earliest_ms + k) for k in range(64 * 4)]
    log[64] = msgspec.structs.replace(log[64], ts=10**15)
    write_ndjson(tmp_path / "a.ndjson", log)
    assert arrivals(tmp_path / "a.ndjson", speed=1.0)[-1] == pytest.approx(LONGEST_PAUSE.total_seconds() + 0.064)


def test_a_paced_source_that_waits_looks_at_the_stop_flag(tmp_path: Path) -> None:
    log = [msgspec.structs.replace(LOG[k], ts=BOUNDS.earliest_ms + 3_600_000 * k) for k in range(65)]
    write_ndjson(tmp_path / "a.ndjson", log)
    stop, clock = threading.Event(), Clock()
    source = LogSource([tmp_path / "a.ndjson"], speed=1.0, stop=stop, clock=clock)
    with closing(source.build_part("step", "log", None)) as part:
        assert (len(part.next_batch()), part.next_batch()) == (1, [])
        awake = part.next_awake()
        assert awake is not None
        assert awake - clock.now <= timedelta(milliseconds=100)
        stop.set()
        with pytest.raises(StopIteration):
            part.next_batch()
        assert part.snapshot()[2] == len(ndjson(log[:64]))


def test_a_dataflow_reads_the_whole_log(tmp_path: Path) -> None:
    write_ndjson(tmp_path / "a.ndjson", LOG)
    out: list[int] = []
    flow = Dataflow("read")
    chunks = op.input("log", flow, LogSource([tmp_path / "a.ndjson"]))
    op.output("out", op.map("parse", chunks, lambda chunk: len(parse(chunk, BOUNDS).batch)), TestingSink(out))
    run_main(flow)
    assert sum(out) == len(LOG)
