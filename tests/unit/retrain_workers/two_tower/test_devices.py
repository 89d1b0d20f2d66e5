"""Devices by name, shares of a batch, and two processes over gloo that end with the same towers."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from online_models.errors import TrainingError
from retrain_workers.two_tower.devices import Devices

ROOT = Path(__file__).parents[4]
PROGRAM = """
import hashlib, json, sys
from pathlib import Path
from msgspec.structs import replace
import torch
from online_models.contracts.jobs import TrainTwoTower
from retrain_workers.attempt import Unwatched
from retrain_workers.data.datasets import dataset_of
from retrain_workers.two_tower.devices import Devices
from retrain_workers.two_tower.examples import TowerData
from retrain_workers.two_tower.fitting import train
from tests.clustered_world import as_interactions, clustered_events

class Kept(Unwatched):
    states = 0
    def keep(self, name, state):
        self.states += 1

dataset, attempt = dataset_of(as_interactions(clustered_events(1))), Kept()
job = TrainTwoTower(dimensions=8, hidden=8, recent=5, epochs=2, batch_size=101)
found = train(TowerData.of(dataset, dataset.items, {}), job, None, None, attempt)
digest = hashlib.sha256(b"".join(found.files().values())).hexdigest()
number = torch.distributed.get_rank()
told = {"many": torch.distributed.get_world_size(), "sha256": digest, "states": attempt.states}
Path(sys.argv[1], f"{number}.json").write_text(json.dumps(told))
"""


@given(st.integers(1, 40), st.integers(1, 5))
def test_shares_hold_every_row_and_are_of_one_length(rows: int, many: int) -> None:
    shares = [Devices(torch.device("cpu"), number, many).share(np.arange(rows)) for number in range(many)]
    assert {len(share) for share in shares} == {-(-rows // many)}
    assert set(np.concatenate(shares).tolist()) == set(range(rows))


def test_one_process_has_everything_and_wraps_nothing() -> None:
    devices, module = Devices.of("cpu"), torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    assert (devices.first, devices.many, devices.device.type) == (True, 1, "cpu")
    assert devices.prepared(module, optimizer) == (module, optimizer)
    devices.backward(module(torch.ones(1, 2)).sum())
    assert module.weight.grad is not None


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(TrainingError, match="got 'tpu'"):
        Devices.of("tpu")
    if not torch.cuda.is_available():
        assert Devices.of("auto").device.type == "cpu"
        with pytest.raises(TrainingError, match="a CUDA device"):
            Devices.of("cuda")


@pytest.mark.slow
def test_two_processes_end_with_the_same_towers_and_one_keeps_checkpoints(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(program),
        str(tmp_path),
    ]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(launch, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"{number}.json").read_text()) for number in (0, 1))
    assert first["many"] == second["many"] == 2
    assert first["sha256"] == second["sha256"]
    assert (first["states"] > 0, second["states"]) == (True, 0)
