"""Packed rows: what each candidate sees, and that the scores are those of naive prompts."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retrain_workers.lora.base import BaseModel
from retrain_workers.lora.packing import Batch, PackedRow, Packer, by_length
from retrain_workers.lora.prompts import Words
from tests.unit.retrain_workers.lora.little_world import TEXTS, untrained

Lists = list[int]
ITEMS = st.integers(0, len(TEXTS) - 1)


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return untrained()


def naive(base: BaseModel, history: Lists, candidate: int) -> float:
    """One prompt alone, through the model of transformers as it is, under its own causal mask."""
    prompt = base.prompt
    tokens = [*prompt.opening(), *(token for item in history for token in prompt.told(TEXTS[item]))]
    tokens += [*prompt.bridge(), *prompt.asked(TEXTS[candidate])]
    with torch.inference_mode():
        logits = base.decoder.model(input_ids=torch.tensor([tokens])).logits[0, -1]
    return float(logits[prompt.yes] - logits[prompt.no])


def packed(base: BaseModel, asked: list[tuple[Lists, Lists]]) -> list[list[float]]:
    packer = Packer(base.prompt, TEXTS)
    rows = [packer.row(np.array(history, np.int64), np.array(candidates, np.int64)) for history, candidates in asked]
    with torch.inference_mode():
        found: list[list[float]] = base.decoder.scores(Batch.of(rows)).tolist()
    return found


@settings(deadline=None, max_examples=25)
@given(history=st.lists(ITEMS, max_size=8), candidates=st.lists(ITEMS, min_size=1, max_size=6))
def test_packed_scores_are_those_of_one_naive_prompt_for_each_candidate(
    base: BaseModel, history: Lists, candidates: Lists
) -> None:
    one_by_one = [naive(base, history, candidate) for candidate in candidates]
    assert packed(base, [(history, candidates)])[0] == pytest.approx(one_by_one, abs=1e-5)


def test_a_shorter_row_of_a_batch_has_the_scores_that_it_has_alone(base: BaseModel) -> None:
    asked = [([0], [3, 4]), ([5, 6, 7, 8, 1, 2], [9, 1])]
    together = packed(base, asked)
    for row, each in zip(together, asked, strict=True):
        assert row == pytest.approx(packed(base, [each])[0], abs=1e-5)


def test_answers_alone_through_the_last_layer_are_those_of_all_tokens(base: BaseModel) -> None:
    row = Packer(base.prompt, TEXTS).row(np.array([1, 2]), np.array([3, 4, 5]))
    batch = Batch.of([row])
    with torch.inference_mode():
        states = base.decoder.whole(batch, base.decoder.below(batch, 0))
        assert torch.allclose(base.decoder.read(states, batch.answers), base.decoder.scores(batch), atol=1e-5)


def test_the_mask_lets_a_candidate_see_the_history_and_itself() -> None:
    words = Words.of_texts(["a", "b", "c"])
    row = Packer(words, ["a", "b", "c"]).row(np.array([0]), np.array([1, 2]))
    # <bos> <h> a | <t> b <ans> | <t> c <ans>
    assert row.positions.tolist() == [0, 1, 2, 3, 4, 5, 3, 4, 5]
    assert row.answers.tolist() == [5, 8]
    sees = (Batch.of([row]).mask(torch.float32)[0, 0] == 0).int().tolist()
    assert sees[2] == [1, 1, 1, 0, 0, 0, 0, 0, 0]
    assert sees[5] == [1, 1, 1, 1, 1, 1, 0, 0, 0]
    assert sees[8] == [1, 1, 1, 0, 0, 0, 1, 1, 1]


def test_padding_attends_to_something_so_that_no_row_of_the_mask_is_empty() -> None:
    words = Words.of_texts(["a", "b c d"])
    packer = Packer(words, ["a", "b c d"])
    rows = [packer.row(np.array([0]), np.array([0])), packer.row(np.array([1, 1]), np.array([1]))]
    assert bool(((Batch.of(rows).mask(torch.float32) == 0).sum(-1) > 0).all())


@given(lengths=st.lists(st.integers(1, 30), max_size=40), size=st.integers(1, 7), seed=st.integers(0, 3))
def test_batches_hold_each_row_once_and_go_by_length(lengths: Lists, size: int, seed: int) -> None:
    empty = np.empty(0, np.int64)
    rows = [PackedRow(np.zeros(length, np.int64), empty, empty, empty) for length in lengths]
    batches = list(by_length(rows, size, np.random.default_rng(seed)))
    order = np.concatenate([*batches, empty]).tolist()
    assert sorted(order) == list(range(len(rows)))
    assert [lengths[row] for row in order] == sorted(lengths)
    assert all(0 < len(batch) <= size for batch in batches)
