"""API keys and roles: who asks, and whether that is enough.

- A key is `pk_<prefix>_<secret>`: the prefix finds it, and of the secret only the SHA-256 is stored. The secret has 256 random
  bits, so a slow hash would add nothing.
- A key that is unknown, revoked, expired or no key at all is nobody, without a word about which: a message would tell a stranger
  what exists.
- Roles are ordered, and each may what the lesser ones may. To stop a rollout takes less than to bring it to everybody.
"""

import base64
import enum
import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from online_models.ports import ApiKey, KeyStore

PREFIX_BYTES: Final = 4
SECRET_BYTES: Final = 32
KEY: Final = re.compile(r"pk_([0-9a-f]{8})_([A-Za-z0-9_-]{43})")
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
"""What a key may be called: it stands in audit trails, logs and actors."""

_NOBODY: Final = bytes(32)
"""No secret has this SHA-256 that anybody knows of; compared with where no key is found, so that both take the same time."""


class Role(enum.StrEnum):
    """What a key is good for; the later ones may all that the earlier ones may."""

    VIEWER = "viewer"  # look
    OPERATOR = "operator"  # start by the settings' plan, pause, resume, abort, undo the last promotion
    APPROVER = "approver"  # promote, start by stages or a gate of their own, return to any retained version
    ADMIN = "admin"

    def includes(self, needed: "Role") -> bool:
        """Whether this role may do what takes the other.

        >>> Role.APPROVER.includes(Role.OPERATOR), Role.VIEWER.includes(Role.OPERATOR)
        (True, False)
        """
        return _ORDER.index(self) >= _ORDER.index(needed)


_ORDER: Final = tuple(Role)


@dataclass(frozen=True, slots=True)
class Operator:
    """Whose key a request came with."""

    name: str
    prefix: str
    role: Role

    @property
    def actor(self) -> str:
        """As audit trails name them.

        >>> Operator("alice", "0a1b2c3d", Role.VIEWER).actor
        'key:alice (0a1b2c3d)'
        """
        return f"key:{self.name} ({self.prefix})"


def new_key(
    name: str, role: Role, created_at: datetime, expires_at: datetime | None, random_bytes: Callable[[int], bytes]
) -> tuple[str, ApiKey]:
    """A fresh key's text, which is told once, and what is stored of it.

    random_bytes : so many bytes that nobody can guess, such as `secrets.token_bytes`

    Raises
    ------
    ValueError
        When the name is none.

    >>> text, key = new_key("alice", Role.ADMIN, datetime(2026, 1, 1), None, lambda count: bytes(range(count)))
    >>> text, key.prefix
    ('pk_00010203_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8', '00010203')
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"expected a name of 1 to 64 of A-Z a-z 0-9 . _ @ -, got {name[:64]!r}")
    prefix = random_bytes(PREFIX_BYTES).hex()
    secret = base64.urlsafe_b64encode(random_bytes(SECRET_BYTES)).rstrip(b"=").decode()
    stored = ApiKey(prefix, _digest(secret), role, name, created_at, expires_at)
    return f"pk_{prefix}_{secret}", stored


def admitted(keys: KeyStore, presented: str | None, now: datetime) -> Operator | None:
    """Whose key this is; None where it opens nothing. Raises StoreUnavailable when nobody can say."""
    match = KEY.fullmatch(presented or "")
    if match is None:
        return None
    prefix, secret = match.groups()
    key = keys.key(prefix)
    same = hmac.compare_digest(_digest(secret), key.sha256 if key else _NOBODY)
    if key is None or not same or state_of(key, now) != "valid":
        return None
    return Operator(key.name, key.prefix, Role(key.role))


def state_of(key: ApiKey, now: datetime) -> str:
    """`valid`, `revoked` or `expired`."""
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= now else "valid"


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
