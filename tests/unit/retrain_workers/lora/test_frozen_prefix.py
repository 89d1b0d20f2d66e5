"""Hidden states in a file: the same to the bit, by number, and in memory one batch at a time."""

import torch

from retrain_workers.attempt import Unwatched
from retrain_workers.lora.adapters import AdapterShape, attached
from retrain_workers.lora.costs import peak_tensor_bytes
from retrain_workers.lora.decoder import Decoder
from retrain_workers.lora.frozen_prefix import KeptStates
from retrain_workers.lora.packing import Packer
from retrain_workers.lora.training import Plan, Trained, batches_of, train
from tests.unit.retrain_workers.lora.little_world import TEXTS, choices, untrained

CPU = torch.device("cpu")


def test_states_come_back_to_the_bit_whatever_their_type_and_layout() -> None:
    drawn = torch.randn((3, 5, 8), generator=torch.Generator().manual_seed(0))
    given = {7: drawn, 0: drawn.bfloat16(), 3: drawn.transpose(0, 1), 1: drawn[:1, :1] * float("nan")}
    with KeptStates() as kept:
        for number, states in given.items():
            kept.put(number, states)
        for number, states in given.items():
            found = kept.get(number, CPU)
            assert found is not None
            assert (found.dtype, found.shape) == (states.dtype, states.shape)
            torch.testing.assert_close(found, states, rtol=0, atol=0, equal_nan=True)
        assert kept.get(2, CPU) is None


def test_more_batches_take_no_more_memory() -> None:
    base = untrained()
    packer, shape = Packer(base.prompt, TEXTS), AdapterShape(4, 8.0, first_layer=2)

    def peak(many: int) -> int:
        batches = batches_of(packer, choices(many, 0), 8, 0, CPU)
        with attached(base, shape, 0) as adapted:
            weights = [Trained(adapted.weights, 1e-3)]

            def cycle() -> None:
                train(Decoder(adapted.decoder.model, 0, 1), weights, batches, Plan(2, 0, 2), Unwatched())

            return peak_tensor_bytes(cycle, 0, CPU)

    assert peak(160) < 1.5 * peak(32)
