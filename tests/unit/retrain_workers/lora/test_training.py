"""Training an adapter: the same bytes twice, the cache, going on from a checkpoint, and that something is learned."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from msgspec.structs import replace

from online_models.contracts.jobs import LoraProfile, TrainLora
from online_models.errors import TrainingError
from retrain_workers.attempt import Unwatched
from retrain_workers.lora.adapters import AdapterShape
from retrain_workers.lora.base import BaseModel
from retrain_workers.lora.choices import ChoiceGroups
from retrain_workers.lora.fitting import Recipe, fit, losses_of, smallest_of_the_best, train_adapter
from retrain_workers.lora.scoring import Scorer
from tests.unit.retrain_workers.lora.little_world import TEXTS, Filed, choices, untrained

JOB = TrainLora(epochs=2, group_size=4, groups_per_batch=8, rank=4, alpha=8, seed=3)
TOP = Recipe(AdapterShape(4, 8.0, first_layer=2), epochs=3, groups_per_batch=8)
NONE = choices(0, 0)


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return untrained()


@pytest.fixture(scope="module")
def groups() -> ChoiceGroups:
    return choices(60, 1)


def adapter_of(base: BaseModel, groups: ChoiceGroups, job: TrainLora) -> dict[str, bytes]:
    return train_adapter(base, TEXTS, groups, NONE, job, Unwatched()).files()


def weighted(groups: ChoiceGroups, weights: npt.NDArray[np.float64]) -> ChoiceGroups:
    return dataclasses.replace(groups, weights=weights.astype(np.float32))


def test_the_same_job_twice_gives_the_same_bytes(base: BaseModel, groups: ChoiceGroups) -> None:
    files = adapter_of(base, groups, JOB)
    assert adapter_of(base, groups, JOB) == files
    assert adapter_of(base, groups, replace(JOB, seed=4)) != files


@pytest.fixture(params=[1, 2])
def threads_outside(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_the_threads_outside_change_no_byte(
    base: BaseModel, groups: ChoiceGroups, threads_outside: int, one_thread_files: dict[str, bytes]
) -> None:
    met = Met()
    found = train_adapter(base, TEXTS, groups, choices(40, 9), replace(JOB, ranks=(2, 4)), met)
    assert found.files() == one_thread_files
    assert met.states == {(1, True)}
    assert torch.get_num_threads() == threads_outside


@pytest.fixture(scope="module")
def one_thread_files(base: BaseModel, groups: ChoiceGroups) -> dict[str, bytes]:
    return train_adapter(base, TEXTS, groups, choices(40, 9), replace(JOB, ranks=(2, 4)), Unwatched()).files()


class Met(Unwatched):
    """Notes under which threads and algorithms each step is done."""

    def __init__(self) -> None:
        self.states: set[tuple[int, bool]] = set()

    def report(self, phase: str, done: int = 0, total: int = 0, loss: float | None = None) -> None:
        self.states.add((torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()))


def test_a_training_leaves_the_base_as_it_was(base: BaseModel, groups: ChoiceGroups) -> None:
    before = Scorer(base, TEXTS).score_users(groups.histories(), groups.candidates)
    names = [name for name, _ in base.decoder.model.named_parameters()]
    adapter_of(base, groups, JOB)
    after = Scorer(base, TEXTS).score_users(groups.histories(), groups.candidates)
    assert np.array_equal(before, after)
    assert [name for name, _ in base.decoder.model.named_parameters()] == names
    assert not any(weight.requires_grad for weight in base.decoder.model.parameters())


def test_a_cached_prefix_gives_the_adapter_that_an_uncached_one_gives(base: BaseModel, groups: ChoiceGroups) -> None:
    cached = fit(base, TEXTS, groups, TOP, Unwatched())
    uncached = fit(base, TEXTS, groups, replace(TOP, cached=False), Unwatched())
    assert all(np.array_equal(cached.tensors[name], uncached.tensors[name]) for name in uncached.tensors)


@pytest.mark.parametrize("recipe", [TOP, replace(TOP, shape=AdapterShape(4, 8.0))])
def test_a_broken_off_training_goes_on_to_the_same_adapter(
    base: BaseModel, groups: ChoiceGroups, recipe: Recipe, tmp_path: Path
) -> None:
    whole = fit(base, TEXTS, groups, recipe, Unwatched())
    with pytest.raises(InterruptedError):
        fit(base, TEXTS, groups, recipe, Filed(tmp_path, stop_after=13))  # in the second of three epochs of 8 steps
    resumed = Filed(tmp_path)
    assert fit(base, TEXTS, groups, recipe, resumed).files() == whole.files()
    assert resumed.reports == 16


def test_a_checkpoint_of_other_data_of_another_arithmetic_or_torn_is_not_gone_on_from(
    base: BaseModel, groups: ChoiceGroups, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(base, TEXTS, groups, TOP, Filed(tmp_path))
    monkeypatch.setattr("retrain_workers.lora.fitting.arithmetic_of", lambda device: [device.type, "other", "1", "2"])
    elsewhere = Filed(tmp_path)
    fit(base, TEXTS, groups, TOP, elsewhere)
    assert elsewhere.reports == 24
    for many in (59, 60):
        other = Filed(tmp_path)
        fit(base, TEXTS, choices(many, 2), TOP, other)
        assert other.reports == 24
        (kept,) = tmp_path.iterdir()
        kept.write_bytes(kept.read_bytes()[:-9])


def test_choices_that_turned_round_are_learned(base: BaseModel) -> None:
    train, later = choices(240, 5, contrary=True), choices(100, 6, contrary=True)
    job = replace(JOB, rank=8, alpha=16, epochs=4, learning_rate=2e-2)
    figures = train_adapter(base, TEXTS, train, later, job, Unwatched()).figures
    assert figures.validation_loss is not None
    assert figures.base_validation_loss is not None
    assert figures.validation_loss < 0.7 * figures.base_validation_loss
    assert (figures.steps, figures.choices) == (120, 240)


def test_old_choices_weigh_less_by_their_weights(base: BaseModel, groups: ChoiceGroups) -> None:
    assert adapter_of(base, weighted(groups, np.r_[np.zeros(30), np.ones(30)]), JOB) != adapter_of(base, groups, JOB)


def test_top_layers_alone_are_adapted_by_their_profile(base: BaseModel, groups: ChoiceGroups) -> None:
    job = replace(JOB, profile=LoraProfile.TOP_LAYERS, top_layers=2)
    adapter = train_adapter(base, TEXTS, groups, NONE, job, Unwatched())
    assert sorted({name.split(".layers.")[1][0] for name in adapter.tensors}) == ["1", "2"]
    whole = train_adapter(base, TEXTS, groups, NONE, JOB, Unwatched())
    assert adapter.figures.trainable_share < whole.figures.trainable_share


def test_of_several_ranks_one_is_kept_and_all_are_told(base: BaseModel, groups: ChoiceGroups) -> None:
    later = choices(40, 9)
    figures = train_adapter(base, TEXTS, groups, later, replace(JOB, ranks=(2, 4)), Unwatched()).figures
    assert set(figures.rank_losses) == {"2", "4"}
    assert figures.validation_loss == figures.rank_losses[str(figures.shape.rank)]
    assert figures.shape.alpha / figures.shape.rank == JOB.alpha / JOB.rank
    with pytest.raises(TrainingError, match="validation"):
        train_adapter(base, TEXTS, groups, NONE, replace(JOB, ranks=(2, 4)), Unwatched())


def test_a_larger_rank_is_kept_only_when_it_is_clearly_better() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 200)
    assert smallest_of_the_best({8: noise + 0.001, 16: noise[::-1]}) == 8
    assert smallest_of_the_best({8: noise + 0.1, 16: noise}) == 16


def test_a_loss_that_is_not_finite_and_no_choices_are_refused(base: BaseModel, groups: ChoiceGroups) -> None:
    with pytest.raises(TrainingError, match="finite"):
        adapter_of(base, weighted(groups, np.full(60, np.nan)), JOB)
    with pytest.raises(TrainingError, match="choices"):
        adapter_of(base, NONE, JOB)


def test_the_losses_of_choices_are_the_softmax_and_the_odds(base: BaseModel, groups: ChoiceGroups) -> None:
    scorer = Scorer(base, TEXTS)
    s = np.array(scorer.score_users(groups.histories(), groups.candidates), np.float64)
    listwise = np.log(np.exp(s).sum(1)) - s[:, 0]
    odds = np.log1p(np.exp(np.column_stack([-s[:, :1], s[:, 1:]]))).mean(1)
    assert losses_of(scorer, groups) == pytest.approx(listwise + 0.5 * odds, abs=1e-5)
