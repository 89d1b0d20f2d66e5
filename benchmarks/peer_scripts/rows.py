"""The rows that a peer judges, and how its time is taken.

- Inputs are `<case>/numbers.npy` float64 (features, 2 rows) and `<case>/words.npy` uint32 (features, 2 rows): the first half
  of the rows is the reference, the second is the window that is judged.
- Time is that of the judging alone: the frame is built, and the reference fitted, before.
"""

import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Case:
    """numbers : float64 (features, 2 rows); words : uint32 (features, 2 rows), a word is its number"""

    name: str
    numbers: npt.NDArray[np.float64]
    words: npt.NDArray[np.uint32]

    @property
    def rows(self) -> int:
        """Rows of the reference, and of the window."""
        return int(self.numbers.shape[1]) // 2

    @property
    def numeric_names(self) -> list[str]:
        return [f"n{feature}" for feature in range(len(self.numbers))]

    @property
    def word_names(self) -> list[str]:
        return [f"c{feature}" for feature in range(len(self.words))]


def cases(inputs: Path) -> list[Case]:
    """The cases under a directory, smallest first."""
    found = [
        Case(each.name, np.load(each / "numbers.npy"), np.load(each / "words.npy"))
        for each in inputs.iterdir()
        if each.is_dir()
    ]
    return sorted(found, key=lambda case: (case.numbers.size + case.words.size, case.name))


def measured(work: Callable[[], object], values: int, runs: int = 3, warm: bool = True) -> dict[str, float]:
    """Median seconds of CPU and of the clock of one call, and feature values per second of each.

    Parameters
    ----------
    values : feature values that one call judges
    warm : call once before, untimed
    """
    if warm:
        work()
    cpu, wall = [], []
    for _ in range(runs):
        cpu_start, wall_start = time.process_time(), time.perf_counter()
        work()
        cpu.append(time.process_time() - cpu_start)
        wall.append(time.perf_counter() - wall_start)
    cpu_seconds, wall_seconds = statistics.median(cpu), statistics.median(wall)
    return {
        "cpu_seconds": cpu_seconds,
        "wall_seconds": wall_seconds,
        "values": values,
        "values_per_cpu_second": values / cpu_seconds,
        "values_per_second": values / wall_seconds,
        "runs": runs,
    }


def peak_mib() -> float:
    """Peak memory of this process, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
