"""Checkpoints on a real disk: what is kept, what is found, and what is passed over."""

import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from online_models.contracts.ids import FencingToken, JobId
from online_models.contracts.jobs import RetrainJob, TrainAls
from retrain_workers.checkpoints import STALE, JobCheckpoints, drop_checkpoints, drop_finished
from tests.samples import MOVIES

NOW = datetime.now(UTC)


def job(number: int = 1, token: int = 7) -> RetrainJob:
    return RetrainJob(JobId(number), MOVIES, "t1", "test", TrainAls(factors=8), 1, 3, FencingToken(token), NOW)


def names(root: Path, number: int = 1) -> list[str]:
    return sorted(path.name for path in (root / str(number)).iterdir())


def test_nothing_is_found_before_anything_was_kept(tmp_path: Path) -> None:
    assert JobCheckpoints.of(tmp_path, job()).newest("towers") is None


def test_what_was_kept_last_under_a_name_is_found(tmp_path: Path) -> None:
    kept = JobCheckpoints.of(tmp_path, job())
    for name, state in (("towers", b"old"), ("factors", b"other"), ("towers", b"new"), ("empty", b"")):
        kept.keep(name, state)
    assert [kept.newest(name) for name in ("towers", "factors", "empty", "tow")] == [b"new", b"other", b"", None]
    assert names(tmp_path) == ["empty.7", "factors.7", "towers.7"]


def test_the_next_attempt_finds_what_the_last_one_kept_and_replaces_it(tmp_path: Path) -> None:
    JobCheckpoints.of(tmp_path, job(token=7)).keep("towers", b"first")
    successor = JobCheckpoints.of(tmp_path, job(token=10))
    assert successor.newest("towers") == b"first"
    successor.keep("towers", b"second")
    assert successor.newest("towers") == b"second"
    assert names(tmp_path) == ["towers.10"]


def test_a_holder_that_was_frozen_cannot_touch_what_its_successor_keeps(tmp_path: Path) -> None:
    frozen, successor = (JobCheckpoints.of(tmp_path, job(token=token)) for token in (9, 10))
    successor.keep("towers", b"successor")
    frozen.keep("towers", b"frozen")
    assert successor.newest("towers") == b"successor"


def test_a_job_is_not_resumed_from_another_ones_checkpoint(tmp_path: Path) -> None:
    JobCheckpoints.of(tmp_path, job()).keep("towers", b"state")
    others = (
        job(2),
        replace(job(), trigger_id="t2"),
        replace(job(), payload=TrainAls(factors=9)),
    )
    assert [JobCheckpoints.of(tmp_path, other).newest("towers") for other in others] == [None] * 3


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(state=st.binary(max_size=50), cut=st.integers(0, 200), flipped=st.integers(0, 7))
def test_a_torn_or_altered_checkpoint_is_passed_over_for_the_one_before(
    tmp_path: Path, state: bytes, cut: int, flipped: int
) -> None:
    kept = JobCheckpoints.of(tmp_path, job(token=10))
    kept.keep("towers", state)
    whole = kept.directory / "towers.10"
    raw = whole.read_bytes()
    torn = bytearray(raw)
    torn[min(cut, len(raw) - 1)] ^= 1 << flipped
    for damaged in (raw[: min(cut, len(raw) - 1)], bytes(torn)):
        (kept.directory / "towers.11").write_bytes(damaged)
        assert kept.newest("towers") == state
    (kept.directory / "towers.11").unlink()


def test_a_disk_that_takes_no_file_does_not_end_the_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "1").write_text("not a directory")
    kept = JobCheckpoints.of(tmp_path, job())
    with caplog.at_level(logging.WARNING):
        kept.keep("towers", b"state")
    assert "checkpoint.failed" in caplog.text


@pytest.mark.parametrize("name", ["", "a/b", "..", "a.7", "x" * 101])
def test_a_name_that_is_no_plain_word_is_refused(tmp_path: Path, name: str) -> None:
    kept = JobCheckpoints.of(tmp_path, job())
    with pytest.raises(ValueError, match="expected a checkpoint name"):
        kept.keep(name, b"")
    with pytest.raises(ValueError, match="expected a checkpoint name"):
        kept.newest(name)


def test_a_finished_jobs_checkpoints_are_dropped_and_an_open_ones_kept(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        JobCheckpoints.of(tmp_path, job(number)).keep("towers", b"state")
    (tmp_path / "notes").mkdir()
    long_ago = (NOW - STALE - timedelta(hours=1)).timestamp()
    os.utime(tmp_path / "3", (long_ago, long_ago))
    asked: list[JobId] = []

    def finished(jobs: object) -> set[JobId]:
        assert isinstance(jobs, list)
        asked.extend(jobs)
        return {JobId(2)}

    assert drop_finished(tmp_path, finished, NOW) == [2, 3]
    assert asked == [1, 2, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "notes"]
    drop_checkpoints(tmp_path, JobId(1))
    drop_checkpoints(tmp_path, JobId(1))
    assert not (tmp_path / "1").exists()


def test_without_a_directory_there_is_nothing_to_drop(tmp_path: Path) -> None:
    assert drop_finished(tmp_path / "none", lambda jobs: set(jobs), NOW) == []
