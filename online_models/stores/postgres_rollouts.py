"""Rollouts in PostgreSQL: one row per rollout, moved by compare-and-set on its epoch, and an event for each move.

- Whatever changes a model's champion or rollouts locks its alias row first. Two controllers are thereby in
  sequence, and epochs grow in the order in which they become visible, which the route documents rely on.
- Aliases move in the transaction that makes them true: `challenger` as a rollout begins and ends, `champion` and
  `previous` with a promotion. A version whose artifact is collected, or about to be, begins no rollout.
- A change that an operator asked for with an idempotency key is done once, and therefore repeated where a connection broke.
"""

from collections.abc import Callable, Mapping
from typing import TypeVar

from msgspec.structs import replace

from online_models.contracts.ids import Epoch, ModelName, ModelVersion
from online_models.contracts.registry import Happening
from online_models.contracts.rollouts import (
    FULL_WEIGHT_BP,
    OPEN_PHASES,
    Kind,
    Phase,
    Plan,
    Rollout,
    RolloutEvent,
    VariantWindow,
)
from online_models.errors import StaleEpoch, StoreError
from online_models.rollout_store import Act, NewRollout, Shadowed, Traffic, VariantCounts
from online_models.stores import postgres_rollout_counts as counts
from online_models.stores import postgres_rollout_rows as rows
from online_models.stores.postgres import Cursor, Database, query
from online_models.stores.postgres_registry import lock_champion, record_event, refuse_unkept
from online_models.stores.postgres_requests import answered, note_answer

T = TypeVar("T")


class PostgresRollouts:
    """`RolloutStore` on PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open_rollout(self, model: ModelName) -> Rollout | None:
        """The model's rollout that is not final."""
        return self._first("select_open_rollout", model)

    def latest(self, model: ModelName) -> Rollout | None:
        """The model's youngest rollout, open or final."""
        return self._first("select_latest_rollout", model)

    def last_promotion(self, model: ModelName) -> Rollout | None:
        """The rollout by which the champion became that, of kind `canary` or `rollback`; None of one that was adopted."""
        return self._first("select_last_promotion", model)

    def history(self, model: ModelName, limit: int) -> list[Rollout]:
        """The model's rollouts, youngest first."""
        return self._rollouts("select_rollout_history", {"model": model, "limit": limit})

    def rollouts_of(self, model: ModelName, version: ModelVersion) -> list[Rollout]:
        """The rollouts that a version took part in, as canary, stable version or arm, oldest first."""
        return self._rollouts("select_rollouts_of", {"model": model, "version": version})

    def events(self, rollout: Rollout) -> list[RolloutEvent]:
        """A rollout's audit trail, oldest first."""

        def work(cursor: Cursor) -> list[RolloutEvent]:
            cursor.execute(query("select_rollout_events"), {"rollout_id": rollout.id})
            return [rows.event_of(row) for row in cursor]

        return self._read(work)

    def candidates(self, model: ModelName) -> list[ModelVersion]:
        """Recommenders younger than each that has served or was tried (all, without any), oldest first."""
        return self._versions("select_candidates", model)

    def adapters(self, model: ModelName) -> list[ModelVersion]:
        """Language models that no rollout has tried and that came with the champion's recommender, oldest first."""
        return self._versions("select_adapters", model)

    def champion_epoch(self, model: ModelName) -> tuple[ModelVersion, Epoch] | None:
        """The champion and the epoch at which it became that."""
        return self._read(lambda cursor: _champion(cursor, model))

    def repeated(self, actor: str, request: tuple[str, str]) -> Rollout | None:
        """What an operator's request did, as the rollout was after it, when it has been seen before. Raises RequestReused
        when its key was another request's."""
        return self._read(lambda cursor: answered(cursor, actor, request))

    def measured(self, rollout: Rollout) -> list[VariantCounts]:
        """What each variant and version did in each stage of a rollout, where there is something; by stage, variant,
        version."""
        return self._read(lambda cursor: counts.measured(cursor, rollout))

    def windows(self, rollout: Rollout) -> list[VariantWindow]:
        """A rollout's windows, oldest first."""
        return self._read(lambda cursor: counts.windows(cursor, rollout))

    def shadowed(self, model: ModelName, version: ModelVersion) -> Shadowed:
        """Where a version has had what others were shown while it was in the shadow, in whatever rollouts; zeros where nothing
        is known."""
        return self._read(lambda cursor: counts.shadowed(cursor, model, version))

    def traffic(self, model: ModelName, now_ms: int) -> Traffic:
        """What people did in the seven days of event time before the newest window, outside rollouts and in them; how that
        is counted is said in `postgres_rollout_counts.traffic`."""
        return self._read(lambda cursor: counts.traffic(cursor, model, now_ms))

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

    def create(self, new: NewRollout, act: Act, rollout_epoch: Epoch | None = None) -> Rollout:
        """A new rollout in phase `preparing`.

        Raises
        ------
        StaleEpoch
            When `stable` is not the model's champion any more, the model has an open rollout, the rollout is automatic and
            its canary has been tried, or the youngest rollout is not at `rollout_epoch`, where one is given.
        StoreError
            When the kind has no such versions, or one of them is not registered, or its artifact is collected.
        RequestReused
            When the act's idempotency key came with another request.
        """
        _refuse_kind(new)

        def begin(cursor: Cursor, champion: ModelVersion | None) -> Rollout:
            if champion != new.stable:
                raise StaleEpoch(f"{new.model}: expected the champion {new.stable} as stable version, found {champion}")
            _expect_youngest(cursor, new.model, rollout_epoch)
            for version in dict.fromkeys([new.canary, *(arm.version for arm in new.arms)]):
                refuse_unkept(cursor, new.model, version)
            rollout = rows.insert(cursor, new, Phase.PREPARING, 0)
            if rollout is None:
                raise StaleEpoch(f"{new.model}: expected no open rollout, and none of {new.canary} before; found one")
            rows.audit(cursor, None, rollout, act)
            rows.challenge(cursor, rollout, act.actor)
            return rollout

        return self._change(new.model, act, begin)

    def transition(self, old: Rollout, new: Rollout, act: Act) -> Rollout:
        """Replace `old` by `new` (its phase, stage, weight, arms and stage start), note the event, move the aliases when it
        ends.

        Returns `new` with its fresh epoch.

        Raises
        ------
        StaleEpoch
            When the rollout's epoch is not `old.epoch`, it is final, or its stable version is no longer the
            champion it would replace. Nothing has changed then.
        StoreError
            When `new` is not a state of the same rollout, or a promotion of what is no canary.
        RequestReused
            When the act's idempotency key came with another request.
        """
        _refuse_other(old, new)

        def move(cursor: Cursor, champion: ModelVersion | None) -> Rollout:
            moved = rows.update(cursor, old, new)
            if moved.phase is Phase.PROMOTED:
                if champion != moved.stable:
                    raise StaleEpoch(f"rollout {old.id}: expected the champion {moved.stable}, found {champion}")
                rows.promote(cursor, moved, act.actor)
            elif moved.phase not in OPEN_PHASES:
                rows.withdraw(cursor, moved, act.actor, act.reason)
            rows.audit(cursor, old, moved, act)
            return moved

        return self._change(old.model, act, move)

    def restore(
        self,
        model: ModelName,
        version: ModelVersion,
        champion_epoch: Epoch,
        act: Act,
        rollout_epoch: Epoch | None = None,
    ) -> Rollout:
        """Make a retained version the champion at once; an open rollout is aborted.

        Returns a rollout of kind `rollback` in its final phase, whose epoch is the champion's.

        Raises
        ------
        StaleEpoch
            When the champion is not the one of that epoch, or is that version, or the youngest rollout is not at
            `rollout_epoch`, where one is given.
        StoreError
            When the version is not registered, or its artifact is collected.
        RequestReused
            When the act's idempotency key came with another request.
        """

        def restored(cursor: Cursor, champion: ModelVersion | None) -> Rollout:
            found = _champion(cursor, model)
            if champion is None or found != (champion, champion_epoch) or champion == version:
                raise StaleEpoch(
                    f"{model}: expected a champion of epoch {champion_epoch} other than {version}, found {found}"
                )
            _expect_youngest(cursor, model, rollout_epoch)
            refuse_unkept(cursor, model, version)
            _abort_open(cursor, model, version, act)
            back = NewRollout(model, champion, version, Plan(), Kind.ROLLBACK, automatic=False)
            rollout = rows.insert(cursor, back, Phase.PROMOTED, FULL_WEIGHT_BP)
            if rollout is None:
                raise StoreError(f"{model}: expected to add a rollback to {version}, nothing was added")
            rows.promote(cursor, rollout, act.actor)
            rows.audit(cursor, None, rollout, act)
            return rollout

        return self._change(model, act, restored)

    def overtake(self, model: ModelName, epoch: Epoch, act: Act) -> None:
        """Give the open rollout, or without one the champion, an epoch above one that this database has not given.

        Idempotent: nothing where what stands has a larger epoch already.

        Raises
        ------
        StoreError
            When there is nothing above that epoch.
        """

        def work(cursor: Cursor) -> None:
            lock_champion(cursor, model)
            champion, latest = _champion(cursor, model), _first(cursor, "select_latest_rollout", model)
            known = max(champion[1] if champion else epoch, latest.epoch if latest else epoch)
            if known <= epoch:
                rows.overtake(cursor, model, latest, epoch, act)

        self._database.run(work, idempotent=True)

    def _change(self, model: ModelName, act: Act, make: Callable[[Cursor, ModelVersion | None], Rollout]) -> Rollout:
        """What `make` does with a model whose champion is locked and told to it; done once for each idempotency key."""

        def work(cursor: Cursor) -> Rollout:
            champion = lock_champion(cursor, model)
            before = answered(cursor, act.actor, act.request)
            if before is not None:
                return before
            rollout = make(cursor, champion)
            note_answer(cursor, act, rollout)
            return rollout

        return self._database.run(work, idempotent=act.request is not None)

    def _read(self, work: Callable[[Cursor], T]) -> T:
        return self._database.run(work, idempotent=True)

    def _rollouts(self, name: str, values: Mapping[str, object]) -> list[Rollout]:
        def work(cursor: Cursor) -> list[Rollout]:
            cursor.execute(query(name), values)
            return [rows.rollout_of(row) for row in cursor]

        return self._read(work)

    def _first(self, name: str, model: ModelName) -> Rollout | None:
        return self._read(lambda cursor: _first(cursor, name, model))

    def _versions(self, name: str, model: ModelName) -> list[ModelVersion]:
        def work(cursor: Cursor) -> list[ModelVersion]:
            cursor.execute(query(name), {"model": model})
            return [ModelVersion(version) for (version,) in cursor]

        return self._read(work)


def _first(cursor: Cursor, name: str, model: ModelName) -> Rollout | None:
    cursor.execute(query(name), {"model": model})
    row = cursor.fetchone()
    return None if row is None else rows.rollout_of(row)


def _champion(cursor: Cursor, model: ModelName) -> tuple[ModelVersion, Epoch] | None:
    cursor.execute(query("select_champion"), {"model": model})
    row = cursor.fetchone()
    return None if row is None else (ModelVersion(row[0]), Epoch(row[1]))


def _expect_youngest(cursor: Cursor, model: ModelName, epoch: Epoch | None) -> None:
    """Raise StaleEpoch unless the model's youngest rollout is at an epoch, where one is expected."""
    if epoch is None:
        return
    latest = _first(cursor, "select_latest_rollout", model)
    if latest is None or latest.epoch != epoch:
        found = latest.epoch if latest else None
        raise StaleEpoch(f"{model}: expected its youngest rollout at epoch {epoch}, found {found}")


def _abort_open(cursor: Cursor, model: ModelName, version: ModelVersion, act: Act) -> None:
    old = _first(cursor, "select_open_rollout", model)
    if old is None:
        return
    aborted = rows.update(cursor, old, replace(old, phase=Phase.ABORTED, weight_bp=0))
    reason = f"{version} is restored: {act.reason}"
    rows.withdraw(cursor, aborted, act.actor, reason)
    rows.audit(cursor, old, aborted, act, reason)


def _refuse_kind(new: NewRollout) -> None:
    """Raise StoreError when a rollout of this kind cannot be of these versions."""
    same, arms = new.canary == new.stable, {arm.version for arm in new.arms}
    match new.kind:
        case Kind.ROLLBACK:
            fault = "a rollback is made by `restore`"
        case Kind.AA:
            fault = "" if same and not arms else "the champion against itself, without arms"
        case Kind.BANDIT:
            known = not same and len(arms) == len(new.arms) and {new.stable, new.canary} <= arms
            fault = "" if known else "different arms, the stable version and another canary among them"
        case Kind.CANARY | Kind.AB:
            fault = "" if not same and not arms else "a canary other than the stable version, and no arms"
    if fault:
        raise StoreError(
            f"{new.model}: expected of kind {new.kind}: {fault}; "
            f"got {new.canary} beside {new.stable}, arms {[arm.version for arm in new.arms]}"
        )


def _refuse_other(old: Rollout, new: Rollout) -> None:
    """Raise StoreError when `new` is not a state of the same rollout, or one that its kind never comes to."""
    fixed = ("id", "model", "stable", "canary", "salt", "kind", "plan")
    changed = [name for name in fixed if getattr(old, name) != getattr(new, name)]
    if {arm.version for arm in old.arms} != {arm.version for arm in new.arms}:
        changed.append("versions of the arms")
    if changed:
        raise StoreError(f"rollout {old.id}: expected a new state of it, got one that differs in {', '.join(changed)}")
    if new.phase is Phase.PROMOTED and old.kind is not Kind.CANARY:
        raise StoreError(f"rollout {old.id}: expected a canary to promote, it is of kind {old.kind}")
