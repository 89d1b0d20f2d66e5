"""The manifest of a model artifact: what is in the directory, how it was made, and what it was trained on.

- An artifact is a directory with `manifest.json` beside the files it lists; never pickle.
- The reference sketches are the histograms of the training window: drift is measured against them.
"""

import msgspec

from online_models.contracts.features import FeatureSpec
from online_models.contracts.ids import ModelName, ModelVersion
from online_models.contracts.jobs import JobKind

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"

FACTORS_FILE = "factors.safetensors"

KINDS = tuple(JobKind)
"""Of a version. Each is a whole recommender: the latter two hold ALS factors as well."""


class Tensor(msgspec.Struct, frozen=True):
    """Declared form of one tensor in a safetensors file; `dtype` is numpy's name of it, such as `float32`."""

    dtype: str
    shape: tuple[int, ...]


class ArtifactFile(msgspec.Struct, frozen=True):
    """One file of the artifact: its size, SHA-256, and its tensors when it is a safetensors file."""

    name: str
    bytes: int
    sha256: str
    tensors: dict[str, Tensor] = {}


class FeatureSketch(msgspec.Struct, frozen=True):
    """Reference of one feature: its histogram, and how that varied in itself.

    counts : `cells + 3` counts, `[under, cells..., over, missing]`
    panes : coarse counts of K consecutive stretches of the reference of `pane_ms` each, by `histograms.rebin` of `counts`;
        what is between them is chance, seasons and habit, which is no drift; empty when the reference was too short
    pane_starts_ms : event time at which each of the K stretches begins
    events : behind the counts; an event may have several words; 0 in older manifests
    """

    feature: FeatureSpec
    counts: list[int]
    panes: list[list[int]] = []
    pane_starts_ms: list[int] = []
    pane_ms: int = 0
    events: int = 0


class DataWindow(msgspec.Struct, frozen=True):
    """Event times of the training data, epoch ms, how many events they were, and a hash of them all."""

    start_ms: int
    end_ms: int
    events: int
    sha256: str = ""


class GoldenQuery(msgspec.Struct, frozen=True):
    """A user vector's known answer: a reader that computes other items must not serve the artifact.

    history : row numbers of items; expected : row numbers of the best unseen items, best first
    """

    history: list[int]
    expected: list[int]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a reader needs to trust and to explain an artifact."""

    schema_version: int = SCHEMA_VERSION
    model: ModelName
    version: ModelVersion
    kind: str
    """One of `KINDS`."""
    created_at: str
    """RFC 3339, UTC."""
    files: list[ArtifactFile]
    hyperparameters: dict[str, float]
    metrics: dict[str, float]
    """Holdout figures, by name, of the candidate and (`champion_*`) of the version it was compared with."""
    data_window: DataWindow
    sketches: list[FeatureSketch]
    feature_spec_hash: str
    golden: list[GoldenQuery]
    parent: ModelVersion | None = None
    job_id: int | None = None
    code_version: str = ""
    seed: int = 0
    start: str = ""
    """`warm` (from `parent`) or `cold`; empty in older manifests."""
    snapshot_sha256: str = ""
    """Of the data as they were read, see `retrain_workers.data.snapshots`; empty in older manifests."""
    language_model: ModelVersion | None = None
    """The version under whose name the scores of its language model are in Redis; None without one."""
    recommender_until_ms: int | None = None
    """Newest event that factors and towers have learned from, where it is not the end of `data_window`: an adapter carries older
    ones."""

    @property
    def space(self) -> str:
        """SHA-256 of its factors' file: vectors of versions with the same one may be compared. Empty without factors."""
        return next((file.sha256 for file in self.files if file.name == FACTORS_FILE), "")

    @property
    def known_until_ms(self) -> int:
        """Newest event that factors and towers have learned from, epoch ms."""
        return self.data_window.end_ms if self.recommender_until_ms is None else self.recommender_until_ms


def encode_manifest(manifest: Manifest) -> bytes:
    """Readable JSON bytes of a manifest."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1)


def decode_manifest(raw: bytes) -> Manifest:
    """A manifest from its bytes.

    Raises
    ------
    msgspec.DecodeError
        When the bytes are not a manifest of a known form.
    """
    return msgspec.json.decode(raw, type=Manifest)
