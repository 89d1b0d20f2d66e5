"""A deliberately bad candidate: the champion with its item names in random order, published without a job and so without a gate.

Every check of form passes, golden queries included: only people can tell that it is bad.
"""

from pathlib import Path

import msgspec
import numpy as np

from online_models.contracts.ids import ModelName, ModelVersion
from online_models.stores.filesystem import FilesystemArtifacts
from online_models.stores.postgres import Database
from online_models.stores.postgres_registry import PostgresRegistry
from retrain_workers.publish import publish_candidate


def publish_spoiled(artifacts: Path, dsn: str, model: str, champion: str) -> ModelVersion:
    """Write and register the spoiled candidate; returns its version."""
    store, registry = FilesystemArtifacts(artifacts), PostgresRegistry(Database(dsn))
    manifest, files = store.read(ModelName(model), ModelVersion(champion))
    names: list[str] = msgspec.json.decode(files["items.json"], type=list[str])
    shuffled = np.random.default_rng(0).permutation(names).tolist()
    version = registry.new_version()
    spoiled = msgspec.structs.replace(manifest, version=version, parent=manifest.version, job_id=None, files=[])
    publish_candidate(store, registry, spoiled, {**files, "items.json": msgspec.json.encode(shuffled)}, "demo")
    return version
