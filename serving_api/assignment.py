"""Which variant of a rollout a user belongs to: a sticky salted hash.

- The bucket depends on the salt and the user alone: users stay where they are, and a larger weight only
  adds some.
- Every rollout brings its own salt: the same users are not always the first to meet a new version.
"""

import enum
import hashlib

from online_models.contracts.rollouts import FULL_WEIGHT_BP, Route


class Variant(enum.StrEnum):
    """Who answered. `fallback` is neither arm of the comparison: popularity, or a version that stands in."""

    STABLE = "stable"
    CANARY = "canary"
    FALLBACK = "fallback"


def bucket(salt: str, user_id: str) -> int:
    """The user's place in [0, 10000): the first 32 bits of SHA-256(salt | user), modulo 10000.

    >>> bucket("rollout-1", "user-1") == bucket("rollout-1", "user-1")
    True
    """
    return int(hashlib.sha256(f"{salt}|{user_id}".encode()).hexdigest()[:8], 16) % FULL_WEIGHT_BP


def variant(user_id: str, route: Route) -> Variant:
    """The arm a user is in under a route document.

    >>> from online_models.contracts.ids import ModelVersion
    >>> v1, v2 = ModelVersion("v1"), ModelVersion("v2")
    >>> full = Route(epoch=7, stable=v1, canary=v2, weight_bp=10_000, salt="s")
    >>> variant("anyone", full), variant("anyone", Route(epoch=8, stable=v1))
    (<Variant.CANARY: 'canary'>, <Variant.STABLE: 'stable'>)
    """
    if route.canary is None or bucket(route.salt, user_id) >= route.weight_bp:
        return Variant.STABLE
    return Variant.CANARY
