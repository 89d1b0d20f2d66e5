"""Workers on the stores of one test, and the ways to give them work and have it done."""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from online_models.contracts.ids import JobId, ModelName, ModelVersion
from online_models.contracts.jobs import JobPayload, JobState, JobStatus, NewJob, TrainAls
from online_models.settings import StoreSettings
from online_models.stores.embedded import Endpoints
from online_models.stores.postgres import connect
from online_models.stores.postgres_rollouts import PostgresRollouts
from retrain_workers.app import Stores, checkpoints_of, chores_of, connected, rules_of, terms_of, train
from retrain_workers.attempt import Unwatched
from retrain_workers.cycle import run_job
from retrain_workers.progress_line import ProgressLine
from retrain_workers.publish import Prepared, Refused
from retrain_workers.settings import WorkerSettings
from retrain_workers.training_process import Train
from retrain_workers.worker import StopRequest, Worker
from tests.clustered_world import as_batch, clustered_events

MOVIES = ModelName("movies")
ALS = TrainAls(factors=8, iterations=5, half_life_days=60.0, holdout_fraction=0.2, seed=7)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
QUICK = WorkerSettings(
    lease_seconds=30,
    heartbeat_seconds=0.2,
    poll_seconds=0.05,
    retry_base_seconds=0.02,
    job_timeout_seconds=60,
    gate_margin=0.9,  # with its few users the gate would find most candidates inconclusive
)


@dataclass(frozen=True)
class Workshop:
    """The stores of one test, and the ways to give work and have it done."""

    stores: Stores
    found: StoreSettings
    stop: StopRequest

    def submit(self, trigger: str, payload: JobPayload = ALS, model: ModelName = MOVIES) -> JobId:
        job = self.stores.queue.submit(NewJob(model, trigger, "test", payload))
        assert job is not None
        return job

    def worker(self, settings: WorkerSettings = QUICK, train_by: Train | None = None) -> Worker:
        return Worker(
            "test",
            self.stores.queue,
            self.stores.artifacts,
            self.stores.registry,
            train_by or partial(train, self.found, settings),
            checkpoints_of(self.found),
            terms_of(settings),
            random.Random(0),
            lambda: datetime.now(UTC),
            ProgressLine(None),
            chores_of(settings, self.stores, self.found, "test"),
        )

    def work_off(self, worker: Worker) -> None:
        """Until no job is open, paused ones included."""
        deadline = time.monotonic() + 60
        while self.open_jobs() and time.monotonic() < deadline:
            worker.run_due(self.stop)
            time.sleep(0.02)

    def train_here(self, trigger: str, payload: JobPayload = ALS) -> Prepared | Refused:
        """A job done in this process, without a worker around it."""
        self.submit(trigger, payload)
        job = self.stores.queue.claim("test", timedelta(seconds=30))
        assert job is not None
        outcome = run_job(job, self.stores, rules_of(QUICK), NOW, Unwatched())
        match outcome:
            case Prepared(manifest, sha256, report):
                self.stores.queue.publish(job, manifest, sha256, report=report)
            case Refused(reason, report):
                self.stores.queue.reject(job, reason, report=report)
        return outcome

    def open_jobs(self) -> int:
        states = self.stores.queue.states()
        return states[JobState.QUEUED] + states[JobState.RUNNING]

    def versions(self) -> list[ModelVersion]:
        return [registered.version for registered in self.stores.registry.versions(MOVIES)]

    def adopt(self, version: ModelVersion) -> None:
        database = connect(self.found.postgres_dsn)
        PostgresRollouts(database).adopt(MOVIES, version, "test")
        database.close()

    def status(self) -> JobStatus:
        """Of the youngest job."""
        (status,) = self.stores.queue.statuses(None, 1)
        return status


@contextmanager
def opened_workshop(endpoints: Endpoints, home: Path) -> Iterator[Workshop]:
    """A workshop whose model `movies` has 1500 events."""
    found = StoreSettings(home=home, redis_url=endpoints.redis_url, postgres_dsn=endpoints.postgres_dsn)
    stop = StopRequest()
    with connected(found) as stores:
        stores.interactions.write([as_batch(clustered_events(1))])
        yield Workshop(stores, found, stop)
    stop.close()
