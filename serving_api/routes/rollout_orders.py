"""`POST /v1/rollouts/{model}...`: what operators do to rollouts.

- Who moves a rollout says at which epoch it was seen, as `If-Match`; to stop one it is enough to say so.
- A request may have an `Idempotency-Key`: asked again with the same body it changes nothing and is answered the same. What was
  refused was not done, and is judged afresh.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, assert_never

import msgspec
from fastapi import APIRouter, Depends, Header, HTTPException, Request, Response
from pydantic import BaseModel

from online_models.contracts.ids import Epoch, ModelName, ModelVersion
from online_models.contracts.rollouts import Kind, Stage
from online_models.errors import RequestReused
from serving_api.access import Operator, Role
from serving_api.rollout_schemas import LATEST, OrderIn, OrderReport, RollbackIn, StartIn, StartReport
from serving_api.rollouts.operations import Done, Forbidden, Impossible, Moved, Order, Outcome, Unknown, Wish
from serving_api.rollouts.plans import plan_for
from serving_api.rollouts.transitions import Command
from serving_api.routes.admission import RESPONSES, Approver, Conductor
from serving_api.routes.bodies import TOO_LARGE
from serving_api.routes.parts import Parts, parts_of, served_model, store_errors_as_503
from serving_api.routes.rollouts import facts_of, tag
from serving_api.schemas import Problem

router = APIRouter(tags=["rollouts"])

IfMatch = Annotated[
    str | None,
    Header(alias="If-Match", pattern=r'^"[0-9]{1,18}"$', description="The ETag of the rollout that is meant."),
]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key", pattern=r"^[\x21-\x7e]{1,128}$", description="Chosen by the caller, once a request."
    ),
]

ORDERED: Final[dict[int | str, dict[str, Any]]] = {
    **RESPONSES,
    409: {"model": Problem, "description": "Not possible as things stand; says why. Nothing has changed."},
    412: {"model": Problem, "description": "The rollout has moved on from the epoch of If-Match; says where to."},
    413: {**TOO_LARGE},
    503: {
        "model": Problem,
        "description": "PostgreSQL does not answer; with an Idempotency-Key it can be asked again.",
    },
}
MATCHED: Final[dict[int | str, dict[str, Any]]] = {
    **ORDERED,
    428: {"model": Problem, "description": "If-Match is missing."},
}


@dataclass(frozen=True, slots=True)
class Conditions:
    """The headers of an operator's call."""

    epoch: Epoch | None
    key: str | None

    def order(self, operator: Operator, verb: str, model: ModelName, body: BaseModel, reason: str) -> Order:
        """What is asked, and whom a repetition is recognised by."""
        asked = msgspec.json.encode([verb, model, body.model_dump(mode="json")])
        request = (self.key, hashlib.sha256(asked).hexdigest()) if self.key is not None else None
        return Order(operator, reason, self.epoch, request)


def conditions(if_match: IfMatch = None, idempotency_key: IdempotencyKey = None) -> Conditions:
    """Both headers, parsed."""
    return Conditions(None if if_match is None else Epoch(int(if_match.strip('"'))), idempotency_key)


Given = Annotated[Conditions, Depends(conditions)]


@router.post("/v1/rollouts/{model}", status_code=201, responses=ORDERED)
def start_rollout(
    request: Request, response: Response, model: str, body: StartIn, operator: Conductor, given: Given
) -> StartReport:
    """Start a canary, an A/B, an A/A or a bandit; the answer says how long it will take at this traffic.

    Takes an operator; with stages or a gate of its own an approver: they decide what is enough to reach everybody.
    """
    if (body.stages is not None or body.gate is not None) and not operator.role.includes(Role.APPROVER):
        raise HTTPException(
            403, f"a start with stages or a gate takes the role {Role.APPROVER}; this key is {operator.role}"
        )
    parts = parts_of(request)
    name = served_model(parts, model)
    order, wish = given.order(operator, "start", name, body, body.reason), _wish(parts, body)
    done = _done(response, lambda: parts.operations.start(name, wish, order))
    with store_errors_as_503():
        begun = parts.operated.rollouts.events(done.rollout)[0]
    response.headers["Location"] = f"/v1/rollouts/{name}"
    forecast = msgspec.convert(begun.evidence["forecast"], dict[str, object])
    return StartReport(**facts_of(done.rollout).model_dump(), routed=done.routed, forecast=forecast)


@router.post("/v1/rollouts/{model}/pause", responses=MATCHED)
def pause_rollout(
    request: Request, response: Response, model: str, body: OrderIn, operator: Conductor, given: Given
) -> OrderReport:
    """Keep the weight where it is. Harm still ends the rollout. Takes an operator, and If-Match."""
    return _command(request, response, model, body, operator, _matched(given), Command.PAUSE)


@router.post("/v1/rollouts/{model}/resume", responses=MATCHED)
def resume_rollout(
    request: Request, response: Response, model: str, body: OrderIn, operator: Conductor, given: Given
) -> OrderReport:
    """Let a paused rollout go on. Takes an operator, and If-Match."""
    return _command(request, response, model, body, operator, _matched(given), Command.RESUME)


@router.post("/v1/rollouts/{model}/promote", responses=MATCHED)
def promote_rollout(
    request: Request, response: Response, model: str, body: OrderIn, operator: Approver, given: Given
) -> OrderReport:
    """Make the canary the champion at once, whatever stage it is in. Takes an approver, and If-Match."""
    return _command(request, response, model, body, operator, _matched(given), Command.PROMOTE)


@router.post("/v1/rollouts/{model}/abort", responses=ORDERED)
def abort_rollout(
    request: Request, response: Response, model: str, body: OrderIn, operator: Conductor, given: Given
) -> OrderReport:
    """Send everybody back to the stable version at once. Takes an operator."""
    return _command(request, response, model, body, operator, given, Command.ABORT)


@router.post("/v1/rollouts/{model}/rollback", responses=ORDERED)
def roll_back(
    request: Request, response: Response, model: str, body: RollbackIn, operator: Conductor, given: Given
) -> OrderReport:
    """Make a version of before the champion at once; an open rollout is aborted. Its artifact is verified first.

    The champion that the last promotion replaced takes an operator, any other retained version an approver. What was rolled back
    is not put back by asking for `previous` again.
    """
    parts = parts_of(request)
    name = served_model(parts, model)
    order = given.order(operator, "rollback", name, body, body.reason)
    return _report(_done(response, lambda: parts.operations.roll_back(name, body.version, order)))


def _command(
    request: Request,
    response: Response,
    model: str,
    body: OrderIn,
    operator: Operator,
    given: Conditions,
    which: Command,
) -> OrderReport:
    parts = parts_of(request)
    name = served_model(parts, model)
    order = given.order(operator, which, name, body, body.reason)
    return _report(_done(response, lambda: parts.operations.command(name, which, order)))


def _matched(given: Conditions) -> Conditions:
    """The same. Raises HTTPException 428 without If-Match."""
    if given.epoch is None:
        raise HTTPException(428, 'send If-Match: "<epoch>", the ETag of GET /v1/rollouts/{model}')
    return given


def _done(response: Response, call: Callable[[], Outcome]) -> Done:
    """What was done, with the rollout's ETag on the response. Raises HTTPException where it was not."""
    with store_errors_as_503():
        try:
            outcome = call()
        except RequestReused as error:  # a StoreError too, but the caller's
            raise HTTPException(422, str(error)) from error
    match outcome:
        case Done(rollout):
            response.headers["ETag"] = tag(rollout)
            return outcome
        case Unknown(reason):
            raise HTTPException(404, reason)
        case Impossible(reason):
            raise HTTPException(409, reason)
        case Moved(reason):
            raise HTTPException(412, reason)
        case Forbidden(reason):
            raise HTTPException(403, reason)
        case _:
            assert_never(outcome)


def _report(done: Done) -> OrderReport:
    return OrderReport(**facts_of(done.rollout).model_dump(), routed=done.routed)


def _wish(parts: Parts, body: StartIn) -> Wish:
    """What is asked for. Raises HTTPException 422 for stages or a gate that are none."""
    gate = {**parts.settings.gate, **(body.gate or {})}
    kind, told = Kind(body.kind), None if body.stages is None else [stage.model_dump() for stage in body.stages]
    try:
        stages = None if told is None else msgspec.convert(told, list[Stage])
        plan = plan_for(kind, parts.settings.model_copy(update={"gate": gate}).plan, stages)
    except ValueError as error:
        raise HTTPException(422, f"stages or gate: {error}") from error
    canary = None if body.canary in (None, LATEST) else ModelVersion(body.canary)
    return Wish(kind, plan, canary, tuple(map(ModelVersion, body.arms or ())))
