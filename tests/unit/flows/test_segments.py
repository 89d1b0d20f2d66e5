"""Following live segments: whole lines, in order, from wherever it stopped."""

import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from flows.chunks import Chunk
from flows.parse import parse
from flows.segments import LOOK_INTERVAL, SegmentPartition, SegmentSource, SegmentState
from online_models.contracts.events import Event, Reject
from online_models.errors import SourceError
from online_models.stores.files import SegmentLog
from tests.log_files import write_ndjson
from tests.reading import events_of, rejects_of
from tests.strategies import BOUNDS, ndjson, sample_log

START = datetime(2026, 1, 1, tzinfo=UTC)
LOG = sample_log(9000, seed=5)


def drain(part: SegmentPartition) -> list[Chunk]:
    """Chunks until there is nothing more to read for now."""
    found: list[Chunk] = []
    while batch := part.next_batch():
        found += batch
    return found


def segment_events(chunks: Sequence[Chunk]) -> list[Event]:
    return events_of(parse(chunk, BOUNDS) for chunk in chunks)


def open_segments(folder: Path, state: SegmentState | None = None) -> SegmentPartition:
    return SegmentSource(folder).build_part("step", "segments", state)


def test_new_lines_and_new_segments_are_found(tmp_path: Path) -> None:
    part = open_segments(tmp_path)
    assert drain(part) == []
    log = SegmentLog(tmp_path, lambda: START, roll_bytes=3000)
    seen: list[Event] = []
    for at in range(0, 60, 6):
        log.append([msgspec.json.encode(event) for event in LOG[at : at + 6]])
        seen += segment_events(drain(part))
    log.close()
    assert len(list(tmp_path.iterdir())) > 2
    assert seen == LOG[:60]


def test_a_line_is_read_only_when_its_newline_is_there(tmp_path: Path) -> None:
    path, text = tmp_path / "1.ndjson", ndjson(LOG[:2])
    part = open_segments(tmp_path)
    path.write_bytes(text[:-10])
    assert segment_events(drain(part)) == LOG[:1]
    path.write_bytes(text[:-1])
    assert drain(part) == []
    path.write_bytes(text)
    assert segment_events(drain(part)) == LOG[1:2]


def test_it_goes_on_while_there_is_more_and_then_sleeps_until_a_moment_after_it_last_looked(tmp_path: Path) -> None:
    for number in range(2):
        write_ndjson(tmp_path / f"{number}.ndjson", LOG[number : number + 1])
    times = iter(START + timedelta(seconds=second) for second in range(9))
    part = SegmentSource(tmp_path, clock=lambda: next(times)).build_part("step", "segments", None)
    assert (len(part.next_batch()), part.next_awake()) == (1, None)
    assert (len(part.next_batch()), part.next_awake()) == (1, START + LOOK_INTERVAL)
    assert (part.next_batch(), part.next_awake()) == ([], START + timedelta(seconds=1) + LOOK_INTERVAL)


def test_a_chunk_says_its_segment_and_where_it_ends_there(tmp_path: Path) -> None:
    for number in range(3):
        write_ndjson(tmp_path / f"{number}.ndjson", LOG[number * 3000 : number * 3000 + 3000])
    chunks = drain(open_segments(tmp_path))
    assert {chunk.partition for chunk in chunks} == {"segments"}
    for path in tmp_path.iterdir():
        batches = [parse(chunk, BOUNDS).batch for chunk in chunks if chunk.path == str(path)]
        ends = [batch.position for batch in batches]
        assert {batch.source for batch in batches} == {str(path)}
        assert len(ends) > 1
        assert ends == sorted(set(ends))
        assert ends[-1] == path.stat().st_size
        for start, batch in zip([0, *ends], batches, strict=False):
            assert start <= batch.offset.min() <= batch.offset.max() < batch.position


def test_a_segment_is_the_same_one_from_whichever_directory_the_job_is_started(tmp_path: Path) -> None:
    (tmp_path / "events").mkdir()
    write_ndjson(tmp_path / "events" / "1.ndjson", LOG[:1])
    (tmp_path / "elsewhere").mkdir()
    (absolute,) = drain(open_segments(tmp_path / "events"))
    (roundabout,) = drain(open_segments(tmp_path / "elsewhere" / ".." / "events"))
    assert absolute.path == roundabout.path


def test_a_backlog_of_two_writers_is_read_in_the_order_of_event_time(tmp_path: Path) -> None:
    """To within a chunk."""
    for number in range(2):
        write_ndjson(tmp_path / f"{number}.ndjson", LOG[number::2])
    chunks = drain(open_segments(tmp_path))
    assert [Path(chunk.path).stem for chunk in chunks] == ["0", "1", "0", "1"]


def test_a_segment_that_never_rests_does_not_starve_the_others(tmp_path: Path) -> None:
    busy = tmp_path / "1.ndjson"
    part = open_segments(tmp_path)
    write_ndjson(tmp_path / "2.ndjson", LOG[-1:])
    for at in range(3):
        write_ndjson(busy, LOG[: at + 1])
        (chunk,) = part.next_batch()
        if chunk.path != str(busy):
            return
    raise AssertionError("only the busy segment was read")


def test_resumed_at_every_snapshot_segments_give_the_same_rest(tmp_path: Path) -> None:
    for number in range(3):
        write_ndjson(tmp_path / f"{number}.ndjson", LOG[number * 3000 : number * 3000 + 3000])
    part = open_segments(tmp_path)
    steps: list[tuple[Chunk, SegmentState]] = []
    while batch := part.next_batch():
        steps.append((batch[0], part.snapshot()))
    for done, (_, state) in enumerate(steps, start=1):
        assert drain(open_segments(tmp_path, state)) == [chunk for chunk, _ in steps[done:]]


def test_a_segment_that_retention_removed_leaves_the_state(tmp_path: Path) -> None:
    for number in range(2):
        write_ndjson(tmp_path / f"{number}.ndjson", LOG[number : number + 1])
    part = open_segments(tmp_path)
    drain(part)
    (tmp_path / "0.ndjson").unlink()
    assert drain(part) == []
    assert list(part.snapshot()[1]) == ["1.ndjson"]


def test_a_segment_that_shrank_is_an_error(tmp_path: Path) -> None:
    write_ndjson(tmp_path / "1.ndjson", LOG[:2])
    part = open_segments(tmp_path)
    drain(part)
    write_ndjson(tmp_path / "1.ndjson", LOG[:1])
    with pytest.raises(SourceError, match="expected at least"):
        part.next_batch()


def test_a_live_line_too_long_is_refused_once_it_ends(tmp_path: Path) -> None:
    path, part = tmp_path / "1.ndjson", open_segments(tmp_path)
    path.write_bytes(b"x" * 1_000_000)
    assert drain(part) == []
    path.write_bytes(b"x" * 1_000_000 + b"\n" + ndjson(LOG[:1]))
    chunks = drain(part)
    assert segment_events(chunks) == LOG[:1]
    assert [reject.length for reject in rejects(chunks)] == [1_000_000]


def rejects(chunks: Sequence[Chunk]) -> list[Reject]:
    return rejects_of(parse(chunk, BOUNDS) for chunk in chunks)


APPENDER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from online_models.stores.files import SegmentLog
lines = Path(sys.argv[2]).read_bytes().splitlines()
log = SegmentLog(Path(sys.argv[1]), lambda: datetime.now(UTC), roll_bytes=200_000)
for at in range(0, len(lines), 7):
    log.append(lines[at : at + 7])
"""


def test_it_follows_another_process_and_loses_nothing(tmp_path: Path) -> None:
    write_ndjson(tmp_path / "all.ndjson", LOG)
    folder = tmp_path / "segments"
    part = open_segments(folder)
    appender = subprocess.Popen([sys.executable, "-c", APPENDER, str(folder), str(tmp_path / "all.ndjson")])
    chunks: list[Chunk] = []
    deadline = time.monotonic() + 60
    while (running := appender.poll() is None) or len(segment_events(chunks)) < len(LOG):
        assert time.monotonic() < deadline
        chunks += drain(part)
        if not running and not part.next_batch():
            break
    chunks += drain(part)
    assert appender.wait() == 0
    assert segment_events(chunks) == LOG
