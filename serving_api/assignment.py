"""Which arm of a rollout a user belongs to: a sticky salted hash.

- The bucket depends on the salt and the user alone: users stay where they are, and a larger weight only
  adds some.
- A bandit's users go by weighted rendezvous hashing: each arm draws an exponential time at the rate of its weight from a hash of
  salt, user and version, and the first one has the user. An arm that gains weight takes users from the others and no other
  user moves.
- Every rollout brings its own salt: the same users are not always the first to meet a new version.

References
----------
Schindelhauer, Schomaker: Weighted distributed hash tables. SPAA 2005.
"""

import hashlib
import math
from typing import Final, NamedTuple

from online_models.contracts.ids import ModelVersion
from online_models.contracts.rollouts import FULL_WEIGHT_BP, Arm, Route, Variant

_BITS: Final = 52
"""Of a hash, as a number within (0, 1) that a float has exactly."""


class Assignment(NamedTuple):
    """The version that a user is to be answered by, the arm that this is, and how likely the user was to be in it: 1 where nobody
    is drawn."""

    version: ModelVersion
    variant: Variant
    propensity: float


def assigned(user_id: str, route: Route) -> Assignment:
    """Where a user is under a route document.

    >>> v1, v2 = ModelVersion("v1"), ModelVersion("v2")
    >>> [assigned("user-1", Route(7, v1, v2, weight, "rollout-1")).version for weight in (0, 4_802, 4_803, 10_000)]
    ['v1', 'v1', 'v2', 'v2']
    >>> assigned("user-1", Route(7, v1, v2, 4_802, "rollout-1")).propensity
    0.5198
    """
    if route.arms:
        arm = arm_of(user_id, route.salt, route.arms)
        variant = Variant.STABLE if arm.version == route.stable else Variant.ARM
        return Assignment(arm.version, variant, arm.weight_bp / FULL_WEIGHT_BP)
    canary, weight_bp = route.canary, route.weight_bp
    if canary is None or not weight_bp:
        return Assignment(route.stable, Variant.STABLE, 1.0)
    if bucket(route.salt, user_id) < weight_bp:
        return Assignment(canary, Variant.CANARY, weight_bp / FULL_WEIGHT_BP)
    return Assignment(route.stable, Variant.STABLE, (FULL_WEIGHT_BP - weight_bp) / FULL_WEIGHT_BP)


def splits_users(route: Route) -> bool:
    """Whether users are drawn into arms at all."""
    return bool(route.arms) or (route.canary is not None and route.weight_bp > 0)


def bucket(salt: str, user_id: str) -> int:
    """The user's place in [0, 10000): the first 32 bits of SHA-256(salt | user), modulo 10000.

    >>> bucket("rollout-1", "user-1") == bucket("rollout-1", "user-1")
    True
    """
    return int(hashlib.sha256(f"{salt}|{user_id}".encode()).hexdigest()[:8], 16) % FULL_WEIGHT_BP


def arm_of(user_id: str, salt: str, arms: tuple[Arm, ...]) -> Arm:
    """The user's arm, each with the probability of its weight in all weights; one of weight 0 has nobody while another has some.

    >>> some = (Arm(ModelVersion("v1"), 0), Arm(ModelVersion("v2"), 10_000))
    >>> arm_of("user-1", "rollout-1", some).version
    'v2'
    """
    # T_a = -ln(u_a) / w_a is exponential of rate w_a, and P(T_a is the smallest) = w_a / sum of w
    return min(arms, key=lambda arm: -math.log(_uniform(f"{salt}|{user_id}|{arm.version}")) / max(arm.weight_bp, 1e-9))


def _uniform(text: str) -> float:
    """The first bits of its SHA-256 as a number within (0, 1)."""
    first = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> (64 - _BITS)
    return (first + 0.5) / float(1 << _BITS)
