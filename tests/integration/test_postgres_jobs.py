"""The job queue: leases, fencing, burial, and one publication per trigger whoever dies."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import msgspec
import pytest
from msgspec.structs import replace

from online_models.contracts.ids import JobId, ModelName, ModelVersion
from online_models.contracts.jobs import (
    Cost,
    Estimate,
    JobKind,
    JobPayload,
    JobState,
    NewJob,
    Progress,
    RetrainJob,
    TrainAls,
    TrainLora,
    TrainTwoTower,
    version_of,
)
from online_models.errors import LeaseLost, StoreError, StoreUnavailable
from online_models.stores.postgres import Cursor, Database, one, query
from online_models.stores.postgres_jobs import PostgresJobs
from online_models.stores.postgres_registry import PostgresRegistry
from tests.samples import MOVIES, SHA256, manifest, new_job

LEASE = timedelta(minutes=1)
EXPIRED = timedelta(milliseconds=1)
JOBS = 50


@pytest.fixture
def queue(database: Database) -> PostgresJobs:
    return PostgresJobs(database)


def claim(queue: PostgresJobs, lease: timedelta = LEASE) -> RetrainJob:
    job = queue.claim("worker", lease)
    assert job is not None
    return job


def publish(queue: PostgresJobs, job: RetrainJob) -> None:
    queue.publish(job, manifest(version_of(job.token), job.model), SHA256)


def let_expire(queue: PostgresJobs) -> RetrainJob:
    job = claim(queue, EXPIRED)
    time.sleep(0.01)
    return job


def count(database: Database, table: str) -> int:
    with database.transaction() as cursor:
        cursor.execute(f"SELECT count(*) FROM {table}")
        return int(one(cursor)[0])


def test_a_claimed_job_is_what_was_submitted(queue: PostgresJobs) -> None:
    submitted = new_job()
    job_id = queue.submit(submitted)
    job = claim(queue)
    assert (job.id, job.model, job.trigger_id, job.reason) == (job_id, MOVIES, "t1", submitted.reason)
    assert job.payload == TrainAls(factors=8)
    assert (job.attempt, job.max_attempts) == (1, 3)
    assert job.lease_until.tzinfo is not None
    assert queue.claim("other", LEASE) is None


def test_a_trigger_is_queued_once_and_a_model_has_one_open_job(queue: PostgresJobs) -> None:
    first = queue.submit(new_job("t1"))
    assert first is not None
    assert queue.submit(new_job("t1")) == first
    assert queue.submit(new_job("t2")) is None
    assert queue.submit(new_job("t3", ModelName("products"))) is not None
    publish(queue, claim(queue))
    assert queue.submit(new_job("t1")) == first
    assert queue.submit(new_job("t2")) not in (None, first)
    states = queue.states(MOVIES)
    assert (states[JobState.DONE], states[JobState.QUEUED], sum(states.values())) == (1, 1, 2)


def test_jobs_are_claimed_in_the_order_of_submission(queue: PostgresJobs) -> None:
    models = [ModelName(f"m{n}") for n in (3, 1, 2)]
    for model in models:
        queue.submit(new_job(f"t-{model}", model))
    assert [claim(queue).model for _ in models] == models


def test_publication_finishes_the_job_and_registers_its_version(queue: PostgresJobs, database: Database) -> None:
    queue.submit(new_job())
    job = claim(queue)
    publish(queue, job)
    registered = PostgresRegistry(database).version(MOVIES, version_of(job.token))
    assert registered is not None
    assert registered.manifest == manifest(version_of(job.token))
    assert queue.states(MOVIES)[JobState.DONE] == 1
    assert count(database, "registry_events") == 1


def test_publishing_again_under_the_same_token_changes_nothing(queue: PostgresJobs, database: Database) -> None:
    queue.submit(new_job())
    job = claim(queue)
    publish(queue, job)
    publish(queue, job)
    assert (count(database, "model_versions"), count(database, "registry_events")) == (1, 1)


def test_a_version_that_is_not_the_tokens_is_refused(queue: PostgresJobs, database: Database) -> None:
    queue.submit(new_job())
    job = claim(queue)
    for wrong in (manifest("v999"), manifest(version_of(job.token), ModelName("products"))):
        with pytest.raises(StoreError, match="expected a manifest of"):
            queue.publish(job, wrong, SHA256)
    assert queue.states(MOVIES)[JobState.RUNNING] == 1
    assert count(database, "model_versions") == 0


def test_a_publication_that_cannot_be_registered_leaves_the_job_running(
    queue: PostgresJobs, database: Database
) -> None:
    queue.submit(new_job())
    job = claim(queue)
    PostgresRegistry(database).register(manifest(version_of(job.token)), SHA256, "intruder")
    with pytest.raises(StoreError, match="registered already"):
        publish(queue, job)
    assert queue.states(MOVIES)[JobState.RUNNING] == 1


def test_an_expired_lease_is_taken_over_and_the_late_result_refused(queue: PostgresJobs, database: Database) -> None:
    queue.submit(new_job())
    late = let_expire(queue)
    successor = claim(queue)
    assert (successor.id, successor.attempt) == (late.id, 2)
    assert successor.token > late.token
    with pytest.raises(LeaseLost, match=f"under token {late.token}, found state running under token {successor.token}"):
        publish(queue, late)
    publish(queue, successor)
    with pytest.raises(LeaseLost):
        publish(queue, late)
    versions = [row.version for row in PostgresRegistry(database).versions(MOVIES)]
    assert versions == [version_of(successor.token)]


def test_every_write_of_a_stale_token_is_refused(queue: PostgresJobs) -> None:
    queue.submit(new_job())
    late = let_expire(queue)
    claim(queue)
    writes: tuple[Callable[[], object], ...] = (
        lambda: queue.heartbeat(late, LEASE),
        lambda: queue.reject(late, "worse"),
        lambda: queue.retry(late, LEASE, "failed"),
        lambda: queue.bury(late, "failed"),
        lambda: queue.release(late),
        lambda: queue.put_off(late, "too dear"),
        lambda: queue.reserve(late, Estimate(1, 1.0, 1.0, 1), 0.0),
        lambda: queue.reserve(late, Estimate(1, 1.0, 1.0, 1), 100.0),
        lambda: publish(queue, late),
    )
    for write in writes:
        with pytest.raises(LeaseLost):
            write()
    assert queue.states(MOVIES)[JobState.RUNNING] == 1


def test_a_lease_that_ran_out_but_was_not_taken_over_can_still_publish(queue: PostgresJobs) -> None:
    queue.submit(new_job())
    publish(queue, let_expire(queue))
    assert queue.states(MOVIES)[JobState.DONE] == 1


def test_a_heartbeat_keeps_a_job_from_being_taken_over(queue: PostgresJobs) -> None:
    queue.submit(new_job())
    job = let_expire(queue)
    queue.heartbeat(job, LEASE)
    assert queue.claim("other", LEASE) is None


def test_a_frozen_transaction_hides_a_job_only_until_the_server_ends_it(queue: PostgresJobs, postgres: str) -> None:
    queue.submit(new_job())
    let_expire(queue)
    frozen = Database(postgres, idle_timeout=timedelta(seconds=1))

    def freeze(cursor: Cursor) -> None:
        cursor.execute("UPDATE retrain_jobs SET heartbeat_at = now(), error = 'late'")
        assert queue.claim("other", LEASE) is None
        assert within(10, lambda: queue.claim("other", LEASE) is not None)
        cursor.execute("SELECT 1")

    with pytest.raises(StoreUnavailable), frozen.transaction() as cursor:
        freeze(cursor)
    assert queue.states(MOVIES)[JobState.RUNNING] == 1


def test_no_connection_may_be_idle_in_a_transaction_for_long(database: Database) -> None:
    with database.transaction() as cursor:
        cursor.execute("SHOW idle_in_transaction_session_timeout")
        assert one(cursor) == ("10s",)


def beat_forever(dsn: str, job: RetrainJob) -> None:
    own = PostgresJobs(Database(dsn))
    while True:
        own.heartbeat(job, LEASE)


def test_wherever_a_worker_freezes_in_a_heartbeat_it_holds_no_lock(queue: PostgresJobs, database: Database) -> None:
    queue.submit(new_job())
    with database.transaction() as cursor:
        dsn = cursor.connection.dsn
    worker = multiprocessing.get_context("spawn").Process(target=beat_forever, args=(dsn, claim(queue)), daemon=True)
    worker.start()
    assert worker.pid is not None

    def others(state: str) -> int:
        with database.transaction() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND pid <> pg_backend_pid() AND state LIKE %s",
                (state,),
            )
            return int(one(cursor)[0])

    try:
        assert within(60, lambda: others("%") == 1)
        for _ in range(30):
            time.sleep(0.01)
            os.kill(worker.pid, signal.SIGSTOP)
            assert within(10, lambda: others("active") == 0)
            assert others("idle in transaction%") == 0
            os.kill(worker.pid, signal.SIGCONT)
    finally:
        worker.kill()
        worker.join()


def within(seconds: float, happened: Callable[[], bool]) -> bool:
    """Whether it happened in time."""
    deadline = time.monotonic() + seconds
    while not (done := happened()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return done


def test_a_job_is_buried_when_its_attempts_are_used_up(queue: PostgresJobs, database: Database) -> None:
    queue.submit(new_job())
    for attempt in (1, 2, 3):
        assert let_expire(queue).attempt == attempt
    assert queue.claim("worker", LEASE) is None
    assert queue.states(MOVIES)[JobState.DEAD] == 1
    with database.transaction() as cursor:
        cursor.execute("SELECT error FROM retrain_jobs")
        assert one(cursor) == ("gave up after 3 attempts",)
    assert queue.submit(new_job("t2")) is not None


def test_a_released_attempt_does_not_count_and_a_retried_one_does(queue: PostgresJobs) -> None:
    queue.submit(new_job())
    for _ in range(5):
        queue.release(claim(queue))
    job = claim(queue)
    assert job.attempt == 1
    queue.retry(job, timedelta(0), "failed")
    assert claim(queue).attempt == 2


def test_a_retried_job_waits_out_its_delay(queue: PostgresJobs) -> None:
    queue.submit(new_job())
    queue.retry(claim(queue), timedelta(hours=1), "failed")
    assert queue.claim("worker", LEASE) is None
    assert queue.states(MOVIES)[JobState.QUEUED] == 1


def test_rejected_and_buried_jobs_are_final(queue: PostgresJobs, database: Database) -> None:
    queue.submit(new_job("t1"))
    queue.reject(claim(queue), "worse than the champion")
    queue.submit(new_job("t2"))
    queue.bury(claim(queue), "too little data")
    assert queue.claim("worker", LEASE) is None
    assert queue.states() == {
        JobState.QUEUED: 0, JobState.RUNNING: 0, JobState.DONE: 0, JobState.REJECTED: 1, JobState.DEAD: 1,
    }  # fmt: skip
    assert count(database, "model_versions") == 0


def test_a_payload_of_another_release_is_buried_and_the_next_job_taken(queue: PostgresJobs, database: Database) -> None:
    queue.submit(new_job("t1"))
    queue.submit(new_job("t2", ModelName("products")))
    with database.transaction() as cursor:
        cursor.execute("""UPDATE retrain_jobs SET payload = '{"type": "train_tarot"}' WHERE model = 'movies'""")
    assert claim(queue).model == "products"
    assert queue.states(MOVIES)[JobState.DEAD] == 1


def test_a_worker_that_names_kinds_takes_no_others(queue: PostgresJobs) -> None:
    payloads: tuple[JobPayload, ...] = (TrainLora(), TrainAls(), TrainTwoTower())
    for number, payload in enumerate(payloads):
        queue.submit(NewJob(ModelName(f"m{number}"), f"t{number}", "test", payload))

    def taken(*kinds: JobKind) -> str | None:
        job = queue.claim("worker", LEASE, kinds)
        return None if job is None else job.model

    assert taken(JobKind.TWO_TOWER) == "m2"
    assert taken(JobKind.TWO_TOWER) is None
    assert taken(JobKind.ALS, JobKind.LORA) == "m0"
    assert taken() == "m1"


def test_a_claim_does_not_read_the_finished_jobs(queue: PostgresJobs, database: Database) -> None:
    queue.submit(new_job())
    with database.transaction() as cursor:
        cursor.execute(
            "INSERT INTO retrain_jobs (model, trigger_id, reason, payload, state)"
            """ SELECT 'm' || n, 'old' || n, 'test', '{"type": "train_als"}', 'done' FROM generate_series(1, 5000) AS n"""
        )
        cursor.execute("ANALYZE retrain_jobs")
        for kinds in (None, [JobKind.ALS, JobKind.LORA]):
            cursor.execute("EXPLAIN " + query("claim_job"), {"worker": "w", "lease": LEASE, "kinds": kinds})
            plan = "\n".join(row[0] for row in cursor.fetchall())
            assert "Seq Scan" not in plan
            assert "retrain_jobs_open" in plan


def test_progress_and_cost_are_told_with_the_heartbeat_and_stay_until_the_next_claim(queue: PostgresJobs) -> None:
    queue.submit(new_job())
    job = claim(queue)
    progress, cost = Progress("als", 3, 10, 0.5, 7.0), Cost(100, 1.5, 2.0, 1 << 30)
    queue.heartbeat(job, LEASE, progress, cost)
    queue.heartbeat(job, LEASE)
    (status,) = queue.statuses(MOVIES, 10)
    assert (status.progress, status.cost) == (progress, cost)
    assert (status.kind, status.level, status.state, status.owner) == ("als", "cold", JobState.RUNNING, "worker")
    queue.retry(job, timedelta(0), "failed", replace(cost, cpu_seconds=2.5))
    again = claim(queue)
    assert again.cost == replace(cost, cpu_seconds=2.5)
    (status,) = queue.statuses(None, 10)
    assert (status.progress, status.cost, status.error) == (None, again.cost, "failed")


def test_finished_jobs_are_told_from_open_and_unknown_ones(queue: PostgresJobs) -> None:
    queue.submit(new_job("t1"))
    queue.reject(claim(queue), "worse")
    queue.submit(new_job("t2"))
    first, second = (status.id for status in queue.statuses(MOVIES, 10))
    assert queue.finished([first, second, JobId(99)]) == {first}
    assert queue.finished([]) == set()


def work_until_empty(dsn: str) -> list[ModelVersion]:
    """A worker; some leases of it run out on purpose while it works."""
    queue = PostgresJobs(Database(dsn))
    published: list[ModelVersion] = []
    while True:
        job = queue.claim("worker", timedelta(milliseconds=20))
        if job is None:
            counts = queue.states()
            if counts[JobState.QUEUED] + counts[JobState.RUNNING] == 0:
                return published
            time.sleep(0.005)
            continue
        if job.attempt == 1 and job.id % 5 == 0:
            time.sleep(0.03)
        try:
            publish(queue, job)
        except LeaseLost:
            continue
        published.append(version_of(job.token))


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_two_workers_publish_each_of_fifty_jobs_once(postgres: str, kind: str) -> None:
    database = Database(postgres)
    queue = PostgresJobs(database)
    models = [ModelName(f"m{n}") for n in range(JOBS)]
    for model in models:
        queue.submit(new_job(f"t-{model}", model))
    if kind == "threads":
        with ThreadPoolExecutor(2) as pool:
            done = list(pool.map(work_until_empty, [postgres] * 2))
    else:
        with multiprocessing.get_context("spawn").Pool(2) as processes:
            done = processes.map(work_until_empty, [postgres] * 2)
    registry = PostgresRegistry(database)
    assert [len(registry.versions(model)) for model in models] == [1] * JOBS
    assert queue.states()[JobState.DONE] == JOBS
    published = [version for versions in done for version in versions]
    assert sorted(published) == sorted(registry.versions(model)[0].version for model in models)
    assert count(database, "registry_events") == JOBS


def test_claims_by_many_threads_never_share_a_token(postgres: str) -> None:
    queue = PostgresJobs(Database(postgres))
    for n in range(20):
        queue.submit(new_job(f"t{n}", ModelName(f"m{n}")))

    def drain(_: int) -> list[RetrainJob]:
        own = PostgresJobs(Database(postgres))
        return list(iter(lambda: own.claim("worker", LEASE), None))

    with ThreadPoolExecutor(4) as pool:
        jobs = [job for claimed in pool.map(drain, range(4)) for job in claimed]
    assert len({job.token for job in jobs}) == len({job.id for job in jobs}) == len(jobs) == 20
    assert all(msgspec.json.encode(job) for job in jobs)
