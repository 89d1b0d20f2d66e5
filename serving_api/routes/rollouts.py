"""`GET /v1/rollouts/{model}` and its history: where a rollout stands, and who did what to it and why."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, HTTPException, Query, Request, Response

from online_models.contracts.rollouts import Rollout
from serving_api.rollout_schemas import (
    EventReport,
    HistoryReport,
    PlanReport,
    RolloutFacts,
    RolloutHistory,
    RolloutReport,
    ServedReport,
    StageReport,
    VariantCountsReport,
    VerdictReport,
)
from serving_api.rollouts.status import Standing, standing_of
from serving_api.routes.admission import RESPONSES, Viewer
from serving_api.routes.parts import Parts, parts_of, served_model, store_errors_as_503

router = APIRouter(tags=["rollouts"])

Limit = Annotated[int, Query(ge=1, le=100, description="How many rollouts, the youngest first.")]


@router.get("/v1/rollouts/{model}", responses=RESPONSES)
def rollout_of(request: Request, response: Response, model: str, _: Viewer) -> RolloutReport:
    """The model's youngest rollout, open or final: its plan, its counts, and what the gates say now. Takes a viewer.

    Its ETag is what If-Match takes to change it.
    """
    parts = parts_of(request)
    name = served_model(parts, model)
    with store_errors_as_503():
        rollout = parts.operated.rollouts.latest(name)
        if rollout is None:
            raise HTTPException(404, f"model {model!r} has had no rollout")
        response.headers["ETag"] = tag(rollout)
        return _report(parts, rollout)


@router.get("/v1/rollouts/{model}/history", responses=RESPONSES)
def rollout_history(request: Request, model: str, _: Viewer, limit: Limit = 20) -> HistoryReport:
    """The model's rollouts with all that happened to them: who, when, why, and by what evidence. Takes a viewer."""
    parts = parts_of(request)
    name = served_model(parts, model)
    with store_errors_as_503():
        told = [_history(parts, rollout) for rollout in parts.operated.rollouts.history(name, limit)]
    return HistoryReport(model=model, rollouts=told)


def tag(rollout: Rollout) -> str:
    """The ETag of a rollout: its epoch."""
    return f'"{rollout.epoch}"'


def facts_of(rollout: Rollout) -> RolloutFacts:
    """Where a rollout stands, as it goes over HTTP."""
    return RolloutFacts.model_validate(msgspec.to_builtins(rollout))


def _report(parts: Parts, rollout: Rollout) -> RolloutReport:
    standing = standing_of(parts.operated, rollout, parts.clock())
    verdict = standing.verdict
    return RolloutReport(
        **facts_of(rollout).model_dump(),
        plan=PlanReport.model_validate(msgspec.to_builtins(rollout.plan)),
        stages=_stages(standing, rollout),
        judged=None
        if verdict is None
        else VerdictReport(verdict=type(verdict).__name__, reason=verdict.reason, evidence=standing.evidence),
        outlook=standing.outlook,
        last_event=_events(parts, rollout)[-1],
    )


def _stages(standing: Standing, rollout: Rollout) -> list[StageReport]:
    return [
        StageReport(
            stage=stage,
            counts=[
                VariantCountsReport(variant=each.variant, version=each.version, **msgspec.structs.asdict(each.counts))
                for each in standing.measured
                if each.stage == stage
            ],
            served=[
                ServedReport(variant=variant, **msgspec.structs.asdict(served))
                for (number, variant), served in sorted(standing.served.items())
                if number == stage
            ],
        )
        for stage in range(rollout.stage + 1)
    ]


def _history(parts: Parts, rollout: Rollout) -> RolloutHistory:
    return RolloutHistory(**facts_of(rollout).model_dump(), events=_events(parts, rollout))


def _events(parts: Parts, rollout: Rollout) -> list[EventReport]:
    return [EventReport.model_validate(msgspec.to_builtins(event)) for event in parts.operated.rollouts.events(rollout)]
