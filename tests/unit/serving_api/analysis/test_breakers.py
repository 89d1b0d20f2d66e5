"""Breakers trip on what is plainly broken, from enough requests on."""

import pytest

from online_models.contracts.rollouts import LATENCY_EDGES_MS, Policy, Served
from serving_api.analysis.breakers import tripped

POLICY = Policy()
BUCKETS = len(LATENCY_EDGES_MS) + 1


def latencies(**counts: int) -> Served:
    """Requests by the place of their bucket, `_3=5`."""
    buckets = [0] * BUCKETS
    for name, count in counts.items():
        buckets[int(name[1:])] = count
    return Served(requests=sum(buckets), latency=tuple(buckets))


@pytest.mark.parametrize(
    ("recent", "word"),
    [
        (Served(requests=20, errors=5), "errors of 5 of 20"),
        (Served(requests=20, empty=11), "empty answers of 11 of 20"),
        (Served(requests=20, fallbacks=19, stood_in=11), "fallbacks of 11 of 20"),
    ],
)
def test_a_rate_above_its_limit_trips(recent: Served, word: str) -> None:
    assert word in str(tripped(recent, POLICY))


@pytest.mark.parametrize(
    "recent",
    [
        Served(),
        Served(requests=19, errors=19, empty=19),
        Served(requests=20, errors=4, empty=10, fallbacks=10, stood_in=10),
        Served(requests=1_000, fallbacks=1_000),
        Served(requests=-40, errors=-40),
        Served(requests=50, errors=-3, latency=(-1,) * BUCKETS),
    ],
)
def test_too_few_requests_rates_at_the_limit_and_sums_that_fell_do_not_trip(recent: Served) -> None:
    assert tripped(recent, POLICY) is None


def test_the_reason_names_whose_requests_they_are() -> None:
    slow = Served(requests=1_000, latency=(0,) * (BUCKETS - 1) + (1_000,))
    for recent in (Served(requests=20, errors=20), slow):
        assert "arm v3 requests" in str(tripped(recent, POLICY, "arm v3"))


def test_more_than_one_in_a_hundred_surely_above_the_limit_trips() -> None:
    over_a_second = LATENCY_EDGES_MS.index(1_000.0) + 1
    at_the_limit = latencies(_1=990, **{f"_{over_a_second}": 10})
    above = latencies(_1=980, **{f"_{over_a_second}": 11, "_12": 9})
    perhaps = latencies(_1=500, **{f"_{over_a_second - 1}": 500})
    few = latencies(_1=100, **{f"_{over_a_second}": 99})
    assert [tripped(each, POLICY) is not None for each in (at_the_limit, above, perhaps, few)] == [
        False,
        True,
        False,
        False,
    ]
    assert "20 of 1000 canary requests took longer than 1000 ms" in str(tripped(above, POLICY))
