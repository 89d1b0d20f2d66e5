"""Rollouts in PostgreSQL: one row per rollout, moved by compare-and-set on its epoch, and an event for each
move.

- Whatever changes a model's champion or rollouts locks its alias row first. Two controllers are thereby in
  sequence, and epochs grow in the order in which they become visible, which the route documents rely on.
- Aliases move in the transaction that makes them true: `challenger` as a rollout begins and ends, `champion` and
  `previous` with a promotion. A version whose artifact is collected, or about to be, begins no rollout.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from online_models.contracts.ids import Epoch, ModelName, ModelVersion
from online_models.contracts.registry import Alias, Happening
from online_models.contracts.rollouts import OPEN_PHASES, Phase, Rollout, StageCounts
from online_models.errors import StaleEpoch, StoreError
from online_models.stores.postgres import Cursor, Database, one, query
from online_models.stores.postgres_registry import lock_champion, record_event, refuse_collected


class PostgresRollouts:
    """`RolloutStore` on PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open_rollout(self, model: ModelName) -> Rollout | None:
        """The model's rollout that is not final."""
        return self._select("select_open_rollout", model)

    def latest(self, model: ModelName) -> Rollout | None:
        """The model's youngest rollout, open or final."""
        return self._select("select_latest_rollout", model)

    def candidates(self, model: ModelName) -> list[ModelVersion]:
        """Recommenders younger than each that has served or was tried (all, without any), oldest first."""
        return self._versions("select_candidates", model)

    def adapters(self, model: ModelName) -> list[ModelVersion]:
        """Language models that no rollout has tried and that came with the champion's recommender, oldest first."""
        return self._versions("select_adapters", model)

    def _versions(self, name: str, model: ModelName) -> list[ModelVersion]:
        def work(cursor: Cursor) -> list[ModelVersion]:
            cursor.execute(query(name), {"model": model})
            return [ModelVersion(version) for (version,) in cursor]

        return self._database.run(work, idempotent=True)

    def adopt(self, model: ModelName, version: ModelVersion, actor: str) -> Epoch:
        """Make the first version of a model its champion, without a rollout.

        Raises
        ------
        StaleEpoch
            When the model has a champion.
        StoreError
            When the version is not registered.
        """

        def work(cursor: Cursor) -> Epoch:
            cursor.execute(query("insert_champion"), {"model": model, "version": version})
            row = cursor.fetchone()
            if row is None:
                raise StaleEpoch(f"{model}: expected no champion before adopting {version}, found one")
            record_event(cursor, model, version, Happening.ADOPTED, actor, epoch=row[0])
            return Epoch(row[0])

        return self._database.run(work)

    def create(self, model: ModelName, stable: ModelVersion, canary: ModelVersion, actor: str) -> Rollout:
        """A new rollout in phase `preparing`.

        Raises
        ------
        StaleEpoch
            When `stable` is not the model's champion any more, the model has an open rollout, or the canary has been tried.
        StoreError
            When the canary is not registered, or its artifact is collected.
        """

        def work(cursor: Cursor) -> Rollout:
            champion = lock_champion(cursor, model)
            if champion != stable:
                raise StaleEpoch(f"{model}: expected the champion {stable} as stable version, found {champion}")
            refuse_collected(cursor, model, canary)
            cursor.execute(query("insert_rollout"), {"model": model, "stable": stable, "canary": canary})
            row = cursor.fetchone()
            if row is None:
                raise StaleEpoch(f"{model}: expected no open rollout, and none of {canary} before; found one")
            rollout = _rollout(row)
            _record(cursor, None, rollout, actor, "created", {})
            _challenge(cursor, rollout, actor)
            return rollout

        return self._database.run(work)

    def transition(
        self, old: Rollout, new: Rollout, actor: str, reason: str, evidence: Mapping[str, object]
    ) -> Rollout:
        """Replace `old` by `new` (its phase, stage, weight and stage start), note the event, move the aliases
        when it ends.

        Returns `new` with its fresh epoch.

        Raises
        ------
        StaleEpoch
            When the rollout's epoch is not `old.epoch`, it is final, or its stable version is no longer the
            champion it would replace. Nothing has changed then.
        StoreError
            When `new` is not a state of the same rollout.
        """
        if _identity(new) != _identity(old):
            raise StoreError(f"rollout {old.id}: expected a new state of {_identity(old)}, got {_identity(new)}")

        def work(cursor: Cursor) -> Rollout:
            champion = lock_champion(cursor, old.model)
            cursor.execute(query("update_rollout"), {**msgspec.structs.asdict(new), "epoch": old.epoch})
            row = cursor.fetchone()
            if row is None:
                raise StaleEpoch(
                    f"rollout {old.id} of {old.model!r}: expected it open at epoch {old.epoch}, it moved on"
                )
            moved = _rollout(row)
            if moved.phase is Phase.PROMOTED:
                if champion != moved.stable:
                    raise StaleEpoch(f"rollout {old.id}: expected the champion {moved.stable}, found {champion}")
                _promote(cursor, moved, actor)
            elif moved.phase not in OPEN_PHASES:
                _withdraw(cursor, moved, actor, reason)
            _record(cursor, old, moved, actor, reason, evidence)
            return moved

        return self._database.run(work)

    def rollouts_of(self, model: ModelName, version: ModelVersion) -> list[Rollout]:
        """The rollouts that a version took part in, as canary or as stable version, oldest first."""

        def work(cursor: Cursor) -> list[Rollout]:
            cursor.execute(query("select_rollouts_of"), {"model": model, "version": version})
            return [_rollout(row) for row in cursor]

        return self._database.run(work, idempotent=True)

    def champion_epoch(self, model: ModelName) -> tuple[ModelVersion, Epoch] | None:
        """The champion and the epoch at which it became that."""

        def work(cursor: Cursor) -> tuple[ModelVersion, Epoch] | None:
            cursor.execute(query("select_champion"), {"model": model})
            row = cursor.fetchone()
            return None if row is None else (ModelVersion(row[0]), Epoch(row[1]))

        return self._database.run(work, idempotent=True)

    def counts(self, rollout: Rollout, version: ModelVersion, stage: int) -> StageCounts:
        """Sums of a version's variant windows in one stage of a rollout; zeros without any."""
        values = {"model": rollout.model, "rollout_id": rollout.id, "version": version, "stage": stage}

        def work(cursor: Cursor) -> StageCounts:
            cursor.execute(query("sum_variant_windows"), values)
            return StageCounts(*one(cursor))

        return self._database.run(work, idempotent=True)

    def _select(self, name: str, model: ModelName) -> Rollout | None:
        def work(cursor: Cursor) -> Rollout | None:
            cursor.execute(query(name), {"model": model})
            row = cursor.fetchone()
            return None if row is None else _rollout(row)

        return self._database.run(work, idempotent=True)


def _identity(rollout: Rollout) -> tuple[object, ...]:
    return rollout.id, rollout.model, rollout.stable, rollout.canary, rollout.salt


def _challenge(cursor: Cursor, rollout: Rollout, actor: str) -> None:
    _move_alias(cursor, rollout, Alias.CHALLENGER, rollout.canary)
    record_event(
        cursor, rollout.model, rollout.canary, Happening.CHALLENGING, actor,
        epoch=rollout.epoch, rollout_id=rollout.id, champion=rollout.stable,
    )  # fmt: skip


def _withdraw(cursor: Cursor, rollout: Rollout, actor: str, reason: str) -> None:
    cursor.execute(query("delete_challenger"), {"model": rollout.model, "version": rollout.canary})
    record_event(
        cursor, rollout.model, rollout.canary, Happening.WITHDRAWN, actor,
        epoch=rollout.epoch, rollout_id=rollout.id, outcome=rollout.phase, reason=reason,
    )  # fmt: skip


def _promote(cursor: Cursor, rollout: Rollout, actor: str) -> None:
    cursor.execute(query("delete_challenger"), {"model": rollout.model, "version": rollout.canary})
    _move_alias(cursor, rollout, Alias.CHAMPION, rollout.canary)
    _move_alias(cursor, rollout, Alias.PREVIOUS, rollout.stable)
    record_event(
        cursor, rollout.model, rollout.canary, Happening.PROMOTED, actor,
        epoch=rollout.epoch, rollout_id=rollout.id, replaced=rollout.stable,
    )  # fmt: skip
    record_event(
        cursor, rollout.model, rollout.stable, Happening.REPLACED, actor,
        epoch=rollout.epoch, rollout_id=rollout.id, by=rollout.canary,
    )  # fmt: skip


def _move_alias(cursor: Cursor, rollout: Rollout, alias: Alias, version: ModelVersion) -> None:
    values = {"model": rollout.model, "alias": alias, "version": version, "epoch": rollout.epoch}
    cursor.execute(query("move_alias"), values)
    if cursor.rowcount == 0:
        raise StaleEpoch(
            f"{rollout.model}: expected the alias {alias} older than epoch {rollout.epoch}, it has moved on"
        )


def _record(
    cursor: Cursor, old: Rollout | None, new: Rollout, actor: str, reason: str, evidence: Mapping[str, object]
) -> None:
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
            "actor": actor,
            "reason": reason,
            "evidence": msgspec.json.encode(dict(evidence)).decode(),
        },
    )


def _rollout(row: tuple[Any, ...]) -> Rollout:
    rollout_id, model, stable, canary, phase, stage, weight_bp, epoch, salt, created_at, stage_started_at = row
    return Rollout(
        rollout_id,
        model,
        stable,
        canary,
        Phase(phase),
        stage,
        weight_bp,
        epoch,
        salt,
        created_at,
        stage_started_at,
    )
