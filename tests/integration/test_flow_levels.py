"""Levels through the real job: scores that no longer tell what is taken ask for an adapter, whatever the words say."""

import json
import random
import uuid
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np

from online_models.columns import MappingColumns
from online_models.contracts.artifacts import FeatureSketch
from online_models.contracts.events import Event, EventType
from online_models.contracts.features import FeatureKind, FeatureSpec
from online_models.contracts.jobs import TrainLora
from online_models.contracts.rollouts import Route
from online_models.sketches import Layout, sketch
from online_models.stores import redis
from online_models.stores.embedded import Endpoints
from online_models.stores.filesystem import FilesystemArtifacts
from online_models.stores.postgres import Database
from online_models.stores.postgres_registry import PostgresRegistry
from online_models.stores.postgres_rollouts import PostgresRollouts
from online_models.stores.postgres_windows import PostgresWindows
from online_models.text import TEXT_MODEL_FILE, Surprise, TextColumns, TextModel
from tests.artifacts import small_model
from tests.flow_process import all_rows, replay
from tests.oracles.features import Row, observed
from tests.samples import MOVIES

START_MS = 1_748_736_000_000
HOUR_MS = 3_600_000
NLL = FeatureSpec("nll", FeatureKind.NUMERIC, "nll:features.title", (EventType.CLICK,), 0.0, 16.0, component="llm")
WORDS = [f"w{number}" for number in range(12)]
SETTINGS = {
    "PENSTOCK_FLOW_WINDOW_SECONDS": "3600",
    "PENSTOCK_FLOW_SLIDE_SECONDS": "0",
    "PENSTOCK_FLOW_ATTRIBUTION_SECONDS": "600",
    "PENSTOCK_FLOW_SETTLE_SECONDS": "600",
    "PENSTOCK_FLOW_MIN_WINDOW_EVENTS": "50",
    "PENSTOCK_FLOW_LABEL_WINDOW_SECONDS": "3600",
    "PENSTOCK_FLOW_LABEL_CLICKS": "50",
    "PENSTOCK_FLOW_RETRAIN_MODEL": "two_tower",
    "PENSTOCK_FLOW_LANGUAGE_MODELS": '["movies"]',
    "PENSTOCK_FLOW_TRAIN_LORA": '{"rank": 4}',
    "PENSTOCK_FLOW_FEATURES": json.dumps([msgspec.to_builtins(NLL)]),
}


def titles(seed: int, count: int) -> list[str]:
    return [" ".join(random.Random(seed + number).choices(WORDS, k=3)) for number in range(count)]


def taste_log(hours: int, turns_at: int) -> list[Event]:
    """Two requests a minute, of which each is taken one item: as the scores say until an hour, then any. Hit rate, CTR and words
    stay what they were."""
    rng, named = random.Random(7), titles(1, 30)
    made: list[Event] = []

    def add(kind: EventType, request: int, item: int, ts: int, features: dict[str, float | str | list[str]]) -> None:
        name, user = str(uuid.UUID(int=rng.getrandbits(128), version=4)), f"u{request % 80}"
        version = "v1" if kind is EventType.IMPRESSION else None
        made.append(
            Event(
                event_id=name,
                type=kind,
                user_id=user,
                item_id=f"i{item}",
                ts=ts,
                domain="movies",
                request_id=f"r{request}",
                model_version=version,
                features=features,
            )
        )

    for request in range(120 * hours):
        ts, items = START_MS + 30_000 * request, rng.sample(range(30), 6)
        scores = [rng.gauss(0, 1) for _ in items]
        for item, score in zip(items, scores, strict=True):
            add(EventType.IMPRESSION, request, item, ts, {"variant": "stable", "llm_score": score})
        weights = [2.7**score if request < 120 * turns_at else 1.0 for score in scores]
        (item,) = rng.choices(items, weights)
        add(EventType.CLICK, request, item, ts + 1_000, {"title": named[item]})
    return made


def make_live(stores: Endpoints, home: Path) -> None:
    """A version with an adapter, a text model of the catalogue, and a reference of how its titles read."""
    model, made = TextModel.of(titles(1, 30)), small_model(seed=1)
    rows = [Row(EventType.CLICK, features={"title": title}) for title in titles(1, 30) * 30]
    seen = observed(rows)
    columns = TextColumns(Surprise(model), MappingColumns([row.features for row in rows]))
    layout = Layout([NLL], profile=False)
    read = type(seen)(seen.type, seen.ts_ms, seen.value, seen.item_hash, seen.user_hash, columns, rows)
    counts = layout.state(sketch(layout, read, np.zeros(len(rows), np.int64), 1)[0], "nll").counts.tolist()
    with closing(Database(stores.postgres_dsn)) as database:
        registry = PostgresRegistry(database)
        version = registry.new_version()
        manifest = msgspec.structs.replace(
            made.manifest(MOVIES, version, [0, 2]),
            sketches=[FeatureSketch(NLL, counts, events=len(rows))],
            language_model=version,
        )
        files = made.files() | {TEXT_MODEL_FILE: model.encode()}
        registry.register(*FilesystemArtifacts(home / "artifacts").write(manifest, files), "test")
        epoch = PostgresRollouts(database).adopt(MOVIES, version, "test")
    with closing(redis.connect(stores.redis_url)) as client:
        assert redis.RedisRoutes(client).put_route(MOVIES, Route(epoch=epoch, stable=version))


def test_scores_that_no_longer_tell_ask_for_an_adapter_while_words_and_rates_are_calm(
    fresh_stores: Endpoints, tmp_path: Path
) -> None:
    make_live(fresh_stores, tmp_path)
    log = tmp_path / "log.ndjson"
    log.write_bytes(b"".join(msgspec.json.encode(event) + b"\n" for event in taste_log(hours=14, turns_at=8)))
    report = replay(fresh_stores, tmp_path, log, **SETTINGS)
    assert (report["rejected"], report["jobs"]) == (0, 1)
    with closing(Database(fresh_stores.postgres_dsn)) as database:
        windows = PostgresWindows(database).feature_windows(MOVIES, 0, START_MS + 99 * HOUR_MS)
    assert {row.verdict for row in windows if row.feature == "nll"} == {"stable"}
    told = {
        (row.window_start_ms - START_MS) // HOUR_MS: row.verdict for row in windows if row.feature == "llm_score@v1"
    }
    assert [told[hour] for hour in range(9)] == ["unjudged", *["stable"] * 7, "drift"]
    found = all_rows(fresh_stores.postgres_dsn)
    (job,) = found["retrain_jobs"]
    assert str(job["reason"]).startswith("lora: llm_auc: AUC of v1 fell from 0.7")
    payload = msgspec.convert(job["payload"], TrainLora)
    assert (payload.rank, payload.features) == (4, (NLL,))
    assert {row["detector"] for row in found["drift_events"]} == {"llm_auc"}
