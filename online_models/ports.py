"""What the processes ask of the world: one Protocol per kind of store. Implementations live in `online_models.stores`.

Every write says in its docstring whether it is idempotent or compare-and-set.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from online_models.contracts.artifacts import Manifest
from online_models.contracts.events import EventBatch, Item
from online_models.contracts.ids import Epoch, ItemId, ModelName, ModelVersion, RolloutId, UserId
from online_models.contracts.preferences import NO_PREFERENCES, PrecomputedList, Preferences
from online_models.contracts.rollouts import GroupedCounts, ReaderStatus, Route, Served, ShadowCounts, VariantWindow
from online_models.history import UserHistory
from online_models.interactions import EventView, Interactions
from online_models.job_queue import JobQueue as JobQueue
from online_models.learner import MovedItem
from online_models.model_registry import ModelRegistry as ModelRegistry
from online_models.model_registry import OutboxEntry as OutboxEntry
from online_models.model_registry import OutboxState as OutboxState
from online_models.model_registry import RegisteredVersion as RegisteredVersion
from online_models.model_registry import RegistryOutbox as RegistryOutbox
from online_models.rollout_store import Act as Act
from online_models.rollout_store import ApiKey as ApiKey
from online_models.rollout_store import KeyStore as KeyStore
from online_models.rollout_store import NewRollout as NewRollout
from online_models.rollout_store import RolloutStore as RolloutStore
from online_models.rollout_store import VariantCounts as VariantCounts

Vector = npt.NDArray[np.float32]
T = TypeVar("T")


class EventLog(Protocol):
    """The live log that the API appends to and the flow tails."""

    def append(self, lines: Sequence[bytes]) -> None:
        """Append whole NDJSON lines (without their newline); durable against a crash of this process on return."""


@dataclass(frozen=True, slots=True)
class VersionUpdate:
    """What one batch changes for one live version.

    users : user id -> (event-time version ms, float32 (2 k,)), the recent and the long vector; items : those that moved
    blend : its state, None when nothing was learned; item_vectors : of a publication, all items that have moved so far
    """

    version: ModelVersion
    users: Mapping[UserId, tuple[int, Vector]] = field(default_factory=dict)
    items: Mapping[ItemId, MovedItem] = field(default_factory=dict)
    blend: bytes | None = None
    item_vectors: bytes | None = None


@dataclass(frozen=True, slots=True)
class EmbeddingUpdate:
    """All that one batch changes for one model, applied as one transaction with its position.

    popularity : item id -> (decayed count, epoch ms it is decayed to); popular : the most popular item ids, best first
    number : of the batch among all that the model's sources have learned from, from 1
    steps : what the sources have learned from it, for their log
    sources : their state after it, when that is published: it takes the place of the log
    """

    model: ModelName
    run_id: str
    source: str
    position: int
    histories: Mapping[UserId, UserHistory]
    versions: Sequence[VersionUpdate]
    popularity: Mapping[ItemId, tuple[float, int]]
    popular: Sequence[ItemId]
    number: int = 0
    steps: bytes = b""
    sources: bytes | None = None


@dataclass(frozen=True, slots=True)
class SourcesState:
    """Where sources stand: after batch `number`, as the published state (None: nothing) and the steps since, batch by batch."""

    number: int
    published: bytes | None
    steps: Sequence[bytes]


class EmbeddingStore(Protocol):
    """Vectors, histories and popularity of a model. The flow is the only writer; all methods are synchronous."""

    def applied_position(self, model: ModelName, run_id: str, source: str) -> int:
        """Position up to which a run's source is applied; -1 when nothing is."""

    def histories(self, model: ModelName, users: Sequence[UserId]) -> list[UserHistory]:
        """Histories in the order asked; `history.EMPTY` for unknown users. One round trip."""

    def popularity(self, model: ModelName) -> dict[ItemId, tuple[float, int]]:
        """Item id -> (decayed count, epoch ms it is decayed to)."""

    def moved_items(self, model: ModelName, version: ModelVersion) -> dict[ItemId, MovedItem]:
        """Items that the stream has moved since the version was trained, or that are newer."""

    def blend(self, model: ModelName, version: ModelVersion) -> bytes | None:
        """What a version's blend has learned; None before it has."""

    def sources(self, model: ModelName) -> SourcesState:
        """What the sources have learned; read as one."""

    def apply(self, update: EmbeddingUpdate) -> int:
        """Write a batch's changes and its position in one MULTI/EXEC; vectors by MSET, last row per id. Idempotent by position:
        callers skip a batch whose position is applied. Returns the number of vectors written."""

    def drop_version(self, model: ModelName, version: ModelVersion) -> int:
        """Delete a retired version's keys; idempotent. Returns how many were deleted."""


class RouteStore(Protocol):
    """The route document, and what readers say of the versions in it."""

    def route(self, model: ModelName) -> Route | None:
        """The current document."""

    def route_epoch(self, model: ModelName) -> Epoch | None:
        """The epoch of the document, which itself may be torn."""

    def put_route(self, model: ModelName, route: Route) -> bool:
        """Write the document unless there is one of a larger epoch (compare-and-set by Lua); False when there is. Idempotent."""

    def heartbeat(self, model: ModelName, reader_id: str, now: datetime) -> None:
        """A reader of the model says that it lives. Idempotent."""

    def put_status(self, model: ModelName, reader_id: str, status: ReaderStatus) -> None:
        """A reader says what it holds (TTL 15 s). Idempotent."""

    def statuses(self, model: ModelName, version: ModelVersion, now: datetime) -> dict[str, ReaderStatus | None]:
        """Status of each reader of the model seen in the last 15 s; None where it has said nothing of this version."""

    def put_served(
        self, model: ModelName, rollout_id: RolloutId, reader_id: str, served: Mapping[tuple[int, str], Served]
    ) -> None:
        """A reader says what its requests of a rollout came to since it began, by stage and variant. Idempotent."""

    def served(self, model: ModelName, rollout_id: RolloutId) -> dict[tuple[int, str], Served]:
        """What all readers, living and gone, have said of a rollout, summed up by stage and variant, of a bandit's arms each its
        own (`served_arm`). What cannot be read counts as nothing."""


@dataclass(frozen=True, slots=True)
class UserState:
    """What is known of one user.

    vector : the version's, float32 (2 k,), None where the stream has learned none; history : may be EMPTY
    preferences : what the user has said to like; precomputed : a JSON `PrecomputedList` of the version, where that was read
    language : `language_scores.encode_scores` of the version's language model, where it has one that has scored the user
    """

    vector: Vector | None
    history: UserHistory
    preferences: Preferences = NO_PREFERENCES
    precomputed: bytes | None = None
    language: bytes | None = None


class UserReads(Protocol):
    """What a request reads of its user, without blocking the event loop."""

    async def user(
        self,
        model: ModelName,
        version: ModelVersion | None,
        user_id: UserId,
        language_model: ModelVersion | None = None,
    ) -> UserState:
        """All that is known of the user in one MGET; language_model : under whose name scores of one are kept, None for none.
        Raises StoreUnavailable when Redis does not answer in time."""

    async def close(self) -> None:
        """Close the connections."""


class ServingStore(Protocol):
    """What the API keeps for itself. Synchronous; raises StoreUnavailable when Redis does not answer in time, StoreError."""

    def preferences(self, model: ModelName, user_id: UserId) -> Preferences:
        """What a user has said to like; `NO_PREFERENCES` when nothing."""

    def put_preferences(self, model: ModelName, user_id: UserId, preferences: Preferences) -> None:
        """Replace what a user has said. Idempotent."""

    def drop_preferences(self, model: ModelName, user_id: UserId) -> bool:
        """Forget it; whether there was anything. Idempotent."""

    def session(self, model: ModelName, request_id: str) -> bytes | None:
        """The frozen list behind a request's pages; None when it has expired, or never was."""

    def put_session(self, model: ModelName, request_id: str, raw: bytes, ttl: timedelta) -> None:
        """Keep a frozen list. Idempotent."""

    def states(
        self, model: ModelName, users: Sequence[tuple[UserId, ModelVersion, ModelVersion | None]]
    ) -> list["UserState | None"]:
        """What is known of users, each under a version and a language model, in the order asked; None where that is torn. One
        round trip."""

    def put_lists(
        self, model: ModelName, lists: Sequence[tuple[UserId, ModelVersion, PrecomputedList]], ttl: timedelta
    ) -> None:
        """Replace users' precomputed lists. Idempotent. One round trip."""


@dataclass(frozen=True, slots=True)
class Published:
    """What the stream job has published of a model, as bytes: the sources, and of each version its item vectors and its blend."""

    number: int
    sources: bytes | None
    item_vectors: Mapping[ModelVersion, bytes]
    blends: Mapping[ModelVersion, bytes]


class LanguageScoreWrites(Protocol):
    """What a worker tells the readers of a language model's scores. Raises StoreUnavailable."""

    def put_scores(
        self, model: ModelName, version: ModelVersion, scores: Mapping[UserId, bytes], ttl: timedelta
    ) -> None:
        """Replace users' scores (`language_scores.encode_scores`). Idempotent."""

    def put_segments(self, model: ModelName, version: ModelVersion, segments: bytes, ttl: timedelta) -> None:
        """Replace the scores of new items by segment (`SegmentScores.encode`). Idempotent."""

    def put_complete(self, model: ModelName, version: ModelVersion, space: str, ttl: timedelta) -> None:
        """Note that all scores of a version are there, beside a recommender of this space (`Manifest.space`). Idempotent."""

    def time_left(self, model: ModelName, version: ModelVersion, space: str) -> timedelta:
        """How long the scores of a version beside a recommender of this space still count; none where they are not there."""

    def claim_scoring(self, model: ModelName, version: ModelVersion, worker: str, lease: timedelta) -> bool:
        """Take it on oneself to score again for a version; False while somebody else does. Compare-and-set."""

    def release_scoring(self, model: ModelName, version: ModelVersion) -> None:
        """Let others score again. Idempotent."""


class StreamReads(Protocol):
    """What a reader polls of the stream job's results. Raises StoreUnavailable."""

    def publication(self, model: ModelName) -> int:
        """Number of the last batch that is published; 0 before the first publication."""

    def published(self, model: ModelName, versions: Sequence[ModelVersion]) -> "Published":
        """The last publication."""

    def popular(self, model: ModelName) -> list[ItemId]:
        """The most popular item ids, best first; empty when nothing is known."""

    def segments(self, model: ModelName, version: ModelVersion) -> bytes | None:
        """What a version's language model says of new items by segment (`SegmentScores.encode`); None without one."""


class InteractionStore(Protocol):
    """Events as rows. Rows are inserted at most once per event_id."""

    def write(self, batches: Sequence[EventBatch]) -> int:
        """COPY the events into `watch_history`, `purchase_history`, `impressions`, `feedback` and their users into `users`;
        idempotent by event_id. Commits without waiting for the disk: call `flush` before relying on it. Returns rows added."""

    def flush(self) -> None:
        """Return when everything written so far is durable."""

    def interactions(self, domain: str, until_ms: int | None = None) -> Interactions:
        """All interactions and feedback of a domain up to an event time (inclusive)."""

    def view(self, domain: str, until_ms: int | None, work: Callable[[EventView], T]) -> T:
        """What `work` makes of one consistent view of a domain's events, impressions among them, up to an event time
        (inclusive), and of its catalogue. `work` is repeated when the connection turns out dead, so it must be idempotent."""

    def put_items(self, items: Sequence[Item]) -> None:
        """Insert or replace catalogue entries; idempotent."""

    def items(self, domain: str) -> list[Item]:
        """The catalogue of a domain, by item id."""

    def users(self, after: UserId | None, count: int) -> list[UserId]:
        """The next users of all domains, in the order of their ids: those behind `after`, at most `count`."""


class WindowStore(Protocol):
    """What the flow found out: window reports, drift events, variant windows."""

    def put_window_reports(self, reports: Sequence["WindowRow"]) -> None:
        """Insert or replace; idempotent by (model, window start, window end)."""

    def put_feature_windows(self, rows: Sequence["FeatureWindowRow"]) -> None:
        """Insert or replace; idempotent by (model, window start, window end, feature)."""

    def put_feature_words(self, words: Sequence["FeatureWord"]) -> None:
        """Insert; idempotent by (model, feature, fingerprint)."""

    def feature_windows(
        self, model: ModelName, start_ms: int, end_ms: int, feature: str | None = None
    ) -> list["FeatureWindowRow"]:
        """Rows of the windows that end in (start_ms, end_ms], by (window end, window start, feature)."""

    def latest_windows(self) -> dict[ModelName, int]:
        """Model -> end (epoch ms) of its latest window with feature rows."""

    def feature_words(self, model: ModelName) -> dict[tuple[str, int], str]:
        """(feature, fingerprint) -> the word's text."""

    def put_drift_events(self, events: Sequence["DriftRow"]) -> None:
        """Insert; idempotent by id."""

    def put_variant_windows(self, windows: Sequence[VariantWindow]) -> None:
        """Insert or replace in `model_metrics`; idempotent by (model, version, rollout, stage, variant, window start)."""

    def put_grouped_counts(self, counts: Sequence[GroupedCounts]) -> None:
        """Insert or replace in `grouped_metrics`; idempotent by (rollout, stage, variant, version, since)."""

    def put_shadow_counts(self, counts: Sequence[ShadowCounts]) -> None:
        """Insert or replace in `shadow_metrics`; idempotent by (model, version, since)."""


@dataclass(frozen=True, slots=True)
class WindowRow:
    """One closed window of one model, as stored: `report` is its JSON."""

    model: ModelName
    window_start_ms: int
    window_end_ms: int
    report: bytes


@dataclass(frozen=True, slots=True)
class FeatureWindowRow:
    """One feature in one window: what it looked like, and what the detectors say. None is what does not apply or is not known.

    events, missing : events that should carry the feature, and those of them that do not
    mean, sd, minimum, maximum, quantiles : of a numeric feature; quantiles are those of `QUANTILES`
    cardinality, new_share, heavy : of words: distinct ones (estimate), share of values in buckets the reference never filled,
        and the most frequent as (fingerprint, count at most), see `feature_words`
    statistics : detector -> statistic; p_value : of the feature, calibrated, before Benjamini-Hochberg
    effect : size of the drift (bias-corrected chi-square divergence, about PSI for small shifts)
    detectable : smallest such effect that a window of this size would show in 99 of 100 cases
    verdict : `drift`, `unconfirmed`, `seasonal`, `stable`, `inconclusive` (too little data) or `unjudged` (no reference)
    information, rank : mutual information with the target in nats, Miller-Madow corrected, and the feature's rank, 1 is best
    bins, counts, reference : labels of the coarse bins, and the window's and the reference's counts in them
    """

    model: ModelName
    window_start_ms: int
    window_end_ms: int
    feature: str
    kind: str
    champion: str | None
    events: int
    missing: int
    verdict: str
    why: str = ""
    mean: float | None = None
    sd: float | None = None
    minimum: float | None = None
    maximum: float | None = None
    quantiles: Sequence[float] = ()
    cardinality: float | None = None
    new_share: float | None = None
    heavy: Sequence[tuple[int, int]] = ()
    statistics: Mapping[str, float] = field(default_factory=dict)
    p_value: float | None = None
    effect: float | None = None
    detectable: float | None = None
    information: float | None = None
    rank: int | None = None
    bins: Sequence[str] = ()
    counts: Sequence[int] = ()
    reference: Sequence[int] = ()


QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Those of `FeatureWindowRow.quantiles`."""


@dataclass(frozen=True, slots=True)
class FeatureWord:
    """The text behind the fingerprint (32 bits) of a frequent word of a feature."""

    model: ModelName
    feature: str
    fingerprint: int
    text: str


@dataclass(frozen=True, slots=True)
class DriftRow:
    """One drift event or one trigger decision, as stored.

    kind : `drift` (a detector fired), `trigger` (a job was asked for) or `suppressed` (it was not; `reason` says why)
    """

    id: str
    kind: str
    model: ModelName
    detector: str
    feature: str
    window_start_ms: int
    window_end_ms: int
    statistic: float
    threshold: float
    reason: str


@dataclass(frozen=True, slots=True)
class MappedArtifact:
    """A verified artifact whose arrays lie in memory that the processes of a machine share.

    files : name -> content of the files that are no safetensors
    tensors : name of a safetensors file -> its arrays by name, C-contiguous; what is written to one stays in this process
    """

    manifest: Manifest
    files: Mapping[str, bytes]
    tensors: Mapping[str, Mapping[str, npt.NDArray[Any]]]


class ArtifactStore(Protocol):
    """Artifact directories, whole or absent."""

    def path(self, model: ModelName, version: ModelVersion) -> Path:
        """Where a version's directory is, whether or not it exists."""

    def write(self, manifest: Manifest, files: Mapping[str, bytes]) -> tuple[Manifest, str]:
        """Write aside, hash, fsync, rename: the directory is whole or absent. Fills in `manifest.files`; returns the manifest and
        its SHA-256. Raises ArtifactError when the version exists."""

    def read(
        self, model: ModelName, version: ModelVersion, manifest_sha256: str | None = None
    ) -> tuple[Manifest, dict[str, bytes]]:
        """The verified manifest and files. Raises ArtifactError on a missing file, another size, hash, dtype or shape."""

    def map(self, model: ModelName, version: ModelVersion, manifest_sha256: str | None = None) -> MappedArtifact:
        """`read` without a copy of the tensors for this process. Raises ArtifactError as `read` does."""

    def discard(self, model: ModelName, version: ModelVersion) -> None:
        """Delete a version that was never registered, or whose collection has begun; the directory disappears whole.
        Idempotent."""

    def writing(self, manifest: Manifest, files: Mapping[str, bytes]) -> AbstractContextManager[tuple[Manifest, str]]:
        """`write`, and the version counts as being written to the end of the block."""

    def written_before(self, model: ModelName, moment: datetime) -> list[ModelVersion]:
        """A model's versions that were written before a moment (aware), registered or not, by name; none that is being
        written."""

    def unfinished(self, model: ModelName, moment: datetime) -> list[str]:
        """What crashed writers of a model left before a moment (aware), by name; nothing that is being written."""

    def remove_unfinished(self, model: ModelName, moment: datetime) -> list[str]:
        """Remove what `unfinished` tells of. Idempotent. Returns what was removed."""
