"""The route document of a model as its rows in PostgreSQL have it, and how it comes to Redis.

- Any process may project at any time: what it writes is what it has read, and the larger epoch wins.
- The rollout is read first: a promotion in between then shows in the champion, never an old champion under the new epoch.
- A route in Redis that is ahead of the rows, though they are read after it, is of a time that PostgreSQL has lost: it is of a
  backup. The rows are the truth: they take an epoch above it, so that what they say, now and later, reaches the readers.
- While a rollout prepares, its route names all its versions, so that readers load them, and sends everybody to the stable one.
"""

import logging
from typing import Final

from online_models.contracts.ids import Epoch, ModelName, ModelVersion
from online_models.contracts.rollouts import FULL_WEIGHT_BP, OPEN_PHASES, Arm, Rollout, Route
from online_models.ports import Act, RolloutStore, RouteStore
from serving_api.rollouts.transitions import in_shadow

log: Final = logging.getLogger(__name__)

ACTOR: Final = "route projection"


def route_of(champion: ModelVersion, champion_epoch: Epoch, latest: Rollout | None) -> Route:
    """The route document that a model's rows stand for; a paused rollout goes on as it was."""
    if latest is None or latest.phase not in OPEN_PHASES:
        return Route(epoch=max(champion_epoch, latest.epoch if latest else champion_epoch), stable=champion)
    return Route(
        epoch=latest.epoch,
        stable=latest.stable,
        canary=latest.canary,
        weight_bp=latest.weight_bp,
        salt=latest.salt,
        rollout_id=latest.id,
        stage=latest.stage,
        shadow=in_shadow(latest),
        arms=latest.arms if latest.stage >= 0 else _closed(latest.arms),
        slow_ms=latest.plan.policy.slow_ms,
    )


def project(rollouts: RolloutStore, routes: RouteStore, model: ModelName) -> Route | None:
    """Write the route document that a model's rows stand for, and return it; None of a model without a champion. Idempotent by
    its epoch. Raises StoreError where a store is away, or where nothing is above the epoch of the route in Redis."""
    route = _standing(rollouts, model)
    if route is None or routes.put_route(model, route):
        return route
    ahead = routes.route_epoch(model)
    route = _standing(rollouts, model)
    if route is not None and ahead is not None and route.epoch < ahead:
        log.error("route_ahead_of_rows model=%s route_epoch=%d epoch=%d", model, ahead, route.epoch)
        reason = f"the route was at epoch {ahead}, which this database has not given: was it restored from a backup?"
        rollouts.overtake(model, ahead, Act(ACTOR, reason, {"route_epoch": ahead}))
        route = _standing(rollouts, model)
    if route is not None:
        routes.put_route(model, route)
    return route


def _standing(rollouts: RolloutStore, model: ModelName) -> Route | None:
    latest = rollouts.latest(model)
    champion = rollouts.champion_epoch(model)
    return None if champion is None else route_of(*champion, latest)


def _closed(arms: tuple[Arm, ...]) -> tuple[Arm, ...]:
    """The same arms, everybody on the first."""
    return tuple(Arm(arm.version, 0 if number else FULL_WEIGHT_BP) for number, arm in enumerate(arms))
