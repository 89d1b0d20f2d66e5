"""Laws that every store keeps, whatever it stores.

1. What is written is seen by another object on the same place: the state is in the store, not in the object.
2. An idempotent write may be repeated: nothing that can be seen changes.
3. A lost connection does not fail an idempotent call.
4. A server that is gone gives `StoreUnavailable`, never an error of a driver.
"""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import redis

from online_models import history, ports
from online_models.contracts.events import Item
from online_models.contracts.ids import Epoch, ItemId, ModelVersion, RolloutId, UserId
from online_models.contracts.rollouts import (
    GROUPS,
    GroupedCounts,
    Phase,
    ReaderStatus,
    Rollout,
    Route,
    Served,
    ShadowCounts,
    VariantWindow,
)
from online_models.errors import StoreUnavailable
from online_models.history import ENTRY, SEEN
from online_models.learner import MovedItem
from online_models.ports import DriftRow, EmbeddingUpdate, Published, SourcesState, VersionUpdate, WindowRow
from online_models.stores.embedded import Endpoints
from online_models.stores.files import SegmentLog
from online_models.stores.filesystem import FilesystemArtifacts
from online_models.stores.postgres import Database
from online_models.stores.postgres_interactions import PostgresInteractions
from online_models.stores.postgres_jobs import PostgresJobs
from online_models.stores.postgres_keys import PostgresKeys
from online_models.stores.postgres_outbox import PostgresOutbox
from online_models.stores.postgres_registry import PostgresRegistry
from online_models.stores.postgres_rollouts import PostgresRollouts
from online_models.stores.postgres_windows import PostgresWindows
from online_models.stores.redis import RedisEmbeddings, RedisRoutes
from online_models.stores.redis_language import RedisLanguageScores
from online_models.stores.redis_reads import RedisStreamReads
from tests.samples import MOVIES, SHA256, batch, event, manifest, new_job

NOW = datetime(2026, 1, 1, tzinfo=UTC)
V1 = ModelVersion("v1")
DAY = timedelta(days=1)


def every_port_has_its_store(client: redis.Redis, database: Database, directory: Path) -> None:
    """Checked by mypy: each store satisfies the Protocol of its port."""
    embeddings: ports.EmbeddingStore = RedisEmbeddings(client)
    stream: ports.StreamReads = RedisStreamReads(client)
    routes: ports.RouteStore = RedisRoutes(client)
    interactions: ports.InteractionStore = PostgresInteractions(database)
    windows: ports.WindowStore = PostgresWindows(database)
    jobs: ports.JobQueue = PostgresJobs(database)
    registry: ports.ModelRegistry = PostgresRegistry(database)
    rollouts: ports.RolloutStore = PostgresRollouts(database)
    api_keys: ports.KeyStore = PostgresKeys(database)
    artifacts: ports.ArtifactStore = FilesystemArtifacts(directory)
    log: ports.EventLog = SegmentLog(directory, lambda: NOW)
    language: ports.LanguageScoreWrites = RedisLanguageScores(client)
    del language, embeddings, stream, routes, interactions, windows, jobs, registry, rollouts, api_keys, artifacts, log


@dataclass(frozen=True)
class Write:
    """An idempotent write of a store, and all that can be seen of it."""

    name: str
    open: Callable[[Endpoints], Any]
    write: Callable[[Any], object]
    see: Callable[[Any], object]


def rows(database: Database, table: str) -> list[tuple[object, ...]]:
    with database.transaction() as cursor:
        cursor.execute(f"SELECT * FROM {table} ORDER BY 1, 2, 3")
        return cursor.fetchall()


def sql(store: type[Any]) -> Callable[[Endpoints], Any]:
    return lambda endpoints: store(Database(endpoints.postgres_dsn))


def table(name: str) -> Callable[[Any], object]:
    return lambda store: rows(store._database, name)


def keyspace(store: Any) -> object:
    """Every key with its serialised value."""
    client: redis.Redis = store._client
    return {key: client.dump(key) for key in client.scan_iter()}


UPDATE = EmbeddingUpdate(
    model=MOVIES,
    run_id="run",
    source="log",
    position=3,
    histories={UserId("u"): history.merge(history.EMPTY, np.array([(1, 2, 3, 1.0)], ENTRY), np.array([(1, 3)], SEEN))},
    versions=[
        VersionUpdate(
            V1,
            users={UserId("u"): (1, np.ones(4, np.float32))},
            items={ItemId("i"): MovedItem(1, 2.5, np.ones(4, np.float32))},
            blend=b"what the blend has learned",
        )
    ],
    popularity={ItemId("i"): (1.0, 1)},
    popular=[ItemId("i")],
    number=1,
    steps=b"what the sources have learned",
)
PUBLICATION = replace(
    UPDATE,
    position=4,
    number=2,
    versions=[replace(UPDATE.versions[0], item_vectors=b"vectors of the items")],
    sources=b"the sources",
)
DRIFT = DriftRow("d1", "drift", MOVIES, "psi", "genres", 0, 10, 0.3, 0.2, "")
WINDOW = VariantWindow(MOVIES, V1, 0, 0, 0, 10, 1, 1, 1, 1, 1, 1, "canary", 1, 1, 1)
GROUPED = GroupedCounts(MOVIES, V1, 1, 0, "canary", 0, bytes(4 * 4 * GROUPS))
SHADOWED = ShadowCounts(MOVIES, V1, 0, bytes(4 * 2 * 20 * 61))
ROLLOUT = Rollout(RolloutId(1), MOVIES, V1, V1, Phase.RAMPING, 0, 500, Epoch(1), "", NOW, NOW)
SERVED = {(0, "canary"): Served(requests=3)}


def embeddings(endpoints: Endpoints) -> RedisEmbeddings:
    return RedisEmbeddings(redis.Redis.from_url(endpoints.redis_url))


def routes(endpoints: Endpoints) -> RedisRoutes:
    return RedisRoutes(redis.Redis.from_url(endpoints.redis_url))


def stream_reads(endpoints: Endpoints) -> RedisStreamReads:
    return RedisStreamReads(redis.Redis.from_url(endpoints.redis_url))


def language(endpoints: Endpoints) -> RedisLanguageScores:
    return RedisLanguageScores(redis.Redis.from_url(endpoints.redis_url))


def catalogue(store: PostgresInteractions) -> object:
    return store.items("movies")


WRITES = (
    Write("events", sql(PostgresInteractions), lambda s: s.write([batch([event(1), event(2)])]), table("feedback")),
    Write("items", sql(PostgresInteractions), lambda s: s.put_items([Item("i", "movies", "I", ["a"])]), catalogue),
    Write(
        "window reports",
        sql(PostgresWindows),
        lambda s: s.put_window_reports([WindowRow(MOVIES, 0, 10, b'{"n": 1}')]),
        table("window_reports"),
    ),
    Write("drift events", sql(PostgresWindows), lambda s: s.put_drift_events([DRIFT]), table("drift_events")),
    Write("variant windows", sql(PostgresWindows), lambda s: s.put_variant_windows([WINDOW]), table("model_metrics")),
    Write("grouped counts", sql(PostgresWindows), lambda s: s.put_grouped_counts([GROUPED]), table("grouped_metrics")),
    Write("shadow counts", sql(PostgresWindows), lambda s: s.put_shadow_counts([SHADOWED]), table("shadow_metrics")),
    Write("job", sql(PostgresJobs), lambda s: s.submit(new_job()), table("retrain_jobs")),
    Write("embeddings", embeddings, lambda s: s.apply(UPDATE), keyspace),
    Write("publication", embeddings, lambda s: s.apply(PUBLICATION), keyspace),
    Write("publication of a log", embeddings, lambda s: [s.apply(UPDATE), s.apply(PUBLICATION)], keyspace),
    Write("complete scores", language, lambda s: s.put_complete(MOVIES, V1, "space", DAY), keyspace),
    Write("claim of scoring", language, lambda s: s.claim_scoring(MOVIES, V1, "worker", DAY), keyspace),
    Write("scores", language, lambda s: s.put_scores(MOVIES, V1, {UserId("u"): b"scores"}, DAY), keyspace),
    Write("segments", language, lambda s: s.put_segments(MOVIES, V1, b"segments", DAY), keyspace),
    Write("version dropped", embeddings, lambda s: s.drop_version(MOVIES, V1), keyspace),
    Write("route", routes, lambda s: s.put_route(MOVIES, Route(3, V1)), keyspace),
    Write("reader", routes, lambda s: s.heartbeat(MOVIES, "r", NOW), keyspace),
    Write("served", routes, lambda s: s.put_served(MOVIES, ROLLOUT.id, "r", SERVED), keyspace),
    Write("status", routes, lambda s: s.put_status(MOVIES, "r", ReaderStatus(V1, ready=True)), keyspace),
)

every_write = pytest.mark.parametrize("law", WRITES, ids=lambda law: law.name)


@every_write
def test_what_is_written_is_seen_by_another_object(fresh_stores: Endpoints, law: Write) -> None:
    nothing = law.see(law.open(fresh_stores))
    first = law.open(fresh_stores)
    law.write(first)
    assert law.see(law.open(fresh_stores)) == law.see(first)
    assert law.see(first) != nothing or law.name == "version dropped"


@every_write
def test_a_repeated_write_changes_nothing(fresh_stores: Endpoints, law: Write) -> None:
    store = law.open(fresh_stores)
    law.write(store)
    once = law.see(store)
    law.write(store)
    law.write(law.open(fresh_stores))
    assert law.see(store) == once


@every_write
def test_a_lost_connection_does_not_fail_a_write(fresh_stores: Endpoints, law: Write) -> None:
    store = law.open(fresh_stores)
    law.see(store)
    disconnect_everybody(fresh_stores)
    law.write(store)
    assert law.see(store) == law.see(law.open(fresh_stores))


@every_write
def test_a_server_that_is_gone_is_unavailable(tmp_path: Path, law: Write) -> None:
    nowhere = Endpoints(f"unix://{tmp_path}/redis.sock", f"host={tmp_path} dbname=penstock")
    with pytest.raises(StoreUnavailable):
        law.write(law.open(nowhere))


def disconnect_everybody(endpoints: Endpoints) -> None:
    with closing(Database(endpoints.postgres_dsn)) as database, database.transaction() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    with closing(redis.Redis.from_url(endpoints.redis_url)) as client:
        client.client_kill_filter(_type="normal", skipme=True)


Read = Callable[[Endpoints], object]

READS: dict[str, Read] = {
    "interactions": lambda e: len(PostgresInteractions(Database(e.postgres_dsn)).interactions("movies")),
    "view": lambda e: PostgresInteractions(Database(e.postgres_dsn)).view("movies", None, lambda view: view.days()),
    "items": lambda e: PostgresInteractions(Database(e.postgres_dsn)).items("movies"),
    "states": lambda e: sum(PostgresJobs(Database(e.postgres_dsn)).states().values()),
    "claim": lambda e: PostgresJobs(Database(e.postgres_dsn)).claim("worker", timedelta(seconds=1)),
    "models": lambda e: PostgresRegistry(Database(e.postgres_dsn)).models(),
    "versions": lambda e: PostgresRegistry(Database(e.postgres_dsn)).versions(MOVIES),
    "version": lambda e: PostgresRegistry(Database(e.postgres_dsn)).version(MOVIES, V1),
    "champion": lambda e: PostgresRegistry(Database(e.postgres_dsn)).champion(MOVIES),
    "aliases": lambda e: PostgresRegistry(Database(e.postgres_dsn)).aliases(MOVIES),
    "registry events": lambda e: PostgresRegistry(Database(e.postgres_dsn)).events(MOVIES),
    "origins": lambda e: PostgresRegistry(Database(e.postgres_dsn)).origins(MOVIES),
    "collection": lambda e: PostgresRegistry(Database(e.postgres_dsn)).collected_at(MOVIES, V1),
    "outbox": lambda e: PostgresOutbox(Database(e.postgres_dsn)).waiting(),
    "outbox claim": lambda e: PostgresOutbox(Database(e.postgres_dsn)).claim(timedelta(seconds=1), 10),
    "rollouts of a version": lambda e: PostgresRollouts(Database(e.postgres_dsn)).rollouts_of(MOVIES, V1),
    "champion epoch": lambda e: PostgresRollouts(Database(e.postgres_dsn)).champion_epoch(MOVIES),
    "open rollout": lambda e: PostgresRollouts(Database(e.postgres_dsn)).open_rollout(MOVIES),
    "latest rollout": lambda e: PostgresRollouts(Database(e.postgres_dsn)).latest(MOVIES),
    "history": lambda e: PostgresRollouts(Database(e.postgres_dsn)).history(MOVIES, 10),
    "rollout events": lambda e: PostgresRollouts(Database(e.postgres_dsn)).events(ROLLOUT),
    "measured": lambda e: PostgresRollouts(Database(e.postgres_dsn)).measured(ROLLOUT),
    "windows": lambda e: PostgresRollouts(Database(e.postgres_dsn)).windows(ROLLOUT),
    "traffic": lambda e: PostgresRollouts(Database(e.postgres_dsn)).traffic(MOVIES, 1).users_per_day,
    "repeated request": lambda e: PostgresRollouts(Database(e.postgres_dsn)).repeated("ann", ("key", "0" * 64)),
    "adapters": lambda e: PostgresRollouts(Database(e.postgres_dsn)).adapters(MOVIES),
    "key": lambda e: PostgresKeys(Database(e.postgres_dsn)).key("0a1b2c3d"),
    "keys": lambda e: PostgresKeys(Database(e.postgres_dsn)).keys(),
    "key revoked": lambda e: PostgresKeys(Database(e.postgres_dsn)).revoke_key("0a1b2c3d", NOW),
    "candidates": lambda e: PostgresRollouts(Database(e.postgres_dsn)).candidates(MOVIES),
    "position": lambda e: embeddings(e).applied_position(MOVIES, "run", "log") + 1,
    "histories": lambda e: len(embeddings(e).histories(MOVIES, [UserId("u")])[0].recent),
    "popularity": lambda e: embeddings(e).popularity(MOVIES),
    "moved items": lambda e: embeddings(e).moved_items(MOVIES, V1),
    "blend": lambda e: embeddings(e).blend(MOVIES, V1),
    "sources": lambda e: embeddings(e).sources(MOVIES) != SourcesState(0, None, []),
    "publication number": lambda e: stream_reads(e).publication(MOVIES),
    "publication": lambda e: stream_reads(e).published(MOVIES, [V1]) != Published(0, None, {}, {}),
    "popular": lambda e: stream_reads(e).popular(MOVIES),
    "segments": lambda e: stream_reads(e).segments(MOVIES, V1),
    "route": lambda e: routes(e).route(MOVIES),
    "served": lambda e: routes(e).served(MOVIES, ROLLOUT.id),
    "statuses": lambda e: routes(e).statuses(MOVIES, V1, NOW),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS.keys())
def test_an_empty_store_has_nothing_rather_than_an_error(fresh_stores: Endpoints, read: Read) -> None:
    assert not read(fresh_stores)


@pytest.mark.parametrize("read", READS.values(), ids=READS.keys())
def test_a_read_from_a_server_that_is_gone_is_unavailable(tmp_path: Path, read: Read) -> None:
    with pytest.raises(StoreUnavailable):
        read(Endpoints(f"unix://{tmp_path}/redis.sock", f"host={tmp_path} dbname=penstock"))


def test_an_artifact_is_seen_by_another_object(tmp_path: Path) -> None:
    written, digest = FilesystemArtifacts(tmp_path).write(manifest(), {"items.json": b"[]"})
    assert FilesystemArtifacts(tmp_path).read(MOVIES, V1, digest) == (written, {"items.json": b"[]"})


def test_a_manifest_is_the_same_in_the_registry_and_in_the_artifact(tmp_path: Path, postgres: str) -> None:
    written, digest = FilesystemArtifacts(tmp_path).write(manifest(), {"items.json": b"[]"})
    PostgresRegistry(Database(postgres)).register(written, digest, "test")
    registered = PostgresRegistry(Database(postgres)).version(MOVIES, V1)
    assert registered is not None
    assert registered.manifest_sha256 == digest != SHA256
    assert msgspec.json.encode(registered.manifest) == msgspec.json.encode(written)
    assert FilesystemArtifacts(tmp_path).read(MOVIES, V1, registered.manifest_sha256)[0] == registered.manifest
