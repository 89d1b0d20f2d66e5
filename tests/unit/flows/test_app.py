"""What the wiring hands on: no event waits for a compiler."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]

COLD_START = """
import sys
from pathlib import Path

from numba.core.dispatcher import Dispatcher

from flows.app import warm_up
from flows.settings import FlowSettings
from tests.engagements import busy_log, pieces_of
from tests.online_learners import learner


def compiled():
    modules = [m for name, m in sys.modules.items() if name.split(".")[0] in ("flows", "online_models")]
    kernels = [each for module in modules for each in vars(module).values() if isinstance(each, Dispatcher)]
    return {f"{kernel.__module__}.{kernel.__name__}": len(kernel.signatures) for kernel in kernels}


warm_up(FlowSettings())
before = compiled()
pieces = pieces_of(busy_log(900, seed=1, users=5, first_item=0, items=300), [300, 600])
for part in (pieces[:1], pieces[1:]):  # from nothing, and from what Redis holds
    with learner(sys.argv[1], Path(sys.argv[2])) as going:
        assert sum(map(going.learn, part)) > 0
late = {name: count for name, count in compiled().items() if count > before.get(name, 0)}
assert not late, late
"""


def test_every_kernel_that_learning_needs_is_compiled_before_the_first_event(redis_url: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", COLD_START, redis_url, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
