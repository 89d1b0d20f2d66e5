"""What a language model says of items, as the workers compute it beforehand and the readers add it to the blend.

- A score s = logit(yes) - logit(no) is the model's answer to whether a user will take an item. It is computed for a user's best
  candidates, and of new items for segments of users, by the long vector that they are nearest to.
- Scores of the blend are log-odds, up to a constant. What the language model adds to them is

      gain_i = weight · z(s_i),   z over the scored items, to mean 0 and deviation 1

  so that being scored at all is no advantage; items without a score gain nothing.
- The bytes of a user are an array of (item hash, score); those of segments safetensors.
"""

from dataclasses import dataclass
from typing import Final, Self

import msgspec
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from online_models.contracts.ids import ModelVersion
from online_models.errors import ArtifactError, StoreError

F32 = npt.NDArray[np.float32]
Hashes = npt.NDArray[np.uint64]

LANGUAGE_MODEL_FILE: Final = "language_model.json"

SCORE: Final = np.dtype([("item", "<u8"), ("score", "<f4")])
"""One scored item."""

_LEAST_DEVIATION: Final = 1e-3
"""Scores that lie closer together than this differ by rounding alone."""

LARGEST_SCORE: Final = 100.0
"""A larger one, either way, is a fault of the model."""


class LanguageModel(msgspec.Struct, frozen=True):
    """How a version uses its language model; content of `LANGUAGE_MODEL_FILE`.

    weight : what a deviation of s adds to the log-odds of the blend
    slope, intercept : slope · s + intercept is the calibrated logit of a shown item being taken; of a version that had seen too
        few choices from lists, that of an item among popular ones
    version : under whose name the scores are kept, see `Manifest.language_model`
    """

    weight: float
    slope: float = 1.0
    intercept: float = 0.0
    version: str = ""

    @classmethod
    def of(cls, raw: bytes, version: ModelVersion | None) -> Self:
        """From the file's bytes, of scores kept under a version. Raises ArtifactError when it is not such a file."""
        try:
            read = msgspec.json.decode(raw, type=cls)
        except msgspec.DecodeError as error:
            raise ArtifactError(f"{LANGUAGE_MODEL_FILE}: {error}") from error
        if version is None or not np.isfinite([read.weight, read.slope, read.intercept]).all():
            raise ArtifactError(
                f"{LANGUAGE_MODEL_FILE}: expected finite numbers and a version, got {read} of {version}"
            )
        return msgspec.structs.replace(read, version=version)

    def gains(self, scores: F32) -> F32:
        """What scores (n,) of one user add to the log-odds of their items (n,).

        >>> LanguageModel(weight=0.5).gains(np.array([1, 3], np.float32)).tolist()
        [-0.5, 0.5]
        """
        deviation = scores.std() if len(scores) else 0.0
        if deviation < _LEAST_DEVIATION:
            return np.zeros(len(scores), np.float32)
        # gain_i = weight · (s_i - mean s) / sd s
        gains: F32 = np.float32(self.weight) * (scores - scores.mean()) / np.float32(deviation)
        return gains


def encode_scores(items: Hashes, scores: F32) -> bytes:
    """Scores (n,) of items (n,) as bytes.

    >>> decode_scores(encode_scores(np.array([7], np.uint64), np.array([0.5], np.float32))).tolist()
    [(7, 0.5)]
    """
    rows = np.empty(len(items), SCORE)
    rows["item"], rows["score"] = items, scores
    return rows.tobytes()


def decode_scores(raw: bytes) -> npt.NDArray[np.void]:
    """SCORE (n,) from `encode_scores`. Raises StoreError when the bytes are torn."""
    if len(raw) % SCORE.itemsize:
        raise StoreError(f"scores: expected {SCORE.itemsize} bytes an item, got {len(raw)}")
    rows = np.frombuffer(raw, SCORE)
    if not (np.abs(rows["score"]) <= LARGEST_SCORE).all():  # NaN is not smaller either
        raise StoreError(f"scores: expected at most {LARGEST_SCORE} either way")
    return rows


@dataclass(frozen=True, slots=True)
class SegmentScores:
    """What the language model says of new items to segments of users.

    centroids : float32 (segments, k), of length 1 or 0; items : uint64 (n,), their hashes; scores : float32 (segments, n)
    space : SHA-256 of the factors whose space the centroids lie in: a refit has other axes
    """

    centroids: F32
    items: Hashes
    scores: F32
    space: str

    def of(self, vector: F32) -> npt.NDArray[np.void]:
        """SCORE (n,) for a user by their long vector (k,): of the segment whose centroid points most the same way."""
        rows = np.empty(len(self.items), SCORE)
        # argmax_g centroid_g . u / |u|, of which |u| changes nothing
        rows["item"], rows["score"] = self.items, self.scores[int(np.argmax(self.centroids @ vector))]
        return rows

    def encode(self) -> bytes:
        """As bytes (safetensors)."""
        space = np.frombuffer(self.space.encode(), np.uint8)
        return save({"centroids": self.centroids, "items": self.items, "scores": self.scores, "space": space})

    @classmethod
    def decode(cls, raw: bytes, k: int, space: str) -> Self:
        """From `encode`, for vectors (k,) of a space. Raises StoreError when the bytes are torn or of another space."""
        try:
            tensors = load(raw)
            told = tensors["space"].tobytes().decode()
            read = cls(tensors["centroids"], tensors["items"], tensors["scores"], told)
        except (SafetensorError, KeyError, UnicodeDecodeError) as error:
            raise StoreError(f"segments: expected what `SegmentScores.encode` gives: {error!r}") from error
        if read.space != space:
            raise StoreError(f"segments: expected the space of factors {space[:12]}, got {read.space[:12]}")
        shapes = read.centroids.shape, read.items.shape, read.scores.shape
        segments, n = read.centroids.shape[:1], read.items.shape
        if shapes != ((*segments, k), n, (*segments, *n)) or len(n) != 1 or segments in ((), (0,)):
            raise StoreError(f"segments: expected centroids (s, {k}), items (n,) and scores (s, n), got {shapes}")
        kinds = [array.dtype.name for array in (read.centroids, read.items, read.scores)]
        if kinds != ["float32", "uint64", "float32"]:
            raise StoreError(f"segments: expected float32, and uint64 items, got {', '.join(kinds)}")
        if not (np.isfinite(read.centroids).all() and (np.abs(read.scores) <= LARGEST_SCORE).all()):
            raise StoreError(f"segments: expected finite centroids and scores of at most {LARGEST_SCORE} either way")
        return read
