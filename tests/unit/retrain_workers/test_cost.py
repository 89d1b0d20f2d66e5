"""What a job is expected to cost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from online_models.contracts.jobs import Cost, JobKind
from retrain_workers.cost import USUAL, estimate, with_attempt

kinds = st.sampled_from(list(JobKind))
events = st.integers(1, 10**7)


@pytest.mark.parametrize("kind", list(JobKind))
def test_a_first_job_goes_by_the_usual_figures_of_its_kind(kind: JobKind) -> None:
    expected = estimate(kind, 10_000, [])
    assert expected.jobs == 0
    assert expected.cpu_seconds == pytest.approx(
        USUAL[kind].fixed_cpu_seconds + 10_000 * USUAL[kind].cpu_seconds_per_event
    )


@given(kinds, events, st.floats(0.1, 1e5), st.floats(0.1, 1e5), st.integers(1 << 20, 1 << 40))
def test_the_same_job_again_is_expected_to_cost_what_it_did(
    kind: JobKind, count: int, cpu: float, wall: float, peak: int
) -> None:
    expected = estimate(kind, count, [Cost(count, cpu, wall, peak)])
    usual = USUAL[kind]
    assert expected.cpu_seconds == pytest.approx(max(cpu, usual.fixed_cpu_seconds), abs=1e-3)
    assert expected.wall_seconds == pytest.approx(max(wall, usual.fixed_cpu_seconds), abs=1e-3)
    assert expected.peak_bytes == pytest.approx(max(peak, usual.fixed_bytes), rel=1e-9)


@given(kinds, events, events, st.lists(st.tuples(events, st.floats(0.0, 1e5)), max_size=5))
def test_more_events_never_cost_less(kind: JobKind, one: int, other: int, runs: list[tuple[int, float]]) -> None:
    past = [Cost(count, cpu, cpu, 1 << 30) for count, cpu in runs]
    fewer, more = (estimate(kind, count, past) for count in sorted((one, other)))
    assert fewer.cpu_seconds <= more.cpu_seconds
    assert fewer.peak_bytes <= more.peak_bytes


def test_one_odd_run_of_five_does_not_move_the_estimate() -> None:
    usual = [Cost(10_000, 13.0, 13.0, 1 << 30)] * 4
    assert estimate(JobKind.ALS, 20_000, [Cost(10_000, 9_000.0, 9_000.0, 1 << 40), *usual]) == estimate(
        JobKind.ALS, 20_000, [*usual, usual[0]]
    )


def test_a_run_without_events_says_nothing_of_an_events_cost() -> None:
    assert estimate(JobKind.ALS, 100, [Cost(0, 50.0, 50.0, 0)]) == estimate(JobKind.ALS, 100, [])


def test_the_cost_of_a_job_is_that_of_all_its_attempts() -> None:
    first = with_attempt(Cost(), 100, 2.0, 3.0, 1_000)
    assert with_attempt(first, 120, 1.5, 1.0, 900) == Cost(120, 3.5, 4.0, 1_000)
