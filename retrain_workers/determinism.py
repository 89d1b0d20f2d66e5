"""The arithmetic of a training: what makes the same inputs give the same bits, and what it is known by.

- One thread, of torch and of the linear algebra under numpy, and none but deterministic operations.
- On CUDA an operation that has no deterministic form is let pass: there equality is not promised.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch
from threadpoolctl import threadpool_limits

THREADS: Final = 1


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """See the module; after it, everything is as it was before."""
    threads, before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        with threadpool_limits(THREADS):
            torch.set_num_threads(THREADS)
            torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(before, warn_only=warn_only)


def arithmetic_of(device: torch.device) -> list[str]:
    """What a training's bits depend on beside its inputs: a checkpoint of another arithmetic is not gone on from.

    Kind of device, which one, threads, and torch's version.

    >>> arithmetic_of(torch.device("cpu"))[::2]
    ['cpu', '1']
    """
    which = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return [device.type, which, str(THREADS), str(torch.__version__)]
