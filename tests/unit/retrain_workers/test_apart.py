"""Work in a process of its own: how it ends, and that nothing of it is left."""

import os
import subprocess
import sys
import time
from datetime import timedelta
from functools import partial
from pathlib import Path

import psutil
import pytest

from retrain_workers.apart import Ended, Limits, run_apart

MINUTE = Limits(timedelta(minutes=1))


def never() -> bool:
    return False


def note(path: Path) -> None:
    path.write_text(str(os.getpid()))


def fail() -> None:
    raise ValueError("on purpose")


def idle(path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    aside = path.with_suffix(".aside")
    aside.write_text(f"{os.getpid()} {child.pid}")
    aside.rename(path)
    time.sleep(600)


def take_memory(bytes_taken: int) -> None:
    taken = b"x" * bytes_taken
    time.sleep(600)
    assert taken


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_work_is_done_in_another_process(tmp_path: Path) -> None:
    assert run_apart(partial(note, tmp_path / "pid"), MINUTE, never) is Ended.DONE
    assert int((tmp_path / "pid").read_text()) != os.getpid()


def test_work_that_fails_says_why_and_ends_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_apart(fail, MINUTE, never) is Ended.FAILED
    assert "ValueError: on purpose" in capfd.readouterr().err


def test_work_that_is_stopped_ends_with_all_that_it_has_started(tmp_path: Path) -> None:
    path = tmp_path / "pids"
    assert run_apart(partial(idle, path), MINUTE, path.exists) is Ended.STOPPED
    deadline = time.monotonic() + 10
    while not all(is_gone(int(pid)) for pid in path.read_text().split()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_work_over_its_time_or_memory_is_ended(tmp_path: Path) -> None:
    short = Limits(timedelta(seconds=0.5))
    assert run_apart(partial(idle, tmp_path / "pids"), short, never) is Ended.OVER_LIMIT
    small = Limits(timedelta(minutes=1), memory_bytes=400 << 20)
    began = time.monotonic()
    assert run_apart(partial(take_memory, 600 << 20), small, never) is Ended.OVER_LIMIT
    assert time.monotonic() - began < 50
