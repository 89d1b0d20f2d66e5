"""Wiring of the worker: the only module here that builds adapters and reads the clock."""

import logging
import os
import random
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final

from online_models.contracts.ids import ModelName
from online_models.contracts.jobs import JobKind, RetrainJob
from online_models.errors import SettingsError
from online_models.ports import JobQueue, RegistryOutbox, RolloutStore
from online_models.settings import StoreSettings
from online_models.stores import redis
from online_models.stores.filesystem import FilesystemArtifacts
from online_models.stores.postgres import Database
from online_models.stores.postgres_interactions import PostgresInteractions
from online_models.stores.postgres_jobs import PostgresJobs
from online_models.stores.postgres_outbox import PostgresOutbox
from online_models.stores.postgres_registry import PostgresRegistry
from online_models.stores.postgres_rollouts import PostgresRollouts
from online_models.stores.redis_language import RedisLanguageScores
from online_models.stores.servers import open_servers
from retrain_workers.apart import Ended, Limits, run_apart
from retrain_workers.attempt import Attempt
from retrain_workers.chores import Chores, mirroring, tidying
from retrain_workers.job_rules import TrainerRules, TrainingRules, TrainingStores
from retrain_workers.machine_memory import machine_memory
from retrain_workers.process_usage import is_known
from retrain_workers.progress_line import ERASE_LINE, ProgressLine
from retrain_workers.publish import Prepared, Refused
from retrain_workers.registry.garbage import Retention
from retrain_workers.registry.mlflow_rest import MlflowServer
from retrain_workers.rescoring import rescore, rescoring
from retrain_workers.retry import RetryPolicy
from retrain_workers.settings import WorkerSettings
from retrain_workers.validation.gate import Gate
from retrain_workers.worker import Terms, Worker

MEMORY_SHARE: Final = 0.75
"""Of what memory there is, that a training process may take unless another limit is set."""


@dataclass(frozen=True, slots=True)
class Stores(TrainingStores):
    """All that a worker reads and writes."""

    queue: JobQueue
    rollouts: RolloutStore
    outbox: RegistryOutbox


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
    client = redis.connect(settings.redis_url)
    try:
        yield Stores(
            interactions=PostgresInteractions(database),
            artifacts=FilesystemArtifacts(settings.artifacts),
            registry=PostgresRegistry(database),
            language=RedisLanguageScores(client),
            snapshots=settings.snapshots,
            queue=PostgresJobs(database),
            rollouts=PostgresRollouts(database),
            outbox=PostgresOutbox(database),
        )
    finally:
        client.close()
        database.close()


def build_worker(settings: WorkerSettings, stores: Stores, found: StoreSettings) -> Worker:
    """A worker on open stores; its training processes connect by `found` themselves.

    Raises
    ------
    SettingsError
        When memory is to be limited on a system that does not tell how much a process uses.
    """
    if settings.job_memory_bytes and not is_known():
        raise SettingsError("settings [worker]: job_memory_bytes: expected Linux with /proc, got a system without")
    name = f"{socket.gethostname()}:{os.getpid()}"
    return Worker(
        name=name,
        queue=stores.queue,
        artifacts=stores.artifacts,
        registry=stores.registry,
        train=partial(train, found, settings),
        checkpoints=checkpoints_of(found),
        terms=terms_of(settings),
        rng=random.Random(),
        clock=partial(datetime.now, UTC),
        line=ProgressLine(sys.stderr),
        chores=chores_of(settings, stores, found, name),
    )


def chores_of(settings: WorkerSettings, stores: Stores, found: StoreSettings, name: str) -> Chores:
    """What a worker does while there is no job."""
    retention, checkpoints = retention_of(settings), checkpoints_of(found)
    chores = [
        tidying(stores.artifacts, stores.registry, stores.queue, checkpoints, retention, name),
        mirroring(stores.outbox, stores.registry, tracker_of(settings)),
    ]
    if not settings.types or JobKind.LORA in settings.types:
        ttl, timeout = timedelta(seconds=settings.language_scores_seconds), terms_of(settings).job_timeout
        run = partial(rescore_apart, found, settings)
        # a claim outlives what it is for: one that ran out of time leaves a pause as well
        chores.append(rescoring(stores.registry, stores.language, run, ttl, 2 * timeout, name))
    return Chores(chores)


def rescore_apart(
    found: StoreSettings, settings: WorkerSettings, model: ModelName, stopped: Callable[[], bool]
) -> Ended:
    """Have a process publish the scores of a model's champion anew, within the limits of a training."""
    terms = terms_of(settings)
    limits = Limits(terms.job_timeout, terms.memory_bytes)
    return run_apart(partial(rescore_champion, found, settings, model), limits, stopped)


def rescore_champion(found: StoreSettings, settings: WorkerSettings, model: ModelName) -> None:
    """What that process does; see `rescore`."""
    configure_logging()
    with connected(found) as stores:
        rescore(model, stores, rules_of(settings))


def checkpoints_of(found: StoreSettings) -> Path:
    """Directory of what running jobs keep."""
    return found.home / "checkpoints"


def train(found: StoreSettings, settings: WorkerSettings, job: RetrainJob, attempt: Attempt) -> Prepared | Refused:
    """What a training process does; see `cycle.run_job`."""
    from retrain_workers.cycle import run_job  # here, for it brings torch: a worker that only waits needs none of it

    configure_logging()
    with connected(found) as stores:
        return run_job(job, stores, rules_of(settings), datetime.now(UTC), attempt)


def terms_of(settings: WorkerSettings) -> Terms:
    """The worker's times and limits."""
    return Terms(
        lease=settings.lease,
        heartbeat=settings.heartbeat,
        progress=timedelta(seconds=settings.progress_seconds),
        poll=timedelta(seconds=settings.poll_seconds),
        job_timeout=timedelta(seconds=settings.job_timeout_seconds),
        retry=RetryPolicy(
            base=timedelta(seconds=settings.retry_base_seconds),
            cap=timedelta(seconds=settings.retry_cap_seconds),
        ),
        kinds=settings.types,
        memory_bytes=memory_of(settings),
        budget_cpu_seconds=settings.budget_cpu_seconds_per_day,
    )


def memory_of(settings: WorkerSettings) -> int:
    """Bytes that a training process may take; 0 for no limit."""
    if settings.job_memory_bytes is not None:
        return settings.job_memory_bytes
    return int(MEMORY_SHARE * machine_memory()) if is_known() else 0


def rules_of(settings: WorkerSettings) -> TrainingRules:
    """What every job is held to."""
    return TrainingRules(
        gate=gate_of(settings),
        trainers=TrainerRules(
            settings.recency_half_life_events,
            settings.base_model_dir,
            settings.device,
            settings.scoring_threads or max(1, (os.cpu_count() or 1) // 2),
        ),
        min_positive_events=settings.min_positive_events,
        min_items=settings.min_items,
        smoke=timedelta(seconds=settings.gate_smoke_seconds),
        scored_users=settings.scored_users,
        scores_ttl=timedelta(seconds=settings.language_scores_seconds),
    )


def retention_of(settings: WorkerSettings) -> Retention:
    """Which artifacts are kept."""
    return Retention(settings.keep_champions, timedelta(seconds=settings.collect_grace_seconds))


def tracker_of(settings: WorkerSettings) -> MlflowServer | None:
    """Where versions are mirrored to, if anywhere."""
    if not settings.mlflow_uri:
        return None
    return MlflowServer(settings.mlflow_uri, timedelta(seconds=settings.mlflow_timeout_seconds))


def gate_of(settings: WorkerSettings) -> Gate:
    """What a candidate has to show."""
    return Gate(
        margin=settings.gate_margin,
        absurd_share=settings.gate_absurd_share,
        min_users=settings.gate_min_users,
        alpha=settings.gate_alpha,
        old_margin=settings.gate_old_margin,
        coverage_share=settings.gate_coverage_share,
        overlap_floor=settings.gate_overlap_floor,
        calibration_error=settings.gate_calibration_error,
        request_ms=settings.gate_request_ms,
    )


def now() -> datetime:
    """The time, aware."""
    return datetime.now(UTC)


def configure_logging() -> None:
    """One line per event on standard error; on a terminal it takes the place of the line of progress."""
    over = ERASE_LINE if sys.stderr.isatty() else ""
    logging.basicConfig(level=logging.INFO, format=f"{over}%(asctime)s %(levelname)s %(name)s %(message)s")
