"""The line of progress on a real terminal device, and on what is none."""

import io
import os
from datetime import UTC, datetime

from online_models.contracts.ids import FencingToken, JobId
from online_models.contracts.jobs import Progress, RetrainJob, TrainAls
from retrain_workers.progress_line import ERASE_LINE, ProgressLine
from tests.samples import MOVIES

JOB = RetrainJob(JobId(4), MOVIES, "t1", "test", TrainAls(), 1, 3, FencingToken(7), datetime(2026, 1, 1, tzinfo=UTC))


def test_a_terminal_shows_one_line_that_is_rewritten() -> None:
    master, slave = os.openpty()
    with open(slave, "w") as terminal:
        line = ProgressLine(terminal)
        line.show(JOB, Progress("als", 1, 4))
        line.show(JOB, Progress("als", 2, 4))
        line.clear()
        shown = ""
        while shown.count(ERASE_LINE) < 3:  # a terminal hands over what it has, which may be a part
            shown += os.read(master, 1_000).decode()
    os.close(master)
    assert shown.split(ERASE_LINE) == ["", "job 4 of movies: als 1/4 (25 %)", "job 4 of movies: als 2/4 (50 %)", ""]


def test_what_is_no_terminal_stays_empty() -> None:
    stream = io.StringIO()
    for line in (ProgressLine(stream), ProgressLine(None)):
        line.show(JOB, Progress("als", 1, 4))
        line.clear()
    assert stream.getvalue() == ""
