"""The version to beat, verified against the registry: its files, and its recommender at work."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
from safetensors.numpy import load

from online_models.contracts.artifacts import KINDS, Manifest
from online_models.contracts.ids import ModelName, ModelVersion
from online_models.errors import ArtifactError
from online_models.learner import TWO_TOWER_FILE
from online_models.ports import ArtifactStore, ModelRegistry
from online_models.two_tower import UserTower
from retrain_workers.als import AlsModel
from retrain_workers.validation.served_ranker import ServedRanker

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Champion:
    """ranker : of its recommender alone; a language model beside it is none of it"""

    manifest: Manifest
    files: Mapping[str, bytes]
    ranker: ServedRanker


def ranker_of(manifest: Manifest, files: Mapping[str, bytes]) -> ServedRanker:
    """A version's recommender at work, see `ServedRanker`.

    Raises ArtifactError when the files are not those of a version of a known kind.
    """
    if manifest.kind not in KINDS:
        raise ArtifactError(
            f"{manifest.model} {manifest.version}: expected kind {', '.join(KINDS)}, got {manifest.kind}"
        )
    tower = UserTower.of(load(files[TWO_TOWER_FILE])) if TWO_TOWER_FILE in files else None
    return AlsModel.of(files, manifest.hyperparameters).ranker(tower)


def champion_of(
    model: ModelName, version: ModelVersion, registry: ModelRegistry, artifacts: ArtifactStore
) -> Champion | None:
    """A registered version, ready to rank.

    None when its artifact is missing, torn or altered: no reader that starts now could serve it, so a candidate is judged as a
    first model is, given enough users to judge by, and the canary decides.
    """
    registered = registry.version(model, version)
    try:
        manifest, files = artifacts.read(model, version, registered.manifest_sha256 if registered else None)
        return Champion(manifest, files, ranker_of(manifest, files))
    except (ArtifactError, ValueError, msgspec.DecodeError) as error:
        _LOG.error("champion.unreadable model=%s version=%s error=%r", model, version, str(error))
        return None
