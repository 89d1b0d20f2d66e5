"""What a process and its descendants use, read from `/proc`: the most resident memory, and CPU time.

- Linux only. Elsewhere nothing is known (`None`), and a limit on memory cannot be kept.
- Pages that a process shares with its children count in each, so the sum errs on the safe side of a limit.
- The CPU time of a process that has ended can be read until its parent reaps it, which makes the last reading exact.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

PROC: Final = Path("/proc")

_TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """peak_bytes : the most resident memory that the kernel tells of the process, or that was seen of it and its descendants
    cpu_seconds : user and system time of the process, its living descendants, and those it has waited for
    """

    peak_bytes: int = 0
    cpu_seconds: float = 0.0

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """The usage of a process; None when there is no such process, or no `/proc`."""
        cpu = _cpu_seconds(pid)
        if cpu is None:
            return None
        resident, peak = _memory(pid)
        for child in _descendants(pid):
            cpu += _cpu_seconds(child) or 0.0
            resident += _memory(child)[0]
        return cls(max(resident, peak), cpu)

    def then(self, later: "ProcessUsage | None") -> "ProcessUsage":
        """The usage of a process that was looked at again: neither figure ever falls."""
        if later is None:
            return self
        return ProcessUsage(max(self.peak_bytes, later.peak_bytes), max(self.cpu_seconds, later.cpu_seconds))


def is_known() -> bool:
    """Whether this system tells what a process uses."""
    return ProcessUsage.of(os.getpid()) is not None


def _cpu_seconds(pid: int) -> float | None:
    with suppress(OSError, ValueError, IndexError):
        # the name in brackets may hold anything, so the fields are counted from its end: utime stime cutime cstime
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        return sum(int(ticks) for ticks in fields[11:15]) / _TICKS
    return None


def _memory(pid: int) -> tuple[int, int]:
    """Resident bytes now and at most; zeros of a process that has ended."""
    found = {"VmRSS": 0, "VmHWM": 0}
    with suppress(OSError, ValueError):
        for line in (PROC / str(pid) / "status").read_text().splitlines():
            name, _, amount = line.partition(":")
            if name in found:
                found[name] = int(amount.split()[0]) * 1024
    return found["VmRSS"], found["VmHWM"]


def _descendants(pid: int) -> Iterator[int]:
    children: list[int] = []
    with suppress(OSError):
        for task in (PROC / str(pid) / "task").iterdir():
            children += [int(child) for child in (task / "children").read_text().split()]
    for child in children:
        yield child
        yield from _descendants(child)
