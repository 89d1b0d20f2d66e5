"""Prompts: the words of a tiny base, and the instruction that a real base reads."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from online_models.contracts.events import Item
from online_models.errors import ArtifactError
from retrain_workers.lora.base import BaseModel
from retrain_workers.lora.prompts import INSTRUCTION, MARKERS, MAX_WORDS, Words, item_text
from retrain_workers.lora.scoring import Scorer

TEXTS = ["alpha beta", "gamma", "delta alpha gamma"]


def test_an_item_is_told_by_title_and_categories() -> None:
    assert item_text(Item("1", "movies", "Heat (1995)", ["Crime", "Thriller"])) == "Heat (1995) Crime Thriller"


def test_words_are_those_of_the_catalogue_and_any_other_is_unknown() -> None:
    words = Words.of_texts(["b a", "A c"])
    assert words.words == ("a", "b", "c")
    assert words.asked("C zebra")[1:3] == [len(MARKERS) + 2, words.unknown]
    assert len(words.told("a " * 50)) == 1 + MAX_WORDS


def test_a_vocabulary_is_read_back() -> None:
    words = Words.of_texts(["späti 42"])
    assert Words.decode(words.encode()).words == words.words
    for torn in (b"[", b'{"a": 1}', b'["a", "a"]'):
        with pytest.raises(ArtifactError, match="vocabulary"):
            Words.decode(torn)


def pretrained(folder: Path, words: list[str]) -> Path:
    """A mounted base in the form of transformers: drawn weights, a tokenizer of words, `words` among them."""
    known = sorted({*words, *re.findall(r"\w+|[.,?]", INSTRUCTION), "-", "Candidate", ":", "Answer"})
    vocabulary = {word: number for number, word in enumerate(["<unk>", "<s>", *known])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    fast: Any = PreTrainedTokenizerFast  # transformers leaves it untyped
    wrapped = fast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>")
    wrapped.save_pretrained(folder)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
    }
    config = LlamaConfig(vocab_size=len(vocabulary), num_key_value_heads=2, **sizes)
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_a_mounted_base_is_asked_yes_or_no_as_its_own_tokenizer_has_them(tmp_path: Path) -> None:
    base = BaseModel.open(pretrained(tmp_path, ["Yes", "No", *" ".join(TEXTS).split()]))
    prompt = base.prompt
    tokens = [
        *prompt.opening(),
        *prompt.told(TEXTS[0]),
        *prompt.told(TEXTS[1]),
        *prompt.bridge(),
        *prompt.asked(TEXTS[2]),
    ]
    assert 0 not in tokens  # every word of the instruction is known
    with torch.inference_mode():
        logits = base.decoder.model(input_ids=torch.tensor([tokens])).logits[0, -1]
    found = Scorer(base, TEXTS).scores(np.array([0, 1]), np.array([2, 0]))
    assert found[0] == pytest.approx(float(logits[prompt.yes] - logits[prompt.no]), abs=1e-5)


def test_a_mounted_base_without_a_token_for_yes_is_refused(tmp_path: Path) -> None:
    folder = pretrained(tmp_path, ["No", *" ".join(TEXTS).split()])
    vocabulary = folder / "tokenizer.json"
    vocabulary.write_text(vocabulary.read_text().replace('"Yes"', '"Yea"'))
    with pytest.raises(ArtifactError, match="'Yes' as one token"):
        BaseModel.open(folder)


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="base model"):
        BaseModel.open(tmp_path)
