"""Worker processes that are killed, stopped and raced: `python -m retrain_workers run`, as people start it."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import psutil
import psycopg2
import pytest

from online_models.contracts.artifacts import Manifest
from online_models.contracts.events import Item
from online_models.contracts.ids import ModelName, ModelVersion
from online_models.contracts.jobs import JobPayload, JobState, JobStatus, NewJob, Start, TrainAls, TrainTwoTower
from online_models.settings import StoreSettings
from online_models.stores.embedded import Endpoints
from retrain_workers.app import Stores, connected, rules_of
from retrain_workers.attempt import Unwatched
from retrain_workers.checkpoints import drop_finished
from retrain_workers.cycle import run_job
from retrain_workers.publish import Prepared, remove_orphans
from retrain_workers.registry.mirror import mirror
from retrain_workers.registry.mlflow_rest import MlflowServer
from retrain_workers.settings import WorkerSettings
from tests.clustered_world import as_batch, clustered_events
from tests.samples import SHA256, manifest
from tests.tracking_server import tracking_server

ROOT = Path(__file__).parents[2]
MOVIES = ModelName("movies")
SHORT = TrainAls(factors=4, iterations=2, half_life_days=60.0, holdout_fraction=0.2)
LENGTHY = TrainAls(factors=8, iterations=20_000, half_life_days=60.0, holdout_fraction=0.2)
ENDLESS = TrainAls(factors=8, iterations=100_000_000, half_life_days=60.0, holdout_fraction=0.2)
TOWERS = TrainTwoTower(SHORT, start=Start.COLD, dimensions=8, hidden=8, epochs=12, batch_size=8)


@dataclass(frozen=True)
class Works:
    """The stores of one test, and worker processes on them."""

    stores: Stores
    found: StoreSettings

    def environment(self, lease_seconds: float = 30.0, mlflow_uri: str = "") -> dict[str, str]:
        """Of a worker process."""
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PENSTOCK_HOME": str(self.found.home),
            "PENSTOCK_REDIS_URL": self.found.redis_url,
            "PENSTOCK_POSTGRES_DSN": self.found.postgres_dsn,
            "PENSTOCK_WORKER_LEASE_SECONDS": str(lease_seconds),
            "PENSTOCK_WORKER_POLL_SECONDS": "0.1",
            "PENSTOCK_WORKER_RETRY_BASE_SECONDS": "0.1",
            "PENSTOCK_WORKER_MLFLOW_URI": mlflow_uri,
        }

    @contextmanager
    def worker(self, *arguments: str, lease_seconds: float = 30.0, mlflow_uri: str = "") -> Iterator[psutil.Popen]:
        """A worker process that logs to `<home>/worker.log` and is gone when the block is left."""
        command = [sys.executable, "-m", "retrain_workers", "run", *arguments]
        with (self.found.home / "worker.log").open("ab") as log:
            environment = self.environment(lease_seconds, mlflow_uri)
            process = psutil.Popen(command, cwd=self.found.home, env=environment, stderr=log)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait(10)

    @contextmanager
    def reads_held_back(self, worker: psutil.Popen) -> Iterator[Callable[[], None]]:
        """The training that begins does not get its data inside the block; the given function waits until it asks for it."""
        eventually(lambda: bool(training_processes(worker)))  # the worker itself has counted the data by then
        with closing(psycopg2.connect(self.found.postgres_dsn)) as connection, connection.cursor() as cursor:
            cursor.execute("LOCK TABLE feedback IN ACCESS EXCLUSIVE MODE")
            yield lambda: eventually(lambda: self._count("SELECT count(*) FROM pg_locks WHERE NOT granted") > 0)

    def _count(self, query: str) -> int:
        with closing(psycopg2.connect(self.found.postgres_dsn)) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            ((found,),) = cursor.fetchall()
        return int(found)

    def submit(self, payload: JobPayload, model: ModelName = MOVIES, trigger: str = "trigger") -> None:
        assert self.stores.queue.submit(NewJob(model, f"{trigger} of {model}", "test", payload)) is not None

    def execute(self, statement: str) -> None:
        with closing(psycopg2.connect(self.found.postgres_dsn)) as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            connection.commit()

    def trained_here(self, payload: JobPayload) -> Manifest:
        """The version of a job done in this process."""
        self.submit(payload, trigger="another trigger")
        job = self.stores.queue.claim("test", timedelta(minutes=10))
        assert job is not None
        made = run_job(job, self.stores, rules_of(WorkerSettings()), datetime.now(UTC), Unwatched())
        assert isinstance(made, Prepared), made
        self.stores.queue.publish(job, made.manifest, made.manifest_sha256)
        return made.manifest

    def published(self) -> Manifest:
        """The youngest version."""
        return self.stores.registry.versions(MOVIES)[-1].manifest

    def log(self) -> str:
        return (self.found.home / "worker.log").read_text()

    def job(self) -> tuple[str, int]:
        """State and attempts of the only job."""
        with closing(psycopg2.connect(self.found.postgres_dsn)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT state, attempt FROM retrain_jobs")
            ((state, attempts),) = cursor.fetchall()
        return state, attempts

    def versions(self, model: ModelName = MOVIES) -> list[ModelVersion]:
        return [registered.version for registered in self.stores.registry.versions(model)]


@pytest.fixture
def works(fresh_stores: Endpoints, tmp_path: Path) -> Iterator[Works]:
    found = StoreSettings(home=tmp_path, redis_url=fresh_stores.redis_url, postgres_dsn=fresh_stores.postgres_dsn)
    with connected(found) as stores:
        stores.interactions.write([as_batch(clustered_events(1, events=600))])
        yield Works(stores, found)


def eventually(happened: Callable[[], bool], seconds: float = 150.0) -> None:
    """Generous by default: in a fresh clone the first training compiles its kernels, half a minute on busy cores."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)


def is_dead(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def training_processes(worker: psutil.Popen) -> list[psutil.Process]:
    return [child for child in worker.children() if "--multiprocessing-fork" in child.cmdline()]


def training_process(worker: psutil.Popen) -> psutil.Process:
    """The child that trains, once it has read its job and is busy with it."""
    found: list[psutil.Process] = []

    def busy() -> bool:
        found[:] = training_processes(worker)
        return bool(found) and found[0].cpu_times().user > 0.8

    eventually(busy)
    return found[0]


def test_a_killed_workers_training_process_dies_with_it(works: Works) -> None:
    works.submit(ENDLESS)
    with works.worker() as killed:
        child = training_process(killed)
        killed.kill()
        eventually(lambda: is_dead(child), 10)
    assert works.job() == ("running", 1)


def test_a_killed_workers_job_is_taken_over_after_the_lease(works: Works) -> None:
    works.submit(SHORT)
    with works.worker(lease_seconds=1.0) as killed, works.reads_held_back(killed) as wait_for_a_reader:
        wait_for_a_reader()
        killed.kill()
    with works.worker(lease_seconds=1.0):
        eventually(lambda: works.job()[0] == "done")
    assert works.job() == ("done", 2)
    assert works.versions() == ["v2"]


def test_the_late_result_of_a_worker_that_stalled_is_refused_and_dropped(works: Works) -> None:
    works.submit(SHORT)
    late = works.stores.artifacts.path(MOVIES, ModelVersion("v1"))
    with works.worker(lease_seconds=1.0) as stalled:
        with works.reads_held_back(stalled) as wait_for_a_reader:
            wait_for_a_reader()
            stalled.suspend()
        eventually(late.exists)  # the child of the stalled worker went on
        with works.worker(lease_seconds=1.0):
            eventually(lambda: works.job()[0] == "done")
        stalled.resume()
        eventually(lambda: "job.lease_lost" in works.log())
        eventually(lambda: not late.exists())
        assert stalled.poll() is None
    assert works.versions() == ["v2"]
    works.stores.artifacts.read(MOVIES, ModelVersion("v2"))


def test_a_job_whose_processes_are_killed_at_random_is_published_once_and_leaves_nothing_behind(works: Works) -> None:
    works.submit(LENGTHY)
    works.execute("UPDATE retrain_jobs SET max_attempts = 50")
    rng = random.Random(os.getpid())
    kills = 0
    while kills < 3 and works.job()[0] != "done":
        with works.worker(lease_seconds=1.0) as worker:
            eventually(lambda: bool(training_processes(worker)) or works.job()[0] == "done")
            time.sleep(rng.uniform(0.0, 2.0))
            victims = [worker, *training_processes(worker)]
            rng.choice(victims).kill()
            kills += 1
    with works.worker(lease_seconds=1.0):
        eventually(lambda: works.job()[0] == "done")
    (version,) = works.versions()
    works.stores.artifacts.read(MOVIES, version)
    stores, soon = works.stores, datetime.now(UTC) + timedelta(seconds=5)
    remove_orphans(stores.artifacts, stores.registry, stores.queue, MOVIES, soon, timedelta(0))
    stores.artifacts.remove_unfinished(MOVIES, soon)
    drop_finished(works.found.home / "checkpoints", stores.queue.finished, soon)
    assert [path.name for path in (works.found.artifacts / MOVIES).iterdir()] == [version]
    assert not any((works.found.home / "checkpoints").glob("*"))


def test_a_killed_job_goes_on_where_it_was_though_the_log_has_grown_and_the_catalogue_has_changed(works: Works) -> None:
    works.stores.interactions.put_items([Item("item-1", MOVIES, "the storm", ["drama"])])
    undisturbed = works.trained_here(TOWERS)
    works.submit(TOWERS)
    with works.worker(lease_seconds=1.0) as killed:
        eventually(lambda: any((works.found.home / "checkpoints").glob("*/judged-two_tower.*")))
        killed.kill()
    works.stores.interactions.write([as_batch(clustered_events(2, events=50))])
    works.stores.interactions.put_items([Item("item-1", MOVIES, "the garden", ["comedy"])])
    with works.worker(lease_seconds=1.0):
        eventually(lambda: works.stores.queue.statuses(MOVIES, 1)[0].state is JobState.DONE)
    resumed = works.published()
    assert resumed.version != undisturbed.version
    assert (resumed.snapshot_sha256, resumed.files) == (undisturbed.snapshot_sha256, undisturbed.files)
    (line,) = (line for line in works.log().splitlines() if "training.resumed" in line)
    assert int(line.split("step=")[1].split()[0]) > 0
    assert works.stores.queue.statuses(MOVIES, 1)[0].attempt == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_asked_to_stop_gives_its_lease_back_and_leaves_cleanly(works: Works, number: signal.Signals) -> None:
    works.submit(ENDLESS)
    with works.worker() as worker:
        child = training_process(worker)
        worker.send_signal(number)
        assert worker.wait(10) == 0
        assert is_dead(child)
    assert works.job() == ("queued", 0)
    assert "job.released" in works.log()


def test_a_worker_asked_to_stop_as_it_mirrors_makes_no_further_request_and_leaves_the_rest_due(works: Works) -> None:
    for number in range(5):
        works.stores.registry.register(manifest(f"v{number}"), SHA256, "test")
    with tracking_server() as (tracked, uri):
        tracked.slow_seconds = 0.2
        with works.worker(mlflow_uri=uri) as worker:
            eventually(lambda: len(tracked.asked) >= 15)
            worker.send_signal(signal.SIGTERM)
            asked = len(tracked.asked)
            assert worker.wait(10) == 0
        assert len(tracked.asked) <= asked + 2  # one was on its way
        assert len(tracked.runs) < 5
        (waiting,) = works.stores.outbox.waiting()
        assert (waiting.failures, waiting.error) == (0, None)
        tracked.slow_seconds = 0
        done = mirror(works.stores.outbox, works.stores.registry, MlflowServer(uri, timedelta(seconds=5)))
        assert done.sent == waiting.entries
        assert sorted(run.name for run in tracked.runs.values()) == [f"movies v{number}" for number in range(5)]


def test_the_queue_can_be_looked_at(works: Works) -> None:
    works.submit(SHORT)
    command = [sys.executable, "-m", "retrain_workers", "jobs", "movies"]
    asked = [
        subprocess.Popen(
            [*command, *options], cwd=works.found.home, env=works.environment(), stdout=subprocess.PIPE, text=True
        )
        for options in ((), ("--json", "--last", "1"))
    ]
    table, raw = (process.communicate(timeout=60)[0] for process in asked)
    assert [process.returncode for process in asked] == [0, 0]
    assert "queued" in table.splitlines()[1]
    assert msgspec.json.decode(raw, type=list[JobStatus]) == works.stores.queue.statuses(MOVIES, 1)


@pytest.mark.parametrize("jobs", [10, pytest.param(50, marks=pytest.mark.slow)])
def test_two_workers_publish_each_of_many_jobs_once(works: Works, jobs: int) -> None:
    models = [ModelName(f"shop-{number}") for number in range(jobs)]
    for number, model in enumerate(models):
        works.stores.interactions.write([as_batch(clustered_events(number, model, events=80))])
        works.submit(SHORT, model)
    with works.worker("--once") as one, works.worker("--once") as other:
        assert [worker.wait(300) for worker in (one, other)] == [0, 0]
    published = [works.versions(model) for model in models]
    assert [len(versions) for versions in published] == [1] * jobs
    assert len({version for versions in published for version in versions}) == jobs
    assert works.stores.queue.states()[JobState.DONE] == jobs
    both = {line.split("worker=")[1].split()[0] for line in works.log().splitlines() if "job.claimed" in line}
    assert len(both) == 2
