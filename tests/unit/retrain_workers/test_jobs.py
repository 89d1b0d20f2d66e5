"""The queue as people see it."""

from datetime import UTC, datetime

import msgspec
from msgspec.structs import replace

from online_models.contracts.ids import JobId
from online_models.contracts.jobs import Cost, Estimate, JobState, JobStatus, Progress
from retrain_workers.jobs import as_json, table
from tests.samples import MOVIES

THEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
RUNNING = JobStatus(
    id=JobId(12),
    model=MOVIES,
    kind="two_tower",
    level="warm",
    reason="psi of genres",
    state=JobState.RUNNING,
    attempt=1,
    max_attempts=3,
    owner="host:1",
    progress=Progress("two_tower", 50, 200, 0.25, 61.0),
    estimate=Estimate(1_000, 20.0, 30.0, 700 << 20, 2),
    cost=Cost(1_000, 5.0, 7.0, 600 << 20),
    report=None,
    error=None,
    not_before=THEN,
    created_at=THEN,
    finished_at=None,
)


def test_a_running_job_shows_its_progress_its_estimate_and_its_cost_so_far() -> None:
    head, line = table([RUNNING])
    assert head.split() == ["id", "model", "kind", "level", "state", "attempt", "estimate", "cost", "progress"]
    assert line == (
        "12  movies  two_tower  warm   running  1/3      20 CPU s, 30 s, 700 MiB  5 CPU s, 7 s, 600 MiB  "
        "two_tower 50/200 (25 %) loss 0.25 eta 0:01:01  psi of genres"
    )


def test_a_job_that_was_put_off_shows_when_it_is_due_and_why() -> None:
    waiting = replace(RUNNING, state=JobState.QUEUED, cost=None, error="the estimate does not fit\nmore")
    assert table([waiting])[1].endswith("  -     -  due 2026-01-02T03:04:05Z; the estimate does not fit")


def test_an_empty_queue_says_so() -> None:
    assert table([]) == ["no jobs"]
    assert as_json([]) == "[]"


def test_the_json_is_what_the_jobs_are() -> None:
    assert msgspec.json.decode(as_json([RUNNING]), type=list[JobStatus]) == [RUNNING]
