"""Clustered errors against their definition, the classical error, and a bootstrap of users."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online_models.metrics import clustered_difference, clustered_mean
from tests.oracles import metrics as oracle

FIGURES_BY_USER = st.lists(st.tuples(st.floats(-10, 10), st.integers(0, 6)), min_size=1, max_size=40)


@given(FIGURES_BY_USER)
@settings(deadline=None)
def test_the_error_is_its_definition_user_by_user(events: list[tuple[float, int]]) -> None:
    figures, users = [figure for figure, _ in events], [user for _, user in events]
    found = clustered_mean(np.array(figures), np.array(users))
    assert found.mean == pytest.approx(np.mean(figures))
    assert (found.events, found.users) == (len(events), len(set(users)))
    if found.users == 1:
        assert found.standard_error == math.inf
    else:
        assert found.standard_error == pytest.approx(oracle.clustered_error(figures, users), abs=1e-9)


def test_with_one_event_per_user_it_is_the_classical_error() -> None:
    figures = np.random.default_rng(0).normal(size=50)
    found = clustered_mean(figures, np.arange(50))
    assert found.standard_error == pytest.approx(figures.std(ddof=1) / math.sqrt(50))


def sessions(
    seed: int,
) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Hits of 300 users, each with a rate and a number of events of their own, in mixed order."""
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(300), rng.geometric(0.05, 300))
    hits = (rng.random(len(users)) < rng.beta(1, 4, 300)[users]).astype(np.float64)
    order = rng.permutation(len(users))
    return hits[order], users[order]


def test_it_is_what_a_bootstrap_of_users_finds_and_more_than_for_independent_events() -> None:
    hits, users = sessions(1)
    found = clustered_mean(hits, users)
    resampled = oracle.bootstrapped_error(hits, users, 2_000, np.random.default_rng(2))
    # 2,000 resamples know a standard deviation to 1.6 %
    assert found.standard_error == pytest.approx(resampled, rel=0.06)
    assert found.standard_error > 1.5 * hits.std() / math.sqrt(len(hits))


def test_a_paired_difference_is_what_a_bootstrap_of_users_finds_and_surer_than_two_means() -> None:
    ours, users = sessions(3)
    rng = np.random.default_rng(4)
    theirs = np.where(rng.random(len(ours)) < 0.1, 1 - ours, ours)
    found = clustered_difference(ours, theirs, users)
    resampled = oracle.bootstrapped_error(ours - theirs, users, 2_000, np.random.default_rng(5))
    assert found.standard_error == pytest.approx(resampled, rel=0.06)
    apart = math.hypot(clustered_mean(ours, users).standard_error, clustered_mean(theirs, users).standard_error)
    assert found.standard_error < 0.5 * apart
    assert found.mean == pytest.approx(ours.mean() - theirs.mean())


def test_its_intervals_hold_the_truth_as_often_as_they_say() -> None:
    held = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        users = np.repeat(np.arange(60), 5)
        figures = rng.normal(size=60)[users] + rng.normal(size=300)
        found = clustered_mean(figures, users)
        held += abs(found.mean) < 1.96 * found.standard_error
    # 95 %, known to 1.1 % from 400 streams
    assert 0.92 <= held / 400 <= 0.98


def test_users_may_be_named_by_text() -> None:
    figures = np.array([1.0, 0.0, 1.0])
    assert clustered_mean(figures, np.array(["a", "b", "a"])) == clustered_mean(figures, np.array([7, 2, 7]))


def test_figures_of_other_events_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a user for each of 2 figures, got shape \(1,\)"):
        clustered_mean(np.array([1.0, 2.0]), np.array([1]))
    with pytest.raises(ValueError, match="expected figures of the same events, got 2 of ours and 1 of theirs"):
        clustered_difference(np.array([1.0, 2.0]), np.array([1.0]), np.array([1, 2]))
