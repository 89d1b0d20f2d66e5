"""A little catalogue of two tastes, choices in it, an untrained tiny base, and an attempt that keeps its checkpoints in files."""

from pathlib import Path

import msgspec
import numpy as np
import torch
from safetensors.torch import save
from transformers import LlamaConfig, LlamaForCausalLM

from retrain_workers.attempt import Unwatched
from retrain_workers.lora.base import BaseModel
from retrain_workers.lora.choices import ChoiceGroups
from retrain_workers.lora.language_files import CONFIG_FILE, VOCABULARY_FILE, WEIGHTS_FILE
from retrain_workers.lora.prompts import Words
from retrain_workers.lora.tiny_base import TinySize, config_of

WORDS = ("alpha beta gamma delta", "rho sigma tau phi")
ITEMS_OF_A_TASTE = 12
SIZE = TinySize(width=32, layers=3, heads=2, inner=48)


def _texts() -> list[str]:
    rng = np.random.default_rng(0)
    return [
        " ".join(rng.choice(WORDS[taste].split(), 2 + number % 2, replace=False).tolist())
        for taste in range(len(WORDS))
        for number in range(ITEMS_OF_A_TASTE)
    ]


TEXTS = _texts()


def choices(many: int, seed: int, *, contrary: bool = False) -> ChoiceGroups:
    """Who has one taste takes its items, or with `contrary` those of the other; histories of one to five items."""
    rng = np.random.default_rng(seed)
    taste = rng.integers(2, size=many)
    lengths = rng.integers(1, 6, size=many)
    drawn = rng.integers(ITEMS_OF_A_TASTE, size=(many, 4))
    other = (1 - taste)[:, None] * ITEMS_OF_A_TASTE + drawn
    own = taste[:, None] * ITEMS_OF_A_TASTE + drawn
    taken, beside = (other, own) if contrary else (own, other)
    history = np.repeat(taste, lengths) * ITEMS_OF_A_TASTE + rng.integers(ITEMS_OF_A_TASTE, size=lengths.sum())
    return ChoiceGroups(
        np.concatenate([[0], np.cumsum(lengths)]),
        history,
        np.column_stack([taken[:, :1], beside[:, 1:]]),
        np.arange(many) * 1_000,
        np.ones(many, np.float32),
        np.ones((many, 4), np.float32),
    )


def untrained(seed: int = 0, size: TinySize = SIZE) -> BaseModel:
    """A base of drawn weights."""
    words = Words.of_texts(TEXTS)
    config = config_of(size, len(words))
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**config))
    tensors = {name: weight.detach() for name, weight in model.named_parameters()}
    files = {CONFIG_FILE: msgspec.json.encode(config), WEIGHTS_FILE: save(tensors), VOCABULARY_FILE: words.encode()}
    return BaseModel.of_files(files)


class Filed(Unwatched):
    """Keeps checkpoints in a folder; told to stop, it does so after so many reports."""

    def __init__(self, folder: Path, stop_after: int | None = None) -> None:
        self._folder, self._left = folder, stop_after
        self.reports = 0

    def report(self, phase: str, done: int = 0, total: int = 0, loss: float | None = None) -> None:
        self.reports += 1
        if self.reports == self._left:
            raise InterruptedError

    def checkpoint(self, name: str) -> bytes | None:
        path = self._folder / name
        return path.read_bytes() if path.exists() else None

    def keep(self, name: str, state: bytes) -> None:
        (self._folder / name).write_bytes(state)
