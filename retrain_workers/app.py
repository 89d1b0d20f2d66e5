"""Wiring of the worker: the only module here that builds adapters and reads the clock."""

import logging
import os
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from online_models.contracts.jobs import RetrainJob
from online_models.ports import JobQueue
from online_models.settings import StoreSettings
from online_models.stores.filesystem import FilesystemArtifacts
from online_models.stores.postgres import Database
from online_models.stores.postgres_interactions import PostgresInteractions
from online_models.stores.postgres_jobs import PostgresJobs
from online_models.stores.postgres_registry import PostgresRegistry
from online_models.stores.servers import open_servers
from retrain_workers.evaluation import Gate
from retrain_workers.publish import Prepared, Refused
from retrain_workers.retry import RetryPolicy
from retrain_workers.settings import WorkerSettings
from retrain_workers.trainers import TrainingRules, TrainingStores, run_job
from retrain_workers.worker import Terms, Worker


@dataclass(frozen=True, slots=True)
class Stores(TrainingStores):
    """All that a worker reads and writes."""

    queue: JobQueue


@contextmanager
def open_stores(settings: StoreSettings) -> Iterator[tuple[Stores, StoreSettings]]:
    """Stores on live servers, embedded ones where none is configured, and the settings that a child finds them by."""
    with open_servers(settings) as endpoints:
        found = settings.model_copy(update={"redis_url": endpoints.redis_url, "postgres_dsn": endpoints.postgres_dsn})
        with connected(found) as stores:
            yield stores, found


@contextmanager
def connected(settings: StoreSettings) -> Iterator[Stores]:
    """Stores on the servers that the settings name."""
    database = Database(settings.postgres_dsn)
    try:
        yield Stores(
            interactions=PostgresInteractions(database),
            artifacts=FilesystemArtifacts(settings.artifacts),
            registry=PostgresRegistry(database),
            queue=PostgresJobs(database),
        )
    finally:
        database.close()


def build_worker(settings: WorkerSettings, stores: Stores, found: StoreSettings) -> Worker:
    """A worker on open stores; its training processes connect by `found` themselves."""
    return Worker(
        name=f"{socket.gethostname()}:{os.getpid()}",
        queue=stores.queue,
        artifacts=stores.artifacts,
        registry=stores.registry,
        train=partial(train, found, settings),
        terms=terms_of(settings),
        rng=random.Random(),
        clock=partial(datetime.now, UTC),
    )


def train(found: StoreSettings, settings: WorkerSettings, job: RetrainJob) -> Prepared | Refused:
    """What a training process does; see `trainers.run_job`."""
    configure_logging()
    with connected(found) as stores:
        return run_job(job, stores, rules_of(settings), datetime.now(UTC))


def terms_of(settings: WorkerSettings) -> Terms:
    """The worker's times."""
    return Terms(
        lease=settings.lease,
        heartbeat=settings.heartbeat,
        poll=timedelta(seconds=settings.poll_seconds),
        job_timeout=timedelta(seconds=settings.job_timeout_seconds),
        retry=RetryPolicy(
            base=timedelta(seconds=settings.retry_base_seconds),
            cap=timedelta(seconds=settings.retry_cap_seconds),
        ),
    )


def rules_of(settings: WorkerSettings) -> TrainingRules:
    """What every job is held to."""
    return TrainingRules(
        gate=Gate(settings.gate_tolerance, settings.gate_absurd_share, settings.gate_min_users),
        min_positive_events=settings.min_positive_events,
        min_items=settings.min_items,
        recency_half_life_events=settings.recency_half_life_events,
    )


def configure_logging() -> None:
    """One line per event on standard error."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
