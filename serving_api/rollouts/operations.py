"""What operators do to rollouts: start, pause, resume, promote, abort, and return to a version of before.

- Everything is read, decided and written as the controller does it: compare-and-set on epochs, so the two never undo each other.
  Who gave no epoch meant the rollout as it is, and is tried once more when the controller moves it in between.
- To roll back is to undo the last promotion, once. Two who ask for it do not undo each other: to put back what was rolled back
  takes an approver who names it, or a promotion.
- The route document is written at once: an abort works while no controller lives. When Redis is away, what was done stands, and
  the controller writes the route later.
- A request with an idempotency key is looked up before anything else, and again before it is refused: its twin may be faster.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, assert_never

import msgspec

from online_models.contracts.ids import Epoch, ModelName, ModelVersion
from online_models.contracts.jobs import JobKind
from online_models.contracts.rollouts import OPEN_PHASES, Kind, Plan, Rollout
from online_models.errors import ArtifactError, RequestReused, StaleEpoch, StoreError, StoreUnavailable
from online_models.ports import Act, NewRollout
from serving_api.access import Operator, Role
from serving_api.analysis.power import forecast
from serving_api.analysis.verdicts import Evidence
from serving_api.rollouts.decisions import youngest
from serving_api.rollouts.plans import bandit_plan, equal_arms
from serving_api.rollouts.readiness import RolloutStores, readiness_of
from serving_api.rollouts.route_projection import project
from serving_api.rollouts.status import standing_of
from serving_api.rollouts.transitions import Command, Decision, Readiness, Refusal, Waiting, command

log: Final = logging.getLogger(__name__)

PREVIOUS: Final = "previous"
"""In place of a version: the one that the last promotion replaced. Nothing, where the champion came by a rollback."""

NOT_ASKED: Final[Readiness] = Waiting("the readers were not asked")


@dataclass(frozen=True, slots=True)
class Order:
    """Who asks for something, and why.

    epoch : that the rollout must still have, or None; request : idempotency key and SHA-256 of what is asked, or None
    """

    operator: Operator
    reason: str
    epoch: Epoch | None = None
    request: tuple[str, str] | None = None

    def act(self, evidence: Mapping[str, object]) -> Act:
        """As the stores note it, with the role that was enough."""
        return Act(self.operator.actor, self.reason, {"role": self.operator.role, **evidence}, self.request)


@dataclass(frozen=True, slots=True)
class Wish:
    """A rollout to start.

    canary : None for the youngest candidate, and in an A/A
    arms : of a bandit, in any order, the champion among them
    """

    kind: Kind
    plan: Plan
    canary: ModelVersion | None = None
    arms: tuple[ModelVersion, ...] = ()


@dataclass(frozen=True, slots=True)
class Done:
    """It is done, now or when the same was asked before; `routed` says whether the route document tells of it already."""

    rollout: Rollout
    routed: bool


@dataclass(frozen=True, slots=True)
class Unknown:
    """There is nothing to do it to."""

    reason: str


@dataclass(frozen=True, slots=True)
class Impossible:
    """Not as things stand."""

    reason: str


@dataclass(frozen=True, slots=True)
class Moved:
    """The rollout is not at the epoch that was meant."""

    reason: str


@dataclass(frozen=True, slots=True)
class Forbidden:
    """The operator's role is too small."""

    reason: str


Refused = Unknown | Impossible | Moved | Forbidden
Outcome = Done | Refused


class Operations:
    """The operators' calls. Each raises StoreUnavailable, and RequestReused when an idempotency key was another request's."""

    def __init__(self, stores: RolloutStores, clock: Callable[[], datetime]) -> None:
        self._stores = stores
        self._clock = clock

    def start(self, model: ModelName, wish: Wish, order: Order) -> Outcome:
        """Begin a rollout; its first event's evidence has the forecast."""
        return self._once(model, order, lambda: self._start(model, wish, order))

    def command(self, model: ModelName, which: Command, order: Order) -> Outcome:
        """Pause, resume, promote or abort the open rollout."""
        return self._once(model, order, lambda: self._command(model, which, order))

    def roll_back(self, model: ModelName, version: str, order: Order) -> Outcome:
        """Make a retained version, or `PREVIOUS`, the champion at once. An open rollout is aborted."""
        return self._once(model, order, lambda: self._roll_back(model, version, order))

    def _once(self, model: ModelName, order: Order, attempt: Callable[[], Rollout | Refused]) -> Outcome:
        did = self._repeated(order) or _tried(attempt)
        if not isinstance(did, Rollout):
            did = self._repeated(order) or did
        if not isinstance(did, Rollout):
            return did
        log.info(
            "rollout_ordered model=%s rollout=%d phase=%s stage=%d weight_bp=%d actor=%s reason=%s",
            model, did.id, did.phase, did.stage, did.weight_bp, order.operator.actor, order.reason,
        )  # fmt: skip
        return Done(did, self._routed(model))

    def _repeated(self, order: Order) -> Rollout | None:
        if order.request is None:
            return None
        return self._stores.rollouts.repeated(order.operator.actor, order.request)

    def _routed(self, model: ModelName) -> bool:
        try:
            project(self._stores.rollouts, self._stores.routes, model)
        except StoreError as error:
            log.error("route_not_written model=%s error=%s", model, error)
            return False
        return True

    def _start(self, model: ModelName, wish: Wish, order: Order) -> Rollout | Refused:
        rollouts = self._stores.rollouts
        champion, latest = rollouts.champion_epoch(model), rollouts.latest(model)
        if champion is None:
            return Impossible(f"{model} has no champion yet: its first version is adopted without a rollout")
        if moved := _moved(order, champion[1] if latest is None else latest.epoch):
            return moved
        if latest is not None and latest.phase in OPEN_PHASES:
            return Impossible(f"rollout {latest.id} is open ({latest.kind}, {latest.phase}): abort it first")
        versions = self._versions(model, champion[0], wish)
        if isinstance(versions, Impossible):
            return versions
        for version in versions if wish.kind is Kind.BANDIT else versions[1:]:
            if fault := self._fault(model, version, recommender=wish.kind is Kind.BANDIT):
                return Impossible(fault)
        new = _new(model, versions, wish)
        now_ms = round(self._clock().timestamp() * 1000)
        expected = msgspec.to_builtins(forecast(new.plan, rollouts.traffic(model, now_ms), new.kind))
        expected_epoch = order.epoch if latest is not None else None
        return rollouts.create(new, order.act({"forecast": expected}), expected_epoch)

    def _versions(self, model: ModelName, champion: ModelVersion, wish: Wish) -> tuple[ModelVersion, ...] | Impossible:
        """The versions of the rollout, the champion first."""
        match wish.kind:
            case Kind.AA:
                return champion, champion
            case Kind.BANDIT if champion not in wish.arms:
                return Impossible(
                    f"the champion {champion} is not among the arms: it is what the others are compared with"
                )
            case Kind.BANDIT:
                return champion, *(version for version in wish.arms if version != champion)
            case _:
                canary = wish.canary or self._candidate(model)
        if canary is None:
            return Impossible(f"no version of {model} is a candidate: none is younger than all that were tried")
        if canary == champion:
            return Impossible(f"{canary} is the champion: an A/A compares it with itself")
        return champion, canary

    def _candidate(self, model: ModelName) -> ModelVersion | None:
        rollouts = self._stores.rollouts
        return youngest(rollouts.candidates(model)) or youngest(rollouts.adapters(model))

    def _fault(self, model: ModelName, version: ModelVersion, *, recommender: bool = False) -> str | None:
        """Why a version cannot be served; its artifact is read whole."""
        registered = self._stores.registry.version(model, version)
        if registered is None:
            return f"{version} is not a registered version of {model}"
        if recommender and registered.manifest.kind == JobKind.LORA:
            return f"{version} is a language model: a bandit's arms are recommenders"
        collected = self._stores.registry.collected_at(model, version)
        if collected is not None:
            return f"{version} is not retained: its artifact was collected at {collected:%Y-%m-%d %H:%M:%S} UTC"
        try:
            self._stores.artifacts.read(model, version, registered.manifest_sha256)
        except ArtifactError as error:
            return f"the artifact of {version} is damaged: {error}"
        return None

    def _command(self, model: ModelName, which: Command, order: Order) -> Rollout | Refused:
        latest = self._stores.rollouts.latest(model)
        if latest is None:
            return Unknown(f"model {model!r} has had no rollout")
        if moved := _moved(order, latest.epoch):
            return moved
        if latest.phase not in OPEN_PHASES:
            return Impossible(f"no rollout is open: the youngest, {latest.id}, is {latest.phase}")
        now, ready, seen = self._clock(), NOT_ASKED, dict[str, object]()
        if which is Command.PROMOTE:
            ready = readiness_of(self._stores, latest, now)
            seen = self._seen(latest, now)
        match command(latest, which, order.reason, ready, now):
            case Refusal(reason):
                return Impossible(reason)
            case Decision() as decision:
                evidence = {**seen, "command": which, "if_match": order.epoch}
                return self._stores.rollouts.transition(latest, decision.rollout, order.act(evidence))
            case other:
                assert_never(other)

    def _seen(self, rollout: Rollout, now: datetime) -> Evidence:
        """What the gates say of a rollout that an approver promotes."""
        found = standing_of(self._stores, rollout, now)
        return {**found.evidence, "outlook": found.outlook}

    def _roll_back(self, model: ModelName, wanted: str, order: Order) -> Rollout | Refused:
        seen = self._stores.rollouts.last_promotion(model)
        return _tried(lambda: self._restored(model, wanted, seen, order))

    def _restored(self, model: ModelName, wanted: str, seen: Rollout | None, order: Order) -> Rollout | Refused:
        """seen : the last promotion when this was asked for, whatever has been tried since"""
        rollouts = self._stores.rollouts
        champion, latest = rollouts.champion_epoch(model), rollouts.latest(model)
        if champion is None:
            return Unknown(f"model {model!r} has no champion to replace")
        if moved := _moved(order, champion[1] if latest is None else latest.epoch):
            return moved
        version: ModelVersion | Refused = (
            self._previous(model, seen)
            if wanted == PREVIOUS
            else self._allowed(model, ModelVersion(wanted), order.operator)
        )
        if not isinstance(version, str):
            return version
        if version == champion[0]:
            return Impossible(f"{version} is the champion already; abort ends an open rollout")
        if fault := self._fault(model, version):
            return Impossible(fault)
        evidence = {"command": "rollback", "asked": wanted, "replaces": champion[0], "if_match": order.epoch}
        of = None if latest is None else order.epoch
        return rollouts.restore(model, version, champion[1], order.act(evidence), of)

    def _previous(self, model: ModelName, seen: Rollout | None) -> ModelVersion | Impossible:
        """The version that the last promotion replaced; not of another promotion than the one that was seen."""
        promotion = self._stores.rollouts.last_promotion(model)
        if promotion is None:
            return Impossible(f"{model} has had no champion before this one")
        if undone := self._undone(promotion):
            return Impossible(f"{undone}; to go to another version, name it")
        if seen is None or seen.id != promotion.id:
            return Impossible(f"{promotion.canary} became the champion meanwhile: look at it, and ask again")
        return promotion.stable

    def _allowed(self, model: ModelName, version: ModelVersion, operator: Operator) -> ModelVersion | Forbidden:
        """The version, where the operator's role is enough to return to it: the previous one, and any other to an approver."""
        if operator.role.includes(Role.APPROVER):
            return version
        promotion = self._stores.rollouts.last_promotion(model)
        undone = promotion and self._undone(promotion)
        if promotion is not None and not undone and version == promotion.stable:
            return version
        why = undone or f"the previous champion is {promotion.stable if promotion else 'none'}"
        return Forbidden(f"{why}; a return to {version} takes the role {Role.APPROVER}; this key is {operator.role}")

    def _undone(self, promotion: Rollout) -> str | None:
        """Who rolled back, and when, where the champion came by that."""
        if promotion.kind is not Kind.ROLLBACK:
            return None
        event = self._stores.rollouts.events(promotion)[0]
        at = event.created_at.astimezone(UTC)
        return f"{promotion.stable} was rolled back to {promotion.canary} already, by {event.actor} at {at:%Y-%m-%d %H:%M:%S} UTC"


def _new(model: ModelName, versions: tuple[ModelVersion, ...], wish: Wish) -> NewRollout:
    arms = equal_arms(versions) if wish.kind is Kind.BANDIT else ()
    plan = bandit_plan(wish.plan, arms) if arms else wish.plan
    return NewRollout(model, versions[0], versions[1], plan, wish.kind, arms, automatic=False)


def _tried(attempt: Callable[[], Rollout | Refused], again: int = 1) -> Rollout | Refused:
    """What an attempt comes to, or a later one where somebody else moved the rollout during it."""
    try:
        return attempt()
    except StaleEpoch as lost:
        return (
            _tried(attempt, again - 1) if again else Impossible(f"others change it at the same time, ask again: {lost}")
        )
    except (StoreUnavailable, RequestReused):
        raise
    except StoreError as error:
        return Impossible(str(error))


def _moved(order: Order, epoch: Epoch) -> Moved | None:
    if order.epoch is None or order.epoch == epoch:
        return None
    return Moved(f"expected epoch {order.epoch}, it is at epoch {epoch} now: look at it again")
