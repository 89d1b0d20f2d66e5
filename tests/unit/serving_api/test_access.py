"""API keys and roles: what opens, what does not, and that nothing tells why."""

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from online_models.ports import KeyStore
from online_models.stores import postgres as postgres_store
from online_models.stores.postgres_keys import PostgresKeys
from serving_api.access import KEY, Operator, Role, admitted, new_key, state_of

NOW = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def keys(postgres: str) -> Iterator[PostgresKeys]:
    with closing(postgres_store.connect(postgres)) as database:
        yield PostgresKeys(database)


def made(keys: KeyStore, role: Role = Role.OPERATOR, expires_at: datetime | None = None) -> tuple[str, str]:
    """A stored key's text and its prefix."""
    text, key = new_key("alice", role, NOW, expires_at, secrets.token_bytes)
    keys.put_key(key)
    return text, key.prefix


def test_a_key_has_its_form_and_only_the_hash_of_its_secret_is_kept() -> None:
    text, key = new_key("alice", Role.ADMIN, NOW, None, secrets.token_bytes)
    match = KEY.fullmatch(text)
    assert match is not None
    assert match[1] == key.prefix
    assert key.sha256 == hashlib.sha256(match[2].encode()).digest()
    assert match[2] not in repr(key)


def test_two_keys_differ() -> None:
    first, second = (new_key("alice", Role.ADMIN, NOW, None, secrets.token_bytes)[0] for _ in range(2))
    assert first[:11] != second[:11]
    assert first[12:] != second[12:]


@pytest.mark.parametrize("name", ["", " ", "a b", "a\nb", "a\x00", "é", "x" * 65, "-a"])
def test_a_name_that_would_spoil_a_log_line_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected a name"):
        new_key(name, Role.VIEWER, NOW, None, secrets.token_bytes)


def test_a_key_admits_its_owner(keys: PostgresKeys) -> None:
    text, prefix = made(keys)
    assert admitted(keys, text, NOW) == Operator("alice", prefix, Role.OPERATOR)


def test_a_key_is_good_until_it_expires_and_no_longer(keys: PostgresKeys) -> None:
    text, prefix = made(keys, expires_at=NOW + DAY)
    assert admitted(keys, text, NOW + DAY - timedelta(microseconds=1)) is not None
    assert admitted(keys, text, NOW + DAY) is None
    stored = keys.key(prefix)
    assert stored is not None
    assert [state_of(stored, NOW), state_of(stored, NOW + DAY)] == ["valid", "expired"]


def test_a_revoked_key_admits_nobody(keys: PostgresKeys) -> None:
    text, prefix = made(keys)
    assert keys.revoke_key(prefix, NOW)
    assert admitted(keys, text, NOW) is None


def test_anything_but_the_key_itself_and_nothing_at_all_admit_nobody(keys: PostgresKeys) -> None:
    text, prefix = made(keys)
    other = new_key("alice", Role.ADMIN, NOW, None, secrets.token_bytes)[0]
    wrong = {
        "secret": f"pk_{prefix}_{other[12:]}",
        "prefix": f"pk_{other[3:11]}_{text[12:]}",
        "case": text.upper(),
        "cut": text[:-1],
        "longer": text + "A",
        "scheme": text[3:],
        "space": f" {text}",
        "nul": text[:-1] + "\x00",
        "unicode": text[:-1] + "é",
        "empty": "",
        "none": None,
    }
    for change, told in wrong.items():
        assert admitted(keys, told, NOW) is None, change
        assert admitted(keys, text, NOW) is not None, change


def test_each_role_includes_the_lesser_ones_and_no_greater_one() -> None:
    order = [Role.VIEWER, Role.OPERATOR, Role.APPROVER, Role.ADMIN]
    for place, role in enumerate(order):
        assert [role.includes(other) for other in order] == [True] * (place + 1) + [False] * (3 - place)
