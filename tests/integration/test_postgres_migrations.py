"""A database of a release before, with rows, becomes one of this release: nothing is lost, and what was decided stays so."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from online_models.contracts.ids import ModelVersion
from online_models.contracts.registry import Alias
from online_models.contracts.rollouts import Kind, Phase, Plan, Rollout, StageCounts
from online_models.errors import StaleEpoch
from online_models.rollout_store import Act
from online_models.stores.postgres import MIGRATIONS, Database, migrate, query
from online_models.stores.postgres_keys import PostgresKeys
from online_models.stores.postgres_registry import PostgresRegistry
from online_models.stores.postgres_rollouts import PostgresRollouts
from tests.samples import MOVIES, SHA256, canary

SQL = Path(__file__).parents[2] / "online_models/stores"
V1, V2, V3, V4 = (ModelVersion(f"v{number}") for number in range(1, 5))
TEST = Act("test", "test", {})

ROWS_OF_VERSION_4 = (
    *(
        "INSERT INTO model_versions (model, version, manifest_sha256, manifest)"
        f""" VALUES ('movies', '{version}', '{SHA256}', '{{"kind": "als"}}')"""
        for version in (V1, V2, V3, V4)
    ),
    "INSERT INTO model_aliases (model, alias, version, epoch)"
    " VALUES ('movies', 'champion', 'v2', 4), ('movies', 'previous', 'v1', 4), ('movies', 'challenger', 'v3', 5)",
    "INSERT INTO rollouts (model, stable, canary, phase, stage, weight_bp, epoch, salt)"
    " VALUES ('movies', 'v1', 'v2', 'promoted', 4, 10000, 4, 'a'), ('movies', 'v2', 'v3', 'ramping', 1, 2500, 5, 'b')",
    "INSERT INTO rollout_events"
    " (rollout_id, model, epoch, to_phase, to_stage, weight_bp, actor, reason, evidence)"
    """ VALUES (2, 'movies', 5, 'ramping', 1, 2500, 'controller', 'ready', '{"users": 7}')""",
    "INSERT INTO model_metrics VALUES"
    " ('movies', 'v3', 2, 1, 0, 10, 1, 2, 3, 4, 5, 6), ('movies', 'v2', 2, 1, 0, 10, 2, 2, 3, 4, 5, 6),"
    " ('movies', 'v1', 2, 1, 0, 10, 3, 2, 3, 4, 5, 6), ('movies', 'v2', 0, -1, 0, 10, 4, 2, 3, 4, 5, 6)",
    r"INSERT INTO api_keys (prefix, sha256, role) VALUES ('0a1b2c3d', decode(repeat('00', 32), 'hex'), 'viewer')",
    "SELECT setval('epoch', 5)",
)


def in_version(number: int, dsn: str, statements: Sequence[str]) -> None:
    """A database as a release before left it."""
    with closing(Database(dsn)) as database, database.transaction() as cursor:
        cursor.execute(query("create_schema_version"))
        for version, name in enumerate(MIGRATIONS[:number], 1):
            cursor.execute((SQL / name).read_text())
            cursor.execute(query("insert_schema_version"), {"version": version})
        for statement in statements:
            cursor.execute(statement)


@pytest.fixture
def migrated(empty_postgres: str) -> str:
    in_version(4, empty_postgres, ROWS_OF_VERSION_4)
    migrate(empty_postgres)
    migrate(empty_postgres)
    return empty_postgres


@pytest.fixture
def rollouts(migrated: str) -> PostgresRollouts:
    return PostgresRollouts(Database(migrated))


def opened(rollouts: PostgresRollouts) -> Rollout:
    found = rollouts.open_rollout(MOVIES)
    assert found is not None
    return found


def test_a_rollout_of_before_is_a_canary_without_a_plan_of_its_own(rollouts: PostgresRollouts) -> None:
    found = opened(rollouts)
    assert (found.stable, found.canary, found.phase, found.stage, found.weight_bp) == (V2, V3, Phase.RAMPING, 1, 2_500)
    assert (found.kind, found.plan, found.arms) == (Kind.CANARY, Plan(), ())
    assert [(event.reason, event.evidence) for event in rollouts.events(found)] == [("ready", {"users": 7})]
    assert [each.canary for each in rollouts.history(MOVIES, 10)] == [V3, V2]


@pytest.mark.parametrize("phase", [Phase.PROMOTED, Phase.ABORTED, Phase.ROLLED_BACK])
def test_it_can_be_ended(rollouts: PostgresRollouts, phase: Phase) -> None:
    ended = rollouts.transition(opened(rollouts), replace(opened(rollouts), phase=phase), TEST)
    assert ended.epoch > 5
    assert rollouts.open_rollout(MOVIES) is None


def test_what_was_tried_before_no_controller_tries_again_but_an_operator_may(rollouts: PostgresRollouts) -> None:
    rollouts.transition(opened(rollouts), replace(opened(rollouts), phase=Phase.ROLLED_BACK), TEST)
    assert rollouts.candidates(MOVIES) == [V4]
    with pytest.raises(StaleEpoch, match="none of v3 before"):
        rollouts.create(canary(V2, V3), TEST)
    rollouts.create(canary(V2, V3, automatic=False), TEST)


def test_windows_of_before_are_of_the_variant_that_their_version_was(rollouts: PostgresRollouts) -> None:
    sums = (2, 3, 4, 5, 6, 0, 0, 0)
    assert [(each.variant, each.version, each.counts) for each in rollouts.measured(opened(rollouts))] == [
        ("canary", V3, StageCounts(1, *sums)), ("fallback", V1, StageCounts(3, *sums)), ("stable", V2, StageCounts(2, *sums)),
    ]  # fmt: skip
    assert rollouts.traffic(MOVIES, 100).success_rate == 8 / 10


def test_a_champion_of_before_can_be_returned_to(rollouts: PostgresRollouts) -> None:
    found = rollouts.champion_epoch(MOVIES)
    assert found == (V2, 4)
    back = rollouts.restore(MOVIES, V1, found[1], TEST)
    assert rollouts.champion_epoch(MOVIES) == (V1, back.epoch)


def test_a_key_of_before_has_no_name(migrated: str) -> None:
    (key,) = PostgresKeys(Database(migrated)).keys()
    assert (key.prefix, key.role, key.name, key.sha256) == ("0a1b2c3d", "viewer", "", bytes(32))


def test_aliases_of_an_older_database_are_found_by_its_rollouts(empty_postgres: str) -> None:
    version = (
        "INSERT INTO model_versions (model, version, manifest_sha256, manifest)"
        f" VALUES ('movies', '%s', '{SHA256}', '{{}}')"
    )
    rollout = (
        "INSERT INTO rollouts (model, stable, canary, phase, stage, weight_bp, epoch, salt)"
        " VALUES ('movies', '%s', '%s', '%s', 0, 0, %d, '')"
    )
    promotion = (
        "INSERT INTO registry_events (model, version, event, actor, detail)"
        """ VALUES ('movies', 'v2', 'promoted', 'test', '{"epoch": 4, "replaced": "v1"}')"""
    )
    champion = "INSERT INTO model_aliases (model, alias, version, epoch) VALUES ('movies', 'champion', 'v2', 4)"
    in_version(
        2,
        empty_postgres,
        [
            *(version % each for each in (V1, V2, V3)), champion, promotion,
            rollout % (V1, V2, "promoted", 4), rollout % (V2, V3, "ramping", 5),
        ],
    )  # fmt: skip
    migrate(empty_postgres)
    with closing(Database(empty_postgres)) as database:
        aliases = PostgresRegistry(database).aliases(MOVIES)
        assert {alias: (pointer.version, pointer.epoch) for alias, pointer in aliases.items()} == {
            Alias.CHAMPION: (V2, 4), Alias.PREVIOUS: (V1, 4), Alias.CHALLENGER: (V3, 5),
        }  # fmt: skip
