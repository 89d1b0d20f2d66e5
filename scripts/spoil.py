"""A deliberately bad candidate: the champion's items under each other's names, and a blend that believes the opposite of all.

Every check of form passes, golden queries included: only people can tell that it is bad. A blend that may learn would soon
believe the spoiled vectors no more, so this one is too sure of itself to learn.
"""

from pathlib import Path

import msgspec
import numpy as np

from online_models.blend import BEGIN, BUCKETS, Blend
from online_models.contracts import keys
from online_models.contracts.ids import ModelName, ModelVersion
from online_models.stores import redis
from online_models.stores.embedded import Endpoints
from online_models.stores.filesystem import FilesystemArtifacts
from online_models.stores.postgres import Database
from online_models.stores.postgres_registry import PostgresRegistry
from retrain_workers.publish import publish_candidate


def publish_spoiled(artifacts: Path, endpoints: Endpoints, model: str, champion: str) -> ModelVersion:
    """Write and register the spoiled candidate; returns its version."""
    store, registry = FilesystemArtifacts(artifacts), PostgresRegistry(Database(endpoints.postgres_dsn))
    manifest, files = store.read(ModelName(model), ModelVersion(champion))
    names: list[str] = msgspec.json.decode(files["items.json"], type=list[str])
    shuffled = np.random.default_rng(0).permutation(names).tolist()
    version = registry.new_version()
    redis.connect(endpoints.redis_url).set(keys.blend(ModelName(model), version), stubborn().encode())
    spoiled = msgspec.structs.replace(manifest, version=version, parent=manifest.version, job_id=None, files=[])
    publish_candidate(store, registry, spoiled, {**files, "items.json": msgspec.json.encode(shuffled)}, "demo")
    return version


def stubborn() -> Blend:
    """A blend that ranks the least likely items first, and whose curvature leaves its steps no length."""
    many = len(BUCKETS)
    curvature = np.tile(1e12 * np.eye(len(BEGIN)), (many, 1, 1))
    return Blend(np.tile(-BEGIN, (many, 1)), curvature, np.zeros(many, np.int64), np.zeros(1, np.int64))
