"""A causal language model run layer by layer: what training, the cached prefix and scoring share.

- Only the answers are wanted. In the last layer keys and values are of all tokens, but queries, the output projection and the
  MLP of the answer places alone: the same numbers for a sixth to a tenth of the layer's work.
- The head is two rows, Yes and No: no logits of a whole vocabulary are made.

    s = (W_yes - W_no) · norm(h_answer)
"""

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from online_models.errors import ArtifactError
from retrain_workers.lora.packing import Batch

FAMILIES: Final = ("llama", "mistral", "qwen2", "qwen3")
"""Model types whose layers have the names and the equations that are used here."""


@dataclass(frozen=True, slots=True)
class Decoder:
    """A model of one of `FAMILIES`; yes, no : token ids."""

    model: PreTrainedModel
    yes: int
    no: int

    def __post_init__(self) -> None:
        """Refuse what would be computed wrongly."""
        if (family := self.model.config.model_type) not in FAMILIES:
            raise ArtifactError(f"base model: expected one of {', '.join(FAMILIES)}, got {family}")

    @property
    def _body(self) -> Any:
        return self.model.model

    @property
    def layers(self) -> int:
        """Number of layers."""
        return len(self._body.layers)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        found: torch.device = self._body.embed_tokens.weight.device
        return found

    def below(self, batch: Batch, layer: int) -> torch.Tensor:
        """Hidden states (b, length, d) that the layer of this number is given; 0 for the embeddings."""
        hidden: torch.Tensor = self._body.embed_tokens(batch.tokens)
        return self._layers(hidden, *self._surroundings(hidden, batch), 0, layer) if layer else hidden

    def scores(self, batch: Batch, hidden: torch.Tensor | None = None, layer: int = 0) -> torch.Tensor:
        """s = logit(Yes) - logit(No), float32 (b, c), from the hidden states (b, length, d) that a layer is given."""
        if hidden is None:
            hidden = self.below(batch, layer)
        mask, rotary = self._surroundings(hidden, batch)
        hidden = self._layers(hidden, mask, rotary, layer, self.layers - 1)
        answer = self._last(hidden, batch.answers, mask, rotary)
        return self._answered(self._body.norm(answer))

    def whole(self, batch: Batch, hidden: torch.Tensor) -> torch.Tensor:
        """Final states (b, length, d) of all tokens, normalised, from embeddings (b, length, d)."""
        mask, rotary = self._surroundings(hidden, batch)
        states: torch.Tensor = self._body.norm(self._layers(hidden, mask, rotary, 0, self.layers))
        return states

    def read(self, states: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
        """The scores (b, c) of final states (b, length, d): what `scores` gives by a shorter way."""
        return self._answered(states.gather(1, answers[:, :, None].expand(-1, -1, states.shape[2])))

    def _answered(self, states: torch.Tensor) -> torch.Tensor:
        """s = (W_yes - W_no) · norm(h) of normalised states (b, c, d)."""
        head = self.head.weight
        scores: torch.Tensor = states.float() @ (head[self.yes].float() - head[self.no].float())
        return scores

    @property
    def embeddings(self) -> Any:
        """The layer from tokens to vectors; its weight is (vocabulary, d)."""
        return self._body.embed_tokens

    @property
    def head(self) -> Any:
        """The layer from a final state to the logits of all tokens."""
        return self.model.lm_head

    def _surroundings(self, hidden: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, Any]:
        return batch.mask(hidden.dtype), self._body.rotary_emb(hidden, batch.positions)

    def _layers(self, hidden: torch.Tensor, mask: torch.Tensor, rotary: Any, first: int, end: int) -> torch.Tensor:
        for layer in self._body.layers[first:end]:
            hidden = layer(hidden, attention_mask=mask, position_embeddings=rotary)
        return hidden

    def _last(self, hidden: torch.Tensor, answers: torch.Tensor, mask: torch.Tensor, rotary: Any) -> torch.Tensor:
        """The last layer at the answer places: (b, c, d)."""
        layer = self._body.layers[-1]
        at = answers[:, :, None]
        normed = layer.input_layernorm(hidden)
        attended = _attended(layer.self_attn, normed, at, mask, rotary)
        # x = h + attention;  out = x + mlp(norm(x))
        x = hidden.gather(1, at.expand(-1, -1, hidden.shape[2])) + attended
        out: torch.Tensor = x + layer.mlp(layer.post_attention_layernorm(x))
        return out


def _attended(attention: Any, normed: torch.Tensor, at: torch.Tensor, mask: torch.Tensor, rotary: Any) -> torch.Tensor:
    """Attention of the places `at` (b, c, 1) to all tokens: (b, c, d)."""
    query = _heads(attention, "q", normed.gather(1, at.expand(-1, -1, normed.shape[2])))  # (b, heads, c, head_dim)
    key, value = _heads(attention, "k", normed), _heads(attention, "v", normed)  # (b, kv heads, length, head_dim)
    cos, sin = rotary  # (b, length, head_dim)
    _, key = apply_rotary_pos_emb(key, key, cos, sin)
    places = at.expand(-1, -1, cos.shape[2])
    query, _ = apply_rotary_pos_emb(query, query, cos.gather(1, places), sin.gather(1, places))
    groups = attention.num_key_value_groups
    found = functional.scaled_dot_product_attention(
        query,
        key.repeat_interleave(groups, 1) if groups > 1 else key,
        value.repeat_interleave(groups, 1) if groups > 1 else value,
        attn_mask=mask.gather(2, at[:, None].expand(-1, -1, -1, mask.shape[3])),
        scale=attention.scaling,
    )
    out: torch.Tensor = attention.o_proj(found.transpose(1, 2).flatten(2))
    return out


def _heads(attention: Any, name: str, hidden: torch.Tensor) -> torch.Tensor:
    """A projection as heads (b, heads, length, head_dim); normalised where the family does that."""
    shape = (*hidden.shape[:-1], -1, attention.head_dim)
    heads = getattr(attention, f"{name}_proj")(hidden).view(shape)
    norm = getattr(attention, f"{name}_norm", None)
    found: torch.Tensor = (heads if norm is None else norm(heads)).transpose(1, 2)
    return found
