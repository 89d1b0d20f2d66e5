"""SeenEvents against a Python set, and what it forgets beyond its capacity."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from flows.deduplicate import SeenEvents

hashes = st.integers(0, 2**64 - 1) | st.integers(0, 20)
batches = st.lists(st.lists(hashes, max_size=12), max_size=8)


def array(values: list[int]) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.array(values, np.uint64)


class TwoGenerations:
    """The oracle of what is forgotten: two sets, one hash at a time."""

    def __init__(self, capacity: int) -> None:
        self.room, self.old, self.young = capacity // 2, set[int](), set[int]()

    def admit(self, entry: int) -> bool:
        if entry in self.old or entry in self.young:
            return False
        if len(self.young) >= self.room:
            self.old, self.young = self.young, set()
        self.young.add(entry)
        return True


def first_occurrences(batch: list[int], known: set[int]) -> list[bool]:
    """The oracle: a set that forgets nothing."""
    answers = []
    for entry in batch:
        answers.append(entry not in known)
        known.add(entry)
    return answers


@settings(deadline=None)
@given(batches)
def test_within_its_capacity_it_answers_as_a_set(batches: list[list[int]]) -> None:
    seen, known = SeenEvents(capacity=96), set[int]()
    for batch in batches:
        assert seen.admit(array(batch)).tolist() == first_occurrences(batch, known)


@settings(deadline=None)
@given(batches, st.sampled_from([2, 4, 10]))
def test_beyond_its_capacity_it_forgets_generation_by_generation(batches: list[list[int]], capacity: int) -> None:
    seen, oracle = SeenEvents(capacity), TwoGenerations(capacity)
    for batch in batches:
        assert seen.admit(array(batch)).tolist() == [oracle.admit(entry) for entry in batch]
    assert [set(part.tolist()) for part in seen.snapshot()[1:]] == [oracle.old, oracle.young]


@settings(deadline=None)
@given(batches, st.integers(0, 8), st.sampled_from([4, 10, 96]))
def test_restored_it_goes_on_as_if_never_stopped(batches: list[list[int]], stop: int, capacity: int) -> None:
    seen = SeenEvents(capacity)
    for batch in batches[:stop]:
        seen.admit(array(batch))
    restored = SeenEvents(capacity)
    restored.restore(seen.snapshot())
    for batch in batches[stop:]:
        assert restored.admit(array(batch)).tolist() == seen.admit(array(batch)).tolist()


@settings(deadline=None)
@given(st.lists(hashes, max_size=60, unique=True), st.integers(1, 20))
def test_what_it_remembers_does_not_depend_on_batch_borders(stream: list[int], size: int) -> None:
    single, grouped = SeenEvents(capacity=8), SeenEvents(capacity=8)
    for entry in stream:
        single.admit(array([entry]))
    for start in range(0, len(stream), size):
        grouped.admit(array(stream[start : start + size]))
    assert [kept.tolist() for kept in grouped.snapshot()[1:]] == [kept.tolist() for kept in single.snapshot()[1:]]


@settings(deadline=None)
@given(batches, st.sampled_from([2, 8, 20]))
def test_it_never_holds_more_than_its_capacity_and_knows_the_newest_half(
    batches: list[list[int]], capacity: int
) -> None:
    seen = SeenEvents(capacity)
    admitted: list[int] = []
    for batch in batches:
        admitted += array(batch)[seen.admit(array(batch))].tolist()
        assert len(seen) <= capacity
    newest = list(dict.fromkeys(reversed(admitted)))[: capacity // 2]
    assert not seen.admit(array(newest)).any()


def test_a_snapshot_is_not_touched_by_later_events() -> None:
    seen = SeenEvents(capacity=8)
    seen.admit(array([1, 2]))
    snapshot = seen.snapshot()
    for start in range(3, 40, 4):
        seen.admit(array(list(range(start, start + 4))))
    assert [part.tolist() for part in snapshot[1:]] == [[], [1, 2]]


def test_a_smaller_capacity_takes_over_a_larger_snapshot() -> None:
    large, small = SeenEvents(capacity=64), SeenEvents(capacity=4)
    large.admit(array(list(range(30))))
    small.restore(large.snapshot())
    assert not small.admit(array([0, 29])).any()
    small.admit(array(list(range(100, 110))))
    assert len(small) <= 4


def test_a_snapshot_of_another_schema_is_refused() -> None:
    with pytest.raises(ValueError, match="schema version"):
        SeenEvents().restore((99, array([]), array([])))


@pytest.mark.parametrize("capacity", [0, 1, 7, -2])
def test_a_capacity_is_even_and_positive(capacity: int) -> None:
    with pytest.raises(ValueError, match="capacity"):
        SeenEvents(capacity)
