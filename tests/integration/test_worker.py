"""Workers on real PostgreSQL: a job's way to a registered version, and every way in which it can fail."""

import logging
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import psutil
import psycopg2
import psycopg2.extensions
import pytest
from msgspec.structs import replace
from safetensors.numpy import load

from online_models.contracts.features import spec_hash
from online_models.contracts.ids import ModelName, ModelVersion
from online_models.contracts.jobs import JobState, RetrainJob, TrainLora
from online_models.errors import LeaseLost
from online_models.settings import StoreSettings
from retrain_workers.app import rules_of, train
from retrain_workers.attempt import Attempt, Unwatched
from retrain_workers.cycle import run_job
from retrain_workers.publish import Prepared, Refused, publish_candidate, remove_orphans
from retrain_workers.registry.models import list_lines, record_of
from tests.clustered_world import HOUR_MS, START_MS, as_batch, clustered_events
from tests.workshop import ALS, MOVIES, NOW, QUICK, Workshop


def job_row(workshop: Workshop) -> tuple[str, int, str]:
    """State, attempts and error of the youngest job."""
    with closing(psycopg2.connect(workshop.found.postgres_dsn)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT state, attempt, coalesce(error, '') FROM retrain_jobs ORDER BY id DESC LIMIT 1")
        row = cursor.fetchone()
    assert row is not None
    state, attempts, error = row
    return state, attempts, error


def training_processes(worker: psutil.Process) -> list[psutil.Process]:
    """The children of a worker that train."""
    return [child for child in worker.children() if "--multiprocessing-fork" in child.cmdline()]


def kill_own_process(number: signal.Signals, job: RetrainJob, _: Attempt) -> Prepared | Refused:
    os.kill(os.getpid(), number)
    return Refused(f"survived {number} in {job.id}")


def sleep_forever(job: RetrainJob, _: Attempt) -> Prepared | Refused:
    time.sleep(3_600)
    return Refused(f"slept through {job.id}")


def test_a_job_becomes_a_registered_candidate_with_a_verified_artifact(workshop: Workshop) -> None:
    job = workshop.submit("drift")
    workshop.work_off(workshop.worker())
    (registered,) = workshop.stores.registry.versions(MOVIES)
    manifest, files = workshop.stores.artifacts.read(MOVIES, registered.version, registered.manifest_sha256)
    assert manifest == registered.manifest
    assert (manifest.kind, manifest.job_id, manifest.parent) == ("als", job, None)
    assert set(files) == {"factors.safetensors", "items.json", "users.json", "popular.json"}
    assert {name: tensor.shape for name, tensor in load(files["factors.safetensors"]).items()} == {
        "item_factors": (100, 8),
        "user_factors": (60, 8),
        "item_weights": (100,),
        "item_gramian": (8, 8),
        "user_gramian": (8, 8),
        "item_axes": (10, 4),
        "user_axes": (10, 4),
    }
    assert manifest.data_window.events == 1_500
    assert manifest.data_window.start_ms == START_MS
    assert manifest.metrics["ndcg_at_10"] > 1.5 * manifest.metrics["popularity_ndcg_at_10"]
    assert manifest.feature_spec_hash == spec_hash([sketch.feature for sketch in manifest.sketches])
    assert workshop.stores.queue.states()[JobState.DONE] == 1


def test_the_same_job_on_the_same_data_gives_the_same_bytes(workshop: Workshop) -> None:
    workshop.train_here("first")
    workshop.submit("again")
    workshop.work_off(workshop.worker())
    first, again = workshop.stores.registry.versions(MOVIES)
    assert first.version != again.version
    assert first.manifest.files == again.manifest.files
    assert first.manifest.data_window == again.manifest.data_window
    assert first.manifest.golden == again.manifest.golden


def test_a_candidate_that_is_no_better_founded_than_the_champion_is_rejected(workshop: Workshop) -> None:
    workshop.train_here("first")
    (champion,) = workshop.versions()
    workshop.adopt(champion)
    workshop.submit("nothing new has happened")
    workshop.work_off(workshop.worker())
    assert workshop.stores.queue.states()[JobState.REJECTED] == 1
    assert workshop.versions() == [champion]


def test_a_candidate_judged_on_later_events_names_the_champion_it_was_compared_with(workshop: Workshop) -> None:
    workshop.train_here("first", replace(ALS, until_ms=START_MS + 1_000 * HOUR_MS))
    (champion,) = workshop.versions()
    workshop.adopt(champion)
    workshop.train_here("later")
    candidate = workshop.stores.registry.versions(MOVIES)[-1].manifest
    assert candidate.parent == champion
    assert candidate.metrics["champion_ndcg_at_10"] > 0
    name, _, *shown = list_lines(record_of(workshop.stores.registry, MOVIES))
    assert name == MOVIES
    assert [line.split()[:3] for line in shown] == [[champion, "champion", "als"], [candidate.version, "-", "als"]]
    assert champion in shown[1].split()


def test_an_adapter_without_a_champion_to_stand_beside_is_buried_at_once_with_the_reason(workshop: Workshop) -> None:
    workshop.submit("drift", TrainLora())
    workshop.work_off(workshop.worker())
    (state, attempts, error) = job_row(workshop)
    assert (state, attempts) == ("dead", 1)
    assert "expected a champion whose recommender a language model stands beside" in error


def test_a_model_with_too_little_data_is_buried_at_once(workshop: Workshop) -> None:
    workshop.submit("drift", model=ModelName("empty"))
    workshop.work_off(workshop.worker())
    (state, attempts, error) = job_row(workshop)
    assert (state, attempts) == ("dead", 1)
    assert "at least 50 positive events" in error


def always_fail(job: RetrainJob, _: Attempt) -> Prepared | Refused:
    raise OSError(f"the disk is full for {job.id}")


def test_a_job_that_keeps_failing_is_retried_and_then_buried(workshop: Workshop) -> None:
    workshop.submit("drift")
    workshop.work_off(workshop.worker(train_by=always_fail))
    (state, attempts, error) = job_row(workshop)
    assert (state, attempts) == ("dead", 3)
    assert "transient on the last of 3 attempts" in error
    assert "the disk is full" in error


@pytest.mark.parametrize("damage", ["no file", "another manifest"])
def test_a_champion_that_cannot_be_read_is_replaceable_as_if_there_were_none(
    workshop: Workshop, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    workshop.train_here("first")
    (champion,) = workshop.versions()
    workshop.adopt(champion)
    directory = workshop.stores.artifacts.path(MOVIES, champion)
    if damage == "no file":
        (directory / "items.json").unlink()
    else:  # whole in itself, yet not what was registered
        manifest = directory / "manifest.json"
        manifest.write_bytes(manifest.read_bytes() + b"\n")
    assert isinstance(workshop.train_here("drift"), Prepared)
    candidate = workshop.stores.registry.versions(MOVIES)[-1].manifest
    assert candidate.parent == champion
    assert "champion_ndcg_at_10" not in candidate.metrics
    assert "champion.unreadable" in caplog.text


def test_a_champion_that_cannot_be_read_stays_where_too_few_users_could_tell(workshop: Workshop) -> None:
    few = QUICK.model_copy(update={"gate_min_users": 100})
    workshop.submit("a first model passes untold")
    workshop.work_off(workshop.worker(few))
    (champion,) = workshop.versions()
    workshop.adopt(champion)
    (workshop.stores.artifacts.path(MOVIES, champion) / "items.json").unlink()
    workshop.submit("its place is not given away untold")
    workshop.work_off(workshop.worker(few))
    assert workshop.versions() == [champion]
    assert (workshop.status().state, workshop.status().error) == (
        JobState.REJECTED,
        "inconclusive: 55 holdout users, 100 needed",
    )


def test_one_event_dated_far_ahead_does_not_hold_up_every_later_candidate(workshop: Workshop) -> None:
    (ahead,) = clustered_events(2, events=1, start_ms=START_MS + 10**6 * HOUR_MS)
    workshop.stores.interactions.write([as_batch([ahead])])
    workshop.train_here("first")
    (champion,) = workshop.versions()
    workshop.adopt(champion)
    assert isinstance(workshop.train_here("nothing new"), Refused)
    later = clustered_events(3, start_ms=START_MS + 1_500 * HOUR_MS)
    workshop.stores.interactions.write([as_batch(later)])
    assert isinstance(workshop.train_here("new events"), Prepared)
    metrics = workshop.stores.registry.versions(MOVIES)[-1].manifest.metrics
    assert metrics["holdout_overlaps_champion"] == 1.0
    assert metrics["holdout_users"] >= QUICK.gate_min_users


def train_and_lose_the_database(found: StoreSettings, job: RetrainJob, attempt: Attempt) -> Prepared | Refused:
    """A training at whose end PostgreSQL takes no connections any more, until somebody lets it."""
    outcome = train(found, QUICK, job, attempt)
    let_connect(found.postgres_dsn, allowed=False)
    return outcome


def let_connect(dsn: str, *, allowed: bool) -> None:
    name = psycopg2.extensions.parse_dsn(dsn)["dbname"]
    with closing(psycopg2.connect(psycopg2.extensions.make_dsn(dsn, dbname="template1"))) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {allowed}")
            cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))


def test_a_store_that_is_away_when_a_training_ends_does_not_cost_the_training(
    workshop: Workshop, caplog: pytest.LogCaptureFixture
) -> None:
    workshop.submit("drift")
    worker = workshop.worker(train_by=partial(train_and_lose_the_database, workshop.found))
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(worker.step, workshop.stop)
        deadline = time.monotonic() + 30
        while "job.finish_failed" not in caplog.text and not working.done() and time.monotonic() < deadline:
            time.sleep(0.02)
        let_connect(workshop.found.postgres_dsn, allowed=True)
        assert working.result(30)
    assert "job.finish_failed" in caplog.text
    assert job_row(workshop)[:2] == ("done", 1)
    assert len(workshop.versions()) == 1


def test_a_training_process_that_dies_costs_an_attempt_and_not_the_worker(workshop: Workshop) -> None:
    workshop.submit("drift")
    workshop.work_off(workshop.worker(train_by=partial(kill_own_process, signal.SIGSEGV)))
    (state, attempts, error) = job_row(workshop)
    assert (state, attempts) == ("dead", 3)
    assert "died with exit code -11" in error


def test_a_training_process_that_hangs_is_killed_when_its_time_is_up(workshop: Workshop) -> None:
    workshop.submit("drift")
    hasty = QUICK.model_copy(update={"job_timeout_seconds": 0.3})
    assert workshop.worker(hasty, sleep_forever).step(workshop.stop)
    (state, attempts, error) = job_row(workshop)
    assert (state, attempts) == ("queued", 1)
    assert "not finished in 0:00:00.3" in error
    assert training_processes(psutil.Process()) == []


def test_a_result_under_a_stale_token_is_refused(workshop: Workshop) -> None:
    workshop.submit("drift")
    queue = workshop.stores.queue
    stale = queue.claim("slow", timedelta(0))
    fresh = queue.claim("quick", timedelta(seconds=30))
    assert stale is not None
    assert fresh is not None
    prepared = [run_job(job, workshop.stores, rules_of(QUICK), NOW, Unwatched()) for job in (stale, fresh)]
    late, valid = (each for each in prepared if isinstance(each, Prepared))
    with pytest.raises(LeaseLost):
        queue.publish(stale, late.manifest, late.manifest_sha256)
    queue.publish(fresh, valid.manifest, valid.manifest_sha256)
    assert workshop.versions() == [valid.manifest.version]


def test_a_planted_version_is_registered_without_a_job(workshop: Workshop) -> None:
    workshop.train_here("first")
    (made,) = workshop.stores.registry.versions(MOVIES)
    manifest, files = workshop.stores.artifacts.read(MOVIES, made.version)
    planted = replace(manifest, version=workshop.stores.registry.new_version(), job_id=None, parent=made.version)
    written = publish_candidate(workshop.stores.artifacts, workshop.stores.registry, planted, files, "a test")
    assert workshop.versions() == [made.version, planted.version]
    assert workshop.stores.artifacts.read(MOVIES, planted.version)[0] == written


def orphan(workshop: Workshop, like: ModelVersion, name: str, age: timedelta) -> Path:
    """An artifact that a worker, killed so long ago, wrote and did not register."""
    manifest, files = workshop.stores.artifacts.read(MOVIES, like)
    workshop.stores.artifacts.write(replace(manifest, version=ModelVersion(name)), files)
    path = workshop.stores.artifacts.path(MOVIES, ModelVersion(name))
    let_age(path, age)
    return path


def let_age(path: Path, age: timedelta) -> None:
    then = (datetime.now(UTC) - age).timestamp()
    os.utime(path, (then, then))


def test_an_idle_worker_removes_what_killed_workers_left(workshop: Workshop, caplog: pytest.LogCaptureFixture) -> None:
    workshop.train_here("first")
    (made,) = workshop.versions()
    let_age(workshop.stores.artifacts.path(MOVIES, made), timedelta(days=9))
    old = orphan(workshop, made, "v900", timedelta(hours=25))
    young = orphan(workshop, made, "v901", timedelta(hours=23))
    with caplog.at_level(logging.INFO), ThreadPoolExecutor(1) as pool:
        running = pool.submit(workshop.worker().run, workshop.stop)
        deadline = time.monotonic() + 30
        while old.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        workshop.stop.request()
        running.result(30)
    assert (old.exists(), young.exists()) == (False, True)
    workshop.stores.artifacts.read(MOVIES, made)
    removals = [line for line in caplog.messages if line.startswith("artifact.removed")]
    assert removals == ["artifact.removed model=movies version=v900 reason='written and never registered'"]


def test_an_artifact_younger_than_all_that_this_database_knows_is_no_orphan(workshop: Workshop) -> None:
    """As after a database was restored from an old backup."""
    workshop.train_here("first")
    (made,) = workshop.versions()
    later = orphan(workshop, made, "v900", -timedelta(hours=1))
    far_future = datetime.now(UTC) + timedelta(days=30)
    stores, day = workshop.stores, timedelta(days=1)
    assert remove_orphans(stores.artifacts, stores.registry, stores.queue, MOVIES, far_future, day) == []
    let_age(later, timedelta(days=2))
    assert remove_orphans(stores.artifacts, stores.registry, stores.queue, MOVIES, far_future, day) == ["v900"]
    assert not later.exists()
