"""Where two towers are trained: on one device by one process, or by several processes that torchrun or accelerate has launched.

- One process: nothing but the module, its optimizer and a device.
- Several: accelerate averages the gradients. Each process takes its share of every batch, so that the negatives of a user are
  those of its share. A worker is always one process; several are for a program of one's own that calls `fitting.train`:
  `torchrun --standalone --nproc-per-node=2 program.py`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from online_models.errors import TrainingError

if TYPE_CHECKING:
    from accelerate import Accelerator

I64 = npt.NDArray[np.int64]

DEVICES: Final = ("cpu", "cuda", "auto")


@dataclass(frozen=True, slots=True)
class Devices:
    """device : of this process; number, many : which one it is, of how many"""

    device: torch.device
    number: int = 0
    many: int = 1
    _accelerator: "Accelerator | None" = None

    @classmethod
    def of(cls, name: str) -> Self:
        """By name: `cpu`, `cuda` or `auto`, which is CUDA where there is one.

        Raises
        ------
        TrainingError
            When the name is another, or there is no CUDA device.
        """
        if name not in DEVICES:
            raise TrainingError(f"expected a device of {', '.join(DEVICES)}, got {name!r}")
        if name == "cuda" and not torch.cuda.is_available():
            raise TrainingError("expected a CUDA device, got none")
        kind = "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"
        if not torch.distributed.is_torchelastic_launched():
            return cls(torch.device(kind))
        from accelerate import Accelerator  # takes seconds to import, and one process has no use for it

        accelerator = Accelerator(cpu=kind == "cpu")
        return cls(accelerator.device, accelerator.process_index, accelerator.num_processes, accelerator)

    @property
    def first(self) -> bool:
        """Whether this process is the one that reports and keeps checkpoints."""
        return self.number == 0

    def prepared(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """What the loop calls: the same two, or wrapped so that all processes step alike."""
        if self._accelerator is None:
            return module, optimizer
        wrapped: tuple[nn.Module, torch.optim.Optimizer] = self._accelerator.prepare(module, optimizer)
        return wrapped

    def backward(self, loss: Tensor) -> None:
        """Gradients of a loss, averaged over the processes."""
        if self._accelerator is None:
            torch.autograd.backward(loss)
        else:
            self._accelerator.backward(loss)

    def share(self, rows: I64) -> I64:
        """This process' part of a batch; all parts are of one length, some rows are in two where they do not divide evenly.

        >>> [Devices(torch.device("cpu"), number, 2).share(np.arange(5)).tolist() for number in (0, 1)]
        [[0, 2, 4], [1, 3, 0]]
        """
        padded = np.resize(rows, -(-len(rows) // self.many) * self.many)
        return padded[self.number :: self.many]
