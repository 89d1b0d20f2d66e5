"""Trainings that train nothing: for tests of the worker, and light to import, as each runs in a process of its own."""

import hashlib
import subprocess
import time
from pathlib import Path

from online_models.contracts.jobs import RetrainJob
from retrain_workers.attempt import Attempt
from retrain_workers.publish import Prepared, Refused

MIB = 1 << 20
STEPS = 150


def refuse(job: RetrainJob, _: Attempt) -> Prepared | Refused:
    return Refused(f"nothing to do for {job.model}")


def take_all_memory(job: RetrainJob, _: Attempt) -> Prepared | Refused:
    held: list[bytes] = []
    while len(held) < 4_096:
        held.append(b"x" * MIB)
        time.sleep(0.0005)
    return Refused(f"{len(held)} MiB were there for {job.id}")


def start_another_and_hang(pid_file: Path, job: RetrainJob, _: Attempt) -> Prepared | Refused:
    with subprocess.Popen(["sleep", "3600"]) as started:
        pid_file.write_text(str(started.pid))
    return Refused(f"slept through {job.id}")


def tell(job: RetrainJob, attempt: Attempt) -> Prepared | Refused:
    attempt.report("reading")
    for row in range(25):
        attempt.report("steps", row, 100, 1.0 / (row + 1))
        time.sleep(0.1)
    return Refused(f"told all of {job.id}")


def flood(finished: Path, job: RetrainJob, attempt: Attempt) -> Prepared | Refused:
    for number in range(5_000):
        attempt.report(f"phase {number}")
    finished.touch()
    return Refused(f"told all of {job.id}")


def chained(digest: bytes, first: int, last: int) -> bytes:
    """What the steps from `first` to before `last` make of a digest."""
    for step in range(first, last):
        digest = hashlib.sha256(digest + str(step).encode()).digest()
    return digest


def train_in_steps(job: RetrainJob, attempt: Attempt) -> Prepared | Refused:
    """A result that only all steps in their order give, resumed where the last attempt was."""
    raw = attempt.checkpoint("steps")
    first, digest = (int(raw[:8]), raw[8:]) if raw is not None else (0, b"")
    for step in range(first, STEPS):
        digest = chained(digest, step, step + 1)
        attempt.keep("steps", f"{step + 1:8}".encode() + digest)
        attempt.report("steps", step, STEPS)
        time.sleep(0.01)
    return Refused(f"{digest.hex()} from step {first} of {job.id}")
