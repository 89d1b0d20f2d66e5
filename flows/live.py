"""What the stream job knows of the models that are live: versions to keep fresh, and the champion's reference.

- Asked for by model, answered from memory, refreshed at most once per poll interval of wall time.
- A version whose artifact cannot be read is skipped with a log line: the readers refuse it too, and the rollout ends.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
from safetensors.numpy import load

from flows.levels import Champion
from online_models import als
from online_models.blend import Blend
from online_models.contracts.artifacts import FeatureSketch, Manifest
from online_models.contracts.features import FeatureSpec, spec_hash
from online_models.contracts.ids import ItemId, ModelName, ModelVersion
from online_models.embedding_space import Axes, coordinates
from online_models.errors import ArtifactError, PenstockError, StoreError, StoreUnavailable
from online_models.history import UserHistory
from online_models.learner import TWO_TOWER_FILE, MovedItem, VersionLearner, trained_of
from online_models.ports import ArtifactStore, EmbeddingStore, ModelRegistry, RouteStore, Vector
from online_models.ridge import Ridge
from online_models.sources import Sources
from online_models.text import TEXT_MODEL_FILE, Surprise, TextModel

log: Final = logging.getLogger(__name__)


class LiveVersion:
    """One version: its trained items, and what the stream has made of them.

    `moved` and `blend` are what Redis held of the version as it went live here.
    """

    def __init__(
        self,
        manifest: Manifest,
        files: Mapping[str, bytes],
        moved: Mapping[ItemId, MovedItem],
        blend: Blend | None = None,
    ) -> None:
        tensors = load(files["factors.safetensors"])
        self.version = manifest.version
        tower = load(files[TWO_TOWER_FILE]) if TWO_TOWER_FILE in files else None
        self._trained = trained_of(manifest, tensors, msgspec.json.decode(files["items.json"], type=list[str]), tower)
        self.index = als.ItemIndex.of(self._trained.ids)
        self._ridge = Ridge.of(self._trained.gramian, self._trained.fold_in.regularization)
        self._moved, self._blend = moved, blend
        self.axes = tensors.get("item_axes")
        """None of an artifact that was made without them."""
        self._user_axes = tensors.get("user_axes")
        text = files.get(TEXT_MODEL_FILE)
        self.surprise = None if text is None else Surprise(TextModel.decode(text))
        """What it makes of texts; None of an artifact without a text model."""

    def learner(self, sources: Sources, like: Blend | None = None) -> VersionLearner:
        """The version at work, going on from what Redis held; a blend that has learned nothing begins `like` another one."""
        blend = self._blend or (like.copy() if like is not None else None)
        learner = VersionLearner(self._trained, sources, blend)
        learner.restore(self._moved)
        return learner

    def fold_in(self, users: Sequence[UserHistory]) -> Vector:
        """Vectors (users, k); zeros for a user who has met no trained item."""
        trained = self._trained
        return als.fold_in_histories(users, self.index, trained.factors, trained.gramian, trained.fold_in, self._ridge)

    def item_places(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Coordinates (n, d) of trained items by their rows (n,)."""
        assert self.axes is not None
        return coordinates(self._trained.factors[rows], Axes.unpacked(self.axes))

    def user_places(self, users: Sequence[UserHistory]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """Coordinates (users, d), and (users,) whether a user has met a trained item at all."""
        assert self._user_axes is not None
        vectors = self.fold_in(users)
        met: npt.NDArray[np.bool_] = (vectors != 0).any(axis=1)
        return coordinates(vectors, Axes.unpacked(self._user_axes)), met


@dataclass(slots=True)
class _Held:
    until: float
    versions: dict[ModelVersion, LiveVersion | None]


class LiveVersions:
    """The versions in each model's route document (stable and canary), loaded and verified."""

    def __init__(
        self,
        routes: RouteStore,
        artifacts: ArtifactStore,
        embeddings: EmbeddingStore,
        poll_seconds: float,
    ) -> None:
        self._routes = routes
        self._artifacts = artifacts
        self._embeddings = embeddings
        self._poll_seconds = poll_seconds
        self._held: dict[ModelName, _Held] = {}
        self._retired: dict[ModelName, ModelVersion] = {}
        self._lock = Lock()

    def of(self, model: ModelName) -> list[LiveVersion]:
        """Live versions of a model, stable first."""
        # Two threads ask; a version loaded twice would go on from before what its first learner has written since.
        with self._lock:
            held = self._held.get(model)
            if held is None or time.monotonic() >= held.until:
                held = self._refresh(model, held.versions if held else {})
        return [live for live in held.versions.values() if live is not None]

    def _refresh(self, model: ModelName, old: dict[ModelVersion, LiveVersion | None]) -> _Held:
        route = self._routes.route(model)
        wanted = [version for version in (route.stable, route.canary) if version] if route else []
        versions = {version: old[version] if version in old else self._load(model, version) for version in wanted}
        if self._retired.get(model) in versions:
            del self._retired[model]  # it is live again
        for version in old:
            if version not in versions:
                self._retire(model, version)
        self._held[model] = _Held(time.monotonic() + self._poll_seconds, versions)
        return self._held[model]

    def _load(self, model: ModelName, version: ModelVersion) -> LiveVersion | None:
        try:
            manifest, files = self._artifacts.read(model, version)
            moved, blend = self._embeddings.moved_items(model, version), self._blend(model, version)
            live = LiveVersion(manifest, files, moved, blend)
            live.learner(Sources())  # what it cannot do here it cannot do for the stream
        except (ArtifactError, KeyError, ValueError, StoreError) as error:
            if isinstance(error, StoreUnavailable):
                raise
            log.error("version_refused model=%s version=%s reason=%r", model, version, error)
            return None
        log.info("version_live model=%s version=%s items=%d", model, version, len(live.index))
        return live

    def _blend(self, model: ModelName, version: ModelVersion) -> Blend | None:
        """What the version's blend has learned; None where that is nothing, or of another release's features."""
        learned = self._embeddings.blend(model, version)
        try:
            return None if learned is None else Blend.decode(learned)
        except StoreError as error:
            log.warning("blend_begun_anew model=%s version=%s reason=%s", model, version, error)
            return None

    def _retire(self, model: ModelName, version: ModelVersion) -> None:
        """Keep the latest version that left for a fast rollback; drop the keys of the one before."""
        before = self._retired.get(model)
        self._retired[model] = version
        if before is not None and before != version:
            dropped = self._embeddings.drop_version(model, before)
            log.info("version_dropped model=%s version=%s keys=%d", model, before, dropped)


@dataclass(frozen=True, slots=True)
class Reference:
    """What windows are compared with: sketches of the champion's training data, or without a version the stream's beginning.

    champion : what else is known of the champion
    """

    version: ModelVersion | None
    sketches: tuple[FeatureSketch, ...]
    champion: Champion | None = None


class Champions:
    """Each model's champion reference, for drift; and whether it has a champion at all."""

    def __init__(self, registry: ModelRegistry, poll_seconds: float) -> None:
        self._registry = registry
        self._poll_seconds = poll_seconds
        self._held: dict[ModelName, tuple[float, Reference | None]] = {}

    def reference(self, model: ModelName) -> Reference | None:
        """The champion's sketches, or None while the model has no version. The same object until the champion changes."""
        until, reference = self._held.get(model, (0.0, None))
        if time.monotonic() < until:
            return reference
        version = self._registry.champion(model)
        if reference is None or reference.version != version:
            reference = self._read(model, version) if version else None
        self._held[model] = (time.monotonic() + self._poll_seconds, reference)
        return reference

    def _read(self, model: ModelName, version: ModelVersion) -> Reference:
        registered = self._registry.version(model, version)
        if registered is None:
            raise PenstockError(f"champion {version} of {model} is not in the registry")
        return Reference(version, tuple(registered.manifest.sketches), Champion.of(registered.manifest))


def same_declaration(spec: FeatureSpec, other: FeatureSpec) -> bool:
    """Whether two sketches of a feature may be compared."""
    return spec_hash([spec]) == spec_hash([other])
