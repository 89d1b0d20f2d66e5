"""What a reader counts of a rollout: sums by stage and variant, users once, latencies by bucket, and what is told when."""

import threading
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from online_models.contracts.ids import ModelName, ModelVersion, RolloutId
from online_models.contracts.rollouts import LATENCY_EDGES_MS, Route, Served, Variant
from serving_api.assignment import Assignment
from serving_api.served import KEPT_ROLLOUTS, Agreement, Outcome, ServedCounts, Sums, in_stage

MOVIES = ModelName("movies")
V1, V2, V3 = ModelVersion("v1"), ModelVersion("v2"), ModelVersion("v3")
STABLE, CANARY = Assignment(V1, Variant.STABLE, 0.5), Assignment(V2, Variant.CANARY, 0.5)
ARM, OTHER_ARM = Assignment(V2, Variant.ARM, 0.3), Assignment(V3, Variant.ARM, 0.2)
NAMES = {STABLE: "stable", CANARY: "canary", ARM: "arm:v2", OTHER_ARM: "arm:v3"}
GOOD = Outcome(error=False, empty=False, fallback=False, seconds=0.001)
OUTCOMES = st.builds(Outcome, st.booleans(), st.booleans(), st.booleans(), st.floats(0, 20), st.booleans())
ASKED = st.tuples(st.sampled_from(list(NAMES)), st.integers(0, 2), st.integers(0, 5), OUTCOMES)


def route(stage: int = 0, rollout_id: int | None = 7, *, shadow: bool = False) -> Route:
    weight = 0 if shadow else 500
    return Route(3, V1, V2, weight, "salt", rollout_id=rollout_id, stage=stage, slow_ms=100.0, shadow=shadow)


def sums(counts: ServedCounts, rollout_id: int = 7) -> Sums:
    return counts.taken()[MOVIES, RolloutId(rollout_id)]


def test_only_a_rollout_in_a_stage_is_counted() -> None:
    assert in_stage(route(0))
    assert not in_stage(route(-1))
    assert not in_stage(route(0, None))


def slowly(asked: Sequence[tuple[Assignment, int, int, Outcome]]) -> Sums:
    """The same by going through all requests again for each number."""
    keys = {(stage, variant) for variant, stage, _, _ in asked}
    firsts = [all(user != before[2] for before in asked[:n]) for n, (_, _, user, _) in enumerate(asked)]
    found = {}
    for stage, variant in keys:
        mine = [(o, first) for (v, s, _, o), first in zip(asked, firsts, strict=True) if (s, v) == (stage, variant)]
        new = [outcome for outcome, first in mine if first]
        every = [outcome for outcome, _ in mine]
        places = Counter(sum(outcome.seconds * 1000 > edge for edge in LATENCY_EDGES_MS) for outcome in every)
        found[stage, NAMES[variant]] = Served(
            requests=len(every),
            errors=sum(outcome.error for outcome in every),
            empty=sum(outcome.empty for outcome in every),
            fallbacks=sum(outcome.fallback for outcome in every),
            slow=sum(outcome.seconds * 1000 > 100.0 for outcome in every),
            users=len(new),
            user_errors=sum(outcome.error for outcome in new),
            user_empty=sum(outcome.empty for outcome in new),
            user_fallbacks=sum(outcome.fallback for outcome in new),
            user_slow=sum(outcome.seconds * 1000 > 100.0 for outcome in new),
            latency=tuple(places[place] for place in range(len(LATENCY_EDGES_MS) + 1)),
            stood_in=sum(outcome.stood_in for outcome in every),
        )
    return found


@given(st.lists(ASKED, min_size=1, max_size=30))
def test_the_sums_are_those_of_all_requests(asked: list[tuple[Assignment, int, int, Outcome]]) -> None:
    counts = ServedCounts()
    for variant, stage, user, outcome in asked:
        counts.add(MOVIES, route(stage), variant, f"u{user}", outcome)
    assert sums(counts) == slowly(asked)


@given(st.lists(ASKED, min_size=2, max_size=20), st.data())
def test_sums_go_on_after_they_were_taken(
    asked: list[tuple[Assignment, int, int, Outcome]], data: st.DataObject
) -> None:
    counts, cut = ServedCounts(), data.draw(st.integers(1, len(asked) - 1))
    for n, (variant, stage, user, outcome) in enumerate(asked):
        if n == cut:
            counts.taken()
        counts.add(MOVIES, route(stage), variant, f"u{user}", outcome)
    assert sums(counts) == slowly(asked)


@pytest.mark.parametrize(("edge", "place"), list(zip(LATENCY_EDGES_MS, range(len(LATENCY_EDGES_MS)), strict=True)))
def test_an_edge_belongs_to_the_bucket_below_it(edge: float, place: int) -> None:
    counts = ServedCounts()
    counts.add(MOVIES, route(), CANARY, "u", GOOD._replace(seconds=edge / 1000))
    latency = sums(counts)[0, "canary"].latency
    assert latency.index(1) == place


def test_without_a_limit_nothing_is_slow() -> None:
    counts = ServedCounts()
    counts.add(MOVIES, Route(3, V1, V2, 500, "s", rollout_id=7, stage=0), CANARY, "u", GOOD._replace(seconds=9))
    assert sums(counts)[0, "canary"].slow == 0


def test_more_users_than_there_is_room_for_are_no_first_users() -> None:
    counts = ServedCounts(most_users=10)
    for n in range(25):
        counts.add(MOVIES, route(), STABLE, f"u{n}", GOOD)
    counts.add(MOVIES, route(), STABLE, "u3", GOOD)
    said = sums(counts)[0, "stable"]
    assert (said.requests, said.users) == (26, 10)


def test_nobody_is_met_in_a_shadow_and_the_candidate_s_scores_count_as_its_requests() -> None:
    counts = ServedCounts()
    counts.add(MOVIES, route(shadow=True), STABLE, "u", GOOD)
    counts.add_shadow(MOVIES, route(shadow=True), GOOD, Agreement(0.4, True))
    counts.add_shadow(MOVIES, route(shadow=True), GOOD, Agreement(0.2, False))
    counts.add_shadow(MOVIES, route(shadow=True), Outcome(True, False, True, 0.3), None)
    counts.drop_shadow(MOVIES, route(shadow=True))
    counts.add(MOVIES, route(1), CANARY, "u", GOOD)
    said = sums(counts)
    assert (said[0, "stable"].requests, said[0, "stable"].users) == (1, 0)
    shadow = said[0, "canary"]
    assert (shadow.requests, shadow.errors, shadow.slow, shadow.users) == (3, 1, 1, 0)
    assert (shadow.compared, shadow.first_same, shadow.dropped) == (2, 1, 1)
    assert shadow.overlap == pytest.approx(0.6)
    assert said[1, "canary"].users == 1  # met for the first time now


def test_only_what_has_changed_is_taken_and_what_was_not_told_counts_as_changed() -> None:
    counts = ServedCounts()
    counts.add(MOVIES, route(), STABLE, "u", GOOD)
    assert counts.taken().keys() == {(MOVIES, 7)}
    assert counts.taken() == {}
    counts.untold(MOVIES, RolloutId(7))
    assert sums(counts)[0, "stable"].requests == 1


def test_a_request_under_way_when_its_rollout_ended_still_counts_and_older_rollouts_are_forgotten() -> None:
    counts = ServedCounts()
    for rollout_id in (1, 2, 3, 2):
        counts.add(MOVIES, route(rollout_id=rollout_id), STABLE, "u", GOOD)
    taken = counts.taken()
    assert {rollout_id for _, rollout_id in taken} == {2, 3}
    assert len(taken) == KEPT_ROLLOUTS
    assert taken[MOVIES, RolloutId(2)][0, "stable"].requests == 2


@pytest.mark.parametrize(
    ("variant", "error", "news"),
    [
        (CANARY, True, True),
        (ARM, True, True),
        (CANARY, False, False),
        (STABLE, True, False),
    ],
)
def test_an_error_of_a_version_on_trial_is_news(variant: Assignment, error: bool, news: bool) -> None:
    counts = ServedCounts()
    counts.add(MOVIES, route(), variant, "u", GOOD._replace(error=error))
    assert counts.news.is_set() == news


def test_threads_count_together_without_losing_anything() -> None:
    counts, seen = ServedCounts(), []

    def ask(variant: Assignment) -> None:
        for n in range(3_000):
            counts.add(MOVIES, route(), variant, f"u{n}", GOOD)
            counts.drop_shadow(MOVIES, route())

    threads = [threading.Thread(target=ask, args=(variant,)) for variant in (CANARY, CANARY)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        seen += [each[0, "canary"].requests for each in counts.taken().values()]
    counts.untold(MOVIES, RolloutId(7))
    said = sums(counts)[0, "canary"]
    assert (said.requests, said.users, said.dropped, sum(said.latency)) == (6_000, 3_000, 6_000, 6_000)
    assert seen == sorted(seen)
