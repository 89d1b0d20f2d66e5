"""The training loop of adapters and of whole models: packed batches, AdamW, one checkpoint an epoch.

- Batches are cut once and stay as they are: only their order changes with the epoch. So hidden states below the first trained
  layer, which no step changes, are computed once for each batch and used again, equal to the bit; see `frozen_prefix`.
- The learning rate rises linearly over the first steps and falls along a half cosine to nothing at the last.
- The generators are seeded anew by (seed, epoch): an attempt that goes on from a checkpoint ends as if never broken off.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from online_models.errors import TrainingError
from retrain_workers.attempt import Attempt
from retrain_workers.lora.choices import ChoiceGroups
from retrain_workers.lora.decoder import Decoder
from retrain_workers.lora.frozen_prefix import KeptStates
from retrain_workers.lora.objective import choice_losses, weighted_mean
from retrain_workers.lora.packing import Batch, Packer, by_length

WARM_UP_SHARE: Final = 0.1
LARGEST_GRADIENT: Final = 1.0
"""The norm that gradients are cut to."""

_SMOOTHING: Final = 0.9
_STATE: Final = ("step", "exp_avg", "exp_avg_sq")
"""Of AdamW, for each weight."""


@dataclass(frozen=True, slots=True)
class WeightedBatch:
    """Rows of choices, their weights (b,), and those of their candidates (b, c)."""

    rows: Batch
    weights: torch.Tensor
    candidate_weights: torch.Tensor


Loss = Callable[[Decoder, WeightedBatch, torch.Tensor, int], torch.Tensor]
"""(decoder, batch, hidden states (b, length, d) that a layer is given, the layer's number) -> what is minimised."""


def choice_loss(decoder: Decoder, batch: WeightedBatch, hidden: torch.Tensor, layer: int) -> torch.Tensor:
    """See `objective`."""
    scores = decoder.scores(batch.rows, hidden, layer)
    return weighted_mean(choice_losses(scores, batch.candidate_weights), batch.weights)


@dataclass(frozen=True, slots=True)
class Trained:
    """Weights that are trained at one learning rate, by name."""

    weights: Mapping[str, torch.nn.Parameter]
    learning_rate: float


@dataclass(frozen=True, slots=True)
class Plan:
    """How weights are trained.

    first_layer : the lowest layer with a trained weight; 0 also where embeddings are trained
    cached : keep what the layers below it give, for the later epochs
    seed : of the order and of what is dropped
    phase : under which progress is told and checkpoints are kept
    fingerprint : of everything the result depends on; a checkpoint of another is not gone on from
    """

    epochs: int
    seed: int
    first_layer: int = 0
    cached: bool = True
    phase: str = "lora"
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Spent:
    """steps : of this and of earlier attempts; cpu_seconds : of this one"""

    steps: int
    cpu_seconds: float


def batches_of(packer: Packer, groups: ChoiceGroups, size: int, seed: int, device: torch.device) -> list[WeightedBatch]:
    """Choices as batches of `size`, of nearly one length each."""
    rows = packer.rows(groups.histories(), groups.candidates)
    return [
        WeightedBatch(
            Batch.of([rows[number] for number in numbers.tolist()], device),
            torch.from_numpy(groups.weights[numbers]).to(device),
            torch.from_numpy(groups.candidate_weights[numbers]).to(device),
        )
        for numbers in by_length(rows, size, np.random.default_rng(seed))
    ]


def train(
    decoder: Decoder,
    trained: Sequence[Trained],
    batches: Sequence[WeightedBatch],
    plan: Plan,
    attempt: Attempt,
    loss: Loss = choice_loss,
) -> Spent:
    """Train weights of the decoder in place.

    Raises
    ------
    TrainingError
        When there is nothing to train on, or the loss is not finite.
    """
    if not batches:
        raise TrainingError("expected choices to train on, got none")
    started = time.process_time()
    optimizer = torch.optim.AdamW(
        [{"params": list(each.weights.values()), "lr": each.learning_rate} for each in trained], weight_decay=0.0
    )
    total = plan.epochs * len(batches)
    with KeptStates() as kept:
        loop = _Loop(decoder, batches, plan, loss, attempt, kept)
        for epoch in range(_restored(optimizer, trained, plan, attempt), plan.epochs):
            for step, number in loop.steps(epoch):
                loop.backward(step, total, number)
                for group, each in zip(optimizer.param_groups, trained, strict=True):
                    group["lr"] = each.learning_rate * learning_rate_share(step, total)
                    torch.nn.utils.clip_grad_norm_(group["params"], LARGEST_GRADIENT)
                optimizer.step()
                optimizer.zero_grad()
            attempt.keep(plan.phase, _packed(optimizer, trained, plan, epoch + 1))
    return Spent(total, time.process_time() - started)


def learning_rate_share(step: int, total: int) -> float:
    """Share of the peak at a step, counted from 0: up linearly, then down to nothing along a half cosine.

    >>> [round(learning_rate_share(step, 20), 2) for step in (0, 1, 2, 11, 19)]
    [0.5, 1.0, 1.0, 0.5, 0.01]
    """
    warm_up = max(round(WARM_UP_SHARE * total), 1)
    if step < warm_up:
        return (step + 1) / warm_up
    return (1 + math.cos(math.pi * (step - warm_up) / max(total - warm_up, 1))) / 2


class _Loop:
    """The batches in the order of each epoch, with what the frozen layers below give for them."""

    def __init__(
        self,
        decoder: Decoder,
        batches: Sequence[WeightedBatch],
        plan: Plan,
        loss: Loss,
        attempt: Attempt,
        kept: KeptStates,
    ) -> None:
        self._decoder, self._batches, self._plan, self._loss, self._attempt = decoder, batches, plan, loss, attempt
        self._kept = kept
        self._smoothed: float | None = None

    def steps(self, epoch: int) -> list[tuple[int, int]]:
        """(step, number of its batch) of an epoch; the generators are seeded for it."""
        torch.manual_seed(derived_seed(self._plan.seed, epoch))
        order = np.random.default_rng([self._plan.seed, epoch]).permutation(len(self._batches))
        first = epoch * len(order)
        return [(first + place, number) for place, number in enumerate(order.tolist())]

    def backward(self, step: int, total: int, number: int) -> None:
        """The gradients of one batch."""
        batch = self._batches[number]
        value = self._loss(self._decoder, batch, self._hidden(number, batch), self._plan.first_layer)
        found = float(value.detach())
        if not math.isfinite(found):
            raise TrainingError(f"expected a finite loss, got {found} at step {step} of {self._plan.phase}")
        value.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._smoothed = found if self._smoothed is None else _SMOOTHING * self._smoothed + (1 - _SMOOTHING) * found
        self._attempt.report(self._plan.phase, step + 1, total, self._smoothed)

    def _hidden(self, number: int, batch: WeightedBatch) -> torch.Tensor:
        plan = self._plan
        if plan.first_layer == 0:
            return self._decoder.below(batch.rows, 0)
        hidden = self._kept.get(number, self._decoder.device)
        if hidden is None:
            with torch.no_grad():
                hidden = self._decoder.below(batch.rows, plan.first_layer)
            if plan.cached and plan.epochs > 1:
                self._kept.put(number, hidden)
        return hidden


def derived_seed(seed: int, *place: int) -> int:
    """A seed of its own for a place in a run.

    >>> derived_seed(0, 1) == derived_seed(0, 1) != derived_seed(1, 0)
    True
    """
    return int(np.random.SeedSequence([seed, *place]).generate_state(1, np.uint64)[0] >> 1)


def _packed(optimizer: torch.optim.Optimizer, trained: Sequence[Trained], plan: Plan, epochs: int) -> bytes:
    """Weights and moments after so many epochs."""
    tensors = {}
    for name, weight in _named(trained).items():
        tensors[f"weight.{name}"] = weight.detach().cpu().contiguous()
        tensors |= {f"{part}.{name}": optimizer.state[weight][part].cpu().contiguous() for part in _STATE}
    marks = {"epochs": torch.tensor(epochs), "fingerprint": _text(plan.fingerprint)}
    return save({**tensors, **marks})


def _restored(optimizer: torch.optim.Optimizer, trained: Sequence[Trained], plan: Plan, attempt: Attempt) -> int:
    """Epochs that an earlier attempt at the same has done, its weights and moments put in place; 0 without one."""
    raw = attempt.checkpoint(plan.phase)
    if raw is None:
        return 0
    try:
        tensors = load(raw)
    except SafetensorError:
        return 0
    if not torch.equal(tensors.get("fingerprint", _text("")), _text(plan.fingerprint)):
        return 0
    for name, weight in _named(trained).items():
        with torch.no_grad():
            weight.copy_(tensors[f"weight.{name}"])
        device = weight.device
        optimizer.state[weight] = {
            part: tensors[f"{part}.{name}"].to(device if part != "step" else "cpu") for part in _STATE
        }
    return int(tensors["epochs"])


def _named(trained: Sequence[Trained]) -> dict[str, torch.nn.Parameter]:
    return {name: weight for each in trained for name, weight in each.weights.items()}


def _text(text: str) -> torch.Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)
