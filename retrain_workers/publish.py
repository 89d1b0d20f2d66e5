"""From a trained candidate to an artifact directory, and from there to the registry.

- A job's candidate is written by its training process and registered by the queue, in the transaction that
  finishes the job under its fencing token: an artifact without a row is an orphan that nobody reads, never
  the reverse.
- Orphans are what killed workers left: those that a younger version has overtaken, and nobody can register any more. So a
  worker on an empty or an older database removes nothing that this database does not know of.
- A candidate's version is named after the lease that made it, so two holders of one job never write the same
  directory.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from online_models.contracts.artifacts import DataWindow, FeatureSketch, GoldenQuery, Manifest
from online_models.contracts.features import spec_hash
from online_models.contracts.ids import ModelName, ModelVersion
from online_models.contracts.jobs import RetrainJob, version_of
from online_models.ports import ArtifactStore, JobQueue, ModelRegistry


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a trainer made and the gate let through: the artifact's files and what its manifest says of them."""

    kind: str
    files: Mapping[str, bytes]
    hyperparameters: Mapping[str, float]
    metrics: Mapping[str, float]
    data_window: DataWindow
    sketches: Sequence[FeatureSketch]
    golden: Sequence[GoldenQuery]
    seed: int = 0
    start: str = ""
    snapshot_sha256: str = ""
    language_model: ModelVersion | None = None
    recommender_until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """An artifact that is written and waits for its fenced registration; report : the gate's, as JSON."""

    manifest: Manifest
    manifest_sha256: str
    report: bytes = b""


@dataclass(frozen=True, slots=True)
class Refused:
    """The gate let no candidate through, for this reason; a finished job, not a failed one. report : the gate's, as JSON."""

    reason: str
    report: bytes = b""


def code_version() -> str:
    """The installed version of Penstock, and the commit where it runs from a working tree: `0.1.0+4ddbd67c0ffe`."""
    try:
        installed = version("penstock")
    except PackageNotFoundError:
        installed = "unknown"
    commit = commit_of(Path(__file__).parents[1] / ".git")
    return f"{installed}+{commit[:12]}" if commit else installed


def commit_of(repository: Path) -> str:
    """The commit that a Git directory has checked out; empty where there is none, or it is laid out in another way."""
    try:
        head = (repository / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        branch = head.removeprefix("ref: ")
        loose = repository / branch
        if loose.is_file():
            return loose.read_text().strip()
        packed = (repository / "packed-refs").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split()[0] for line in packed if line.endswith(f" {branch}")), "")


def manifest_of(candidate: Candidate, job: RetrainJob, parent: ModelVersion | None, created_at: datetime) -> Manifest:
    """The manifest of a job's candidate, its `files` still to be filled in by the artifact store.

    parent : the champion that the candidate was compared with, or would have been, had its artifact been whole
    """
    return Manifest(
        model=job.model,
        version=version_of(job.token),
        kind=candidate.kind,
        created_at=created_at.isoformat(),
        files=[],
        hyperparameters=dict(candidate.hyperparameters),
        metrics=dict(candidate.metrics),
        data_window=candidate.data_window,
        sketches=list(candidate.sketches),
        feature_spec_hash=spec_hash([sketch.feature for sketch in candidate.sketches]),
        golden=list(candidate.golden),
        parent=parent,
        job_id=int(job.id),
        code_version=code_version(),
        seed=candidate.seed,
        start=candidate.start,
        snapshot_sha256=candidate.snapshot_sha256,
        language_model=candidate.language_model,
        recommender_until_ms=candidate.recommender_until_ms,
    )


def prepare(
    artifacts: ArtifactStore,
    candidate: Candidate,
    job: RetrainJob,
    parent: ModelVersion | None,
    created_at: datetime,
) -> Prepared:
    """Write the artifact, whole or not at all. Raises ArtifactError when this lease has written one already."""
    manifest, sha256 = artifacts.write(manifest_of(candidate, job, parent, created_at), candidate.files)
    return Prepared(manifest, sha256)


def publish_candidate(
    artifacts: ArtifactStore,
    registry: ModelRegistry,
    manifest: Manifest,
    files: Mapping[str, bytes],
    actor: str,
) -> Manifest:
    """Write and register a version that no job made (an import, a planted one); not gated, not idempotent.

    manifest : its `version` comes from `registry.new_version()`; its `files` are filled in here
    Returns the manifest as written. Raises ArtifactError or StoreError when the version exists.
    """
    # Nobody takes it for an orphan before it is registered.
    with artifacts.writing(manifest, files) as (written, sha256):
        registry.register(written, sha256, actor)
    return written


def discard(artifacts: ArtifactStore, registry: ModelRegistry, job: RetrainJob) -> None:
    """Drop what a lost lease has written. Idempotent.

    Not when it is registered: then the publication did happen, and only its answer was lost.
    """
    made = version_of(job.token)
    if registry.version(job.model, made) is None:
        artifacts.discard(job.model, made)


def orphans(
    artifacts: ArtifactStore,
    registry: ModelRegistry,
    queue: JobQueue,
    model: ModelName,
    now: datetime,
    grace: timedelta,
) -> list[ModelVersion]:
    """A model's artifacts that were never registered and never will be: older than the grace at `now` (aware), and than the
    newest version that was."""
    newest = max((each.created_at for each in registry.versions(model)), default=None)
    if newest is None:
        return []
    # In this order: what was whole, is in no job's hands after that, and is not registered even then, has no owner.
    written = artifacts.written_before(model, min(now - grace, newest))
    publishable = queue.publishable(model)
    known = {each.version for each in registry.versions(model)}
    return [made for made in written if made not in publishable | known]


def remove_orphans(
    artifacts: ArtifactStore,
    registry: ModelRegistry,
    queue: JobQueue,
    model: ModelName,
    now: datetime,
    grace: timedelta,
) -> list[ModelVersion]:
    """Remove `orphans`. Idempotent. Returns what was removed."""
    removed = orphans(artifacts, registry, queue, model, now, grace)
    for orphan in removed:
        artifacts.discard(model, orphan)
    return removed
