"""What impressions say of rollouts: from the log into PostgreSQL as it is, and never taken for a feature to watch."""

from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from flows.chunks import Chunk, Lines
from flows.declare import declare
from flows.decode import parse_slow
from flows.offline import parse_log
from flows.parse import parse
from flows.settings import FlowSettings
from online_models.contracts.events import (
    ARM_PROPENSITY_FEATURE,
    ASKED_VARIANT_FEATURE,
    ASKED_VERSION_FEATURE,
    SHADOW_PLACE_FEATURE,
    SHADOW_VERSION_FEATURE,
    Event,
    EventType,
    FeatureValue,
)
from online_models.stores.embedded import Endpoints
from online_models.stores.postgres import Database
from online_models.stores.postgres_interactions import PostgresInteractions
from tests.samples import event, event_id
from tests.strategies import BOUNDS, ndjson

SAID: dict[str, FeatureValue] = {
    "stage": -1.0,
    "variant": "fallback",
    "weight_bp": 500.0,
    ASKED_VARIANT_FEATURE: "canary",
    ASKED_VERSION_FEATURE: "v17",
    ARM_PROPENSITY_FEATURE: 0.05,
    SHADOW_VERSION_FEATURE: "v17",
    SHADOW_PLACE_FEATURE: 0.0,
}


def impressions(count: int) -> list[Event]:
    """Some say all of it, some only where they stand in the rollout."""
    told = [SAID, {name: SAID[name] for name in ("stage", "variant", "weight_bp")}]
    plain = [event(n, EventType.IMPRESSION, value=None, request_id="r", features=told[n % 2]) for n in range(count)]
    return [
        msgspec.structs.replace(each, rollout_id=7, position=n, ts=BOUNDS.earliest_ms) for n, each in enumerate(plain)
    ]


@pytest.mark.parametrize("integers", [False, True], ids=["1.0", "1"])
def test_they_are_read_and_stored_as_they_were_said(integers: bool, fresh_stores: Endpoints) -> None:
    blob = ndjson(impressions(20))
    if integers:  # as another writer may spell them
        blob = blob.replace(b"500.0", b"500").replace(b"-1.0", b"-1")
    chunk = Chunk("log", "a.ndjson", len(blob), Lines(blob, 0))
    fast, slow = parse(chunk, BOUNDS, ("genres",)), parse_slow(chunk, Lines(blob, 0), BOUNDS)
    assert [*fast.batch.events] == [*slow.batch.events] == impressions(20)
    with closing(Database(fresh_stores.postgres_dsn)) as database:
        PostgresInteractions(database).write([fast.batch])
        with database.transaction() as cursor:
            cursor.execute("SELECT event_id::text, rollout_id, features FROM impressions ORDER BY position")
            stored = cursor.fetchall()
    assert stored == [(event_id(n), 7, each.features) for n, each in enumerate(impressions(20))]


def test_none_of_it_is_a_declared_feature_or_becomes_one(tmp_path: Path) -> None:
    assert not SAID.keys() & {name for spec in FlowSettings().features for name in spec.reads}
    log = tmp_path / "a.ndjson"
    log.write_bytes(ndjson([*impressions(200), event(200, EventType.CLICK, features={"genres": ["Drama"]})]))
    assert {name for spec in declare([parse_log(str(log))]) for name in spec.reads} == {"genres"}


def test_a_word_of_ours_on_what_people_do_is_a_feature_like_others(tmp_path: Path) -> None:
    log = tmp_path / "a.ndjson"
    log.write_bytes(ndjson([*impressions(200), event(200, EventType.PURCHASE, features={"variant": "blue"})]))
    assert {name for spec in declare([parse_log(str(log))]) for name in spec.reads} == {"variant"}
