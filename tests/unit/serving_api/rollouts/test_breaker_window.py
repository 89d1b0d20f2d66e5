"""What breakers look at: the last seconds of sums that only grow."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from online_models.contracts.rollouts import LATENCY_EDGES_MS, Served
from serving_api.rollouts.breaker_window import BreakerWindow, difference

BEGUN = datetime(2026, 1, 1, tzinfo=UTC)
BUCKETS = len(LATENCY_EDGES_MS) + 1


def after(seconds: float) -> datetime:
    return BEGUN + timedelta(seconds=seconds)


def requests_of(window: BreakerWindow, *looks: tuple[float, int]) -> list[int]:
    return [window.update(after(seconds), Served(requests=sums)).requests for seconds, sums in looks]


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 9)), min_size=1, max_size=40), st.integers(1, 60))
def test_a_look_sees_what_came_since_the_youngest_look_of_the_window_s_age(
    steps: list[tuple[int, int]], seconds: int
) -> None:
    window, looks = BreakerWindow(float(seconds), BEGUN), [(0, 0)]
    for pause, added in steps:
        looks.append((looks[-1][0] + pause, looks[-1][1] + added))
    for number in range(1, len(looks)):
        now, sums = looks[number]
        seen = looks[1:] if looks[1][0] > seconds else looks  # the first look came too late to count from the beginning
        old = [value for moment, value in seen[:number] if moment <= now - seconds]
        expected = sums - (old[-1] if old else seen[0][1])
        assert window.update(after(now), Served(requests=sums)).requests == expected


def test_a_controller_that_comes_to_a_young_stage_counts_from_its_beginning() -> None:
    assert requests_of(BreakerWindow(60.0, BEGUN), (30, 25)) == [25]


def test_a_controller_that_comes_to_an_old_stage_counts_from_its_own_first_look() -> None:
    assert requests_of(BreakerWindow(60.0, BEGUN), (300, 2_500), (301, 2_510)) == [0, 10]


def test_where_the_beginning_is_not_known_the_first_look_is_it() -> None:
    assert requests_of(BreakerWindow(60.0, None), (1, 2_500), (2, 2_510)) == [0, 10]


def test_sums_that_were_lost_begin_again_after_the_window_s_length() -> None:
    looks = ((1, 50), (2, 60), (3, 5), (4, 9), (63, 20), (64, 24))
    assert requests_of(BreakerWindow(60.0, BEGUN), *looks) == [50, 60, 0, 0, 0, 4]


def test_sums_that_come_back_were_not_added_in_the_last_seconds() -> None:
    looks = ((100, 5_000), (101, 5_010), (102, 10), (103, 5_020))
    assert requests_of(BreakerWindow(60.0, BEGUN), *looks) == [0, 10, 0, 20]


@given(st.lists(st.integers(0, 50), min_size=BUCKETS, max_size=BUCKETS), st.floats(0, 10))
def test_a_difference_added_again_is_the_later_sum(latency: list[int], overlap: float) -> None:
    earlier = Served(requests=3, errors=1, latency=tuple(range(BUCKETS)), compared=2, overlap=1.5)
    added = Served(requests=2, users=1, user_slow=1, latency=tuple(latency), overlap=overlap, dropped=4)
    later = Served(
        requests=5, errors=1, users=1, user_slow=1, compared=2, overlap=1.5 + overlap, dropped=4,
        latency=tuple(before + more for before, more in zip(earlier.latency, latency, strict=True)),
    )  # fmt: skip
    found = difference(later, earlier)
    assert abs(found.overlap - overlap) < 1e-9
    assert (found.requests, found.errors, found.users, found.user_slow, found.dropped) == (2, 0, 1, 1, 4)
    assert found.latency == added.latency
