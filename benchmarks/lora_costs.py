"""Time and memory of one training step, full and by adapters, on models of drawn weights; what a cycle of epochs costs.

cycle = once + epochs · step,   once: what the frozen layers below give, computed for each batch in the first epoch
"""

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import torch

from benchmarks.random_llamas import random_llama
from retrain_workers.lora.adapters import AdapterShape, attached, trainable_share
from retrain_workers.lora.base import BaseModel
from retrain_workers.lora.choices import ChoiceGroups
from retrain_workers.lora.costs import peak_tensor_bytes, weight_bytes
from retrain_workers.lora.decoder import Decoder
from retrain_workers.lora.packing import Packer
from retrain_workers.lora.prompts import Words
from retrain_workers.lora.training import WeightedBatch, batches_of, choice_loss

GROUPS_PER_STEP: Final = {"2M": 24, "15M": 8, "135M": 2, "0.5B": 2}
"""Choices of a step on a CPU; on a GPU sixteen times as many."""

GPU_TIMES: Final = 16

T = TypeVar("T")

EPOCHS: Final = 2
CYCLE: Final = 800
"""Choices that a cycle learns from."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one way of training at one size.

    share : of the weights that are trained; step, once : seconds of one batch; peak_bytes : of tensors alive at one time
    kept_bytes : of the hidden states of all batches of a cycle, which wait for the next epoch in a file, see `frozen_prefix`
    """

    share: float
    step: float
    once: float
    peak_bytes: int
    kept_bytes: int

    def cycle(self, epochs: int) -> float:
        """Seconds for one batch over so many epochs."""
        return self.once + epochs * self.step

    @property
    def all_bytes(self) -> int:
        """As if the file lay in memory too."""
        return self.peak_bytes + self.kept_bytes


def costs_of(
    size: str, shapes: dict[str, AdapterShape | None], texts: list[str], groups: ChoiceGroups, device: str, steps: int
) -> Iterator[tuple[str, Cost]]:
    """The cost of each way, in turn; None for full fine-tuning."""
    base = random_llama(size, Words.of_texts(texts), device)
    many = GROUPS_PER_STEP[size] * (GPU_TIMES if base.decoder.device.type == "cuda" else 1)
    packer = Packer(base.prompt, texts)
    (batch,) = batches_of(packer, groups.take(np.arange(many)), many, 0, base.decoder.device)
    for name, shape in shapes.items():
        yield name, cost_of(base, shape, batch, steps, -(-CYCLE // many))


def cost_of(base: BaseModel, shape: AdapterShape | None, batch: WeightedBatch, steps: int, kept: int) -> Cost:
    """Median step and its peak; each in a model of its own, so that nothing of the one before is alive.

    kept : batches of a cycle whose hidden states are kept; 0 with one epoch
    """
    first = shape.first_layer if shape is not None else 0
    device = base.decoder.device
    with trainable(base, shape) as (decoder, weights, share):
        once, hidden = 0.0, None
        if first:
            with torch.no_grad():
                once, hidden = timed(lambda: decoder.below(batch.rows, first), device, steps)
        step = stepper(decoder, weights, batch, hidden, first)
        taken, _ = timed(step, device, steps)
    with trainable(base, shape) as (decoder, weights, _):
        given = 0 if hidden is None else hidden.numel() * hidden.element_size()
        resident = weight_bytes(decoder.model) + given
        peak = peak_tensor_bytes(stepper(decoder, weights, batch, hidden, first), resident, device)
    return Cost(share, taken, once, peak, kept * given)


@contextmanager
def trainable(
    base: BaseModel, shape: AdapterShape | None
) -> Iterator[tuple[Decoder, Sequence[torch.nn.Parameter], float]]:
    """A decoder, the weights that are trained, and their share."""
    if shape is None:
        model = copy.deepcopy(base.decoder.model).requires_grad_(True)
        model.train(True)
        yield Decoder(model, base.decoder.yes, base.decoder.no), list(model.parameters()), 1.0
        return
    with attached(base, shape, 0) as adapted:
        yield adapted.decoder, list(adapted.weights.values()), trainable_share(adapted)


def stepper(
    decoder: Decoder,
    weights: Sequence[torch.nn.Parameter],
    batch: WeightedBatch,
    hidden: torch.Tensor | None,
    first: int,
) -> Callable[[], None]:
    """One step of training on a batch, from the hidden states below the first trained layer where these are kept."""
    optimizer = torch.optim.AdamW(weights, lr=1e-4, weight_decay=0.0)

    def step() -> None:
        given = decoder.below(batch.rows, 0) if hidden is None else hidden
        choice_loss(decoder, batch, given, first).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def timed(call: Callable[[], T], device: torch.device, runs: int) -> tuple[float, T]:
    """Median seconds of a call after a first one, and what it gives; CPU time, or of the clock on a GPU."""
    cuda = device.type == "cuda"
    found, seconds = call(), []
    for _ in range(runs):
        if cuda:
            torch.cuda.synchronize()
        started = time.perf_counter() if cuda else time.process_time()
        found = call()
        if cuda:
            torch.cuda.synchronize()
        seconds.append((time.perf_counter() if cuda else time.process_time()) - started)
    return statistics.median(seconds), found
