"""Model versions held in memory: read, verified, kept warm, and retired.

- A version is loaded on a thread of its own, so that neither requests nor the poll for routes wait for it.
- Before it counts as ready its hashes, shapes and values are checked and its golden queries answered, which
  also compiles the fold-in. What fails is refused with a reason, and whatever served before goes on serving.
- A version that left the route stays warm for a while: going back to it is then one pointer. None is retired while the stable
  one cannot serve: whoever stands in for it is all that answers.
- The arrays are the artifact's own files, mapped: the processes of a machine share one copy.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from online_models import als
from online_models.contracts.artifacts import KINDS, Manifest
from online_models.contracts.ids import ModelName, ModelVersion, hashes_of
from online_models.contracts.rollouts import ReaderStatus
from online_models.errors import ArtifactError, StoreError
from online_models.history import EMPTY, ENTRY, UserHistory
from online_models.language_scores import LANGUAGE_MODEL_FILE, LanguageModel
from online_models.learner import TWO_TOWER_FILE, FoldIns, trained_of
from online_models.ports import ArtifactStore, MappedArtifact, ModelRegistry, RegisteredVersion, Vector
from serving_api.index import Index, build_index
from serving_api.ranked_list import RankedList
from serving_api.scoring import scores

log: Final = logging.getLogger(__name__)

EXACT_ITEMS: Final = 100_000
"""Up to so many items all are scored for every request."""

INDEX_QUERIES: Final = 400
"""Users of the artifact that an index's recall is measured on."""

RETRY_REFUSED_SECONDS: Final = 30.0
"""A refused version that the route still names is read again after this: somebody may have repaired it."""


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    """A verified version.

    item_factors : float32 (items, k), row i belongs to `item_ids[i]`
    fold_ins : histories to user vectors; nearest : finds items where they are too many to score them all, else None
    tower_vectors : float32 (items, t), what the user tower's query is multiplied with; None without two towers
    language_model : how scores of a language model are used; None without one
    item_gramian : float32 (k, k)
    user_factors : float32 (users, k), row `user_rows[user_id]`
    popular : as of training

    The arrays are C-contiguous and of numba's ordinary, writable type; nobody writes to them.
    """

    manifest: Manifest
    manifest_sha256: str
    item_ids: list[str]
    index: als.ItemIndex
    item_factors: Vector
    item_gramian: Vector
    user_rows: Mapping[str, int]
    user_factors: Vector
    popular: RankedList
    fold_in: als.FoldIn
    fold_ins: FoldIns
    nearest: Index | None = None
    tower_vectors: Vector | None = None
    language_model: LanguageModel | None = None

    @property
    def version(self) -> ModelVersion:
        """Its name."""
        return self.manifest.version

    @property
    def k(self) -> int:
        """Length of a vector."""
        return int(self.item_factors.shape[1])

    def user_factor(self, user_id: str) -> Vector | None:
        """The user's vector (k,) as of training."""
        row = self.user_rows.get(user_id)
        return None if row is None else self.user_factors[row]


def load_version(artifacts: ArtifactStore, registered: RegisteredVersion) -> LoadedVersion:
    """Read and verify a registered version.

    Raises
    ------
    ArtifactError
        When a byte, a shape or a value is not as declared, or a golden query has another answer; names what.
    """
    mapped = artifacts.map(registered.model, registered.version, registered.manifest_sha256)
    where = f"{registered.model} {registered.version}"
    if mapped.manifest.kind not in KINDS:
        raise ArtifactError(f"{where}: expected an artifact of kind {', '.join(KINDS)}, got {mapped.manifest.kind!r}")
    try:
        loaded = _parse(mapped, registered.manifest_sha256)
    except (KeyError, ValueError, msgspec.DecodeError) as error:
        raise ArtifactError(f"{where}: {error}") from error
    _check_golden(loaded, where)
    return loaded


def _parse(mapped: MappedArtifact, sha256: str) -> LoadedVersion:
    manifest, tensors = mapped.manifest, mapped.tensors["factors.safetensors"]
    items, users, popular = (
        msgspec.json.decode(mapped.files[name], type=list[str]) for name in ("items.json", "users.json", "popular.json")
    )
    k = tensors["item_factors"].shape[-1]
    shapes = {"item_factors": (len(items), k), "user_factors": (len(users), k), "item_gramian": (k, k)}
    for name, shape in shapes.items():
        _check_tensor(name, tensors[name], shape)
    trained = trained_of(manifest, tensors, items, mapped.tensors.get(TWO_TOWER_FILE))
    return LoadedVersion(
        manifest=manifest,
        manifest_sha256=sha256,
        item_ids=items,
        index=als.ItemIndex.of(items),
        item_factors=tensors["item_factors"],
        item_gramian=tensors["item_gramian"],
        user_rows={user: row for row, user in enumerate(users)},
        user_factors=tensors["user_factors"],
        popular=RankedList.of(popular),
        fold_in=als.FoldIn.of(manifest.hyperparameters),
        fold_ins=FoldIns(trained),
        tower_vectors=None if trained.tower is None else trained.tower.search_vectors(),
        nearest=_nearest(tensors["item_factors"], tensors["user_factors"]),
        language_model=_language_model(mapped),
    )


def _language_model(mapped: MappedArtifact) -> LanguageModel | None:
    raw = mapped.files.get(LANGUAGE_MODEL_FILE)
    return None if raw is None else LanguageModel.of(raw, mapped.manifest.language_model)


def _nearest(items: Vector, users: Vector) -> Index | None:
    """An index of items (items, k), its recall measured on users (users, k); None where all of them are scored."""
    if len(items) <= EXACT_ITEMS:
        return None
    return build_index(items, users[:: max(1, len(users) // INDEX_QUERIES)], EXACT_ITEMS)


def _check_tensor(name: str, tensor: npt.NDArray[np.float32], shape: tuple[int, ...]) -> None:
    if tensor.dtype != np.float32 or tensor.shape != shape:
        raise ValueError(f"{name}: expected float32 {shape}, got {tensor.dtype} {tensor.shape}")
    if not np.isfinite(tensor).all():
        raise ValueError(f"{name}: {np.count_nonzero(~np.isfinite(tensor))} values are not finite")


def _check_golden(loaded: LoadedVersion, where: str) -> None:
    """Raise ArtifactError unless each golden query has its expected answer.

    A query's history are distinct items, oldest first, each met once with strength 1.
    """
    hashes = hashes_of(loaded.item_ids)
    for number, golden in enumerate(loaded.manifest.golden):
        rows = np.array(golden.history, np.int64)
        if not golden.expected or (rows < 0).any() or (rows >= len(hashes)).any():
            raise ArtifactError(f"{where}: golden query {number} names no item of the artifact")
        recent = np.zeros(len(rows), ENTRY)
        recent["ts_ms"], recent["item"], recent["strength"] = np.arange(len(rows)), hashes[rows], 1.0
        vector = als.fold_in_history(
            UserHistory(recent, EMPTY.seen), loaded.index, loaded.item_factors, loaded.item_gramian, loaded.fold_in
        )
        best = als.top_k(scores(loaded.item_factors, vector), len(golden.expected), rows).tolist()
        if best != golden.expected:
            raise ArtifactError(f"{where}: golden query {number} expects items {golden.expected}, got {best}")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a version is not served, and when it is looked at again (monotonic seconds)."""

    reason: str
    retry_at: float


@dataclass(slots=True)
class _Slot:
    """One version: being loaded, loaded or refused; since when no route names it (monotonic seconds)."""

    loading: Future[LoadedVersion | Refusal | None] | None
    held: LoadedVersion | Refusal | None = None
    unwanted_since: float | None = None


class ModelCache:
    """The versions of one model that this process holds."""

    def __init__(
        self,
        model: ModelName,
        artifacts: ArtifactStore,
        registry: ModelRegistry,
        retire_seconds: float,
        refused: Callable[[], None],
    ) -> None:
        """refused : called once for each refusal, to count it"""
        self.model = model
        self._artifacts = artifacts
        self._registry = registry
        self._retire_seconds = retire_seconds
        self._refused = refused
        self._slots: dict[ModelVersion, _Slot] = {}
        self._loader = ThreadPoolExecutor(1, f"load-{model}")

    def sync(self, wanted: Sequence[ModelVersion], now: float) -> None:
        """Take in what has been loaded, begin to load what is wanted, drop what is long unwanted.

        wanted : the versions of the route, the stable one first; now : monotonic seconds
        """
        for version, slot in self._slots.items():
            self._take_in(version, slot, now)
        for version in wanted:
            self._want(version, now)
        if wanted and wanted[0] not in self.loaded():
            for slot in self._slots.values():
                slot.unwanted_since = None  # their time begins when nobody needs to stand in any more
            return
        for version in [v for v, slot in self._slots.items() if v not in wanted and self._retired(slot, now)]:
            log.info("version_retired model=%s version=%s", self.model, version)
            del self._slots[version]

    def refuse(self, version: ModelVersion, reason: str, now: float) -> None:
        """Serve a loaded version no longer, for what was found out since."""
        self._slots[version].held = self._refuse(version, reason, now)

    def settle(self) -> None:
        """Wait until nothing is being loaded; the next `sync` takes it in."""
        wait([slot.loading for slot in self._slots.values() if slot.loading is not None])

    def loaded(self) -> dict[ModelVersion, LoadedVersion]:
        """The versions that can serve."""
        return {v: slot.held for v, slot in self._slots.items() if isinstance(slot.held, LoadedVersion)}

    def status(self, version: ModelVersion) -> ReaderStatus | None:
        """What this process can say of a version; None while it does not know."""
        slot = self._slots.get(version)
        match slot.held if slot else None:
            case LoadedVersion(manifest_sha256=sha256):
                return ReaderStatus(version, ready=True, manifest_sha256=sha256)
            case Refusal(reason=reason):
                return ReaderStatus(version, ready=False, error=reason)
            case _:
                return None

    def close(self) -> None:
        """Stop loading."""
        self._loader.shutdown(cancel_futures=True)

    def _want(self, version: ModelVersion, now: float) -> None:
        slot = self._slots.setdefault(version, _Slot(None))
        slot.unwanted_since = None
        due = slot.held is None or (isinstance(slot.held, Refusal) and now >= slot.held.retry_at)
        if due and slot.loading is None:
            slot.loading = self._loader.submit(self._load, version, now)

    def _take_in(self, version: ModelVersion, slot: _Slot, now: float) -> None:
        if slot.loading is None or not slot.loading.done():
            return
        error = slot.loading.exception()
        if isinstance(error, StoreError):  # the registry did not answer, say; that is no fault of the artifact
            log.warning("version_not_loaded model=%s version=%s error=%s", self.model, version, error)
        elif error is not None:  # nothing that is known to pass by itself: not to be read again at every poll
            slot.held = self._refuse(version, f"{type(error).__name__}: {error}", now)
        else:
            slot.held = slot.loading.result()
        slot.loading = None

    def _retired(self, slot: _Slot, now: float) -> bool:
        if slot.unwanted_since is None:
            slot.unwanted_since = now
        return slot.loading is None and now - slot.unwanted_since >= self._retire_seconds

    def _load(self, version: ModelVersion, now: float) -> LoadedVersion | Refusal | None:
        registered = self._registry.version(self.model, version)
        if registered is None:
            return self._refuse(version, f"{self.model} {version} is not in the registry", now)
        try:
            loaded = load_version(self._artifacts, registered)
        except ArtifactError as error:
            return self._refuse(version, str(error), now)
        log.info("version_ready model=%s version=%s items=%d", self.model, version, len(loaded.item_ids))
        return loaded

    def _refuse(self, version: ModelVersion, reason: str, now: float) -> Refusal:
        log.error("version_refused model=%s version=%s reason=%s", self.model, version, reason)
        self._refused()
        return Refusal(reason, now + RETRY_REFUSED_SECONDS)
