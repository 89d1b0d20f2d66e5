"""What a benchmark runs with, and what it prints: a table for people, then one line of JSON.

The machine and its load are part of every result: a figure without them cannot be compared.
"""

import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure should be, in its own unit: `at_least` some value, `at_most` some value, or both."""

    name: str
    value: float
    at_least: float = -math.inf
    at_most: float = math.inf

    @property
    def met(self) -> bool:
        return self.at_least <= self.value <= self.at_most

    @property
    def bounds(self) -> str:
        """The bounds in words.

        >>> Target("peak GB", 0.7, at_most=1.0).bounds
        '<= 1'
        """
        above = f">= {self.at_least:g}" if self.at_least > -math.inf else ""
        below = f"<= {self.at_most:g}" if self.at_most < math.inf else ""
        return ", ".join(filter(None, (above, below)))


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a benchmark ran: cores that it may use, processor, and the load average of the last minute as it began."""

    cores: int
    cpu: str
    load: float

    @classmethod
    def here(cls) -> "Machine":
        return cls(len(os.sched_getaffinity(0)), processor(), round(os.getloadavg()[0], 2))


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Of a process of ours under these settings alone: whatever of Penstock's is set here stays here."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PENSTOCK_")}
    return {**kept, "PYTHONPATH": str(ROOT), **settings}


def data_folder() -> Path:
    """Where the public data sets are, if they are: PENSTOCK_DATA."""
    return Path(os.environ.get("PENSTOCK_DATA", ROOT.parent / "shared" / "data"))


def processor() -> str:
    """The processor's name as the kernel gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def commit() -> str:
    """The commit checked out, `-dirty` when files differ from it; `unknown` outside a repository."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of one length as aligned columns, the first row as their heads.

    >>> print(table([["run", "events/s"], ["1", "50,000"]]))
    run  events/s
      1    50,000
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def result(benchmark: str, machine: Machine, figures: Mapping[str, float], targets: Sequence[Target]) -> str:
    """The last line: one JSON object."""
    return json.dumps(
        {
            "benchmark": benchmark,
            "commit": commit(),
            "machine": {"cores": machine.cores, "cpu": machine.cpu, "load": machine.load},
            "figures": {name: figure if math.isfinite(figure) else None for name, figure in figures.items()},
            "targets": [
                {
                    "name": each.name,
                    "value": each.value if math.isfinite(each.value) else None,
                    "target": each.bounds,
                    "met": each.met,
                }
                for each in targets
            ],
        }
    )
