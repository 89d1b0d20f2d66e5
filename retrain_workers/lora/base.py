"""A base model: a causal language model, how it is prompted, and the hash by which adapters know it.

- A directory with `vocabulary.json` is a tiny base of our own; any other is a pretrained model in the form of transformers, with
  its tokenizer. It is mounted: nothing is ever downloaded.
- float32 on the CPU, where bfloat16 was measured 120 times slower without its own instructions; bfloat16 on CUDA.
- Weights are frozen here and never written to: an adapter is attached for its training and taken off again.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from online_models.errors import ArtifactError
from retrain_workers.lora.decoder import Decoder
from retrain_workers.lora.language_files import CONFIG_FILE, TINY_FILES, VOCABULARY_FILE, WEIGHTS_FILE
from retrain_workers.lora.prompts import Instruction, Prompt, Words

_HASHED: Final = ("*.safetensors", CONFIG_FILE, "tokenizer*.json", VOCABULARY_FILE)
_CHUNK_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class BaseModel:
    """sha256 : of weights, config and vocabulary; vocabulary_sha256 : of the vocabulary or tokenizer alone"""

    decoder: Decoder
    prompt: Prompt
    sha256: str
    vocabulary_sha256: str

    @classmethod
    def open(cls, directory: Path, device: str = "cpu") -> Self:
        """The base in a local directory.

        Raises
        ------
        ArtifactError
            When there is none, or it cannot be read, or its tokenizer has no single token for "Yes" and "No".
        """
        if (directory / VOCABULARY_FILE).is_file():
            try:
                return cls.of_files({name: (directory / name).read_bytes() for name in TINY_FILES}, device)
            except OSError as error:
                raise ArtifactError(
                    f"base model: expected {', '.join(TINY_FILES)} in {directory}, got {error}"
                ) from error
        try:
            tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
            model = AutoModelForCausalLM.from_pretrained(directory, local_files_only=True, dtype=dtype_on(device))
        except (OSError, ValueError) as error:
            raise ArtifactError(f"base model: expected a causal language model in {directory}, got {error}") from error
        prompt = Instruction(tokenizer)
        names = sorted({path.name for pattern in _HASHED for path in directory.glob(pattern)})
        hashes = {name: _sha256_of(directory / name) for name in names}
        return cls._of(model, prompt, hashes, device)

    @classmethod
    def of_files(cls, files: Mapping[str, bytes], device: str = "cpu") -> Self:
        """A tiny base from its files. Raises ArtifactError when they do not fit together."""
        prompt = Words.decode(files[VOCABULARY_FILE])
        try:
            config = LlamaConfig(**msgspec.json.decode(files[CONFIG_FILE], type=dict[str, Any]))
            tensors = load(files[WEIGHTS_FILE])
            model = LlamaForCausalLM(config)
            found = model.load_state_dict(tensors, strict=False)
        except (msgspec.DecodeError, SafetensorError, TypeError, ValueError, RuntimeError) as error:
            raise ArtifactError(f"tiny base: expected a config and its weights, got {error}") from error
        if found.unexpected_keys or found.missing_keys != ["lm_head.weight"] or config.vocab_size != len(prompt):
            raise ArtifactError(
                f"tiny base: expected weights of {len(prompt)} words, got {config.vocab_size} and {found}"
            )
        model.tie_weights()
        hashes = {name: hashlib.sha256(files[name]).hexdigest() for name in TINY_FILES}
        return cls._of(torch.nn.Module.to(model, dtype_on(device)), prompt, hashes, device)

    @classmethod
    def _of(cls, model: PreTrainedModel, prompt: Prompt, hashes: Mapping[str, str], device: str) -> Self:
        torch.nn.Module.to(model, device).train(False).requires_grad_(False)
        vocabulary = {name: each for name, each in hashes.items() if name.startswith(("tokenizer", VOCABULARY_FILE))}
        return cls(Decoder(model, prompt.yes, prompt.no), prompt, _sha256(hashes), _sha256(vocabulary))

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(weight.numel() for weight in self.decoder.model.parameters())


def dtype_on(device: str) -> torch.dtype:
    """See the module."""
    return torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32


def _sha256(hashes: Mapping[str, str]) -> str:
    return hashlib.sha256(msgspec.json.encode(hashes, order="deterministic")).hexdigest()


def _sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
