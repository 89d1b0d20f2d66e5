"""Adapters: their files, what peft makes of them, merging, and the base that they belong to."""

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import save
from transformers import AutoModelForCausalLM

from online_models.contracts.jobs import LoraProfile, TrainLora
from online_models.errors import ArtifactError
from retrain_workers.lora.adapters import (
    ALL_LINEAR,
    Adapter,
    AdapterShape,
    LoraFigures,
    attached,
    merged,
    trainable_share,
)
from retrain_workers.lora.base import BaseModel
from retrain_workers.lora.cooccurrence import NO_WORDS, PlacedWords
from retrain_workers.lora.language_files import ADAPTER_FILES
from retrain_workers.lora.packing import Batch, Packer
from retrain_workers.lora.scoring import Scorer
from tests.unit.retrain_workers.lora.little_world import SIZE, TEXTS, untrained

SHAPE = AdapterShape(rank=4, alpha=8.0, dropout=0.0, first_layer=1, targets=ALL_LINEAR)
WORDS = PlacedWords(np.array([8, 12]), np.random.default_rng(0).normal(size=(2, SIZE.width)).astype(np.float32))
ROW = (np.array([0, 1, 2]), np.array([3, 4, 5]))


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return untrained()


@pytest.fixture(scope="module")
def batch(base: BaseModel) -> Batch:
    return Batch.of([Packer(base.prompt, TEXTS).row(*ROW)])


def drawn(base: BaseModel, words: PlacedWords = NO_WORDS) -> tuple[Adapter, torch.Tensor, Batch]:
    """An adapter whose B is not zero, and what the base with it attached scores."""
    batch = Batch.of([Packer(base.prompt, TEXTS).row(*ROW)])
    with attached(base, SHAPE, 0, words) as adapted:
        with torch.no_grad():
            for number, weight in enumerate(adapted.weights.values()):
                weight.copy_(torch.from_numpy(np.random.default_rng(number).normal(0, 0.1, weight.shape)))
        with torch.inference_mode():
            scores = adapted.decoder.scores(batch)
        figures = LoraFigures(base.sha256, base.vocabulary_sha256, trainable_share(adapted), 0, 0, 0, SHAPE)
        return Adapter(adapted.tensors(), figures, words=words), scores, batch


@pytest.mark.parametrize("words", [NO_WORDS, WORDS])
def test_a_merged_adapter_scores_as_the_attached_one(base: BaseModel, words: PlacedWords) -> None:
    adapter, attached_scores, batch = drawn(base, words)
    with torch.inference_mode():
        assert torch.allclose(merged(base, adapter).scores(batch), attached_scores, atol=1e-5)
        assert not torch.allclose(base.decoder.scores(batch), attached_scores, atol=1e-2)


def test_a_merged_model_shares_every_weight_that_no_adapter_changes(base: BaseModel) -> None:
    adapter, _, _ = drawn(base)
    ours = dict(merged(base, adapter).model.named_parameters())
    for name, weight in base.decoder.model.named_parameters():
        adapted = any(target in name for target in ALL_LINEAR) and ".layers.0." not in name
        assert (ours[name] is weight) == (not adapted), name


def test_files_are_read_back_and_given_again_to_the_byte(base: BaseModel) -> None:
    files = drawn(base, WORDS)[0].files()
    assert tuple(files) == ADAPTER_FILES
    assert Adapter.of_files(files).files() == files


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks for it by its old name
def test_peft_itself_reads_the_files_and_scores_the_same(base: BaseModel, tmp_path: Path) -> None:
    adapter, _, _ = drawn(base)
    for name, content in adapter.files().items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "base").mkdir()
    base.decoder.model.save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", local_files_only=True)
    theirs = PeftModel.from_pretrained(model, tmp_path, torch_device="cpu").eval()
    tokens = [*base.prompt.opening(), *base.prompt.told(TEXTS[0]), *base.prompt.asked(TEXTS[3])]
    with torch.inference_mode():
        logits = theirs(input_ids=torch.tensor([tokens])).logits[0, -1]
    ours = Scorer(base, TEXTS, adapter).scores(np.array([0]), np.array([3]))
    assert ours == pytest.approx([float(logits[base.prompt.yes] - logits[base.prompt.no])], abs=1e-5)


def test_an_adapter_of_another_base_is_refused(base: BaseModel) -> None:
    with pytest.raises(ArtifactError, match="expected base"):
        Scorer(untrained(seed=1), TEXTS, drawn(base)[0])


def test_torn_files_are_refused(base: BaseModel) -> None:
    files = drawn(base)[0].files()
    for name in ("adapter_model.safetensors", "lora.json"):
        with pytest.raises(ArtifactError, match="adapter"):
            Adapter.of_files({**files, name: files[name][:-20]})
    with pytest.raises(ArtifactError, match="adapter"):
        Adapter.of_files({"lora.json": files["lora.json"]})


def test_tensors_that_do_not_fit_the_base_are_refused(base: BaseModel) -> None:
    adapter, _, _ = drawn(base)
    for change in ({"layers.1": "layers.9"}, {}):
        (old, new) = next(iter(change.items()), ("", ""))
        tensors = {
            name.replace(old, new): weight if change else weight[:, :3] for name, weight in adapter.tensors.items()
        }
        files = {**adapter.files(), "adapter_model.safetensors": save({k: v.contiguous() for k, v in tensors.items()})}
        with pytest.raises(ArtifactError, match="fits"):
            merged(base, Adapter.of_files(files))


def test_the_trained_share_is_that_of_the_matrices(base: BaseModel) -> None:
    shape = AdapterShape(rank=4)
    with attached(base, shape, 0) as adapted:
        share = trainable_share(adapted)
    # q_proj and v_proj of each layer: r (d + d)
    trained = SIZE.layers * 2 * 4 * 2 * SIZE.width
    assert share == pytest.approx(trained / (base.parameters + trained))


def test_a_job_tells_the_shape() -> None:
    assert AdapterShape.of(TrainLora(), 8) == AdapterShape(16, 32.0, 0.05, 0)
    top = TrainLora(profile=LoraProfile.TOP_LAYERS)
    assert [AdapterShape.of(top, layers).first_layer for layers in (1, 3, 8, 30)] == [0, 2, 6, 23]
    assert AdapterShape.of(top, 8, rank=8).alpha == 16
    with pytest.raises(ValueError, match="at most 8"):
        AdapterShape.of(TrainLora(profile=LoraProfile.TOP_LAYERS, top_layers=9), 8)
