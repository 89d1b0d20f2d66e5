"""The segments of the live log: named by age, never torn, never shared, nothing lost."""

import multiprocessing
import os
import resource
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from online_models.errors import StoreError
from online_models.stores.files import SegmentLog

START = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Clock:
    """A clock that goes as it is told."""

    def __init__(self, step: timedelta = timedelta(seconds=1)) -> None:
        self.now = START
        self.step = step

    def __call__(self) -> datetime:
        self.now += self.step
        return self.now


def segments(directory: Path) -> list[Path]:
    return sorted(directory.iterdir())


def lines(directory: Path) -> list[bytes]:
    return [line for path in segments(directory) for line in path.read_bytes().splitlines(keepends=True)]


def test_lines_are_appended_in_order_and_seen_at_once(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path / "events", Clock())
    log.append([b"1", b"2"])
    assert lines(tmp_path / "events") == [b"1\n", b"2\n"]
    log.append([b"3"])
    assert lines(tmp_path / "events") == [b"1\n", b"2\n", b"3\n"]


def test_nothing_is_made_before_the_first_line(tmp_path: Path) -> None:
    SegmentLog(tmp_path / "events", Clock()).append([])
    assert not (tmp_path / "events").exists()


def test_a_name_tells_start_process_and_number(tmp_path: Path) -> None:
    SegmentLog(tmp_path, Clock()).append([b"1"])
    assert [path.name for path in segments(tmp_path)] == [f"20260101T120001.000000Z-{os.getpid():08d}-000001.ndjson"]


@pytest.mark.parametrize("line", [b"", b"a\nb", b"a\n"])
def test_what_is_not_one_line_is_refused_and_nothing_written(tmp_path: Path, line: bytes) -> None:
    with pytest.raises(ValueError, match="expected one line of JSON"):
        SegmentLog(tmp_path, Clock()).append([b"good", line])
    assert segments(tmp_path) == []


@pytest.mark.parametrize("step", [timedelta(seconds=1), timedelta(0), timedelta(seconds=-1)])
def test_a_full_segment_is_followed_by_a_later_name_whatever_the_clock_does(tmp_path: Path, step: timedelta) -> None:
    log = SegmentLog(tmp_path, Clock(step), roll_bytes=10)
    written = [b"%04d" % n for n in range(9)]
    for line in written:
        log.append([line])
    assert [path.stat().st_size for path in segments(tmp_path)] == [10, 10, 10, 10, 5]
    assert lines(tmp_path) == [line + b"\n" for line in written]


def test_a_call_longer_than_a_segment_is_kept_whole(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path, Clock(), roll_bytes=10)
    for call in ([b"1"], [b"x" * 50, b"y"], [b"2"]):
        log.append(call)
    assert [path.read_bytes() for path in segments(tmp_path)] == [b"1\n", b"x" * 50 + b"\ny\n", b"2\n"]


def test_two_logs_of_one_process_and_moment_share_no_segment(tmp_path: Path) -> None:
    for text in (b"1", b"2"):
        SegmentLog(tmp_path, Clock()).append([text])
    assert sorted(path.read_bytes() for path in segments(tmp_path)) == [b"1\n", b"2\n"]


def test_a_closed_log_begins_a_new_segment(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path, Clock())
    for text in (b"1", b"2"):
        log.append([text])
        log.close()
    assert [path.read_bytes() for path in segments(tmp_path)] == [b"1\n", b"2\n"]


def append_many(directory: Path, writer: int) -> None:
    log = SegmentLog(directory, lambda: datetime.now(UTC), roll_bytes=4096)

    def append(thread: int) -> None:
        for n in range(200):
            log.append([b'{"writer":%d,"thread":%d,"n":%d,"part":%d}' % (writer, thread, n, part) for part in range(3)])

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(append, range(3)))


def test_threads_of_two_processes_lose_and_tear_nothing(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.starmap(append_many, [(tmp_path, writer) for writer in range(2)])
    expected = [
        b'{"writer":%d,"thread":%d,"n":%d,"part":%d}\n' % (writer, thread, n, part)
        for writer in range(2)
        for thread in range(3)
        for n in range(200)
        for part in range(3)
    ]
    found = lines(tmp_path)
    assert Counter(found) == Counter(expected)
    # A call's lines stay together.
    assert [line[-3:-2] for line in found] == [b"0", b"1", b"2"] * (len(found) // 3)
    # Each writer's lines are in order along the names.
    for writer, thread in ((0, 0), (0, 1), (1, 2)):
        mine = [line for line in found if line.startswith(b'{"writer":%d,"thread":%d,' % (writer, thread))]
        assert mine == [line for line in expected if line in set(mine)]


def limited(directory: Path) -> list[bytes]:
    """Append under a file size limit that falls into the middle of the third call."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (25, 25))
    log = SegmentLog(directory, lambda: START)
    log.append([b"x" * 9])
    log.append([b"y" * 9])
    with pytest.raises(StoreError, match="expected to append 10 bytes, the disk took 5"):
        log.append([b"z" * 9])
    log.append([b"end"])
    return lines(directory)


def test_a_full_disk_leaves_no_torn_line(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(limited, (tmp_path,)) == [b"x" * 9 + b"\n", b"y" * 9 + b"\n", b"end\n"]
