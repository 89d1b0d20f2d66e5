"""The stream job as a whole: real process, real stores; killed at random points, fed garbage, read twice."""

import base64
import json
import random
import subprocess
import time
from contextlib import closing
from pathlib import Path

import msgspec

from online_models.blend import Blend
from online_models.contracts.events import Event, EventType, FeatureValue
from online_models.contracts.ids import ModelName, ModelVersion
from online_models.contracts.rollouts import Route
from online_models.sources import restored
from online_models.stores import redis
from online_models.stores.embedded import Endpoints
from online_models.stores.filesystem import FilesystemArtifacts
from online_models.stores.postgres import Database
from online_models.stores.postgres_registry import PostgresRegistry
from online_models.stores.postgres_rollouts import PostgresRollouts
from online_models.stores.redis_reads import RedisStreamReads
from tests.artifacts import FACTORS, publish, small_model
from tests.flow_process import all_rows, all_values, kill, replay, rows, start
from tests.strategies import BOUNDS, dirty_log, ndjson, sample_log

MOVIES = ModelName("movies")
V1 = ModelVersion("v1")
START_MS = 1_748_736_000_000
MINUTE_MS = 60_000

FAST = {
    "PENSTOCK_FLOW_WINDOW_SECONDS": "3600",
    "PENSTOCK_FLOW_EPOCH_WALL_SECONDS": "0.2",
    "PENSTOCK_FLOW_ATTRIBUTION_SECONDS": "600",
    "PENSTOCK_FLOW_MIN_WINDOW_EVENTS": "50",
}


def recorded_log(minutes: int, seed: int) -> list[Event]:
    """A log in time order: requests with ten impressions, some of them answered, and views without a request; items beyond
    `i29` are newer than the model of these tests. After a third of the time, a rollout goes through two stages."""
    rng = random.Random(seed)
    events: list[Event] = []

    def add(kind: EventType, user: int, item: int, ts: int, request: str | None, value: float | None = None) -> None:
        genres: dict[str, FeatureValue] = {"genres": [f"g{item % 5}"]}
        stage = (ts - START_MS) * 3 // (minutes * MINUTE_MS) - 1
        canary = stage >= 0 and user % 4 == 0
        variant = "canary" if canary else "stable"
        shown: dict[str, FeatureValue] = {"stage": stage, "weight_bp": 2_500 * (stage >= 0), "variant": variant}
        events.append(
            Event(
                event_id=f"{rng.getrandbits(128):032x}",
                type=kind,
                user_id=f"u{user}",
                item_id=f"i{item}",
                ts=ts,
                domain="movies",
                value=value,
                request_id=request,
                model_version=("v2" if canary else "v1") if kind is EventType.IMPRESSION else None,
                rollout_id=7 if kind is EventType.IMPRESSION and stage >= 0 else None,
                features=shown if kind is EventType.IMPRESSION else genres,
            )
        )

    for minute in range(minutes):
        ts, user = START_MS + minute * MINUTE_MS, rng.randrange(80)
        request = f"r{minute}"
        shown = rng.sample(range(40), 10)
        for item in shown:
            add(EventType.IMPRESSION, user, item, ts, request)
        if rng.random() < 0.4:
            add(EventType.CLICK, user, rng.choice(shown), ts + 1000, request)
        add(EventType.WATCH, rng.randrange(80), rng.randrange(40), ts + 2000, None, rng.uniform(60, 7200))
    dashed = [
        msgspec.structs.replace(event, event_id=f"{e[:8]}-{e[8:12]}-{e[12:16]}-{e[16:20]}-{e[20:]}")
        for event in events
        for e in (event.event_id,)
    ]
    return sorted(dashed, key=lambda event: event.ts)


def make_live(stores: Endpoints, home: Path) -> None:
    """One version of the movies, adopted and routed."""
    database = Database(stores.postgres_dsn)
    artifacts = FilesystemArtifacts(home / "artifacts")
    version = publish(artifacts, PostgresRegistry(database), MOVIES, small_model(seed=1))
    epoch = PostgresRollouts(database).adopt(MOVIES, version, "test")
    database.close()
    client = redis.connect(stores.redis_url)
    assert redis.RedisRoutes(client).put_route(MOVIES, Route(epoch=epoch, stable=version))
    client.close()


def test_a_replay_killed_three_times_leaves_what_an_uninterrupted_one_leaves(
    fresh_stores: Endpoints, twin_stores: Endpoints, tmp_path: Path
) -> None:
    log = tmp_path / "log.ndjson"
    log.write_bytes(ndjson(recorded_log(minutes=3000, seed=1)) + b"not an event\n")
    speed = ("--speed", str(3000 * 60 // 6))  # about six seconds of wall time
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    for directory, stores in ((whole, fresh_stores), (torn, twin_stores)):
        directory.mkdir()
        make_live(stores, directory)
    expected = replay(fresh_stores, whole, log, *speed, **FAST)

    rng = random.Random(7)
    for attempt in range(3):
        resume = ("--resume",) if attempt else ()
        process = start(twin_stores, torn, "replay", str(log), *speed, *resume, **FAST)
        wait_for_rows(twin_stores, more=rng.randrange(200, 500), process=process)
        kill(process)
    report = replay(twin_stores, torn, log, *speed, "--resume", **FAST)

    counted = (
        "events",
        "rejected",
        "duplicates",
        "late",
        "windows",
        "drift_events",
        "triggers",
        "jobs",
        "dead_letters",
    )
    assert {name: report[name] for name in counted} == {name: expected[name] for name in counted}
    assert report["events"] == len(log.read_bytes().splitlines())
    told = all_rows(fresh_stores.postgres_dsn)
    assert all_rows(twin_stores.postgres_dsn) == told
    assert [(row["stage"], row["variant"], row["version"]) for row in told["grouped_metrics"]] == [
        (stage, variant, version) for stage in (0, 1) for variant, version in (("canary", "v2"), ("stable", "v1"))
    ]
    assert all_values(twin_stores.redis_url) == all_values(fresh_stores.redis_url)
    letters = "flow/replay/dead-letters.ndjson"
    assert (torn / letters).read_bytes() == (whole / letters).read_bytes()


def wait_for_rows(stores: Endpoints, more: int, process: subprocess.Popen[bytes]) -> None:
    """Return once the process has stored so many more views; it must be still running then."""
    goal = len(rows(stores.postgres_dsn, "watch_history")) + more
    deadline = time.monotonic() + 60
    while len(rows(stores.postgres_dsn, "watch_history")) < goal:
        assert process.poll() is None, "the replay ended before it could be killed"
        assert time.monotonic() < deadline, "the replay does not get on"
        time.sleep(0.02)


def test_a_dirty_log_gives_what_the_clean_one_gives_and_a_dead_letter_for_every_bad_row(
    fresh_stores: Endpoints, twin_stores: Endpoints, tmp_path: Path
) -> None:
    log = dirty_log(sample_log(3000, seed=3), seed=4, faults=60, duplicates=20)
    # The generator's times end in 2030; the flow believes times up to the wall clock and a skew.
    until_2030 = BOUNDS.latest_ms // 1000 - int(time.time()) - 3_600
    bounds = {"PENSTOCK_FLOW_EARLIEST": "2000-01-01T00:00:00Z", "PENSTOCK_FLOW_FUTURE_SKEW_SECONDS": str(until_2030)}
    reports = {}
    for name, content, stores in (("clean", log.clean, fresh_stores), ("dirty", log.dirty, twin_stores)):
        (tmp_path / name).mkdir()
        make_live(stores, tmp_path / name)
        (tmp_path / f"{name}.ndjson").write_bytes(content)
        reports[name] = replay(stores, tmp_path / name, tmp_path / f"{name}.ndjson", **FAST, **bounds)

    assert all_rows(twin_stores.postgres_dsn) == all_rows(fresh_stores.postgres_dsn)
    assert all_values(twin_stores.redis_url) == all_values(fresh_stores.redis_url)
    assert (reports["dirty"]["rejected"], reports["dirty"]["duplicates"]) == (len(log.bad), len(log.duplicates))
    assert reports["dirty"]["events"] == reports["clean"]["events"] + len(log.bad) + len(log.duplicates)
    lines = (tmp_path / "dirty/flow/replay/dead-letters.ndjson").read_bytes().splitlines()
    letters = {letter["offset"]: letter for letter in map(json.loads, lines)}
    assert len(letters) == len(lines) == len(log.bad) + len(log.duplicates)
    for row in (*log.bad, *log.duplicates):
        letter = letters[row.offset]
        assert row.reason in letter["reason"]
        assert letter["source"] == str(tmp_path / "dirty.ndjson")
        assert letter["length"] == len(row.raw)
        assert row.raw.startswith(base64.b64decode(letter["bytes"]))


def test_a_log_read_twice_changes_nothing(fresh_stores: Endpoints, tmp_path: Path) -> None:
    make_live(fresh_stores, tmp_path)
    log = tmp_path / "log.ndjson"
    log.write_bytes(ndjson(recorded_log(minutes=300, seed=2)))
    replay(fresh_stores, tmp_path, log, **FAST)
    once = all_rows(fresh_stores.postgres_dsn), all_values(fresh_stores.redis_url)
    replay(fresh_stores, tmp_path, log, **FAST)
    assert (all_rows(fresh_stores.postgres_dsn), all_values(fresh_stores.redis_url)) == once


def test_users_and_items_get_vectors_in_the_live_version_and_its_blend_learns(
    fresh_stores: Endpoints, tmp_path: Path
) -> None:
    make_live(fresh_stores, tmp_path)
    log = tmp_path / "log.ndjson"
    log.write_bytes(ndjson(recorded_log(minutes=300, seed=2)))
    report = replay(fresh_stores, tmp_path, log, **FAST)
    with closing(redis.connect(fresh_stores.redis_url)) as client:
        store = redis.RedisEmbeddings(client)
        vectors = [client.get(key) for key in client.scan_iter("m:{movies}:v:v1:u:*")]
        moved, learned, state = store.moved_items(MOVIES, V1), store.blend(MOVIES, V1), store.sources(MOVIES)
        published = RedisStreamReads(client).published(MOVIES, [V1])
    assert len(vectors) > 70
    assert {len(redis.decode_vector(raw)[1]) for raw in vectors if isinstance(raw, bytes)} == {2 * FACTORS}
    assert set(moved) == {f"i{item}" for item in range(40)}  # those of `i30` on are newer than the model
    assert learned is not None
    assert Blend.decode(learned).steps.sum() > 100
    assert set(moved) == set(restored(state.published, state.steps).items.ids)
    assert (published.number, state.steps) == (state.number, [])  # readers get the end of a log too
    assert published.sources == state.published
    assert set(published.item_vectors) == set(published.blends) == {V1}
    assert report["vectors_written"] >= len(vectors) + len(moved)


def test_a_resume_without_a_run_or_of_another_log_is_refused(fresh_stores: Endpoints, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.ndjson").write_bytes(ndjson(sample_log(10, seed=5)))
    process = start(fresh_stores, tmp_path, "replay", str(tmp_path / "one.ndjson"), "--resume")
    assert process.wait(60) == 1
    assert "nothing to resume" in (tmp_path / "flow.log").read_text()
    replay(fresh_stores, tmp_path, tmp_path / "one.ndjson")
    process = start(fresh_stores, tmp_path, "replay", str(tmp_path / "two.ndjson"), "--resume")
    assert process.wait(60) == 1
    assert "cannot resume" in (tmp_path / "flow.log").read_text()
