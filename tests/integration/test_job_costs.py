"""What jobs are expected to cost, what they have cost, and a day's budget, on real PostgreSQL."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta

import pytest
from psycopg2.extensions import make_dsn

from online_models.contracts.ids import ModelName
from online_models.contracts.jobs import (
    Cost,
    Estimate,
    JobPayload,
    JobState,
    NewJob,
    RetrainJob,
    Start,
    TrainAls,
    TrainTwoTower,
    version_of,
)
from online_models.job_queue import CostOutlook
from online_models.stores.postgres import Database
from online_models.stores.postgres_interactions import PostgresInteractions
from online_models.stores.postgres_jobs import PostgresJobs
from online_models.stores.postgres_registry import PostgresRegistry
from online_models.stores.postgres_rollouts import PostgresRollouts
from tests.samples import MOVIES, SHA256, batch, event, manifest, new_job

LEASE = timedelta(minutes=1)


@pytest.fixture
def queue(database: Database) -> PostgresJobs:
    return PostgresJobs(database)


def claim(queue: PostgresJobs) -> RetrainJob:
    job = queue.claim("worker", LEASE)
    assert job is not None
    return job


@pytest.mark.parametrize("end", ["publish", "reject", "bury", "release"])
def test_the_cost_of_a_job_is_kept_whatever_its_end(queue: PostgresJobs, end: str) -> None:
    queue.submit(new_job())
    job, cost = claim(queue), Cost(100, 1.5, 2.0, 1 << 30)
    match end:
        case "publish":
            queue.publish(job, manifest(version_of(job.token), job.model), SHA256, cost)
        case "reject":
            queue.reject(job, "worse", cost)
        case "bury":
            queue.bury(job, "failed", cost)
        case _:
            queue.release(job, cost)
    assert [status.cost for status in queue.statuses(MOVIES, 1)] == [cost]


def finish(
    queue: PostgresJobs, trigger: str, payload: JobPayload, cost: Cost | None, model: ModelName = MOVIES
) -> None:
    queue.submit(NewJob(model, trigger, "test", payload))
    queue.reject(claim(queue), "worse", cost)


def test_an_estimate_goes_by_the_newest_jobs_of_the_same_model_kind_and_level(
    queue: PostgresJobs, database: Database
) -> None:
    PostgresInteractions(database).write([batch([event(n, ts=1_000 + n) for n in range(7)])])
    costs = [Cost(10 + number, 1.0, 1.0, 1) for number in range(7)]
    for number, cost in enumerate(costs):
        finish(queue, f"t{number}", TrainTwoTower(start=Start.COLD), cost)
    finish(queue, "warm", TrainTwoTower(), Cost(1, 1.0, 1.0, 1))
    finish(queue, "als", TrainAls(), Cost(1, 1.0, 1.0, 1))
    finish(queue, "other", TrainTwoTower(start=Start.COLD), Cost(1, 1.0, 1.0, 1), ModelName("products"))
    finish(queue, "none", TrainTwoTower(start=Start.COLD), None)
    queue.submit(NewJob(MOVIES, "now", "test", TrainTwoTower(TrainAls(until_ms=1_004), start=Start.COLD)))
    assert queue.outlook(claim(queue)) == CostOutlook(5, costs[:1:-1])


def test_events_that_cannot_be_counted_in_time_are_taken_to_be_those_of_the_last_job(
    queue: PostgresJobs, database: Database, postgres: str
) -> None:
    PostgresInteractions(database).write([batch([event(1)])])
    finish(queue, "t1", TrainAls(), Cost(10, 1.0, 1.0, 1))
    queue.submit(new_job("t2"))
    job = claim(queue)
    impatient = PostgresJobs(Database(make_dsn(postgres, options="-c lock_timeout=50ms")))
    with Database(postgres).transaction() as cursor:
        cursor.execute("LOCK TABLE feedback IN ACCESS EXCLUSIVE MODE")
        assert impatient.outlook(job).events == 10
    assert queue.outlook(job).events == 1


@dataclass(frozen=True)
class Budgeted:
    """A queue whose models have champions, and a budget of 100 CPU seconds a day."""

    queue: PostgresJobs
    database: Database

    def job(self, name: str) -> RetrainJob:
        model = ModelName(name)
        registry, rollouts = PostgresRegistry(self.database), PostgresRollouts(self.database)
        if registry.champion(model) is None:
            version = registry.new_version()
            registry.register(manifest(version, model), SHA256, "test")
            rollouts.adopt(model, version, "test")
        self.queue.submit(new_job(f"{name} {registry.new_version()}", model))
        return claim(self.queue)

    def reserve(self, job: RetrainJob, cpu_seconds: float) -> float | None:
        return self.queue.reserve(job, Estimate(1, cpu_seconds, cpu_seconds, 1), 100.0)


@pytest.fixture
def budgeted(queue: PostgresJobs, database: Database) -> Budgeted:
    return Budgeted(queue, database)


def test_what_jobs_have_used_and_what_running_ones_reserved_leaves_the_rest_of_the_budget(budgeted: Budgeted) -> None:
    done, running, asking = (budgeted.job(name) for name in ("done", "running", "asking"))
    assert budgeted.reserve(done, 10.0) is None
    budgeted.queue.reject(done, "worse", Cost(1, 20.0, 1.0, 1))
    assert budgeted.reserve(running, 50.0) is None
    assert budgeted.reserve(asking, 31.0) == 70.0
    assert budgeted.reserve(asking, 30.0) is None
    assert budgeted.reserve(asking, 30.0) is None  # the same job again
    (status,) = budgeted.queue.statuses(ModelName("asking"), 1)
    assert status.estimate == Estimate(1, 30.0, 30.0, 1)


def test_the_first_job_of_a_day_fits_whatever_its_estimate(budgeted: Budgeted) -> None:
    assert budgeted.reserve(budgeted.job("huge"), 1_000.0) is None
    assert budgeted.reserve(budgeted.job("small"), 1.0) == 1_000.0


def test_a_model_without_champion_is_trained_whatever_the_budget(budgeted: Budgeted) -> None:
    assert budgeted.reserve(budgeted.job("huge"), 1_000.0) is None
    budgeted.queue.submit(new_job("first", ModelName("newcomer")))
    assert budgeted.reserve(claim(budgeted.queue), 50.0) is None


def test_what_was_used_yesterday_is_no_longer_counted(budgeted: Budgeted) -> None:
    done = budgeted.job("done")
    assert budgeted.reserve(done, 99.0) is None
    budgeted.queue.reject(done, "worse", Cost(1, 99.0, 1.0, 1))
    asking = budgeted.job("asking")
    assert budgeted.reserve(asking, 10.0) == 99.0
    with budgeted.database.transaction() as cursor:
        cursor.execute(
            "UPDATE retrain_jobs SET heartbeat_at = heartbeat_at - interval '1 day',"
            " finished_at = finished_at - interval '1 day' WHERE state = 'rejected'"
        )
    assert budgeted.reserve(asking, 10.0) is None


def test_a_job_that_was_put_off_is_due_at_midnight_utc_and_has_lost_no_attempt(
    queue: PostgresJobs, database: Database
) -> None:
    queue.submit(new_job())
    queue.put_off(claim(queue), "too dear")
    assert queue.claim("worker", LEASE) is None
    (status,) = queue.statuses(MOVIES, 1)
    assert (status.state, status.attempt, status.error) == (JobState.QUEUED, 0, "too dear")
    until_midnight = status.not_before - datetime.now(UTC)
    assert timedelta(0) < until_midnight <= timedelta(days=1)
    assert status.not_before.astimezone(UTC).time() == time(0)
    with database.transaction() as cursor:
        cursor.execute("UPDATE retrain_jobs SET not_before = not_before - interval '1 day'")
    assert claim(queue).attempt == 1


def test_workers_that_ask_at_once_do_not_share_what_is_left_of_a_budget(budgeted: Budgeted, postgres: str) -> None:
    assert budgeted.reserve(budgeted.job("running"), 50.0) is None
    jobs = [budgeted.job(f"m{number}") for number in range(8)]

    def ask(job: RetrainJob) -> bool:
        return Budgeted(PostgresJobs(Database(postgres)), budgeted.database).reserve(job, 20.0) is None

    with ThreadPoolExecutor(len(jobs)) as pool:
        assert sum(pool.map(ask, jobs)) == 2
