"""What an attempt passes on of what its training tells."""

from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from online_models.contracts.ids import FencingToken, JobId
from online_models.contracts.jobs import Progress, RetrainJob, TrainAls
from retrain_workers.attempt import TELL_EVERY_SECONDS, Unwatched, Watched
from retrain_workers.checkpoints import JobCheckpoints
from tests.samples import MOVIES


class Watch:
    """An attempt under a clock that the test sets, and what it passed on."""

    def __init__(self, root: Path = Path("none")) -> None:
        job = RetrainJob(
            JobId(1), MOVIES, "t1", "test", TrainAls(), 1, 3, FencingToken(7), datetime(2026, 1, 1, tzinfo=UTC)
        )
        self.now = 100.0
        self.told: list[tuple[float, Progress]] = []
        self.attempt = Watched(
            JobCheckpoints.of(root, job), lambda progress: self.told.append((self.now, progress)), lambda: self.now
        )

    def report(self, seconds: float, phase: str, done: int, total: int, loss: float | None = None) -> None:
        self.now = 100.0 + seconds
        self.attempt.report(phase, done, total, loss)


def test_the_time_left_goes_by_the_pace_of_this_attempt_and_phase() -> None:
    watch = Watch()
    watch.report(0, "reading", 0, 0)
    watch.report(30, "towers", 600, 1_000)  # resumed
    watch.report(40, "towers", 700, 1_000, 0.5)
    assert [progress for _, progress in watch.told] == [
        Progress("reading"),
        Progress("towers", 600, 1_000),
        Progress("towers", 700, 1_000, 0.5, 30.0),
    ]


@given(st.lists(st.tuples(st.floats(0.0, 2.0), st.sampled_from("ab")), max_size=60))
def test_a_phase_is_told_at_once_and_then_at_most_once_a_second(steps: list[tuple[float, str]]) -> None:
    watch = Watch()
    seconds = 0.0
    for number, (pause, phase) in enumerate(steps):
        seconds += pause
        watch.report(seconds, phase, number, len(steps))
    told = [(at, progress.phase) for at, progress in watch.told]
    changes = sum(phase != before for (_, phase), (_, before) in zip(steps, [(0.0, ""), *steps], strict=False))
    assert changes <= len(told) <= changes + seconds / TELL_EVERY_SECONDS
    for (earlier, phase), (later, next_phase) in pairwise(told):
        assert next_phase != phase or later >= earlier + TELL_EVERY_SECONDS


def test_an_attempt_finds_what_it_kept(tmp_path: Path) -> None:
    watch = Watch(tmp_path)
    assert watch.attempt.checkpoint("towers") is None
    watch.attempt.keep("towers", b"state")
    assert watch.attempt.checkpoint("towers") == b"state"


def test_an_attempt_that_nobody_watches_keeps_nothing() -> None:
    attempt = Unwatched()
    attempt.report("towers", 1, 2, 0.5)
    attempt.keep("towers", b"state")
    assert attempt.checkpoint("towers") is None
