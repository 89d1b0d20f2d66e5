"""`GET /v1/models/{model}`: what the registry says of a model, for operators."""

from fastapi import APIRouter, Request

from serving_api.rollout_schemas import ModelReport, VersionReport
from serving_api.routes.admission import RESPONSES, Viewer
from serving_api.routes.parts import parts_of, served_model, store_errors_as_503

router = APIRouter(tags=["rollouts"])


@router.get("/v1/models/{model}", responses=RESPONSES)
def model_of(request: Request, model: str, _: Viewer) -> ModelReport:
    """The model's versions with their holdout metrics. Takes a viewer."""
    parts = parts_of(request)
    name = served_model(parts, model)
    with store_errors_as_503():
        versions = [
            VersionReport(
                version=registered.version,
                created_at=registered.created_at,
                parent=registered.manifest.parent,
                manifest_sha256=registered.manifest_sha256,
                metrics=registered.manifest.metrics,
            )
            for registered in parts.operated.registry.versions(name)
        ]
        return ModelReport(model=model, champion=parts.operated.registry.champion(name), versions=versions)
