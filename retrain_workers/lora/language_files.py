"""The names of a language model's files: in an artifact, and of a tiny base by itself. Known to those who never import torch.

A tiny base goes with every version that uses it, a few MB, so that a version is whole; a mounted one is known by its hash.
"""

from collections.abc import Mapping
from typing import Final

from online_models.language_scores import LANGUAGE_MODEL_FILE
from online_models.text import TEXT_MODEL_FILE

TENSORS_FILE: Final = "adapter_model.safetensors"
ADAPTER_CONFIG_FILE: Final = "adapter_config.json"
FIGURES_FILE: Final = "lora.json"
WORDS_FILE: Final = "lora_words.safetensors"
ADAPTER_FILES: Final = (TENSORS_FILE, ADAPTER_CONFIG_FILE, FIGURES_FILE, WORDS_FILE)

CONFIG_FILE: Final = "config.json"
WEIGHTS_FILE: Final = "model.safetensors"
VOCABULARY_FILE: Final = "vocabulary.json"
TINY_FILES: Final = (CONFIG_FILE, WEIGHTS_FILE, VOCABULARY_FILE)

_BASE: Final = "base_"

LANGUAGE_FILES: Final = (
    *ADAPTER_FILES,
    LANGUAGE_MODEL_FILE,
    TEXT_MODEL_FILE,
    *(_BASE + name for name in TINY_FILES),
)


def language_files(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Those of an artifact's files that are its language model; none when it has none."""
    return {name: files[name] for name in LANGUAGE_FILES if name in files}


def tiny_base_of(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files of the tiny base in an artifact; none when it has none."""
    return {name: files[_BASE + name] for name in TINY_FILES if _BASE + name in files}


def with_tiny_base(base: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files of a tiny base as they lie in an artifact."""
    return {_BASE + name: content for name, content in base.items()}
