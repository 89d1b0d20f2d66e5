"""A piece of work in a process of its own: what it brings along is gone with it, and nothing that it does ends the worker.

- For chores. A job has more to tell and to keep, see `training_process`.
"""

import enum
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import wait
from typing import Final

from retrain_workers.process_usage import ProcessUsage
from retrain_workers.training_process import kill_group, lead_group

_GLANCE_SECONDS: Final = 0.1


class Ended(enum.Enum):
    """How a piece of work ended: it came to its end, somebody asked to stop, it took too long or too much, or it failed."""

    DONE = "done"
    STOPPED = "stopped"
    OVER_LIMIT = "over limit"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Limits:
    """timeout : of the work; memory_bytes : of its process and the children of that, 0 for no limit"""

    timeout: timedelta
    memory_bytes: int = 0


def run_apart(work: Callable[[], None], limits: Limits, stopped: Callable[[], bool]) -> Ended:
    """Have a process do it, and wait for that; `stopped` is looked at all the time. work : picklable"""
    process = multiprocessing.get_context("spawn").Process(target=_apart, args=(work,), daemon=True)
    deadline = time.monotonic() + limits.timeout.total_seconds()
    process.start()
    assert process.pid is not None, "started above"
    ended = None
    try:
        while ended is None and not wait([process.sentinel], _GLANCE_SECONDS):
            usage = ProcessUsage.of(process.pid) or ProcessUsage()
            if stopped():
                ended = Ended.STOPPED
            elif time.monotonic() >= deadline or 0 < limits.memory_bytes < usage.peak_bytes:
                ended = Ended.OVER_LIMIT
    finally:
        kill_group(process)
        process.join()
        status = process.exitcode
        process.close()
    return ended or (Ended.DONE if status == 0 else Ended.FAILED)


def _apart(work: Callable[[], None]) -> None:
    lead_group()
    work()
