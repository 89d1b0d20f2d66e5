"""Llamas of published shapes with drawn weights: for time and memory, which depend on no weight's value."""

from dataclasses import dataclass
from typing import Any, Final

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from retrain_workers.lora.base import BaseModel, dtype_on
from retrain_workers.lora.decoder import Decoder
from retrain_workers.lora.prompts import Words
from retrain_workers.lora.tiny_base import MEDIUM, TinySize, config_of


@dataclass(frozen=True, slots=True)
class Shape:
    """vocabulary : 0 for the words of the catalogue; key_value_heads : 0 for as many as heads"""

    size: TinySize
    vocabulary: int = 0
    key_value_heads: int = 0


SHAPES: Final = {
    "2M": Shape(MEDIUM),
    "15M": Shape(TinySize(width=384, layers=8, heads=6, inner=1_024)),
    "135M": Shape(TinySize(width=576, layers=30, heads=9, inner=1_536), 49_152, 3),
    "0.5B": Shape(TinySize(width=896, layers=24, heads=14, inner=4_864), 151_936, 2),
}
"""135M as SmolLM, 0.5B as Qwen2.5 have it."""


def random_llama(name: str, words: Words, device: str = "cpu", seed: int = 0) -> BaseModel:
    """A base of one of `SHAPES`, in the number format of its device."""
    shape = SHAPES[name]
    config: dict[str, Any] = config_of(shape.size, shape.vocabulary or len(words))
    config["num_key_value_heads"] = shape.key_value_heads or shape.size.heads
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**config))
    torch.nn.Module.to(model, device, dtype_on(device)).train(False).requires_grad_(False)
    return BaseModel(Decoder(model, words.yes, words.no), words, "random", "random")
