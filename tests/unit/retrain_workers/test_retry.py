"""When a failed job is tried again."""

import random
from datetime import timedelta

import pytest

from retrain_workers.retry import ErrorKind, GiveUp, RetryAt, RetryPolicy, decide

POLICY = RetryPolicy(base=timedelta(seconds=4), cap=timedelta(seconds=60))
PASSING = [ErrorKind.TRANSIENT, ErrorKind.CRASH, ErrorKind.TIMEOUT]


def pauses(attempt: int) -> list[float]:
    decisions = [decide(ErrorKind.CRASH, attempt, 9_999, POLICY, random.Random(seed)) for seed in range(50)]
    return [decision.after.total_seconds() for decision in decisions if isinstance(decision, RetryAt)]


def test_a_permanent_error_is_not_tried_again() -> None:
    assert isinstance(decide(ErrorKind.PERMANENT, 1, 3, POLICY, random.Random(0)), GiveUp)


@pytest.mark.parametrize("kind", PASSING)
def test_a_passing_error_is_tried_again_until_the_attempts_are_used_up(kind: ErrorKind) -> None:
    decisions = [decide(kind, attempt, 3, POLICY, random.Random(0)) for attempt in (1, 2, 3)]
    assert [type(decision) for decision in decisions] == [RetryAt, RetryAt, GiveUp]


def test_too_much_memory_is_tried_once_more() -> None:
    decisions = [decide(ErrorKind.MEMORY, attempt, 9, POLICY, random.Random(0)) for attempt in (1, 2)]
    assert [type(decision) for decision in decisions] == [RetryAt, GiveUp]


@pytest.mark.parametrize(("attempt", "longest"), [(1, 4), (2, 8), (3, 16), (5, 60), (1_000, 60)])
def test_the_pause_doubles_up_to_the_cap_and_half_of_it_is_random(attempt: int, longest: int) -> None:
    found = pauses(attempt)
    assert len(found) == 50
    assert longest / 2 <= min(found) < 0.6 * longest
    assert 0.9 * longest < max(found) <= longest
