"""`GET /v1/rollouts/{model}` and `GET /v1/models/{model}`: what the controller and the registry say, read-only."""

import msgspec
from fastapi import APIRouter, HTTPException, Request

from online_models.contracts.ids import ModelVersion
from online_models.contracts.rollouts import Rollout
from online_models.errors import StoreUnavailable
from serving_api.routes.parts import Parts, parts_of, served_model
from serving_api.schemas import ArmCounts, ModelReport, Problem, RolloutReport, StageReport, VersionReport

router = APIRouter(tags=["rollouts"])

RESPONSES: dict[int | str, dict[str, object]] = {
    404: {"model": Problem, "description": "No such model, or nothing to report of it."},
    503: {"model": Problem, "description": "PostgreSQL does not answer."},
}


@router.get("/v1/rollouts/{model}", responses=RESPONSES)
def rollout_of(request: Request, model: str) -> RolloutReport:
    """The model's youngest rollout, open or final, with the counts of its stages."""
    parts = parts_of(request)
    name = served_model(parts, model)
    try:
        rollout = parts.rollouts.latest(name)
        if rollout is None:
            raise HTTPException(404, f"model {model!r} has had no rollout")
        return _report(parts, rollout)
    except StoreUnavailable as error:
        raise HTTPException(503, str(error)) from error


@router.get("/v1/models/{model}", responses=RESPONSES)
def model_of(request: Request, model: str) -> ModelReport:
    """The model's versions with their holdout metrics."""
    parts = parts_of(request)
    name = served_model(parts, model)
    try:
        versions = [
            VersionReport(
                version=registered.version,
                created_at=registered.created_at,
                parent=registered.manifest.parent,
                manifest_sha256=registered.manifest_sha256,
                metrics=registered.manifest.metrics,
            )
            for registered in parts.registry.versions(name)
        ]
        return ModelReport(model=model, champion=parts.registry.champion(name), versions=versions)
    except StoreUnavailable as error:
        raise HTTPException(503, str(error)) from error


def _report(parts: Parts, rollout: Rollout) -> RolloutReport:
    def arm(version: ModelVersion, stage: int) -> ArmCounts:
        return ArmCounts(**msgspec.structs.asdict(parts.rollouts.counts(rollout, version, stage)))

    stages = [
        StageReport(stage=stage, canary=arm(rollout.canary, stage), stable=arm(rollout.stable, stage))
        for stage in range(rollout.stage + 1)
    ]
    fields = msgspec.structs.asdict(rollout)
    return RolloutReport(**{name: fields[name] for name in RolloutReport.model_fields if name in fields}, stages=stages)
