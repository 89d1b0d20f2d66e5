"""A piece of work in a process of its own: what it brings along is gone with it, and nothing that it does ends the worker.

- For chores. A job has more to tell and to keep, see `training_process`.
"""

import enum
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from retrain_workers.process_usage import ProcessUsage
from retrain_workers.training_process import end_with_parent

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
    try:
        while process.is_alive():
            if stopped():
                return Ended.STOPPED
            usage = ProcessUsage.of(process.pid) or ProcessUsage()
            if time.monotonic() >= deadline or 0 < limits.memory_bytes < usage.peak_bytes:
                return Ended.OVER_LIMIT
            process.join(_GLANCE_SECONDS)
        return Ended.DONE if process.exitcode == 0 else Ended.FAILED
    finally:
        with suppress(ProcessLookupError):  # not yet the leader of a group, or gone
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()
        process.close()


def _apart(work: Callable[[], None]) -> None:
    os.setpgid(0, 0)  # Ctrl-C does not reach it: the parent decides
    threading.Thread(target=end_with_parent, daemon=True).start()
    work()
