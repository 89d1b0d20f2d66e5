"""What trainings may take, what they tell while they run, and how they go on after a kill: workers on real PostgreSQL."""

import logging
import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import psutil
import psycopg2
import pytest
from msgspec.structs import replace

from online_models.contracts.ids import ModelName
from online_models.contracts.jobs import JobState
from retrain_workers.app import build_worker, checkpoints_of
from retrain_workers.checkpoints import JobCheckpoints
from retrain_workers.publish import Refused
from retrain_workers.settings import WorkerSettings
from retrain_workers.training_process import Train, TrainingProcess
from retrain_workers.worker import Worker
from tests.trainings import (
    MIB,
    STEPS,
    chained,
    flood,
    refuse,
    start_another_and_hang,
    take_all_memory,
    tell,
    train_in_steps,
)
from tests.workshop import MOVIES, QUICK, Workshop


def quick(**fields: object) -> WorkerSettings:
    return QUICK.model_copy(update=fields)


def eventually(happened: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)


def training_processes() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "--multiprocessing-fork" in child.cmdline()]


def test_a_training_that_takes_too_much_memory_is_killed_and_tried_once_more(workshop: Workshop) -> None:
    workshop.submit("drift")
    workshop.work_off(workshop.worker(quick(job_memory_bytes=800 * MIB), take_all_memory))
    status = workshop.status()
    assert (status.state, status.attempt) == (JobState.DEAD, 2)
    assert status.error is not None
    assert "800 MiB are allowed" in status.error
    assert status.cost is not None
    assert 800 * MIB < status.cost.peak_bytes < 2_000 * MIB


def test_a_training_within_its_memory_is_left_alone_and_its_peak_told(
    workshop: Workshop, caplog: pytest.LogCaptureFixture
) -> None:
    workshop.submit("drift")
    with caplog.at_level(logging.INFO):
        workshop.work_off(workshop.worker(quick(job_memory_bytes=4_096 * MIB), refuse))
    status = workshop.status()
    assert status.state is JobState.REJECTED
    assert status.cost is not None
    assert status.cost.events == 1_500
    assert status.cost.peak_bytes > 50 * MIB
    assert 0.1 < status.cost.cpu_seconds < 60.0
    assert f"peak_bytes={status.cost.peak_bytes}" in caplog.text
    assert status.estimate is not None
    assert (status.estimate.events, status.estimate.jobs) == (1_500, 0)


def test_what_a_training_has_started_is_killed_with_it(workshop: Workshop, tmp_path: Path) -> None:
    workshop.submit("drift")
    pid_file = tmp_path / "pid"
    hasty = quick(job_timeout_seconds=8.0)
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(workshop.worker(hasty, partial(start_another_and_hang, pid_file)).step, workshop.stop)
        eventually(lambda: pid_file.exists() and pid_file.read_text() != "", 8.0)
        workshop.stop.request()
        assert working.result(30)
    started = int(pid_file.read_text())
    eventually(lambda: not psutil.pid_exists(started) or psutil.Process(started).status() == psutil.STATUS_ZOMBIE, 10)
    assert workshop.status().state is JobState.QUEUED
    assert training_processes() == []


def test_progress_reaches_the_row_and_the_log_while_a_training_runs(
    workshop: Workshop, caplog: pytest.LogCaptureFixture
) -> None:
    workshop.submit("drift")
    seen = []

    def told() -> bool:
        status = workshop.status()
        if status.state is JobState.RUNNING and status.progress is not None:
            seen.append((status.progress, status.cost))
        return status.state is JobState.REJECTED

    with caplog.at_level(logging.INFO), ThreadPoolExecutor(1) as pool:
        working = pool.submit(workshop.worker(quick(progress_seconds=0.1), tell).step, workshop.stop)
        eventually(told)
        assert working.result(30)
    progress, cost = seen[-1]
    assert (progress.phase, progress.total) == ("steps", 100)
    assert 5 <= progress.done < 25
    assert progress.loss == pytest.approx(1.0 / (progress.done + 1))
    assert progress.eta_seconds is not None
    assert 3.0 < progress.eta_seconds < 60.0
    assert cost is not None
    assert cost.peak_bytes > 0
    assert "at='steps " in caplog.text


def test_a_training_does_not_wait_for_a_worker_that_does_not_listen(workshop: Workshop, tmp_path: Path) -> None:
    workshop.submit("drift")
    job = workshop.stores.queue.claim("test", timedelta(seconds=60))
    assert job is not None
    finished = tmp_path / "finished"
    with TrainingProcess(partial(flood, finished), job, tmp_path) as child:
        eventually(finished.exists)
        assert child.outcome_within(timedelta(seconds=30), workshop.stop.heard) == Refused(f"told all of {job.id}")
        assert child.progress is not None
        assert child.progress.phase.startswith("phase")


def allow_attempts(workshop: Workshop, count: int) -> None:
    with closing(psycopg2.connect(workshop.found.postgres_dsn)) as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE retrain_jobs SET max_attempts = %s", (count,))
        connection.commit()


def kill_once_kept(checkpoint: Path, pause_seconds: float) -> int:
    """Kill the training a while after it has kept something; returns whether it was there to be killed."""
    eventually(checkpoint.exists)
    time.sleep(pause_seconds)
    killed = training_processes()
    for child in killed:
        child.kill()
    return len(killed)


def test_a_training_killed_at_random_points_is_resumed_to_the_same_result(workshop: Workshop) -> None:
    job = workshop.submit("drift")
    allow_attempts(workshop, 20)
    kept = checkpoints_of(workshop.found) / str(job)
    rng = random.Random(os.getpid())
    kills = 0
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(workshop.work_off, workshop.worker(train_by=train_in_steps))
        for token in (1, 2, 3):
            kills += kill_once_kept(kept / f"steps.{token}", rng.uniform(0.0, 0.4))
        working.result(120)
    status = workshop.status()
    assert status.state is JobState.REJECTED
    assert status.error is not None
    result, _, first = status.error.partition(" from step ")
    assert result == chained(b"", 0, STEPS).hex()
    assert int(first.split()[0]) > 0
    assert status.attempt == kills + 1 > 1
    assert not kept.exists()


def test_a_job_that_was_given_back_goes_on_where_it_was(workshop: Workshop) -> None:
    job = workshop.submit("drift")
    kept = checkpoints_of(workshop.found) / str(job)
    worker = workshop.worker(train_by=train_in_steps)
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(worker.step, workshop.stop)
        eventually(lambda: kept.exists() and any(kept.glob("steps.*")))
        workshop.stop.request()
        assert working.result(30)
    status = workshop.status()
    assert (status.state, status.attempt) == (JobState.QUEUED, 0)
    (raw,) = (path.read_bytes() for path in kept.glob("steps.*"))
    assert raw
    again = workshop.stores.queue.claim("test", timedelta(seconds=30))
    assert again is not None
    assert JobCheckpoints.of(checkpoints_of(workshop.found), again).newest("steps") is not None


def test_an_idle_worker_removes_the_checkpoints_of_finished_jobs(workshop: Workshop) -> None:
    root = checkpoints_of(workshop.found)
    workshop.submit("first")
    finished = workshop.stores.queue.claim("test", timedelta(seconds=30))
    assert finished is not None
    workshop.stores.queue.reject(finished, "worse")
    JobCheckpoints.of(root, finished).keep("steps", b"state")  # by a child that outlived its worker
    elsewhere = workshop.submit("second", model=ModelName("products"))
    waiting = replace(finished, id=elsewhere)
    JobCheckpoints.of(root, waiting).keep("steps", b"state")
    busy_elsewhere = workshop.worker(quick(types=("lora",)))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(busy_elsewhere.run, workshop.stop)
        eventually(lambda: not (root / str(finished.id)).exists())
        workshop.stop.request()
        running.result(30)
    assert (root / str(elsewhere)).exists()


def test_a_worker_leaves_the_kinds_it_was_not_asked_for(workshop: Workshop) -> None:
    workshop.submit("drift")
    others = WorkerSettings(types=("two_tower", "lora"))
    assert not workshop.worker(others, refuse).step(workshop.stop)
    assert workshop.worker(WorkerSettings(types=("als",)), refuse).step(workshop.stop)
    assert workshop.status().state is JobState.REJECTED


def worker_with_budget(workshop: Workshop, cpu_seconds: float, train_by: Train = refuse) -> Worker:
    return workshop.worker(quick(budget_cpu_seconds_per_day=cpu_seconds), train_by)


def test_a_job_that_the_days_budget_does_not_bear_waits_for_the_next_day_and_is_not_lost(
    workshop: Workshop, caplog: pytest.LogCaptureFixture
) -> None:
    workshop.train_here("first")
    workshop.adopt(workshop.versions()[0])
    workshop.submit("the first of the day")
    worker = worker_with_budget(workshop, 1.65)
    assert worker.step(workshop.stop)
    assert workshop.status().state is JobState.REJECTED
    workshop.submit("too dear")
    with caplog.at_level(logging.INFO):
        assert worker.step(workshop.stop)
    assert not worker.step(workshop.stop)
    waiting = workshop.status()
    assert (waiting.state, waiting.attempt) == (JobState.QUEUED, 0)
    assert waiting.error is not None
    assert "does not fit" in waiting.error
    assert "job.put_off" in caplog.text
    assert timedelta(0) < waiting.not_before - datetime.now(UTC) <= timedelta(days=1)
    with closing(psycopg2.connect(workshop.found.postgres_dsn)) as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE retrain_jobs SET not_before = now() WHERE state = 'queued'")  # as if it were that day
        connection.commit()
    assert worker_with_budget(workshop, 1e6).step(workshop.stop)
    assert workshop.status().state is JobState.REJECTED


def test_the_worker_that_people_start_keeps_its_checkpoints_under_the_home(workshop: Workshop) -> None:
    workshop.submit("drift")
    worker = build_worker(QUICK, workshop.stores, workshop.found)
    assert worker.step(workshop.stop)
    assert [registered.manifest.kind for registered in workshop.stores.registry.versions(MOVIES)] == ["als"]
    assert not any(checkpoints_of(workshop.found).glob("*"))
