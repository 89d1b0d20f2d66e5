"""Rollouts of every kind: how they begin, what they keep, how they end, and an operator's return to a version of before."""

import itertools
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from threading import Event, Thread

import pytest
from msgspec.structs import replace

from online_models.contracts.ids import Epoch, ModelName, ModelVersion
from online_models.contracts.registry import Alias, Happening
from online_models.contracts.rollouts import Arm, Kind, Phase, Plan, Policy, Rollout, Stage
from online_models.errors import StaleEpoch, StoreError
from online_models.rollout_store import Act, NewRollout
from online_models.stores.postgres import Database
from online_models.stores.postgres_registry import PostgresRegistry
from online_models.stores.postgres_rollouts import PostgresRollouts
from tests.racing import outcomes
from tests.samples import MOVIES, SHA256, canary, manifest

V1, V2, V3, V4 = (ModelVersion(f"v{number}") for number in range(1, 5))
PRODUCTS = ModelName("products")
LATER = datetime(2026, 1, 2, tzinfo=UTC)
OPERATOR = Act("key:ann (0a1b2c3d)", "too many complaints", {"ticket": 7})
PLAN = Plan((Stage(0, shadow=True), Stage(500, margin=0.25), Stage(9_800)), Policy(margin=0.15))
ARMS = (Arm(V1, 5_000), Arm(V2, 3_000), Arm(V3, 2_000))


class Shelf:
    """Four registered versions of a model, the first of them the champion."""

    def __init__(self, database: Database, model: ModelName = MOVIES) -> None:
        self.database, self.model = database, model
        self.registry, self.rollouts = PostgresRegistry(self.database), PostgresRollouts(self.database)
        for version in (V1, V2, V3, V4):
            self.registry.register(manifest(version, model), SHA256, "test")
        self.rollouts.adopt(model, V1, "test")

    def begin(self, kind: Kind = Kind.CANARY) -> Rollout:
        return self.rollouts.create(rollout_of(kind, self.model), OPERATOR)

    def end(self, rollout: Rollout, phase: Phase) -> Rollout:
        return self.rollouts.transition(rollout, replace(rollout, phase=phase), OPERATOR)

    def crown(self, version: ModelVersion) -> Rollout:
        champion = self.champion_epoch()[0]
        return self.end(self.rollouts.create(canary(champion, version, automatic=False), OPERATOR), Phase.PROMOTED)

    def champion_epoch(self) -> tuple[ModelVersion, Epoch]:
        found = self.rollouts.champion_epoch(self.model)
        assert found is not None
        return found

    def restore(self, version: ModelVersion, act: Act = OPERATOR) -> Rollout:
        return self.rollouts.restore(self.model, version, self.champion_epoch()[1], act)

    def pointed(self) -> dict[Alias, ModelVersion]:
        return {alias: pointer.version for alias, pointer in self.registry.aliases(self.model).items()}

    def happened(self) -> list[tuple[Happening, str]]:
        return [(event.happening, event.version) for event in self.registry.events(self.model)]

    def seen(self) -> object:
        """All that a change could have changed."""
        history = self.rollouts.history(self.model, 100)
        return history, [self.rollouts.events(each) for each in history], self.pointed(), self.happened()


@pytest.fixture
def shelf(database: Database) -> Shelf:
    return Shelf(database)


def rollout_of(kind: Kind, model: ModelName = MOVIES) -> NewRollout:
    """One of v2 over v1, of the champion against itself, or a bandit of three."""
    arms = ARMS if kind is Kind.BANDIT else ()
    return NewRollout(model, V1, V1 if kind is Kind.AA else V2, PLAN, kind, arms, automatic=False)


STARTED = (Kind.CANARY, Kind.AB, Kind.AA, Kind.BANDIT)
of_every_kind = pytest.mark.parametrize("kind", STARTED)


@of_every_kind
def test_a_rollout_is_read_back_with_its_plan_and_its_arms(shelf: Shelf, kind: Kind) -> None:
    begun = shelf.begin(kind)
    assert (begun.kind, begun.plan, begun.arms) == (kind, PLAN, rollout_of(kind).arms)
    assert (begun.phase, begun.stage, begun.weight_bp) == (Phase.PREPARING, -1, 0)
    assert shelf.rollouts.history(MOVIES, 10) == [begun]
    assert shelf.rollouts.history(PRODUCTS, 10) == []


def test_history_is_youngest_first_and_of_one_model(shelf: Shelf) -> None:
    first, second, third = shelf.crown(V2), shelf.crown(V3), shelf.crown(V4)
    assert shelf.rollouts.history(MOVIES, 2) == [third, second]
    assert shelf.rollouts.history(MOVIES, 10) == [third, second, first]
    assert shelf.rollouts.history(PRODUCTS, 10) == []


@of_every_kind
def test_the_audit_trail_says_who_did_what_and_why(shelf: Shelf, kind: Kind) -> None:
    begun = shelf.begin(kind)
    ramping = replace(begun, phase=Phase.RAMPING, stage=1, weight_bp=500, stage_started_at=LATER)
    moved = shelf.rollouts.transition(begun, ramping, Act("controller", "ready", {"users": 10}))
    created, entered = shelf.rollouts.events(moved)
    assert (created.from_phase, created.to_phase, created.from_stage, created.to_stage) == (None, "preparing", None, -1)
    assert (created.actor, created.reason, created.evidence) == (OPERATOR.actor, OPERATOR.reason, {"ticket": 7})
    assert (entered.from_phase, entered.to_phase, entered.from_stage, entered.to_stage) == (
        "preparing",
        "ramping",
        -1,
        1,
    )
    assert (entered.actor, entered.reason, entered.evidence) == ("controller", "ready", {"users": 10})
    assert (entered.weight_bp, entered.epoch, entered.rollout_id) == (500, moved.epoch, begun.id)


@of_every_kind
def test_of_rollouts_of_any_kind_one_is_open(shelf: Shelf, kind: Kind) -> None:
    begun = shelf.begin(kind)
    for other in STARTED:
        with pytest.raises(StaleEpoch, match="expected no open rollout"):
            shelf.begin(other)
    shelf.end(begun, Phase.ABORTED)
    shelf.begin(kind)


WRONG = (
    NewRollout(MOVIES, V1, V1, PLAN),
    NewRollout(MOVIES, V1, V2, PLAN, arms=ARMS),
    NewRollout(MOVIES, V1, V1, PLAN, Kind.AB),
    NewRollout(MOVIES, V1, V2, PLAN, Kind.AA),
    NewRollout(MOVIES, V1, V2, PLAN, Kind.BANDIT),
    NewRollout(MOVIES, V1, V4, PLAN, Kind.BANDIT, ARMS),
    NewRollout(MOVIES, V1, V2, PLAN, Kind.BANDIT, (*ARMS, Arm(V3, 0))),
    NewRollout(MOVIES, V1, V2, PLAN, Kind.ROLLBACK),
)


def test_a_kind_with_versions_that_it_cannot_have_is_refused(shelf: Shelf) -> None:
    before = shelf.seen()
    for wrong in WRONG:
        with pytest.raises(StoreError, match=f"expected of kind {wrong.kind}"):
            shelf.rollouts.create(wrong, OPERATOR)
        assert shelf.seen() == before, wrong


@pytest.mark.parametrize("arm", [ModelVersion("v9"), V4])
def test_an_arm_that_is_not_registered_or_is_collected_begins_nothing(shelf: Shelf, arm: ModelVersion) -> None:
    shelf.registry.begin_collection(MOVIES, [V4], shelf.registry.events(MOVIES)[-1].id, "gc")
    before = shelf.seen()
    with pytest.raises(
        StoreError, match=f"movies {arm}: expected a (registered version|version whose artifact is kept)"
    ):
        shelf.rollouts.create(replace_arm(rollout_of(Kind.BANDIT), arm), OPERATOR)
    assert shelf.seen() == before


def replace_arm(new: NewRollout, version: ModelVersion) -> NewRollout:
    return NewRollout(new.model, new.stable, new.canary, new.plan, new.kind, (*new.arms[:2], Arm(version, 2_000)))


def test_an_operator_may_try_a_version_again_and_a_controller_not(shelf: Shelf) -> None:
    for _ in range(2):
        shelf.end(shelf.rollouts.create(canary(V1, V2, automatic=False), OPERATOR), Phase.ABORTED)
    with pytest.raises(StaleEpoch, match="none of v2 before"):
        shelf.rollouts.create(canary(V1, V2), Act("controller", "new", {}))
    assert [each.canary for each in shelf.rollouts.history(MOVIES, 10)] == [V2, V2]


def test_what_a_bandit_has_tried_no_controller_begins_with(shelf: Shelf) -> None:
    shelf.end(shelf.begin(Kind.BANDIT), Phase.CONCLUDED)
    assert shelf.rollouts.candidates(MOVIES) == [V4]
    assert [len(shelf.rollouts.rollouts_of(MOVIES, version)) for version in (V1, V2, V3, V4)] == [1, 1, 1, 0]
    for tried in (V2, V3):
        with pytest.raises(StaleEpoch, match=f"none of {tried} before"):
            shelf.rollouts.create(canary(V1, tried), Act("controller", "new", {}))


def test_a_controller_begins_with_each_version_once_however_many_there_are(postgres: str, shelf: Shelf) -> None:
    actions = [lambda: PostgresRollouts(Database(postgres)).create(canary(V1, V2), OPERATOR) for _ in range(4)]
    assert [isinstance(each, Rollout) for each in outcomes(actions)].count(True) == 1
    assert len(shelf.rollouts.history(MOVIES, 10)) == 1


CHALLENGERS = {Kind.CANARY: [V2], Kind.AB: [V2], Kind.AA: [], Kind.BANDIT: [V2, V3]}


ENDS = (Phase.ROLLED_BACK, Phase.ABORTED, Phase.SUPERSEDED, Phase.CONCLUDED)


def test_challengers_are_those_who_serve_beside_the_champion(database: Database) -> None:
    for kind, end in itertools.product(STARTED, ENDS):
        shelf = Shelf(database, ModelName(f"{kind}-{end}"))
        before = len(shelf.happened())
        begun = shelf.begin(kind)
        beside = {} if kind is Kind.AA else {Alias.CHALLENGER: V2}
        assert shelf.pointed() == {Alias.CHAMPION: V1, **beside}, shelf.model
        shelf.end(begun, end)
        assert shelf.pointed() == {Alias.CHAMPION: V1}, shelf.model
        challengers = CHALLENGERS[kind]
        assert shelf.happened()[before:] == [
            *((Happening.CHALLENGING, version) for version in challengers),
            *((Happening.WITHDRAWN, version) for version in challengers),
        ], shelf.model


def test_the_weights_of_arms_are_replaced_and_their_versions_are_not(shelf: Shelf) -> None:
    begun = shelf.begin(Kind.BANDIT)
    learned = (Arm(V1, 1_000), Arm(V2, 8_000), Arm(V3, 1_000))
    moved = shelf.rollouts.transition(begun, replace(begun, phase=Phase.RAMPING, stage=0, arms=learned), OPERATOR)
    assert moved.arms == learned
    assert shelf.rollouts.open_rollout(MOVIES) == moved
    with pytest.raises(StoreError, match="differs in versions of the arms"):
        shelf.rollouts.transition(moved, replace(moved, arms=(*learned[:2], Arm(V4, 1_000))), OPERATOR)
    assert shelf.rollouts.open_rollout(MOVIES) == moved


@pytest.mark.parametrize(("field", "value"), [("plan", Plan()), ("kind", Kind.AB), ("salt", "x"), ("stable", V3)])
def test_what_a_rollout_is_does_not_change(shelf: Shelf, field: str, value: object) -> None:
    begun = shelf.begin()
    with pytest.raises(StoreError, match=f"differs in {field}"):
        shelf.rollouts.transition(begun, replace(begun, **{field: value}), OPERATOR)
    assert shelf.rollouts.open_rollout(MOVIES) == begun


@pytest.mark.parametrize("kind", [Kind.AA, Kind.AB, Kind.BANDIT])
def test_nobody_is_promoted_by_an_experiment(shelf: Shelf, kind: Kind) -> None:
    begun = shelf.begin(kind)
    before = shelf.seen()
    with pytest.raises(StoreError, match=f"expected a canary to promote, it is of kind {kind}"):
        shelf.end(begun, Phase.PROMOTED)
    assert shelf.seen() == before


def test_a_version_of_before_is_the_champion_again_at_once(shelf: Shelf) -> None:
    shelf.crown(V2)
    shelf.crown(V3)
    before = len(shelf.happened())
    back = shelf.restore(V1)
    assert (back.kind, back.phase, back.stable, back.canary) == (Kind.ROLLBACK, Phase.PROMOTED, V3, V1)
    assert (back.weight_bp, back.stage, back.plan) == (10_000, -1, Plan())
    assert shelf.champion_epoch() == (V1, back.epoch)
    assert shelf.pointed() == {Alias.CHAMPION: V1, Alias.PREVIOUS: V3}
    assert shelf.rollouts.latest(MOVIES) == back
    assert shelf.rollouts.open_rollout(MOVIES) is None
    assert shelf.happened()[before:] == [(Happening.PROMOTED, V1), (Happening.REPLACED, V3)]
    promoted, replaced = shelf.registry.events(MOVIES)[-2:]
    assert promoted.detail == {"epoch": back.epoch, "rollout_id": back.id, "replaced": V3, "kind": "rollback"}
    assert replaced.detail == {"epoch": back.epoch, "rollout_id": back.id, "by": V1, "kind": "rollback"}
    (event,) = shelf.rollouts.events(back)
    assert (event.from_phase, event.to_phase, event.weight_bp) == (None, Phase.PROMOTED, 10_000)
    assert (event.actor, event.reason, event.evidence) == (OPERATOR.actor, OPERATOR.reason, OPERATOR.evidence)


def test_one_may_go_back_and_forth(shelf: Shelf) -> None:
    shelf.crown(V2)
    for version in (V1, V2, V1):
        shelf.restore(version)
    assert shelf.pointed() == {Alias.CHAMPION: V1, Alias.PREVIOUS: V2}
    assert shelf.rollouts.candidates(MOVIES) == [V3, V4]
    shelf.crown(V3)
    assert shelf.pointed() == {Alias.CHAMPION: V3, Alias.PREVIOUS: V1}


@of_every_kind
@pytest.mark.parametrize("version", [V2, V4])
def test_a_return_aborts_what_is_open(shelf: Shelf, kind: Kind, version: ModelVersion) -> None:
    begun = shelf.begin(kind)
    ramping = shelf.rollouts.transition(begun, replace(begun, phase=Phase.RAMPING, stage=1, weight_bp=500), OPERATOR)
    back = shelf.restore(version)
    returned, aborted = shelf.rollouts.history(MOVIES, 10)
    assert (returned, aborted.id) == (back, begun.id)
    assert (aborted.phase, aborted.weight_bp, aborted.arms) == (Phase.ABORTED, 0, ramping.arms)
    assert ramping.epoch < aborted.epoch < back.epoch
    assert shelf.pointed() == {Alias.CHAMPION: version, Alias.PREVIOUS: V1}
    last = shelf.rollouts.events(aborted)[-1]
    assert (last.from_phase, last.to_phase, last.weight_bp) == (Phase.RAMPING, Phase.ABORTED, 0)
    assert last.reason == f"{version} is restored: too many complaints"
    withdrawn = [each for happening, each in shelf.happened() if happening is Happening.WITHDRAWN]
    assert withdrawn == CHALLENGERS[kind]
    with pytest.raises(StaleEpoch):
        shelf.end(ramping, Phase.ABORTED)
    shelf.rollouts.create(canary(version, V3, automatic=False), OPERATOR)


def test_the_last_promotion_is_the_rollout_that_the_champion_came_by(shelf: Shelf) -> None:
    assert shelf.rollouts.last_promotion(MOVIES) is None
    crowned = shelf.crown(V2)
    assert shelf.rollouts.last_promotion(MOVIES) == crowned
    shelf.end(shelf.rollouts.create(canary(V2, V3), OPERATOR), Phase.ABORTED)
    assert shelf.rollouts.last_promotion(MOVIES) == crowned
    back = shelf.restore(V1)
    assert shelf.rollouts.last_promotion(MOVIES) == back
    assert shelf.rollouts.last_promotion(PRODUCTS) is None


def test_a_return_at_the_epoch_of_a_rollout_that_has_moved_changes_nothing(shelf: Shelf) -> None:
    shelf.crown(V2)
    begun = shelf.rollouts.create(canary(V2, V3), OPERATOR)
    champion = shelf.champion_epoch()[1]
    ramping = shelf.rollouts.transition(begun, replace(begun, phase=Phase.RAMPING, stage=1, weight_bp=500), OPERATOR)
    before = shelf.seen()
    with pytest.raises(StaleEpoch, match=f"expected its youngest rollout at epoch {begun.epoch}"):
        shelf.rollouts.restore(MOVIES, V1, champion, OPERATOR, begun.epoch)
    assert shelf.seen() == before
    assert shelf.rollouts.restore(MOVIES, V1, champion, OPERATOR, ramping.epoch).canary == V1


def test_epochs_overtake_one_that_this_database_has_never_given(shelf: Shelf) -> None:
    shelf.crown(V2)
    shelf.rollouts.overtake(MOVIES, Epoch(7_000), OPERATOR)
    version, epoch = shelf.champion_epoch()
    assert (version, epoch > 7_000) == (V2, True)
    before = shelf.seen()
    shelf.rollouts.overtake(MOVIES, Epoch(7_000), OPERATOR)
    assert (shelf.champion_epoch(), shelf.seen()) == ((V2, epoch), before)
    begun = shelf.rollouts.create(canary(V2, V3), OPERATOR)
    assert begun.epoch > epoch


def test_an_open_rollout_overtakes_by_a_move_that_changes_nothing_else(shelf: Shelf) -> None:
    begun = shelf.begin()
    shelf.rollouts.overtake(MOVIES, Epoch(begun.epoch + 50), OPERATOR)
    moved = shelf.rollouts.latest(MOVIES)
    assert moved is not None
    assert moved.epoch > begun.epoch + 50
    assert replace(moved, epoch=begun.epoch) == begun
    last = shelf.rollouts.events(moved)[-1]
    assert (last.from_phase, last.to_phase, last.epoch) == (begun.phase, begun.phase, moved.epoch)
    shelf.rollouts.overtake(MOVIES, begun.epoch, OPERATOR)
    assert shelf.rollouts.latest(MOVIES) == moved
    with pytest.raises(StoreError, match="expected an epoch below"):
        shelf.rollouts.overtake(MOVIES, Epoch(2**53 - 1), OPERATOR)


def test_two_who_overtake_at_once_do_it_once(postgres: str, shelf: Shelf) -> None:
    begun = shelf.begin()
    desks = [PostgresRollouts(Database(postgres)) for _ in range(4)]
    did = outcomes([partial(each.overtake, MOVIES, Epoch(begun.epoch + 50), OPERATOR) for each in desks])
    assert did == [None] * 4
    assert len(shelf.rollouts.events(begun)) == 2


@pytest.mark.parametrize(
    ("plan", "kept"),
    [
        (
            '{"stages": [{"weight_bp": 500, "of_a_later_release": 1}], "policy": {"later": 2}, "more": 3}',
            Plan((Stage(500),)),
        ),
        ('{"stages": "soon"}', Plan()),
        ('{"stages": [{"weight_bp": 70000}]}', Plan()),
    ],
)
def test_a_plan_of_a_later_release_is_read_as_far_as_it_is_known(
    shelf: Shelf, plan: str, kept: Plan, caplog: pytest.LogCaptureFixture
) -> None:
    begun = shelf.begin()
    shelf.database.run(lambda cursor: cursor.execute("UPDATE rollouts SET plan = %s::jsonb", (plan,)))
    found = shelf.rollouts.latest(MOVIES)
    assert found is not None
    assert (found.plan, found.id) == (kept, begun.id)
    assert ("plan_not_read" in caplog.text) is (kept == Plan())
    aborted = shelf.end(found, Phase.ABORTED)
    assert aborted.phase is Phase.ABORTED


def fresh(shelf: Shelf) -> Epoch:
    return shelf.champion_epoch()[1]


def test_a_return_that_is_not_possible_changes_nothing(shelf: Shelf) -> None:
    old = fresh(shelf)
    shelf.crown(V2)
    shelf.rollouts.create(canary(V2, V3), OPERATOR)
    shelf.registry.begin_collection(MOVIES, [V4], shelf.registry.events(MOVIES)[-1].id, "gc")
    before = shelf.seen()
    with pytest.raises(StaleEpoch, match=f"expected a champion of epoch {old} other than v1"):
        shelf.rollouts.restore(MOVIES, V1, old, OPERATOR)
    with pytest.raises(StaleEpoch, match="other than v2, found"):
        shelf.restore(V2)
    with pytest.raises(StaleEpoch, match="found None"):
        shelf.rollouts.restore(PRODUCTS, V1, old, OPERATOR)
    with pytest.raises(StoreError, match="v99: expected a registered version"):
        shelf.restore(ModelVersion("v99"))
    with pytest.raises(StoreError, match="v4: expected a version whose artifact is kept"):
        shelf.restore(V4)
    assert shelf.seen() == before


def test_of_returns_that_race_one_wins(postgres: str, shelf: Shelf) -> None:
    shelf.crown(V2)
    epoch = fresh(shelf)

    def action(version: ModelVersion) -> Callable[[], object]:
        return lambda: PostgresRollouts(Database(postgres)).restore(MOVIES, version, epoch, OPERATOR)

    results = outcomes([action(version) for version in (V1, V3, V4, V1)])
    (winner,) = [each for each in results if isinstance(each, Rollout)]
    assert sum(isinstance(each, StaleEpoch) for each in results) == 3
    assert shelf.champion_epoch() == (winner.canary, winner.epoch)


@pytest.mark.parametrize("phase", [Phase.PROMOTED, Phase.RAMPING, Phase.ROLLED_BACK])
def test_a_return_races_with_a_controller(postgres: str, shelf: Shelf, phase: Phase) -> None:
    """The return has the last word, unless the controller's promotion came before it: then it is refused."""
    for _ in range(6):
        champion, epoch = shelf.champion_epoch()
        new, other = [version for version in (V1, V2, V3) if version != champion]
        begun = shelf.rollouts.create(canary(champion, new, automatic=False), OPERATOR)
        controller, operator = PostgresRollouts(Database(postgres)), PostgresRollouts(Database(postgres))
        moved, restored = outcomes(
            [
                lambda: controller.transition(begun, replace(begun, phase=phase), OPERATOR),  # noqa: B023
                lambda: operator.restore(MOVIES, other, epoch, OPERATOR),  # noqa: B023
            ]
        )
        [last] = [each for each in shelf.rollouts.history(MOVIES, 100) if each.id == begun.id]
        if isinstance(restored, Rollout):
            assert shelf.champion_epoch() == (other, restored.epoch)
            assert last.phase in (Phase.ABORTED, Phase.ROLLED_BACK)
            assert last.epoch < restored.epoch
        else:
            assert phase is Phase.PROMOTED
            assert shelf.champion_epoch() == (new, last.epoch)
            assert isinstance(moved, Rollout)
        assert shelf.rollouts.open_rollout(MOVIES) is None


def test_a_reader_sees_no_epoch_fall_while_champions_come_and_go(postgres: str, shelf: Shelf) -> None:
    reader, done, seen = PostgresRollouts(Database(postgres)), Event(), []

    def read() -> None:
        while not done.is_set():
            latest, champion = reader.latest(MOVIES), reader.champion_epoch(MOVIES)
            assert champion is not None
            seen.append((0 if latest is None else latest.epoch, champion[1]))

    thread = Thread(target=read)
    thread.start()
    for version in (V2, V1, V3, V1) * 5:
        shelf.rollouts.create(canary(shelf.champion_epoch()[0], V4, automatic=False), OPERATOR)
        shelf.restore(version)
    done.set()
    thread.join()
    assert len(set(seen)) > 5
    for column in zip(*seen, strict=True):
        assert list(column) == sorted(column)
