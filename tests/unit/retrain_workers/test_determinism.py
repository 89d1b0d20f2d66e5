"""The guard of trainings: what holds within, and that it leaves no trace."""

import pytest
import torch
from threadpoolctl import threadpool_info

from retrain_workers.determinism import arithmetic_of, deterministic

CPU = torch.device("cpu")


def state() -> tuple[int, bool, list[int]]:
    """Threads of torch, determinism, and threads of each library under numpy and torch."""
    pools = [pool["num_threads"] for pool in threadpool_info()]
    return torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), pools


@pytest.mark.parametrize("threads", [1, 2])
def test_within_all_is_one_thread_and_deterministic_and_as_it_was_after(threads: int) -> None:
    outside = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        before = state()
        with deterministic(CPU):
            torch_threads, deterministic_only, pools = state()
            with deterministic(CPU):
                assert state() == (torch_threads, deterministic_only, pools)
            assert state() == (torch_threads, deterministic_only, pools)
        assert (torch_threads, deterministic_only, set(pools)) == (1, True, {1})
        with pytest.raises(KeyError), deterministic(CPU):
            raise KeyError
        assert state() == before
    finally:
        torch.set_num_threads(outside)


def test_an_arithmetic_is_known_by_its_device_threads_and_version() -> None:
    kind, which, threads, version = arithmetic_of(CPU)
    assert (kind, threads, version) == ("cpu", "1", torch.__version__)
    assert which == torch.backends.cpu.get_cpu_capability()
