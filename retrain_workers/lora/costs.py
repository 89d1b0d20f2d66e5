"""What a training step needs of memory: the most bytes of tensors that are alive at one time.

- Resident memory misleads at small sizes, where libraries weigh more than weights; tensors are counted as they come and go.
- Two steps are watched: the moments of AdamW appear only after the first backward pass.
- On CUDA the allocator keeps that count itself.
"""

from collections.abc import Callable
from typing import Final

import torch
from torch.profiler import ProfilerActivity, profile

STEPS: Final = 2


def peak_tensor_bytes(step: Callable[[], object], resident_bytes: int, device: torch.device) -> int:
    """The peak over two calls of a training step, what was there before included.

    resident_bytes : of weights and batches that exist before the first step
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        for _ in range(STEPS):
            step()
        return torch.cuda.max_memory_allocated(device)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        for _ in range(STEPS):
            step()
    alive = peak = 0
    for event in watched.profiler.kineto_results.events():
        if event.name() == "[memory]":
            alive += event.nbytes()
            peak = max(peak, alive)
    return resident_bytes + peak


def weight_bytes(model: torch.nn.Module) -> int:
    """Of all weights, each counted once."""
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())
