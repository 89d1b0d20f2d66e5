"""Exposures: who is met first, by rollout, stage and day; and all that is counted, held against plain loops over all requests."""

import pickle
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from flows.open_requests import ARMS, FALLBACK, Outcome
from flows.outcomes import Outcomes, Told
from online_models.contracts.events import EventType, FeatureValue
from online_models.contracts.ids import ModelVersion, hash64
from online_models.contracts.rollouts import GroupedCounts, VariantWindow
from online_models.interactions import DAY_MS
from tests.oracles.outcomes import Asked, Plain
from tests.outcome_events import (
    ATTRIBUTION_MS,
    V1,
    V2,
    WINDOW_MS,
    found,
    last_groups,
    last_shadows,
    last_windows,
    later,
    outcomes,
    rows,
    shown,
    taken,
    windows,
)
from tests.samples import MOVIES


def exposed(found: Sequence[Told]) -> tuple[int, int, int]:
    """Users, successes and users of the stage over all windows."""
    last = last_windows(found)
    return sum(w.users for w in last), sum(w.successes for w in last), sum(w.stage_users for w in last)


def test_only_a_user_s_first_exposure_in_a_rollout_counts_for_its_verdict() -> None:
    first = shown("r1", 0, rollout=7, stage=0)
    hit = [*taken("r1", 1)]
    again = [*shown("r2", 100, rollout=7, stage=1), *taken("r2", 101)]
    other = shown("r3", 200, user="u2", rollout=7, stage=1)
    assert exposed(found(outcomes(), first, again, later(5_000))) == (1, 0, 2)
    assert exposed(found(outcomes(), first, hit, again, other, later(5_000))) == (2, 1, 3)


def test_who_comes_back_is_one_user_of_each_stage_whichever_arm_answers() -> None:
    visits = [shown(f"r{n}", n, rollout=7, stage=n // 3, variant=("stable", "canary")[n % 2]) for n in range(9)]
    state = outcomes()
    assert exposed([told for visit in visits for told in found(state, visit)] + found(state, later(5_000))) == (1, 0, 3)


def test_a_request_of_the_stage_before_is_counted_there_and_one_of_an_older_stage_exposes_nobody_to_it() -> None:
    state = outcomes()
    story = [shown("r1", 0, rollout=7, stage=1), shown("r2", 1, user="u2", rollout=7, stage=2)]
    story += [shown("r3", 2, user="u3", rollout=7, stage=1), shown("r4", 3, rollout=7, stage=0)]
    last = last_windows(found(state, *story, shown("r5", 4, user="u4", rollout=7, stage=0), later(5_000)))
    assert {(w.stage, w.requests, w.users, w.stage_users) for w in last} == {(1, 2, 2, 2), (2, 1, 1, 1), (0, 2, 1, 0)}


def test_a_request_that_is_open_while_the_stage_changes_stays_with_its_own_stage() -> None:
    state = outcomes()
    told = found(state, shown("r1", 0, rollout=7, stage=0, variant="canary"), later(500))
    told += found(state, shown("r2", 600, user="u2", rollout=7, stage=1, variant="canary"), taken("r1", 700))
    told += found(state, taken("r2", 800), later(5_000))
    assert [(w.stage, w.users, w.successes, w.stage_users, w.hits) for w in last_windows(told)] == [
        (0, 1, 1, 1, 1),
        (1, 1, 1, 1, 1),
    ]


def test_a_new_rollout_exposes_everybody_anew_the_one_before_goes_on_and_an_older_one_exposes_nobody() -> None:
    state = outcomes()
    assert exposed(found(state, shown("r1", 0, rollout=7, stage=0), later(5_000))) == (1, 0, 1)
    assert exposed(found(state, shown("r2", 5_000, rollout=8, stage=0), later(9_000))) == (1, 0, 1)
    late = [shown("r3", 9_000, rollout=7, stage=0), shown("r4", 9_001, user="u2", rollout=7, stage=1)]
    (window, other) = last_windows(found(state, *late, later(12_000)))
    assert ((window.requests, window.users), (other.requests, other.users)) == ((2, 1), (1, 1))
    assert exposed(found(state, shown("r5", 15_000, rollout=9, stage=0), later(17_000))) == (1, 0, 1)
    stale = found(state, shown("r6", 18_000, user="u3", rollout=7, stage=1), later(22_000))
    (window,) = windows(stale)
    assert (exposed(stale), window.requests, window.first_items) == ((0, 0, 0), 1, 0)


def test_a_rollout_from_nowhere_takes_nothing_from_the_true_ones() -> None:
    plain, disturbed = outcomes(), outcomes()
    nowhere = shown("x", 900, user="x", rollout=2**31 - 1, stage=0)
    found(disturbed, nowhere, later(2_500))
    found(plain, later(2_500))
    for number in range(12):
        rollout, ts_ms = 7 + number // 6, 3_000 * (number + 1)
        story = [shown(f"r{number}", ts_ms, user=f"u{number % 4}", rollout=rollout, stage=1, variant="canary")]
        assert found(disturbed, *story, later(ts_ms + 2_500)) == found(plain, *story, later(ts_ms + 2_500))


def test_outside_a_rollout_a_user_is_counted_once_a_day_by_the_first_request() -> None:
    state, hour = outcomes(), DAY_MS // 24
    story = [*shown("r1", 0), *taken("r1", 1), *shown("r2", hour)]
    story += [*shown("r3", DAY_MS - 1), *shown("r4", DAY_MS), *shown("r5", DAY_MS + 1), *taken("r5", DAY_MS + 2)]
    told = found(state, story, shown("r6", DAY_MS + 3, rollout=7, stage=0), later(3 * DAY_MS))
    days = Counter[int]()
    for window in last_windows(told):
        if window.rollout_id == 0:
            days[window.window_start_ms // DAY_MS] += window.users
            assert window.stage_users == window.users
            assert (window.first_items, window.repeats) == (0, 0)
    assert (days, exposed(told)) == ({0: 1, 1: 1}, (3, 1, 3))


def test_yesterday_s_late_request_knows_who_was_there_yesterday() -> None:
    state = outcomes()
    early, late = DAY_MS - 400, DAY_MS - 300
    told = found(state, shown("r1", early), shown("r2", DAY_MS + 900, user="u2"), later(DAY_MS + 2_000))
    told += found(state, shown("r3", late), shown("r4", late, user="u3"), later(DAY_MS + 5_000))
    assert exposed(told) == (3, 0, 3)


def test_repeats_are_the_pairs_of_users_who_are_shown_the_same_item_first() -> None:
    state = outcomes()
    lists = ["abc", "bcd", "cde", "xyz", "abc"]
    told: list[Told] = []
    for number, items in enumerate(lists):
        told += found(state, shown(f"r{number}", 4_000 * number, items, user=f"u{number}", rollout=7, stage=0))
        told += found(state, shown(f"s{number}", 4_000 * number + 1, "abc", user=f"u{number}", rollout=7, stage=0))
    told += found(state, later(50_000))
    counts = Counter("".join(lists))
    last = last_windows(told)
    assert len(last) == 2
    assert sum(w.first_items for w in last) == len("".join(lists))
    assert sum(w.repeats for w in last) == sum(count * (count - 1) for count in counts.values())


# --- the same events in other pieces and in other orders

VERSIONS = {"stable": V1, "canary": V2, "arm": V1, "fallback": FALLBACK, "": ModelVersion("v9")}


@st.composite
def requests(draw: st.DrawFn) -> list[Asked]:
    """Requests of few users over two weeks, most within seconds of each other; rollouts and stages in any order."""
    made = []
    for number in range(draw(st.integers(1, 25))):
        variant, rollout = draw(st.sampled_from(list(VERSIONS))), draw(st.sampled_from([0, 1, 1, 2, 3]))
        stands_in = bool(rollout) and variant in ARMS and draw(st.booleans())
        user = draw(st.sampled_from(["u1", "u2", "u3", "u4"]))
        made.append(
            Asked(
                name=f"r{number}",
                ts_ms=500 * draw(st.integers(0, 30)) + DAY_MS * draw(st.sampled_from([0, 0, 0, 1, 14])),
                user=hash64(user),
                version=VERSIONS[variant],
                rollout=rollout,
                stage=draw(st.integers(-1, 3)),
                variant=variant,
                items=frozenset(draw(st.lists(st.sampled_from("abcd"), min_size=1, max_size=4))),
                answers=tuple(
                    draw(
                        st.lists(
                            st.tuples(st.sampled_from([0, 1, 500, 999, 1_000, 1_001, 2_500]), st.sampled_from("abcx")),
                            max_size=3,
                        )
                    )
                ),
                stand_in=stands_in,
                by=draw(st.sampled_from([None, V1, V2])) if stands_in else None,
                shadow=draw(st.sampled_from([None, V2, V2, VERSIONS[""]])),
                places=tuple(draw(st.dictionaries(st.sampled_from("abcd"), st.sampled_from([0, 1, 7, 59]))).items()),
            )
        )
    return made


NAMES = {hash64(user): user for user in ("u1", "u2", "u3", "u4")}


def arriving(asked: Sequence[Asked], delays: np.random.Generator) -> list[Outcome]:
    """Their events, each as late as it may be without missing that its request becomes final; answers may be ahead of
    impressions. Answers that are too late by event time come at any time."""
    arrivals: list[tuple[int, Outcome]] = []
    for each in asked:
        version = None if each.version == FALLBACK else each.version
        said: dict[str, FeatureValue] = {"asked_variant": each.variant, "asked_version": each.version}
        events = shown(
            *(each.name, each.ts_ms, sorted(each.items)),
            user=NAMES[each.user],
            version=each.by if each.stand_in else version,
            rollout=each.rollout,
            stage=each.stage,
            variant="fallback" if each.stand_in else each.variant,
            asked=said if each.stand_in else None,
            shadow=each.shadow,
            places={item: float(place) for item, place in each.places},
        )
        for delay, item in each.answers:
            events += taken(each.name, each.ts_ms + delay, item)
        for event in events:
            spare = each.ts_ms + ATTRIBUTION_MS - event.ts_ms
            arrivals.append((event.ts_ms + int(delays.integers(0, (spare if spare >= 0 else 5_000) + 1)), event))
    arrivals.sort(key=lambda arrival: (arrival[0], delays.random()))
    return [*(event for _, event in arrivals), *later(20 * DAY_MS)]


def told_of(state: Outcomes, events: Sequence[Outcome], cuts: Sequence[int]) -> list[Told]:
    """What the events give in pieces."""
    ends = sorted({0, *(cut for cut in cuts if cut < len(events)), len(events)})
    return [told for start, end in pairwise(ends) for told in found(state, list(events[start:end]))]


SEEDS = st.integers(0, 2**32).map(np.random.default_rng)
CUTS = st.lists(st.integers(0, 120), max_size=12)


def by_window(windows: Sequence[VariantWindow]) -> list[VariantWindow]:
    return sorted(windows, key=lambda w: (w.version, w.rollout_id, w.stage, w.variant, w.window_start_ms))


def by_sum(groups: Sequence[GroupedCounts]) -> list[GroupedCounts]:
    return sorted(groups, key=lambda g: (g.rollout_id, g.stage, g.variant, g.version))


@given(asked=requests(), delays=SEEDS, cuts=CUTS)
def test_counts_are_those_of_all_events_at_once_in_whatever_order_and_pieces_they_come(
    asked: list[Asked], delays: np.random.Generator, cuts: list[int]
) -> None:
    told = told_of(outcomes(), arriving(asked, delays), cuts)
    plain = Plain(MOVIES, asked, ATTRIBUTION_MS, WINDOW_MS)
    assert by_window(last_windows(told)) == by_window(plain.windows())
    assert by_sum(last_groups(told)) == by_sum(plain.groups())
    assert sorted(last_shadows(told), key=lambda s: s.version) == sorted(plain.shadows(), key=lambda s: s.version)


@given(asked=requests(), delays=SEEDS, cuts=CUTS, stop=st.integers(0, 120))
def test_a_restored_state_counts_on_as_if_it_had_never_stopped(
    asked: list[Asked], delays: np.random.Generator, cuts: list[int], stop: int
) -> None:
    events = arriving(asked, delays)
    running, restored = outcomes(), outcomes()
    told_of(running, events[:stop], cuts)
    snapshot = running.snapshot()
    before = pickle.dumps(snapshot)
    expected = told_of(running, events[stop:], cuts)
    assert pickle.dumps(snapshot) == before  # what goes on after a snapshot leaves it as it was
    restored.restore(snapshot)
    assert told_of(restored, events[stop:], cuts) == expected
    assert pickle.dumps(snapshot) == before


def test_a_snapshot_stays_as_it_was_when_the_same_items_are_shown_again() -> None:
    state = outcomes()
    found(state, shown("r1", 0, rollout=7, stage=0), later(2_000))
    snapshot = state.snapshot()
    restored = outcomes()
    restored.restore(snapshot)
    again = [shown("r2", 3_000, user="u2", rollout=7, stage=0), later(5_000)]
    expected = found(state, *again)
    assert expected == found(restored, *again)
    restored.restore(snapshot)
    assert found(restored, *again) == expected
    assert windows(expected)[0].repeats == 4


@given(asked=requests(), delays=SEEDS, cuts=CUTS)
def test_sums_by_group_are_the_sums_of_the_windows_and_repeats_those_of_all_pairs(
    asked: list[Asked], delays: np.random.Generator, cuts: list[int]
) -> None:
    """Of the last rollout alone, which has no late requests of another one."""
    asked = [each for each in asked if each.rollout == 1]
    told = told_of(outcomes(), arriving(asked, delays), cuts)
    last, arms = last_windows(told), {each.arm for each in asked}
    sums = {(g.stage, g.variant, g.version): rows(g) for g in last_groups(told)}
    assert sums.keys() == {arm[1:] for arm in arms if arm[2] in ("stable", "canary", "arm")}
    for _, stage, variant, version in arms:
        own = [w for w in last if (w.stage, w.variant, w.version) == (stage, variant, version)]
        if (stage, variant, version) in sums:
            totals = [sum(getattr(w, name) for w in own) for name in ("requests", "hits", "impressions", "clicks")]
            assert sums[stage, variant, version].sum(axis=1).tolist() == totals
        assert sum(w.repeats for w in own) == pairs(asked, (1, stage, variant, version))
    assert sum(w.users for w in last) == len({each.user for each in asked})


def pairs(asked: Sequence[Asked], arm: tuple[int, int, str, ModelVersion]) -> int:
    """c (c - 1) over the items of an arm's first exposures."""
    first: dict[int, Asked] = {}
    for each in sorted(asked, key=lambda each: (each.ts_ms, each.name)):
        first.setdefault(each.user, each)
    counts = Counter(item for each in first.values() if each.arm == arm for item in each.items)
    return sum(count * (count - 1) for count in counts.values())


def test_what_is_remembered_does_not_grow_with_days_and_rollouts() -> None:
    state = outcomes()
    sizes = []
    for day in range(300):
        story: list[Outcome] = []
        for number in range(40):
            ts_ms, name = day * DAY_MS + 100 * number, f"{day}-{number}"
            story += shown(name, ts_ms, user=f"{day}-u{number}")
            story += shown(
                *(f"in-{name}", ts_ms + 1, (f"{day}-i{number}",)),
                user=f"{day}-u{number}",
                rollout=day + 1,
                stage=number // 10,
                variant="canary",
            )
        assert len(windows(found(state, story, later((day + 1) * DAY_MS - 1)))) == 5
        sizes.append(len(pickle.dumps(state.snapshot())))
    assert max(sizes[2:]) <= 1.3 * sizes[2]
    assert max(sizes) < 60_000


def test_kinds_of_answers_are_all_successes() -> None:
    for kind in (EventType.CLICK, EventType.WATCH, EventType.PURCHASE):
        told = found(outcomes(), shown("r1", 0, rollout=7, stage=0), taken("r1", 5, kind=kind), later(5_000))
        assert exposed(told) == (1, 1, 1)
