"""The loop that trains two towers: passes over examples, AdamW with warm-up and linear decay, checkpoints to go on from.

- The order of a pass and what is dropped follow from seed and step alone, so that a checkpoint is parameters, the optimizer's
  moments and a step, and a resumed run ends with the same bits.
- A checkpoint of another job, of other data or of another torch is not gone on from.
- q, how often an item is drawn as a negative, is counted over the examples of the very pass that draws it; p, how popular it was
  at an example, over all that came before.
"""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save

from online_models.errors import TrainingError
from retrain_workers.attempt import Attempt
from retrain_workers.determinism import deterministic
from retrain_workers.two_tower.devices import Devices
from retrain_workers.two_tower.examples import Examples
from retrain_workers.two_tower.network import TABLES, BatchTensors, Towers
from retrain_workers.two_tower.popularity import PopularityThen

_LOG = logging.getLogger(__name__)

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

PHASE: Final = "two_tower"
"""Name of the phase that is reported, and of the checkpoint."""

KEEP_EVERY_SECONDS: Final = 60.0
WARM_UP_STEPS: Final = 100
WEIGHT_DECAY: Final = 0.01
"""Of the tables of items, categories and words; nothing else decays."""

_LOSS_FADING: Final = 0.98
_ABOUT: Final = "about"
_MOMENTS: Final = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True, slots=True)
class Schedule:
    """passes : rows of the examples of each pass, in any order; batch_size : examples of a step
    learning_rate : at its highest; length : items of a history; seed : of the orders and of what is dropped
    corrected : whether log q is taken from the logits
    """

    passes: Sequence[I64]
    batch_size: int
    learning_rate: float
    length: int
    seed: int
    corrected: bool = True

    @property
    def steps(self) -> list[int]:
        """Of each pass."""
        return [-(-len(rows) // self.batch_size) for rows in self.passes]

    def rate(self, step: int) -> float:
        """The learning rate of a step: rising over the first ones, falling to nothing at the last.

        >>> schedule = Schedule([np.arange(1000)], 10, 1.0, 5, 0)
        >>> [round(schedule.rate(step), 3) for step in (0, 9, 50)]
        [0.04, 0.364, 0.5]
        """
        total = sum(self.steps)
        warm_up = max(1, min(WARM_UP_STEPS, total // 4))
        return self.learning_rate * min(1.0, (step + 1) / warm_up) * (1 - step / total)

    def order(self, number: int) -> I64:
        """The rows of a pass in the order of their steps."""
        return np.random.default_rng((self.seed, number)).permutation(self.passes[number])


class _About(msgspec.Struct, frozen=True):
    identity: str
    step: int
    loss: float | None


class Loop:
    """Training under way.

    step : steps done; loss : smoothed, None before the first
    """

    def __init__(
        self, towers: Towers, examples: Examples, schedule: Schedule, attempt: Attempt, identity: str, devices: Devices
    ) -> None:
        """identity : of the job and its data; a kept checkpoint of the same is gone on from"""
        self.towers = towers.to(devices.device)
        self.step = 0
        self.loss: float | None = None
        self._examples, self._schedule, self._attempt = examples, schedule, attempt
        self._identity, self._devices = identity, devices
        self._popularity = PopularityThen.of(examples.target, examples.items)
        tables = [parameter for name, parameter in towers.named.items() if name in TABLES]
        others = [parameter for name, parameter in towers.named.items() if name not in TABLES]
        groups = [{"params": tables, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
        self._own_optimizer = torch.optim.AdamW(groups, lr=schedule.learning_rate, fused=True)
        if (kept := attempt.checkpoint(PHASE)) is not None:
            self._resume(kept)
        self._module, self._optimizer = devices.prepared(towers, self._own_optimizer)
        self._kept_at = time.monotonic()

    def finish_pass(self, number: int) -> None:
        """Do what is left of a pass; nothing when a checkpoint was taken after it."""
        first = sum(self._schedule.steps[:number])
        last = first + self._schedule.steps[number]
        if self.step >= last:
            return
        order = self._schedule.order(number)
        counts = self._examples.counts(order)
        # q_j of what is drawn at all; others are no targets of this pass
        log_q = np.log(np.maximum(counts, 1) / max(1, len(order))).astype(np.float32)
        self._module.train()
        size = self._schedule.batch_size
        with deterministic(self._devices.device):
            while self.step < last:
                at = (self.step - first) * size
                self._learn(order[at : at + size], log_q)
        self._keep()

    def _learn(self, rows: I64, log_q: F32) -> None:
        """One step."""
        rows = self._devices.share(rows)
        batch = self._examples.batch(rows, self._schedule.length)
        targets = self._examples.target[rows]
        offsets = self._popularity.at(rows, targets)
        if self._schedule.corrected:
            offsets -= log_q[targets]
        for group in self._optimizer.param_groups:
            group["lr"] = self._schedule.rate(self.step)
        self._optimizer.zero_grad()
        loss = self._module(BatchTensors.of(batch, offsets, self._devices.device), self._seed())
        self._devices.backward(loss)
        self._optimizer.step()
        self.step += 1
        found = float(loss.detach())
        if not math.isfinite(found):
            raise TrainingError(f"{PHASE}: expected a finite loss, got {found} at step {self.step}")
        self.loss = found if self.loss is None else _LOSS_FADING * self.loss + (1 - _LOSS_FADING) * found
        if self._devices.first:
            self._attempt.report(PHASE, self.step, sum(self._schedule.steps), self.loss)
        if time.monotonic() - self._kept_at >= KEEP_EVERY_SECONDS:
            self._keep()

    def _seed(self) -> int:
        """Of what is dropped in a step."""
        drawn = np.random.SeedSequence((self._schedule.seed, self.step, self._devices.number)).generate_state(1)
        return int(drawn[0])

    def _keep(self) -> None:
        self._kept_at = time.monotonic()
        if self._devices.first:
            self._attempt.keep(PHASE, self.state())

    def state(self) -> bytes:
        """Everything that a resumed run needs; the same state gives the same bytes."""
        about = msgspec.json.encode(_About(self._identity, self.step, self.loss))
        tensors = {_ABOUT: np.frombuffer(about, np.uint8)}
        for name, parameter in self.towers.named.items():
            tensors[f"parameter/{name}"] = parameter.detach().cpu().numpy()
            moments = self._own_optimizer.state.get(parameter, {})
            tensors |= {f"{moment}/{name}": moments[moment].cpu().numpy() for moment in moments}
        return save({name: np.array(tensor, order="C") for name, tensor in tensors.items()})

    def _resume(self, kept: bytes) -> None:
        """Go on from a checkpoint, if it is one of this very training."""
        try:
            tensors = load(kept)
            about = msgspec.json.decode(tensors.pop(_ABOUT).tobytes(), type=_About)
        except (SafetensorError, KeyError, msgspec.DecodeError):
            return
        if about.identity != self._identity:
            return
        self.step, self.loss = about.step, about.loss
        with torch.no_grad():
            for name, parameter in self.towers.named.items():
                parameter.copy_(torch.from_numpy(tensors[f"parameter/{name}"]))
                moments = {moment: tensors.get(f"{moment}/{name}") for moment in _MOMENTS}
                if all(array is not None for array in moments.values()):
                    self._own_optimizer.state[parameter] = {
                        moment: torch.from_numpy(array).to(parameter.device)
                        for moment, array in moments.items()
                        if array is not None
                    }
        _LOG.info("training.resumed phase=%s step=%d steps=%d", PHASE, self.step, sum(self._schedule.steps))
