"""What real processes use, as `/proc` tells."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from retrain_workers.process_usage import ProcessUsage, is_known

MIB = 1 << 20
HUNGRY = "held = b'x' * ({mib} << 20); print('ready', flush=True); input()"
BRIEFLY = "held = b'x' * ({mib} << 20); del held; print('ready', flush=True); input()"
WITH_CHILD = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {child!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline(); print("ready", flush=True); input(); child.communicate(b"\\n")
"""
BUSY = "import time\nwhile time.process_time() < 0.4: pass\nprint('ready', flush=True); input()"


@contextmanager
def python(program: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def usage(process: subprocess.Popen[str]) -> ProcessUsage:
    found = ProcessUsage.of(process.pid)
    assert found is not None
    return found


def test_this_system_tells_and_of_no_process_there_is_nothing_to_tell() -> None:
    assert is_known()
    with python("print('ready', flush=True); input()") as process:
        pass
    assert ProcessUsage.of(process.pid) is None


def test_memory_is_what_another_reader_of_the_system_says() -> None:
    with python(HUNGRY.format(mib=100)) as process:
        assert usage(process).peak_bytes == pytest.approx(psutil.Process(process.pid).memory_info().rss, rel=0.02)
        assert usage(process).peak_bytes > 100 * MIB


def test_memory_that_was_given_back_counts_as_the_peak() -> None:
    with python(BRIEFLY.format(mib=100)) as process:
        assert psutil.Process(process.pid).memory_info().rss < 100 * MIB
        assert usage(process).peak_bytes > 100 * MIB


def test_the_memory_and_the_time_of_children_count_too() -> None:
    with python(WITH_CHILD.format(child=HUNGRY.format(mib=100))) as process:
        assert usage(process).peak_bytes > 100 * MIB
    with python(WITH_CHILD.format(child=BUSY)) as process:
        assert usage(process).cpu_seconds >= 0.3


def test_the_time_of_a_process_that_was_killed_can_be_read_until_it_is_reaped() -> None:
    with python(BUSY) as process:
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert 0.3 <= usage(process).cpu_seconds < 5.0


def test_figures_never_fall() -> None:
    earlier = ProcessUsage(10, 2.0)
    assert earlier.then(ProcessUsage(20, 1.0)) == ProcessUsage(20, 2.0)
    assert earlier.then(None) == earlier
