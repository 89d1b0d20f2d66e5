"""Which files of an artifact are its language model: the adapter, how its scores are used, its text statistics, and a tiny base.

A tiny base goes with every version that uses it, a few MB, so that a version is whole; a mounted one is known by its hash.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from online_models.errors import ArtifactError
from online_models.language_scores import LANGUAGE_MODEL_FILE
from online_models.text import TEXT_MODEL_FILE
from retrain_workers.lora.adapters import ADAPTER_FILES
from retrain_workers.lora.base import TINY_FILES, BaseModel

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


def base_of(files: Mapping[str, bytes], directory: Path | None, device: str) -> BaseModel:
    """The base that an artifact's adapter was trained on: its own tiny one, or the mounted one.

    Raises ArtifactError when there is neither; an adapter of another base is refused where it is used.
    """
    if tiny := tiny_base_of(files):
        return BaseModel.of_files(tiny, device)
    if directory is None:
        raise ArtifactError("base model: expected one in the artifact or a `base_model_dir`, got neither")
    return BaseModel.open(directory, device)
