"""A reference model of text: how surprised it is by a text, in nats a word.

- Words are those of `tokens:` features, by their 64-bit hash. A text is read from its beginning; what follows its last word is
  not predicted, so that a longer text is no surprise in itself.
- Counts only, added one to: nothing is fitted by steps, and the same texts in any order give the same bytes.
- It stands in for a language model's own likelihood, which only torch could compute: new words and new turns of phrase surprise
  both. Of a change of taste among known words neither says anything; labels do (`flows.delayed_labels`).

With c the counts of words, pairs of neighbours (v, w) and left neighbours, N words of V kinds, and one more kind for all others:

    p(w)     = (c(w) + 1) / (N + V + 1)
    p(w | v) = (c(v, w) + mu p(w)) / (c(v) + mu)
    nll      = -1/n Σ_j ln p(w_j | w_{j-1})        with w_0 the beginning of a text

References
----------
MacKay, Peto: A hierarchical Dirichlet language model. Natural Language Engineering 1(3), 1995 (the interpolation).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Self

import numpy as np
import numpy.typing as npt
from numba import njit
from safetensors import SafetensorError
from safetensors.numpy import load, save

from online_models.construction import NLL, words_of
from online_models.contracts.columns import Column, FeatureColumns
from online_models.contracts.ids import hash64, hashes_of
from online_models.errors import ArtifactError

TEXT_MODEL_FILE: Final = "text_model.safetensors"
"""Its name in an artifact."""

PRIOR: Final = 4.0
"""mu: how many pairs the single words weigh as, beside those that began with the same word."""

REMEMBERED: Final = 65_536
"""Texts whose surprise is remembered: a catalogue's titles come again and again."""

Hashes = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_START: Final = np.uint64(hash64("\x00"))  # no word holds this
_MIX: Final = np.uint64(0x9E3779B97F4A7C15)
_S29, _S32 = np.uint64(29), np.uint64(32)
_SHAPES: Final = {
    "words": np.uint64,
    "counts": np.int64,
    "pairs": np.uint64,
    "pair_counts": np.int64,
    "lefts": np.int64,
}


@dataclass(frozen=True, slots=True)
class TextModel:
    """Counts of a body of texts.

    words : uint64 (V,) increasing, hashes; counts : int64 (V,), how often each came
    pairs : uint64 (P,) increasing, hashes of neighbours; pair_counts : int64 (P,)
    lefts : int64 (V + 1,), how often each word had a right neighbour; last, how many texts began
    """

    words: Hashes
    counts: Counts
    pairs: Hashes
    pair_counts: Counts
    lefts: Counts

    @classmethod
    def of(cls, texts: Sequence[str]) -> Self:
        """The counts of texts, in whatever order.

        >>> model = TextModel.of(["the red house", "the red car"])
        >>> known, turned, new = model.nll(["the red car", "car red the", "un autobus"])
        >>> bool(known < turned < new)
        True
        """
        single, pairs, lefts = Counter[str](), Counter[tuple[str, str]](), Counter[str]()
        started = 0
        for text, times in Counter(texts).items():
            words = words_of(text)
            if not words:
                continue
            started += times
            for word in words:
                single[word] += times
            pairs["\x00", words[0]] += times
            for left, right in pairwise(words):
                pairs[left, right] += times
                lefts[left] += times
        named = sorted((hash64(word), word) for word in single)
        keys = _pair_keys([left for left, _ in pairs], [right for _, right in pairs])
        order = np.argsort(keys)
        return cls(
            np.array([key for key, _ in named], np.uint64),
            np.array([single[word] for _, word in named], np.int64),
            keys[order],
            np.fromiter(pairs.values(), np.int64, len(pairs))[order],
            np.array([*(lefts[word] for _, word in named), started], np.int64),
        )

    def nll(self, texts: Sequence[str]) -> Floats:
        """Mean surprise of each text's words (n,), nats; NaN of a text without a word."""
        split = [words_of(text) for text in texts]
        bounds = np.append(0, np.cumsum([len(words) for words in split])).astype(np.int64)
        flat = [word for words in split for word in words]
        hash_of = {word: hash64(word) for word in set(flat)}
        words = np.fromiter(map(hash_of.__getitem__, flat), np.uint64, len(flat))
        return _nll(words, bounds, self.words, self.counts, self.pairs, self.pair_counts, self.lefts, PRIOR)

    def encode(self) -> bytes:
        """The bytes of a safetensors file."""
        return save({name: getattr(self, name) for name in _SHAPES})

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """A model from the bytes that `encode` made. Raises ArtifactError when they are others."""
        try:
            tensors = load(raw)
            model = cls(**{name: tensors[name] for name in _SHAPES})
        except (SafetensorError, KeyError) as error:
            raise ArtifactError(f"expected a text model of {', '.join(_SHAPES)}, got {error!r}") from error
        model._check()
        return model

    def _check(self) -> None:
        """Raise ArtifactError unless the tensors could be the counts of some texts."""
        kinds, pairs = len(self.words), len(self.pairs)
        for name, length in zip(_SHAPES, (kinds, kinds, pairs, pairs, kinds + 1), strict=True):
            tensor = getattr(self, name)
            if tensor.dtype != _SHAPES[name] or tensor.shape != (length,):
                expected = f"{np.dtype(_SHAPES[name])} ({length},)"
                raise ArtifactError(f"text model, {name}: expected {expected}, got {tensor.dtype} {tensor.shape}")
        for name in ("words", "pairs"):
            keys = getattr(self, name)
            if (keys[1:] <= keys[:-1]).any():
                raise ArtifactError(f"text model, {name}: expected increasing hashes")
        if min(self.counts.min(initial=1), self.pair_counts.min(initial=1)) < 1 or self.lefts.min(initial=0) < 0:
            raise ArtifactError("text model: expected counts of at least 1")


def _pair_keys(lefts: Sequence[str], rights: Sequence[str]) -> Hashes:
    keys: Hashes = _paired(hashes_of(lefts), hashes_of(rights))
    return keys


@njit(cache=True, nogil=True)
def _pair(left: np.uint64, right: np.uint64) -> np.uint64:
    """The hash of two neighbours; their order matters."""
    mixed = (left ^ (left >> _S32)) * _MIX
    mixed = (mixed ^ (mixed >> _S29)) + right
    mixed = (mixed ^ (mixed >> _S32)) * _MIX
    return mixed ^ (mixed >> _S29)


@njit(cache=True, nogil=True)
def _paired(left: Hashes, right: Hashes) -> Hashes:
    keys = np.empty(left.size, np.uint64)
    for i in range(left.size):
        keys[i] = _pair(left[i], right[i])
    return keys


@njit(cache=True, nogil=True)
def _place(sorted_keys: Hashes, key: np.uint64) -> int:
    """Where a key lies among increasing ones; -1 where it does not."""
    low, high = 0, sorted_keys.size
    while low < high:
        middle = (low + high) // 2
        if sorted_keys[middle] < key:
            low = middle + 1
        else:
            high = middle
    return low if low < sorted_keys.size and sorted_keys[low] == key else -1


@njit(cache=True, nogil=True)
def _nll(
    words: Hashes,
    bounds: Counts,
    known: Hashes,
    counts: Counts,
    pairs: Hashes,
    pair_counts: Counts,
    lefts: Counts,
    prior: float,
) -> Floats:
    """Mean surprise of the words of each text, words[bounds[i]:bounds[i + 1]]; NaN of none."""
    total = counts.sum() + known.size + 1.0
    found = np.empty(bounds.size - 1, np.float64)
    for text in range(bounds.size - 1):
        nats, left, before = 0.0, _START, known.size
        for at in range(bounds[text], bounds[text + 1]):
            place = _place(known, words[at])
            single = ((counts[place] if place >= 0 else 0) + 1.0) / total
            pair = _place(pairs, _pair(left, words[at])) if before >= 0 and place >= 0 else -1
            together = pair_counts[pair] if pair >= 0 else 0
            begun = lefts[before] if before >= 0 else 0
            nats -= np.log((together + prior * single) / (begun + prior))
            left, before = words[at], place
        length = bounds[text + 1] - bounds[text]
        found[text] = nats / length if length > 0 else np.nan
    return found


class Surprise:
    """A text model at work on columns of texts: a text that comes often is read once.

    remembered : most texts whose surprise is kept, beyond those of one batch

    >>> from online_models.columns import MappingColumns
    >>> at_work = Surprise(TextModel.of(["the red house", "the red car"]))
    >>> titles = MappingColumns([{"title": "the red house"}, None, {"title": "???"}, {"title": "blue"}]).column("title")
    >>> column = at_work.column(titles)
    >>> column.number_rows.tolist(), column.numbers.round(1).tolist()
    ([0, 3], [0.9, 2.8])
    """

    def __init__(self, model: TextModel, remembered: int = REMEMBERED) -> None:
        self.model = model
        self._remembered = remembered
        self._known: dict[int, float] = {}

    def column(self, texts: Column) -> Column:
        """The mean surprise of the texts of each event, a number for every event with a word in them; of several, their mean."""
        hashes, first, place = np.unique(texts.words, return_index=True, return_inverse=True)
        nats = self._nats(hashes.tolist(), first, texts)[place]  # (w,)
        read = ~np.isnan(nats)
        rows = np.arange(len(texts.words), dtype=np.int32) if texts.word_rows is None else texts.word_rows
        kept, of = np.unique(rows[read], return_inverse=True)
        sums = np.bincount(of, weights=nats[read], minlength=len(kept))
        return Column(kept.astype(np.int32), sums / np.maximum(np.bincount(of, minlength=len(kept)), 1))

    def _nats(self, hashes: list[int], first: npt.NDArray[np.intp], texts: Column) -> Floats:
        new = [row for row, hashed in enumerate(hashes) if hashed not in self._known]
        read = self.model.nll([texts.text(int(first[row])) for row in new])
        if len(self._known) + len(new) > self._remembered:
            self._known = {hashed: self._known[hashed] for hashed in hashes if hashed in self._known}
        self._known.update(zip((hashes[row] for row in new), read.tolist(), strict=True))
        return np.fromiter(map(self._known.__getitem__, hashes), np.float64, len(hashes))


class TextColumns:
    """`FeatureColumns` with the surprise of their texts beside them, under the full name of the source: `nll:features.<name>`."""

    def __init__(self, surprise: Surprise, features: FeatureColumns) -> None:
        self._surprise = surprise
        self._features = features

    def names(self) -> tuple[str, ...]:
        """Those of the features, and one for the surprise of each."""
        names = self._features.names()
        return (*names, *(f"{NLL}{name}" for name in names))

    def column(self, name: str) -> Column:
        """A feature as it is, or the surprise of its texts."""
        if not name.startswith(NLL):
            return self._features.column(name)
        return self._surprise.column(self._features.column(name.removeprefix(NLL)))

    def take(self, rows: npt.NDArray[np.bool_]) -> "TextColumns":
        """The features of the events where `rows` (n,) is true."""
        return TextColumns(self._surprise, self._features.take(rows))
