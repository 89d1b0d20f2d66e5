"""Low-rank adapters (LoRA) of a frozen base: attached with peft for training, kept as its files, merged for scoring.

- An adapter says which base it was trained on, by hash; with any other it is refused.
- Attached means into the base's own layers, without a copy; they are as before once the training is over.
- Merged is a copy that shares all weights but those that change: W' = W + (alpha / r) B A.
- Files have peft's names and form: its own `PeftModel.from_pretrained` reads them too.

References
----------
Hu et al.: LoRA: low-rank adaptation of large language models. ICLR 2022.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Self

import msgspec
import torch
from peft import LoraConfig, LoraModel
from safetensors import SafetensorError, numpy
from safetensors.torch import load, save

from online_models.contracts.jobs import LoraProfile, TrainLora
from online_models.errors import ArtifactError
from retrain_workers.lora.base import BaseModel
from retrain_workers.lora.cooccurrence import NO_WORDS, PlacedWords
from retrain_workers.lora.decoder import Decoder
from retrain_workers.lora.language_files import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_FILES,
    FIGURES_FILE,
    TENSORS_FILE,
    WORDS_FILE,
)
from retrain_workers.lora.training import derived_seed

ATTENTION: Final = ("q_proj", "v_proj")
ALL_LINEAR: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

_NAME: Final = "default"
_PREFIX: Final = "base_model.model."
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"


class AdapterShape(msgspec.Struct, frozen=True):
    """first_layer : the lowest layer that is adapted, counted from 0"""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.05
    first_layer: int = 0
    targets: tuple[str, ...] = ATTENTION

    def __post_init__(self) -> None:
        """Refuse what is no adapter."""
        if self.rank < 1 or not 0 <= self.dropout < 1 or not self.targets or self.first_layer < 0:
            raise ValueError(f"expected a rank, a dropout below 1, targets and a layer, got {self}")

    @classmethod
    def of(cls, job: TrainLora, layers: int, rank: int | None = None) -> Self:
        """As a job asks for it, of a base with so many layers; `rank` in place of the job's."""
        many = layers if job.profile is LoraProfile.ALL_LAYERS else job.top_layers or max(layers // 4, 1)
        if not 1 <= many <= layers:
            raise ValueError(f"expected at most {layers} adapted layers, got {many}")
        # alpha / r stays what the job asks for
        rank, scale = rank or job.rank, job.alpha / job.rank
        return cls(rank, scale * rank, job.dropout, layers - many)


class LoraFigures(msgspec.Struct, frozen=True):
    """What is known of an adapter beside its weights: `lora.json`.

    validation_loss : mean loss of the validation choices with the adapter, and of the base alone before it
    """

    base_sha256: str
    vocabulary_sha256: str
    trainable_share: float
    steps: int
    choices: int
    seed: int
    shape: AdapterShape
    validation_loss: float | None = None
    base_validation_loss: float | None = None
    rank_losses: dict[str, float] = {}


@dataclass(frozen=True, slots=True)
class Adapter:
    """tensors : by peft's names, float32 on the CPU; cpu_seconds : that its training took here; in no file

    words : vectors that stand in for those of words that the base was never shown; peft itself knows nothing of them
    """

    tensors: Mapping[str, torch.Tensor]
    figures: LoraFigures
    cpu_seconds: float = 0.0
    words: PlacedWords = NO_WORDS

    def files(self) -> dict[str, bytes]:
        """The artifact's files."""
        return {
            TENSORS_FILE: save(dict(sorted(self.tensors.items())), {"format": "pt"}),
            ADAPTER_CONFIG_FILE: msgspec.json.format(
                msgspec.json.encode(_peft_json(self.figures.shape, self._layers())), indent=1
            ),
            FIGURES_FILE: msgspec.json.format(msgspec.json.encode(self.figures), indent=1),
            WORDS_FILE: numpy.save({"tokens": self.words.tokens, "vectors": self.words.vectors}),
        }

    @classmethod
    def of_files(cls, files: Mapping[str, bytes]) -> Self:
        """From `files`. Raises ArtifactError when they are not an adapter's."""
        try:
            figures = msgspec.json.decode(files[FIGURES_FILE], type=LoraFigures)
            tensors = load(files[TENSORS_FILE])
            words = PlacedWords(**numpy.load(files[WORDS_FILE]))
        except (KeyError, TypeError, msgspec.DecodeError, SafetensorError, ValueError) as error:
            raise ArtifactError(f"adapter: expected {', '.join(ADAPTER_FILES)}, got {error!r}") from error
        return cls(tensors, figures, words=words)

    def for_base(self, base: BaseModel) -> Self:
        """The same; raises ArtifactError when it was trained on another base."""
        if self.figures.base_sha256 != base.sha256:
            raise ArtifactError(f"adapter: expected base {self.figures.base_sha256[:12]}, got {base.sha256[:12]}")
        return self

    def _layers(self) -> list[int]:
        return sorted({int(name.split(".layers.")[1].split(".")[0]) for name in self.tensors})


@dataclass(frozen=True, slots=True)
class Attached:
    """A decoder whose adapter is being trained; weights : the adapter's, by peft's names."""

    decoder: Decoder
    weights: Mapping[str, torch.nn.Parameter]

    def tensors(self) -> dict[str, torch.Tensor]:
        """The adapter as it is now."""
        return {name: weight.detach().float().cpu().clone().contiguous() for name, weight in self.weights.items()}


@contextmanager
def attached(base: BaseModel, shape: AdapterShape, seed: int, words: PlacedWords | None = None) -> Iterator[Attached]:
    """The base with a new adapter, A drawn and B zero, in its layers, and with the vectors of words, until the context ends."""
    decoder, embeddings = base.decoder, base.decoder.embeddings.weight
    devices = [decoder.device] if decoder.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(derived_seed(seed, shape.rank))
        config = LoraConfig(**_peft_json(shape, list(range(shape.first_layer, decoder.layers))))
        adapted = LoraModel(decoder.model, config, _NAME)
        before = embeddings.data
        try:
            if words is not None and len(words.tokens):
                embeddings.data = _with_words(before, words)
            adapted.train()
            weights = {
                f"base_model.{name.replace(f'.{_NAME}', '')}": weight
                for name, weight in adapted.named_parameters()
                if weight.requires_grad
            }
            for weight in weights.values():
                weight.data = weight.data.float()  # over a base in bfloat16 too: small steps must not be lost
            yield Attached(decoder, weights)
        finally:
            embeddings.data = before
            adapted.unload().eval().requires_grad_(False)


def merged(base: BaseModel, adapter: Adapter) -> Decoder:
    """A decoder with the adapter in its weights; it shares all others with the base.

    Raises
    ------
    ArtifactError
        When the adapter is of another base, or does not fit it.
    """
    figures = adapter.for_base(base).figures
    names = [name.removesuffix(_DOWN) for name in adapter.tensors if name.endswith(_DOWN)]
    model = base.decoder.model
    try:
        changed = {id(_weight_of(model, name)) for name in names}
        if len(adapter.words.tokens):
            changed.add(id(base.decoder.embeddings.weight))
        shared: dict[int, Any] = {id(each): each for each in model.parameters() if id(each) not in changed}
        copied = copy.deepcopy(model, shared)
        for name in names:
            weight = _weight_of(copied, name)
            A, B = (adapter.tensors[name + part].to(weight.device) for part in (_DOWN, _UP))
            # W' = W + (alpha / r) B A
            weight.data = (weight.float() + figures.shape.alpha / figures.shape.rank * (B @ A)).to(weight.dtype)
        decoder = Decoder(copied, base.decoder.yes, base.decoder.no)
        if len(adapter.words.tokens):
            decoder.embeddings.weight.data = _with_words(decoder.embeddings.weight.data, adapter.words)
    except (AttributeError, IndexError, KeyError, RuntimeError) as error:
        raise ArtifactError(f"adapter: expected one that fits the layers of the base, got {error}") from error
    return decoder


def _with_words(embeddings: torch.Tensor, words: PlacedWords) -> torch.Tensor:
    """Embeddings (vocabulary, d) with other vectors of some words."""
    tokens = torch.from_numpy(words.tokens).to(embeddings.device)
    return embeddings.index_copy(0, tokens, torch.from_numpy(words.vectors).to(embeddings))


def _weight_of(model: torch.nn.Module, name: str) -> torch.nn.Parameter:
    return model.get_parameter(f"{name.removeprefix(_PREFIX)}.weight")


def trainable_share(attached: Attached) -> float:
    """Trained weights as a share of those of base and adapter."""
    trained = sum(weight.numel() for weight in attached.weights.values())
    return trained / sum(weight.numel() for weight in attached.decoder.model.parameters())


def _peft_json(shape: AdapterShape, layers: list[int]) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "r": shape.rank,
        "lora_alpha": shape.alpha,
        "lora_dropout": shape.dropout,
        "target_modules": list(shape.targets),
        "layers_to_transform": layers,
        "bias": "none",
    }
