"""Arms that differ in how many people they can answer: from impressions through the stream job to what the gates say of them."""

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
import pytest

from flows.open_requests import Outcome
from online_models.contracts.ids import ModelVersion, hash64
from online_models.contracts.rollouts import FULL_WEIGHT_BP, Policy, Route, Served, StageCounts, Variant
from online_models.rollout_store import VariantCounts
from serving_api.analysis.e_values import log_limit, log_split
from serving_api.analysis.measures import Measures, measure
from serving_api.analysis.tallies import StageTally
from serving_api.assignment import assigned
from tests.outcome_events import V1, V2, found, last_groups, last_windows, later, outcomes, rows, shown, stand_in, taken

WEIGHT_BP, STAGE = 2_500, 1
ROUTE = Route(1, V1, V2, WEIGHT_BP, "salt", rollout_id=7, stage=STAGE)
COLD = 0.20
"""Share of people whom stable cannot answer; the canary can half of them, and neither better nor worse than popularity."""

PEOPLE = 20_000

Counts = dict[tuple[str, ModelVersion], VariantCounts]


def world(seed: int, answered: Counter[Variant]) -> Iterator[Outcome]:
    """Each person comes once; cold ones take a third of what the others do, whoever answers them, and all as evenly as can be.

    answered : gets how many of each arm its own version answered
    """
    taking: Counter[tuple[Variant, bool]] = Counter()
    for number in range(PEOPLE):
        user, name, ts_ms = f"{seed}-{number}", f"r{number}", 500 * number
        arm = assigned(user, ROUTE)
        place = hash64(f"cold|{user}") / 2**64
        if place < (COLD / 2 if arm.variant is Variant.CANARY else COLD):
            yield from stand_in(name, ts_ms, user=user, asked=str(arm.variant), version=arm.version, stage=STAGE)
        else:
            answered[arm.variant] += 1
            variant = str(arm.variant)
            yield from shown(name, ts_ms, "a", user=user, version=arm.version, rollout=7, stage=STAGE, variant=variant)
        taking[arm.variant, place < COLD] += 1 if place < COLD else 3
        if taking[arm.variant, place < COLD] % 10 < (1 if place < COLD else 3):
            yield from taken(name, ts_ms)


def judged(events: Iterable[Outcome]) -> tuple[Measures, Counts]:
    """What the gates measure of a world, and the counts behind it."""
    told = found(outcomes(), list(events), later(10**9))
    sums: dict[tuple[str, ModelVersion], Counter[str]] = {}
    for window in last_windows(told):
        every = {name: getattr(window, name) for name in StageCounts.__struct_fields__}
        sums.setdefault((window.variant, window.version), Counter()).update(every)
    grouped = {(g.variant, g.version): rows(g) for g in last_groups(told)}
    assert grouped.keys() == sums.keys() == {("stable", V1), ("canary", V2)}
    counts = {
        key: VariantCounts(STAGE, *key, StageCounts(**each), grouped[key].astype(np.int64))
        for key, each in sums.items()
    }
    tally = StageTally(STAGE, WEIGHT_BP, counts["canary", V2], counts["stable", V1], Served(), Served())
    return measure([tally], Policy(), 0.1, 0.05), counts


@pytest.mark.parametrize("seed", range(2))
def test_a_canary_that_can_answer_more_people_is_compared_by_all_of_them(seed: int) -> None:
    answered: Counter[Variant] = Counter()
    measured, counts = judged(world(seed, answered))
    assert sum(each.counts.users for each in counts.values()) == PEOPLE  # nobody is left out
    assert (measured.split_wrong, measured.harmful, measured.collapsed) == (False, False, False)
    assert abs(measured.bounds.log_ratio) < 0.015
    # of those whom their own arm answered, the split is far from the weight, and an equal canary loses ln(0.278 / 0.300)
    canary, stable = np.array([answered[Variant.CANARY]]), np.array([answered[Variant.STABLE]])
    assert log_split(canary, stable, np.array([WEIGHT_BP / FULL_WEIGHT_BP])) > log_limit(Policy().split_alpha)
