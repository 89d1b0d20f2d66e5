"""The families of models that are run layer by layer: each scores as transformers has it."""

import numpy as np
import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from online_models.errors import ArtifactError
from retrain_workers.lora.decoder import Decoder
from retrain_workers.lora.packing import Batch, Packer
from retrain_workers.lora.prompts import Words
from tests.unit.retrain_workers.lora.little_world import TEXTS

WORDS = Words.of_texts(TEXTS)
SIZES = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": None,
}
FAMILIES = [
    (LlamaConfig, LlamaForCausalLM, {}),
    (MistralConfig, MistralForCausalLM, {"head_dim": 8}),
    (Qwen2Config, Qwen2ForCausalLM, {}),
    (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 8}),
]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family[0].model_type)
def test_a_family_scores_as_its_model_does(
    family: tuple[type, type[PreTrainedModel], dict[str, int]],
) -> None:
    config, model, more = family
    torch.manual_seed(0)
    drawn = model(config(**SIZES, **more))
    drawn.train(False)
    packer = Packer(WORDS, TEXTS)
    row = packer.row(np.array([0, 13]), np.array([1, 20, 5]))
    with torch.inference_mode():
        scores = Decoder(drawn, WORDS.yes, WORDS.no).scores(Batch.of([row]))[0]
        for place, candidate in enumerate((1, 20, 5)):
            tokens = packer.row(np.array([0, 13]), np.array([candidate])).tokens
            logits = drawn(input_ids=torch.from_numpy(tokens)[None]).logits[0, -1]
            assert float(scores[place]) == pytest.approx(float(logits[WORDS.yes] - logits[WORDS.no]), abs=1e-4)


def test_another_family_is_refused() -> None:
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=len(WORDS)))
    with pytest.raises(ArtifactError, match="got gpt2"):
        Decoder(model, WORDS.yes, WORDS.no)
