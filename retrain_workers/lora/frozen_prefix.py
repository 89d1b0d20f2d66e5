"""Hidden states below the first trained layer, batch by batch: computed once, kept in a temporary file for later epochs.

- They are `tokens · width` floats and outgrow a small model: 50,000 tokens of a width of 384 are 77 MB, beside a step's 79. In a
  file they take memory one batch at a time.
- The file is under `TMPDIR`, which should be on a disk and not in memory, and has no name there: it is gone with the process,
  however that ends.
"""

import tempfile
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
import torch


class KeptStates:
    """Tensors by number, until the `with` block ends."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # closed by __exit__
        self._places: dict[int, tuple[int, torch.Size, torch.dtype]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def put(self, number: int, states: torch.Tensor) -> None:
        """Keep the states (b, length, d) of a batch, to the bit."""
        offset = self._file.seek(0, 2)
        self._file.write(_raw(states.cpu().contiguous()))
        self._places[number] = offset, states.shape, states.dtype

    def get(self, number: int, device: torch.device) -> torch.Tensor | None:
        """What was put; None when nothing was."""
        if number not in self._places:
            return None
        offset, shape, dtype = self._places[number]
        states = torch.empty(shape, dtype=dtype)
        self._file.seek(offset)
        self._file.readinto(_raw(states))
        return states.to(device)


def _raw(states: torch.Tensor) -> memoryview:
    raw: npt.NDArray[np.uint8] = states.view(torch.uint8).numpy()
    return raw.data.cast("B")
