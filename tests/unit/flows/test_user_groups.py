"""User groups: what a rollout's variants did by group of users, told with each change."""

from flows.open_requests import Request
from flows.user_groups import UserGroups
from online_models.contracts.ids import ModelVersion
from online_models.contracts.rollouts import GROUPS
from tests.outcome_events import V1, V2, found, groups, later, outcomes, rows, shown, taken
from tests.samples import MOVIES


def request(ts_ms: int, group: int, rollout: int = 7, variant: str = "canary", version: ModelVersion = V2) -> Request:
    """A request that shows three items, of which one is taken, to a user of a group."""
    return Request(ts_ms, (group << 57) + ts_ms, version, rollout, 0, variant, {"a", "b", "c"}, {"b"})


def test_requests_hits_impressions_and_clicks_are_summed_up_by_the_top_bits_of_the_user_s_hash() -> None:
    told = UserGroups().add(MOVIES, [request(5, 0), request(6, GROUPS - 1), request(7, GROUPS - 1)])
    (counts,) = told
    assert (counts.model, counts.version, counts.rollout_id, counts.stage, counts.variant) == (
        MOVIES,
        V2,
        7,
        0,
        "canary",
    )
    assert len(counts.counts) == 4 * 4 * GROUPS
    assert rows(counts)[:, 0].tolist() == [1, 1, 3, 1]
    assert rows(counts)[:, -1].tolist() == [2, 2, 6, 2]
    assert rows(counts).sum() == 6 + 12


def test_sums_grow_from_call_to_call_and_keep_the_time_of_their_first_request() -> None:
    state = UserGroups()
    (first,) = state.add(MOVIES, [request(5, 3)])
    assert state.add(MOVIES, []) == []
    (second,) = state.add(MOVIES, [request(9, 3), request(10, 4)])
    assert (first.since_ms, second.since_ms) == (5, 5)
    assert (rows(first)[0, 3], rows(second)[0, 3], rows(second)[0, 4]) == (1, 2, 1)


def test_stages_variants_and_versions_have_sums_of_their_own_and_only_those_that_changed_are_told() -> None:
    state = UserGroups()
    arms = [("stable", V1), ("canary", V2), ("arm", V1), ("arm", V2)]
    told = state.add(MOVIES, [request(n, n, variant=variant, version=v) for n, (variant, v) in enumerate(arms)])
    assert [(each.variant, each.version, each.since_ms) for each in told] == [
        (variant, version, n) for n, (variant, version) in enumerate(arms)
    ]
    (changed,) = state.add(MOVIES, [request(9, 0, variant="arm", version=V2)])
    assert (changed.variant, changed.version, changed.since_ms) == ("arm", V2, 3)


def test_what_no_arm_answered_and_what_is_in_no_rollout_is_not_summed_up() -> None:
    nobody = [request(1, 0, variant="fallback"), request(2, 0, variant=""), request(3, 0, rollout=0, variant="stable")]
    assert UserGroups().add(MOVIES, nobody) == []


def test_the_sums_of_the_newest_two_rollouts_go_on_and_a_third_ends_the_oldest_which_are_told_once_more() -> None:
    state = UserGroups()
    told = state.add(MOVIES, [request(1, 0), request(2, 0, rollout=8), request(3, 0), request(4, 0, rollout=8)])
    assert [(each.rollout_id, each.since_ms, int(rows(each)[0, 0])) for each in told] == [(7, 1, 2), (8, 2, 2)]
    told = state.add(MOVIES, [request(5, 0), request(6, 0, rollout=9), request(7, 0)])
    assert [(each.rollout_id, each.since_ms, int(rows(each)[0, 0])) for each in told] == [(7, 1, 3), (9, 6, 1)]
    assert state.add(MOVIES, [request(8, 0)]) == []
    assert len(state.add(MOVIES, [request(9, 0, rollout=8)])) == 1


def test_a_run_that_begins_anew_says_so_by_the_time_of_its_first_request() -> None:
    whole = found(outcomes(), shown("r1", 0, rollout=7, stage=0), taken("r1", 1), later(5_000))
    anew = found(outcomes(), shown("r2", 9_000, rollout=7, stage=0), later(15_000))
    assert [each.since_ms for each in [*groups(whole), *groups(anew)]] == [0, 9_000]
