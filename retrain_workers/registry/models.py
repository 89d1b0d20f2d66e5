"""Versions of a model as people look at them: a list, one of them whole, and what sets two of them apart.

- Everything is read first, into a `Record`; what is shown is a function of it.
- Reference sketches are compared by PSI: how far the data of one version had moved from those of the other.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import msgspec
import numpy as np

from online_models.contracts.artifacts import ArtifactFile, FeatureSketch, Manifest
from online_models.contracts.ids import JobId, ModelName, ModelVersion
from online_models.contracts.registry import Alias, Happening, Origin, Pointer, RegistryEvent
from online_models.contracts.rollouts import Rollout
from online_models.drift.psi import population_stability_index
from online_models.errors import StoreError
from online_models.histograms import rebin
from online_models.model_registry import ModelRegistry, RegisteredVersion
from online_models.ports import RolloutStore
from online_models.text_columns import text_columns
from retrain_workers.jobs import price

_HEAD: Final = (
    "version",
    "aliases",
    "kind",
    "start",
    "parent",
    "created",
    "size",
    "hit@10",
    "ndcg@10",
    "cost",
    "artifact",
)
_SHARES: Final = ("hit_rate_at_10", "ndcg_at_10")


@dataclass(frozen=True, slots=True)
class Record:
    """All that the registry knows of a model.

    versions : oldest first; events : oldest first; origins : by the id of the job that made a version
    """

    model: ModelName
    versions: Mapping[ModelVersion, RegisteredVersion]
    aliases: Mapping[Alias, Pointer]
    events: Sequence[RegistryEvent]
    origins: Mapping[JobId, Origin]

    def version(self, version: ModelVersion) -> RegisteredVersion:
        """One version. Raises StoreError when it is not registered."""
        found = self.versions.get(version)
        if found is None:
            known = ", ".join(self.versions) or "none"
            raise StoreError(f"{self.model}: expected a registered version, got {version!r}; registered are {known}")
        return found

    def origin(self, registered: RegisteredVersion) -> Origin | None:
        """The job that made a version."""
        return None if registered.manifest.job_id is None else self.origins.get(JobId(registered.manifest.job_id))

    def aliases_of(self, version: ModelVersion) -> list[Alias]:
        """The aliases that point at a version."""
        return [alias for alias in Alias if alias in self.aliases and self.aliases[alias].version == version]

    def events_of(self, version: ModelVersion) -> list[RegistryEvent]:
        """What happened to a version, oldest first."""
        return [event for event in self.events if event.version == version]

    def collected_at(self, version: ModelVersion) -> datetime | None:
        """When the collection of its artifact began; None while it is kept."""
        began = (event.at for event in self.events_of(version) if event.happening is Happening.COLLECTING)
        return next(began, None)

    def lineage(self, version: ModelVersion) -> list[ModelVersion]:
        """The version, its parent, and so on to the root; it ends where a parent is not registered here."""
        line: list[ModelVersion] = []
        following: ModelVersion | None = self.version(version).version
        while following is not None and following in self.versions and following not in line:
            line.append(following)
            following = self.versions[following].manifest.parent
        return line

    def kept(self, name: str) -> ModelVersion:
        """`resolve`, refused with StoreError where the artifact is collected."""
        version = self.resolve(name)
        since = self.collected_at(version)
        if since is not None:
            raise StoreError(
                f"{self.model} {version}: expected a kept artifact, but it was collected at {_instant(since)}"
            )
        return version

    def resolve(self, name: str) -> ModelVersion:
        """The version of that name, or behind the alias of that name. Raises StoreError when there is none."""
        for alias, pointer in self.aliases.items():
            if name == alias:
                return pointer.version
        return self.version(ModelVersion(name)).version


def record_of(registry: ModelRegistry, model: ModelName) -> Record:
    """All that the registry knows of a model. Raises StoreError when it has no version."""
    versions = {registered.version: registered for registered in registry.versions(model)}
    if not versions:
        known = ", ".join(registry.models()) or "none"
        raise StoreError(f"expected a model with a version, got {model!r}; known are {known}")
    return Record(model, versions, registry.aliases(model), registry.events(model), registry.origins(model))


def list_lines(record: Record) -> list[str]:
    """The model's name, and a table of its versions, oldest first."""
    return [record.model, *text_columns([_HEAD, *(_cells(record, each) for each in record.versions.values())])]


def _cells(record: Record, registered: RegisteredVersion) -> tuple[str, ...]:
    manifest, origin = registered.manifest, record.origin(registered)
    shares = [f"{manifest.metrics[name]:.4f}" if name in manifest.metrics else "-" for name in _SHARES]
    return (
        registered.version,
        ",".join(record.aliases_of(registered.version)) or "-",
        manifest.kind,
        manifest.start or "-",
        manifest.parent or "-",
        _instant(registered.created_at),
        size(sum(file.bytes for file in manifest.files)),
        *shares,
        price(origin.cost if origin else None),
        "kept" if record.collected_at(registered.version) is None else "collected",
    )


def show_lines(record: Record, version: ModelVersion, rollouts: RolloutStore) -> list[str]:
    """Everything that is known of one version."""
    registered = record.version(version)
    manifest = registered.manifest
    return [
        f"{record.model} {version}",
        *_indented(_summary(record, registered)),
        "lineage",
        *_indented(_ancestor(record.version(each)) for each in record.lineage(version)),
        "hyperparameters",
        *_indented(_figures(manifest.hyperparameters)),
        "metrics",
        *_indented(_figures(manifest.metrics)),
        "files",
        *_indented(f"{file.name}  {size(file.bytes)}  {file.sha256}{_tensors(file)}" for file in manifest.files),
        "features",
        *_indented(f"{each.feature.name}  {each.feature.kind}  {each.events} events" for each in manifest.sketches),
        "events",
        *_indented(_event(event) for event in record.events_of(version)),
        "rollouts",
        *_indented(_rollout(each, version) for each in rollouts.rollouts_of(record.model, version)),
    ]


def show_json(record: Record, version: ModelVersion, rollouts: RolloutStore) -> str:
    """The same as one JSON object on one line."""
    registered = record.version(version)
    known = {
        "model": record.model,
        "version": version,
        "created_at": registered.created_at,
        "manifest_sha256": registered.manifest_sha256,
        "aliases": record.aliases_of(version),
        "collected_at": record.collected_at(version),
        "lineage": record.lineage(version),
        "origin": record.origin(registered),
        "events": record.events_of(version),
        "rollouts": rollouts.rollouts_of(record.model, version),
        "manifest": registered.manifest,
    }
    return msgspec.json.encode(known).decode()


def _summary(record: Record, registered: RegisteredVersion) -> list[str]:
    manifest, origin, window = registered.manifest, record.origin(registered), registered.manifest.data_window
    collected = record.collected_at(registered.version)
    made_by = f"job {manifest.job_id}" if manifest.job_id is not None else "no job"
    return [
        f"kind      {manifest.kind}, start {manifest.start or '-'}, seed {manifest.seed}, code {manifest.code_version or '-'}",
        f"created   {_instant(registered.created_at)}, manifest {registered.manifest_sha256}",
        f"aliases   {', '.join(record.aliases_of(registered.version)) or '-'}",
        f"artifact  {'kept' if collected is None else f'collected at {_instant(collected)}'}",
        f"language  {manifest.language_model or '-'}",
        f"made by   {made_by}{f', {price(origin.cost)}' if origin else ''}",
        *([f"trigger   {origin.trigger_id}: {origin.reason}"] if origin else []),
        f"data      {_event_time(window.start_ms)} to {_event_time(window.end_ms)}, {window.events} events, "
        f"sha256 {window.sha256 or '-'}, snapshot {manifest.snapshot_sha256 or '-'}",
    ]


def _ancestor(registered: RegisteredVersion) -> str:
    manifest = registered.manifest
    job = f"job {manifest.job_id}" if manifest.job_id is not None else "no job"
    return f"{registered.version}  {manifest.kind}  {manifest.start or '-'}  {job}  parent {manifest.parent or '-'}"


def _event(event: RegistryEvent) -> str:
    detail = " ".join(f"{name}={value}" for name, value in event.detail.items())
    return f"{_instant(event.at)}  {event.happening}  by {event.actor}  {detail}".rstrip()


def _rollout(rollout: Rollout, version: ModelVersion) -> str:
    role = "canary" if rollout.canary == version else "stable" if rollout.stable == version else "arm"
    return (
        f"{rollout.id}  as {role}: {rollout.canary} over {rollout.stable}  {rollout.kind}  {rollout.phase}  "
        f"stage {rollout.stage}  begun {_instant(rollout.created_at)}"
    )


def _tensors(file: ArtifactFile) -> str:
    return "".join(f"  {name} {tensor.dtype}{list(tensor.shape)}" for name, tensor in file.tensors.items())


def diff_lines(record: Record, first: ModelVersion, second: ModelVersion) -> list[str]:
    """What sets two versions apart: settings, figures, data, files and features."""
    one, other = record.version(first).manifest, record.version(second).manifest
    return [
        f"{record.model} {first} -> {second}",
        "made as",
        *_indented(_changes(_facts(one), _facts(other))),
        "hyperparameters",
        *_indented(_changes(_texts(one.hyperparameters), _texts(other.hyperparameters))),
        "metrics",
        *_indented(_moves(one.metrics, other.metrics)),
        "data",
        *_indented(_changes(_window(one), _window(other))),
        "files",
        *_indented(_files(one, other)),
        "features (PSI of the second's data against the first's)",
        *_indented(_features(one.sketches, other.sketches)),
    ]


def _facts(manifest: Manifest) -> dict[str, str]:
    return {
        "kind": manifest.kind,
        "start": manifest.start or "-",
        "parent": manifest.parent or "-",
        "language model": manifest.language_model or "-",
        "seed": str(manifest.seed),
        "code": manifest.code_version or "-",
    }


def _window(manifest: Manifest) -> dict[str, str]:
    window = manifest.data_window
    return {
        "from": _event_time(window.start_ms),
        "to": _event_time(window.end_ms),
        "events": str(window.events),
        "sha256": window.sha256 or "-",
    }


def _texts(settings: Mapping[str, float]) -> dict[str, str]:
    return {name: f"{setting:g}" for name, setting in settings.items()}


def _changes(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    names = [name for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name)]
    return [f"{name}  {one.get(name, '-')} -> {other.get(name, '-')}" for name in names]


def _moves(one: Mapping[str, float], other: Mapping[str, float]) -> list[str]:
    both = [
        f"{name}  {one[name]:.4g} -> {other[name]:.4g}  {other[name] - one[name]:+.4g}"
        for name in sorted(one.keys() & other.keys())
        if one[name] != other[name]
    ]
    alone = {name: f"{figure:.4g}" for name, figure in one.items() if name not in other}
    new = {name: f"{figure:.4g}" for name, figure in other.items() if name not in one}
    return [*both, *_changes(alone, new)]


def _files(one: Manifest, other: Manifest) -> list[str]:
    before, after = ({file.name: file for file in manifest.files} for manifest in (one, other))
    lines = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old is None or new is None:
            lines.append(f"{name}  {'added' if old is None else 'dropped'}")
        elif old.sha256 == new.sha256:
            lines.append(f"{name}  the same")
        else:
            lines.append(f"{name}  {size(old.bytes)} -> {size(new.bytes)}")
    return lines


def _features(one: Sequence[FeatureSketch], other: Sequence[FeatureSketch]) -> list[str]:
    before, after = ({sketch.feature.name: sketch for sketch in sketches} for sketches in (one, other))
    lines = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old is None or new is None:
            lines.append(f"{name}  {'added' if old is None else 'dropped'}")
        elif old.feature != new.feature:
            lines.append(f"{name}  declared otherwise")
        else:
            psi = psi_between(old, new)
            lines.append(f"{name}  {'no events' if psi is None else f'{psi:.4f}'}")
    return lines


def psi_between(reference: FeatureSketch, current: FeatureSketch) -> float | None:
    """PSI of two sketches of one feature, less its sampling bias, in coarse bins of the reference; None where one is empty.

    References
    ----------
    Yurdakul: Statistical properties of population stability index. Western Michigan University, 2018.
    """
    then, now = (np.array(sketch.counts, np.int64) for sketch in (reference, current))  # (cells + 3,)
    if not then.any() or not now.any():
        return None
    coarse = rebin(then, reference.feature.kind)
    psi, _ = population_stability_index(coarse.apply(then), coarse.apply(now))
    return float(psi)


def _figures(figures: Mapping[str, float]) -> list[str]:
    return [f"{name}  {figure:.6g}" for name, figure in sorted(figures.items())]


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"  {line}" for line in lines] or ["  -"]


def size(count: int) -> str:
    """
    >>> size(999), size(2_500), size(3_000_000), size(5_200_000_000)
    ('999 B', '2.5 kB', '3.0 MB', '5.2 GB')
    """
    if count < 1_000:
        return f"{count} B"
    amount = count / 1_000
    for unit in ("kB", "MB"):
        if amount < 1_000:
            return f"{amount:.1f} {unit}"
        amount /= 1_000
    return f"{amount:.1f} GB"


def _instant(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _event_time(ms: int) -> str:
    return _instant(datetime.fromtimestamp(ms / 1_000, UTC))
