"""Vectors of words by the histories they stand in together: what a tiny base begins with, and new words later.

- Learning from drawn vectors which words go together takes a tiny base most of its training; counting takes no time.
- Positive pointwise mutual information of words of one choice's history and taken item, factorized as Levy and Goldberg do.
- A word that no choice shows gets a drawn vector. Once choices show it, it gets a mean of the vectors of the words that it
  stands with: words of one topic begin alike, and what is learned of one is learned of all.

    new word v:  e_v = Σ_w PPMI_vw e_w over words w that the base knows, at the mean length of these

    PPMI_vw = max(log(n C_vw / (c_v c_w)), 0),   PPMI ~ U S Uᵀ,   E = U √S,   each row at one length

References
----------
Levy, Goldberg: Neural word embedding as implicit matrix factorization. NeurIPS 2014.
Halko, Martinsson, Tropp: Finding structure with randomness. SIAM Review 2011 (the factorization).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from retrain_workers.lora.base import BaseModel
from retrain_workers.lora.choices import TAKEN, ChoiceGroups
from retrain_workers.lora.prompts import MARKERS, Words

F32 = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

UNSEEN: Final = "unseen_tokens"
"""In the config of a tiny base: words that its pretraining has not shown it."""

_ITERATIONS: Final = 4
_LEAST_LENGTH: Final = 1e-6


@dataclass(frozen=True, slots=True)
class PlacedWords:
    """tokens : (n,); vectors : float32 (n, d)"""

    tokens: Rows
    vectors: F32


NO_WORDS: Final = PlacedWords(np.empty(0, np.int64), np.empty((0, 0), np.float32))


def word_vectors(words: Words, texts: Sequence[str], groups: ChoiceGroups, width: int, seed: int) -> F32:
    """Vectors (vocabulary, width) of length 1."""
    rng = np.random.default_rng(seed)
    drawn = rng.standard_normal((len(words), width))
    vectors = _factors(_information(_shown(words, texts, groups)), width, rng)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = np.where(lengths > _LEAST_LENGTH, vectors, drawn)
    found: F32 = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return found


def placed_words(base: BaseModel, texts: Sequence[str], groups: ChoiceGroups) -> PlacedWords:
    """Vectors of words that the choices show and the base was never shown; none of a mounted base, which knows parts of words."""
    words, embeddings = base.prompt, base.decoder.embeddings.weight
    unseen = np.array(getattr(base.decoder.model.config, UNSEEN, []), np.int64)
    if not isinstance(words, Words) or not len(unseen):
        return NO_WORDS
    known = np.ones(len(words))
    known[unseen] = 0
    information = (
        _information(_shown(words, texts, groups))[unseen].multiply(known[None]).tocsr()
    )  # (unseen, vocabulary)
    vectors = information @ embeddings.detach().float().cpu().numpy()
    lengths = np.linalg.norm(vectors, axis=1)
    met = lengths > _LEAST_LENGTH
    usual = float(embeddings.detach().float().norm(dim=1).mean())
    placed: F32 = (vectors[met] * (usual / lengths[met])[:, None]).astype(np.float32)
    return PlacedWords(unseen[met], placed)


def unseen_words(words: Words, texts: Sequence[str], groups: ChoiceGroups) -> list[int]:
    """Tokens of words that no item of the choices has, beside the taken ones too."""
    items = np.unique(np.concatenate([groups.history_items, groups.candidates.ravel()]))
    shown = {token for item in items.tolist() for token in words.told(texts[item])}
    return [token for token in range(len(MARKERS), len(words)) if token not in shown]


def _shown(words: Words, texts: Sequence[str], groups: ChoiceGroups) -> csr_matrix:
    """1 where a choice's history or taken item has a word: (choices, vocabulary)."""
    tokens = [sorted(set(words.told(text)[1:])) for text in texts]  # without the marker
    lengths = np.array([len(each) for each in tokens], np.int64)
    item_words = csr_matrix(
        (np.ones(lengths.sum()), np.concatenate(tokens).astype(np.int64), np.concatenate([[0], np.cumsum(lengths)])),
        shape=(len(texts), len(words)),
    )
    many = np.diff(groups.history_indptr)
    choice = np.concatenate([np.repeat(np.arange(len(groups)), many), np.arange(len(groups))])
    items = np.concatenate([groups.history_items, groups.candidates[:, TAKEN]])
    met = csr_matrix((np.ones(len(items)), (choice, items)), shape=(len(groups), len(texts)))
    shown = met @ item_words
    shown.data[:] = 1
    return shown


def _information(shown: csr_matrix) -> csr_matrix:
    """PPMI (vocabulary, vocabulary) of the words of choices (n, vocabulary)."""
    together = (shown.T @ shown).tocoo()
    alone = np.asarray(shown.sum(axis=0)).ravel()
    # log(n C / (c c'))
    value = np.log(shown.shape[0] * together.data / (alone[together.row] * alone[together.col]))
    value[together.row == together.col] = 0
    return csr_matrix((np.maximum(value, 0), (together.row, together.col)), shape=together.shape)


def _factors(matrix: csr_matrix, width: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """U √S (vocabulary, width) of a symmetric matrix, by subspace iteration; zeros beyond its size."""
    many = min(width, matrix.shape[0])
    Q = rng.standard_normal((matrix.shape[0], many))
    for _ in range(_ITERATIONS):
        Q, _ = np.linalg.qr(matrix @ Q)
    values, vectors = np.linalg.eigh(Q.T @ (matrix @ Q))
    found = np.zeros((matrix.shape[0], width))
    found[:, :many] = Q @ vectors * np.sqrt(np.maximum(values, 0))
    return found
