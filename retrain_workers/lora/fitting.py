"""One LoRA cycle: from choices to an adapter of the base, its rank chosen on later choices where a job asks for that.

- Each adapter begins at the base, never at the adapter before: a chain of them forgets.
- Of several ranks the smallest is kept that later choices do not tell from the best: its mean loss is higher by at most one
  standard error of the paired difference.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Self

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from online_models.contracts.jobs import TrainLora
from online_models.errors import TrainingError
from retrain_workers.attempt import Attempt
from retrain_workers.determinism import arithmetic_of, deterministic
from retrain_workers.lora.adapters import Adapter, AdapterShape, Attached, LoraFigures, attached, trainable_share
from retrain_workers.lora.base import BaseModel
from retrain_workers.lora.choices import ChoiceGroups
from retrain_workers.lora.cooccurrence import NO_WORDS, PlacedWords, placed_words
from retrain_workers.lora.objective import choice_losses
from retrain_workers.lora.packing import Packer
from retrain_workers.lora.scoring import Scorer
from retrain_workers.lora.training import Plan, Trained, batches_of, train

F64 = npt.NDArray[np.float64]


class Recipe(msgspec.Struct, frozen=True):
    """How one adapter is trained.

    learning_rate : at its peak; times `up_factor` for B, the matrix that starts at zero (LoRA+)
    cached : keep the hidden states below the first adapted layer for the later epochs
    placed_words : begin with vectors of the words that are new to a tiny base, see `cooccurrence`

    References
    ----------
    Hayou, Ghosh, Yu: LoRA+: efficient low rank adaptation of large models. ICML 2024.
    """

    shape: AdapterShape = AdapterShape()
    epochs: int = 2
    learning_rate: float = 5e-3
    up_factor: float = 1.0
    groups_per_batch: int = 24
    cached: bool = True
    placed_words: bool = True
    seed: int = 0

    @classmethod
    def of(cls, job: TrainLora, layers: int, rank: int | None = None) -> Self:
        """As a job asks for it; `rank` in place of the job's."""
        shape = AdapterShape.of(job, layers, rank)
        return cls(shape, job.epochs, job.learning_rate, groups_per_batch=job.groups_per_batch, seed=job.seed)


def train_adapter(
    base: BaseModel,
    texts: Sequence[str],
    groups: ChoiceGroups,
    validation: ChoiceGroups,
    job: TrainLora,
    attempt: Attempt,
) -> Adapter:
    """The adapter that a job asks for. The same arguments give the same files, to the byte.

    texts : of all items, by row; validation : choices after those of `groups`, for the figures and the rank; may be empty

    Raises
    ------
    TrainingError
        When there is nothing to train on, several ranks and nothing to choose by, or the loss is not finite.
    """
    ranks = job.ranks or (job.rank,)
    if len(ranks) > 1 and not len(validation):
        raise TrainingError(f"expected validation choices to choose among ranks {ranks}, got none")
    recipes = {rank: Recipe.of(job, base.decoder.layers, rank) for rank in sorted(set(ranks))}
    adapters = {rank: fit(base, texts, groups, recipe, attempt) for rank, recipe in recipes.items()}
    if not len(validation):
        return adapters[ranks[0]]
    with deterministic(base.decoder.device):
        losses = {rank: losses_of(Scorer(base, texts, adapter), validation) for rank, adapter in adapters.items()}
        without = losses_of(Scorer(base, texts), validation)
    rank = smallest_of_the_best(losses)
    figures = msgspec.structs.replace(
        adapters[rank].figures,
        validation_loss=float(losses[rank].mean()),
        base_validation_loss=float(without.mean()),
        rank_losses={str(each): float(loss.mean()) for each, loss in losses.items()},
    )
    seconds = sum(adapter.cpu_seconds for adapter in adapters.values())
    return replace(adapters[rank], figures=figures, cpu_seconds=seconds)


def fit(base: BaseModel, texts: Sequence[str], groups: ChoiceGroups, recipe: Recipe, attempt: Attempt) -> Adapter:
    """The adapter of one recipe."""
    with deterministic(base.decoder.device):
        words = placed_words(base, texts, groups) if recipe.placed_words else NO_WORDS
        return _fit(base, texts, groups, recipe, words, attempt)


def _fit(
    base: BaseModel,
    texts: Sequence[str],
    groups: ChoiceGroups,
    recipe: Recipe,
    words: PlacedWords,
    attempt: Attempt,
) -> Adapter:
    with attached(base, recipe.shape, recipe.seed, words) as adapted:
        decoder = adapted.decoder
        batches = batches_of(Packer(base.prompt, texts), groups, recipe.groups_per_batch, recipe.seed, decoder.device)
        plan = Plan(
            recipe.epochs,
            recipe.seed,
            recipe.shape.first_layer,
            recipe.cached,
            f"lora_r{recipe.shape.rank}",
            _fingerprint(base, texts, groups, recipe),
        )
        spent = train(decoder, parts_of(adapted, recipe), batches, plan, attempt)
        figures = LoraFigures(
            base.sha256,
            base.vocabulary_sha256,
            trainable_share(adapted),
            spent.steps,
            len(groups),
            recipe.seed,
            recipe.shape,
        )
        return Adapter(adapted.tensors(), figures, spent.cpu_seconds, words)


def parts_of(adapted: Attached, recipe: Recipe) -> list[Trained]:
    """A and B at their learning rates."""
    up = {name: weight for name, weight in adapted.weights.items() if ".lora_B." in name}
    down = {name: weight for name, weight in adapted.weights.items() if name not in up}
    return [Trained(down, recipe.learning_rate), Trained(up, recipe.learning_rate * recipe.up_factor)]


def losses_of(scorer: Scorer, groups: ChoiceGroups) -> F64:
    """The loss (n,) of each choice, unweighted."""
    scores = np.array(scorer.score_users(groups.histories(), groups.candidates))
    return choice_losses(torch.from_numpy(scores)).double().numpy()


def smallest_of_the_best(losses: Mapping[int, F64]) -> int:
    """Of ranks with their losses (n,) of the same choices: the smallest that is not worse than the best.

    >>> noise = np.tile([0.0, 0.1], 50)
    >>> smallest_of_the_best({8: noise + 0.005, 16: noise[::-1], 32: noise + 0.5})
    8
    """
    best = min(losses, key=lambda rank: losses[rank].mean())
    for rank in sorted(losses):
        worse = losses[rank] - losses[best]
        # mean <= s / sqrt(n)
        if worse.mean() <= worse.std() / np.sqrt(len(worse)):
            return rank
    return best


def _fingerprint(base: BaseModel, texts: Sequence[str], groups: ChoiceGroups, recipe: Recipe) -> str:
    arithmetic = arithmetic_of(base.decoder.device)
    parts = [*arithmetic, base.sha256, groups.sha256(), msgspec.json.encode(recipe).decode(), *texts]
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()
