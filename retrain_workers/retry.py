"""Whether and when a failed job is tried again: a pure rule.

- Exponential backoff with equal jitter: half of the pause is fixed, half is random, so that jobs that failed
  together do not come back together.
- A `TrainingError` is permanent: the same data and settings would fail again.
- Too much memory is tried once more, as it may have been a rare case of what else ran; after that the data and settings need it.
"""

import enum
import random
from dataclasses import dataclass
from datetime import timedelta
from typing import assert_never


class ErrorKind(enum.StrEnum):
    """What became of an attempt that gave no result."""

    PERMANENT = "permanent"  # the job itself cannot give a model
    TRANSIENT = "transient"  # an exception that may not come again: a store away, an artifact unreadable
    CRASH = "crash"  # the training process died
    TIMEOUT = "timeout"  # the training process was killed for its running time
    MEMORY = "memory"  # the training process was killed for its memory


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """base : pause after the first attempt, before jitter; cap : longest pause before jitter"""

    base: timedelta
    cap: timedelta


@dataclass(frozen=True, slots=True)
class RetryAt:
    """Try again after this long."""

    after: timedelta


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Do not try again, for this reason."""

    reason: str


def decide(
    kind: ErrorKind, attempt: int, max_attempts: int, policy: RetryPolicy, rng: random.Random
) -> RetryAt | GiveUp:
    """What to do after attempt number `attempt` (1 is the first) ended with an error.

    pause = min(cap, base · 2^(attempt - 1)) · U(1/2, 1)

    >>> policy = RetryPolicy(base=timedelta(seconds=4), cap=timedelta(seconds=60))
    >>> second = decide(ErrorKind.CRASH, 2, 3, policy, random.Random(0))
    >>> timedelta(seconds=4) <= second.after <= timedelta(seconds=8)
    True
    >>> decide(ErrorKind.CRASH, 3, 3, policy, random.Random(0))
    GiveUp(reason='crash on the last of 3 attempts')
    """
    match kind:
        case ErrorKind.PERMANENT:
            return GiveUp("permanent: another attempt would fail the same way")
        case ErrorKind.TRANSIENT | ErrorKind.CRASH | ErrorKind.TIMEOUT | ErrorKind.MEMORY:
            if kind is ErrorKind.MEMORY and attempt > 1:
                return GiveUp("memory: another attempt would take as much")
            if attempt >= max_attempts:
                return GiveUp(f"{kind} on the last of {max_attempts} attempts")
            doublings = min(attempt - 1, 20)  # a timedelta overflows long before an int does
            pause = min(policy.cap, policy.base * 2**doublings)
            return RetryAt(pause * rng.uniform(0.5, 1.0))
        case _:
            assert_never(kind)
