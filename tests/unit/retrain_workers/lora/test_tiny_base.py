"""The tiny base: the same bytes twice, words that stand together, and that it learns who takes what."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from online_models.errors import ArtifactError
from retrain_workers.attempt import Unwatched
from retrain_workers.lora.adapters import Adapter
from retrain_workers.lora.base import BaseModel
from retrain_workers.lora.choices import ChoiceGroups
from retrain_workers.lora.cooccurrence import F32, placed_words, word_vectors
from retrain_workers.lora.fitting import Recipe, fit
from retrain_workers.lora.language_files import TINY_FILES, WEIGHTS_FILE
from retrain_workers.lora.prompts import Words
from retrain_workers.lora.scoring import Scorer
from retrain_workers.lora.tiny_base import Pretraining, pretrain
from tests.unit.retrain_workers.lora.little_world import SIZE, TEXTS, Filed, choices

HOW = Pretraining(SIZE, epochs=2, groups_per_batch=8)


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return pretrain(TEXTS, choices(120, 0), HOW, Unwatched())


def test_the_same_catalogue_choices_and_seed_give_the_same_bytes_whatever_the_threads_outside(
    files: dict[str, bytes],
) -> None:
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            assert pretrain(TEXTS, choices(120, 0), HOW, Unwatched()) == files
        finally:
            torch.set_num_threads(before)
    assert tuple(files) == TINY_FILES


def test_a_checkpoint_of_another_arithmetic_is_not_gone_on_from(
    files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = Filed(tmp_path)
    assert pretrain(TEXTS, choices(120, 0), HOW, done) == files
    again = Filed(tmp_path)
    assert pretrain(TEXTS, choices(120, 0), HOW, again) == files
    monkeypatch.setattr("retrain_workers.lora.tiny_base.arithmetic_of", lambda device: [device.type, "other", "1", "2"])
    elsewhere = Filed(tmp_path)
    assert pretrain(TEXTS, choices(120, 0), HOW, elsewhere) == files
    assert (again.reports, elsewhere.reports) == (0, done.reports)


def test_it_tells_the_taken_item_from_those_beside_it(files: dict[str, bytes]) -> None:
    later = choices(100, 1)
    scores = np.array(Scorer(BaseModel.of_files(files), TEXTS).score_users(later.histories(), later.candidates))
    assert (scores[:, :1] > scores[:, 1:]).mean() > 0.9


def test_words_of_one_taste_have_like_vectors_and_unseen_ones_a_vector_too() -> None:
    texts = [*TEXTS, "unseen"]
    words = Words.of_texts(texts)
    vectors = word_vectors(words, texts, choices(200, 0), 8, seed=0)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0)
    alpha, beta, rho = (vectors[words.told(word)[1]] for word in ("alpha", "beta", "rho"))
    assert alpha @ beta > 0.5 > alpha @ rho


def test_a_word_that_comes_later_is_placed_among_those_that_it_stands_with() -> None:
    texts = [*TEXTS, "novel rho sigma", "never"]
    files = pretrain(texts, choices(120, 0), Pretraining(SIZE, epochs=1), Unwatched())
    base = BaseModel.of_files(files)
    words = base.prompt
    later = choices(60, 1)
    told = later.history_items.copy()
    told[np.isin(told, [12, 13, 14])] = len(TEXTS)  # the new item is of the second taste
    placed = placed_words(base, texts, dataclasses.replace(later, history_items=told))
    assert [words.told("novel")[1]] == placed.tokens.tolist()  # what no choice shows stays as it is
    embeddings = base.decoder.embeddings.weight.numpy()
    near = {
        word: cosine(placed.vectors[0], embeddings[words.told(word)[1]]) for word in ("rho", "tau", "alpha", "gamma")
    }
    assert min(near["rho"], near["tau"]) > max(near["alpha"], near["gamma"])
    adapter = fit(base, texts, dataclasses.replace(later, history_items=told), Recipe(epochs=1), Unwatched())
    assert Adapter.of_files(adapter.files()).words.tokens.tolist() == placed.tokens.tolist()
    assert np.array_equal(base.decoder.embeddings.weight.numpy(), embeddings)


def cosine(first: F32, second: F32) -> float:
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


def test_an_empty_past_gives_drawn_vectors() -> None:
    none: ChoiceGroups = choices(0, 0)
    assert np.isfinite(word_vectors(Words.of_texts(TEXTS), TEXTS, none, 8, seed=0)).all()


def test_a_base_is_opened_from_its_directory(files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("base")
    for name, content in files.items():
        (folder / name).write_bytes(content)
    opened, given = BaseModel.open(folder), BaseModel.of_files(files)
    assert opened.sha256 == given.sha256
    row = (np.array([0, 1]), np.array([3, 20]))
    assert Scorer(opened, TEXTS).scores(*row).tolist() == Scorer(given, TEXTS).scores(*row).tolist()


def test_torn_files_are_refused(files: dict[str, bytes]) -> None:
    for name in TINY_FILES:
        with pytest.raises(ArtifactError, match=r"tiny base|vocabulary"):
            BaseModel.of_files({**files, name: files[name][:-30]})
    other = pretrain([*TEXTS, "more words"], choices(8, 0), Pretraining(SIZE, epochs=1), Unwatched())
    with pytest.raises(ArtifactError, match="tiny base"):
        BaseModel.of_files({**files, WEIGHTS_FILE: other[WEIGHTS_FILE]})
