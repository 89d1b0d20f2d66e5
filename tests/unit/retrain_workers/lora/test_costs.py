"""Peak tensor bytes: what is alive together counts, what is gone does not."""

import pytest
import torch

from retrain_workers.lora.costs import peak_tensor_bytes, weight_bytes


def test_the_peak_is_of_what_lives_at_one_time() -> None:
    known = torch.ones(1_000, 1_000)

    def step() -> None:
        twice = known * 2
        again = twice * 2
        del twice, again
        known.sum()

    found = peak_tensor_bytes(step, known.nbytes, torch.device("cpu"))
    assert found == pytest.approx(3 * known.nbytes, rel=0.01)


def test_a_shared_weight_counts_once() -> None:
    first, second = torch.nn.Linear(10, 10, bias=False), torch.nn.Linear(10, 10, bias=False)
    second.weight = first.weight
    assert weight_bytes(torch.nn.Sequential(first, second)) == 400
