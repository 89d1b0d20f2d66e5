"""A rollout's row in PostgreSQL, and what is written beside it when it changes: aliases, registry events, the audit trail.

- A challenger is a version that serves because of an open rollout, apart from the champion: the canary, and each arm of a bandit.
  The record has an event of each, so that its files are kept; the alias points at the canary.
- Where the champion stands against itself no alias moves and nothing happens to any version.
- All of it is done in the caller's transaction, which holds the lock of the model's champion.
"""

import logging
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from online_models.contracts.ids import Epoch, ModelName, ModelVersion
from online_models.contracts.registry import Alias, Happening
from online_models.contracts.rollouts import OPEN_PHASES, Arm, Kind, Phase, Plan, Rollout, RolloutEvent
from online_models.errors import StaleEpoch, StoreError
from online_models.rollout_store import Act, NewRollout
from online_models.stores.postgres import Cursor, query
from online_models.stores.postgres_registry import record_event

log: Final = logging.getLogger(__name__)

EPOCHS_STRIDE: Final = 1_000
"""More epochs than are drawn during one statement."""

EPOCHS_END: Final = 2**53 - 2 * EPOCHS_STRIDE
"""Route documents are compared by epochs in Lua, whose numbers are exact up to 2^53."""


def rollout_of(row: tuple[Any, ...]) -> Rollout:
    """A rollout from its row. One whose plan or arms cannot be read has none: it can still be ended. Raises StoreError when its
    phase or kind is none."""
    rollout_id, model, stable, canary, phase, stage, weight_bp, epoch, salt, created_at, since, kind, plan, arms = row
    known: tuple[Plan, tuple[Arm, ...]]
    try:
        known = msgspec.json.decode(plan, type=Plan), msgspec.json.decode(arms, type=tuple[Arm, ...])
    except msgspec.DecodeError as error:
        log.error("plan_not_read model=%s rollout=%d error=%s", model, rollout_id, error)
        known = Plan(), ()
    try:
        return Rollout(
            rollout_id, model, stable, canary, Phase(phase), stage, weight_bp, epoch, salt, created_at, since,
            Kind(kind), *known,
        )  # fmt: skip
    except ValueError as error:
        raise StoreError(f"rollout {rollout_id} of {model!r}: {error}") from error


def event_of(row: tuple[Any, ...]) -> RolloutEvent:
    """An event of the audit trail from its row."""
    event_id, rollout_id, epoch, from_phase, to_phase, *rest = row
    before = None if from_phase is None else Phase(from_phase)
    return RolloutEvent(event_id, rollout_id, epoch, before, Phase(to_phase), *rest)


def insert(cursor: Cursor, new: NewRollout, phase: Phase, weight_bp: int) -> Rollout | None:
    """Add a rollout in a phase; None when the model has an open one, or a canary that begins by itself was tried before."""
    values = {
        "model": new.model, "stable": new.stable, "canary": new.canary, "phase": phase, "weight_bp": weight_bp,
        "kind": new.kind, "automatic": new.automatic, "plan": _json(new.plan), "arms": _json(new.arms),
    }  # fmt: skip
    cursor.execute(query("insert_rollout"), values)
    row = cursor.fetchone()
    return None if row is None else rollout_of(row)


def update(cursor: Cursor, old: Rollout, new: Rollout) -> Rollout:
    """Move an open rollout on. Raises StaleEpoch when it is final, or its epoch is not that of `old`."""
    values = {
        "id": old.id, "epoch": old.epoch, "phase": new.phase, "stage": new.stage, "weight_bp": new.weight_bp,
        "stage_started_at": new.stage_started_at, "arms": _json(new.arms),
    }  # fmt: skip
    cursor.execute(query("update_rollout"), values)
    row = cursor.fetchone()
    if row is None:
        raise StaleEpoch(f"rollout {old.id} of {old.model!r}: expected it open at epoch {old.epoch}, it moved on")
    return rollout_of(row)


def overtake(cursor: Cursor, model: ModelName, latest: Rollout | None, epoch: Epoch, act: Act) -> None:
    """Give a model's open rollout, or else its champion, an epoch above one. Raises StoreError when there is none."""
    if epoch >= EPOCHS_END:
        raise StoreError(f"{model}: expected an epoch below {EPOCHS_END} to be above of, got {epoch}")
    cursor.execute(query("lock_epochs"))
    cursor.execute(query("raise_epochs"), {"above": epoch, "stride": EPOCHS_STRIDE})
    if latest is not None and latest.phase in OPEN_PHASES:
        audit(cursor, latest, update(cursor, latest, latest), act)
    else:
        cursor.execute(query("restamp_champion"), {"model": model})


def challenge(cursor: Cursor, rollout: Rollout, actor: str) -> None:
    """The challengers of a rollout that begins."""
    for version in _challengers(rollout):
        record_event(
            cursor, rollout.model, version, Happening.CHALLENGING, actor,
            epoch=rollout.epoch, rollout_id=rollout.id, champion=rollout.stable, kind=rollout.kind,
        )  # fmt: skip
    if rollout.kind is not Kind.AA:
        _move_alias(cursor, rollout, Alias.CHALLENGER, rollout.canary)


def withdraw(cursor: Cursor, rollout: Rollout, actor: str, reason: str) -> None:
    """The challengers of a rollout that ends without a promotion are none any more."""
    cursor.execute(query("delete_challenger"), {"model": rollout.model, "version": rollout.canary})
    for version in _challengers(rollout):
        record_event(
            cursor, rollout.model, version, Happening.WITHDRAWN, actor,
            epoch=rollout.epoch, rollout_id=rollout.id, outcome=rollout.phase, reason=reason,
        )  # fmt: skip


def promote(cursor: Cursor, rollout: Rollout, actor: str) -> None:
    """The canary takes the place of the stable version, which is `previous` from now on."""
    cursor.execute(query("delete_challenger"), {"model": rollout.model, "version": rollout.canary})
    _move_alias(cursor, rollout, Alias.CHAMPION, rollout.canary)
    _move_alias(cursor, rollout, Alias.PREVIOUS, rollout.stable)
    record_event(
        cursor, rollout.model, rollout.canary, Happening.PROMOTED, actor,
        epoch=rollout.epoch, rollout_id=rollout.id, replaced=rollout.stable, kind=rollout.kind,
    )  # fmt: skip
    record_event(
        cursor, rollout.model, rollout.stable, Happening.REPLACED, actor,
        epoch=rollout.epoch, rollout_id=rollout.id, by=rollout.canary, kind=rollout.kind,
    )  # fmt: skip


def audit(cursor: Cursor, old: Rollout | None, new: Rollout, act: Act, reason: str | None = None) -> None:
    """Note a rollout's move with who made it, why (`reason`, or that of the act), and by what."""
    cursor.execute(
        query("insert_rollout_event"),
        {
            "rollout_id": new.id,
            "model": new.model,
            "epoch": new.epoch,
            "from_phase": None if old is None else old.phase,
            "to_phase": new.phase,
            "from_stage": None if old is None else old.stage,
            "to_stage": new.stage,
            "weight_bp": new.weight_bp,
            "actor": act.actor,
            "reason": reason or act.reason,
            "evidence": _json(dict(act.evidence)),
        },
    )


def _challengers(rollout: Rollout) -> list[ModelVersion]:
    if rollout.kind is Kind.AA:
        return []
    others = (arm.version for arm in rollout.arms if arm.version != rollout.stable)
    return list(dict.fromkeys([rollout.canary, *others]))


def _move_alias(cursor: Cursor, rollout: Rollout, alias: Alias, version: ModelVersion) -> None:
    values = {"model": rollout.model, "alias": alias, "version": version, "epoch": rollout.epoch}
    cursor.execute(query("move_alias"), values)
    if cursor.rowcount == 0:
        raise StaleEpoch(
            f"{rollout.model}: expected the alias {alias} older than epoch {rollout.epoch}, it has moved on"
        )


def _json(given: Plan | tuple[Arm, ...] | Mapping[str, object]) -> str:
    return msgspec.json.encode(given).decode()
