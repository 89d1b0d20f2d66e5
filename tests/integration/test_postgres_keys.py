"""Operators' API keys: found by their prefix, never twice, and ended once."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from online_models.errors import StoreError
from online_models.rollout_store import ApiKey
from online_models.stores.postgres import Database
from online_models.stores.postgres_keys import PostgresKeys
from tests.racing import outcomes

NOW = datetime(2026, 1, 1, 12, 0, 0, 250_000, UTC)
ANN = ApiKey("0a1b2c3d", bytes(range(32)), "admin", "ann", NOW)
BOB = ApiKey("1a1b2c3d", bytes(32), "viewer", "Bób", NOW - timedelta(days=1), expires_at=NOW + timedelta(days=90))


@pytest.fixture
def store(postgres: str) -> PostgresKeys:
    return PostgresKeys(Database(postgres))


def test_a_key_is_read_back_as_it_was_written(store: PostgresKeys) -> None:
    store.put_key(ANN)
    store.put_key(BOB)
    assert [store.key(ANN.prefix), store.key(BOB.prefix), store.key("ffffffff")] == [ANN, BOB, None]
    assert store.keys() == [BOB, ANN]


def test_a_prefix_that_is_taken_is_refused(store: PostgresKeys) -> None:
    store.put_key(ANN)
    with pytest.raises(StoreError, match="key '0a1b2c3d': expected a new prefix"):
        store.put_key(replace(BOB, prefix=ANN.prefix))
    assert store.keys() == [ANN]


def test_of_keys_with_one_prefix_made_at_once_one_is_kept(postgres: str, store: PostgresKeys) -> None:
    named = [replace(ANN, name=f"ann {number}") for number in range(4)]
    made = [lambda key=key: PostgresKeys(Database(postgres)).put_key(key) for key in named]
    assert sum(isinstance(each, StoreError) for each in outcomes(made)) == 3
    assert len(store.keys()) == 1


@pytest.mark.parametrize("wrong", [replace(ANN, role="root"), replace(ANN, sha256=b"short")])
def test_a_role_or_a_hash_that_is_none_is_refused(store: PostgresKeys, wrong: ApiKey) -> None:
    with pytest.raises(StoreError, match="api_keys"):
        store.put_key(wrong)


def test_a_key_is_ended_once(store: PostgresKeys) -> None:
    store.put_key(ANN)
    assert store.revoke_key(ANN.prefix, NOW)
    assert store.revoke_key(ANN.prefix, NOW + timedelta(days=1))
    assert store.key(ANN.prefix) == replace(ANN, revoked_at=NOW)
    assert not store.revoke_key("ffffffff", NOW)
