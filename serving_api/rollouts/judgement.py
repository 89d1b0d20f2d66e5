"""What the counts of a rollout say: a tally of each stage, the verdict that its kind asks for, and the evidence that is kept.

- The controller and operators' calls judge by the same functions: what is shown is what would move the rollout.
- A bandit has no verdict: it compares its arms again and again (`bandit`), and ends by the breakers, its time or an operator.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Final

from online_models.contracts.rollouts import LATENCY_EDGES_MS, Kind, Rollout, Served, Variant
from online_models.rollout_store import Shadowed, VariantCounts
from serving_api.analysis.verdicts import Evidence, Inconclusive, StageTally, Verdict, comparison, verdict
from serving_api.rollouts.shadow_estimates import offline
from serving_api.rollouts.transitions import in_shadow

CANARY: Final = Variant.CANARY.value
STABLE: Final = Variant.STABLE.value


def tallies_of(
    rollout: Rollout, measured: Sequence[VariantCounts], served: Mapping[tuple[int, str], Served]
) -> list[StageTally]:
    """What both arms did in each stage of the plan up to the present one; none before the first.

    measured : of `RolloutStore.measured`; served : of `RouteStore.served`
    """
    counts = {(each.stage, each.variant, each.version): each for each in measured}

    def arm(stage: int, variant: str) -> VariantCounts:
        version = rollout.canary if variant == CANARY else rollout.stable
        return counts.get((stage, variant, version)) or VariantCounts.none(stage, variant, version)

    return [
        StageTally(
            stage=stage,
            weight_bp=planned.weight_bp,
            canary=arm(stage, CANARY),
            stable=arm(stage, STABLE),
            canary_served=served.get((stage, CANARY), Served()),
            stable_served=served.get((stage, STABLE), Served()),
        )
        for stage, planned in enumerate(rollout.plan.stages[: rollout.stage + 1])
    ]


def judged(rollout: Rollout, tallies: Sequence[StageTally]) -> Verdict:
    """The verdict on a rollout by its kind."""
    if rollout.kind is Kind.BANDIT:
        return Inconclusive("a bandit decides nothing", {})
    if rollout.kind is Kind.AB:
        return comparison(tallies, rollout.plan)
    return verdict(tallies, rollout.plan)


def evidence_of(
    rollout: Rollout, tallies: Sequence[StageTally], verdict: Verdict, shadowed: Shadowed | None = None
) -> Evidence:
    """What is kept of a verdict beside a move that follows it: its own evidence, its name, and what the readers saw.

    latency_p99_ms : by arm, of whole answers. A shadow answers nobody: the canary has `ranking_cpu_p99_ms` there, CPU time of the
        thread that ranks, which is not to be compared with it
    agreement, offline : of a shadow, how its lists agree with those shown, and what they would earn, see `shadow_estimates`

    shadowed : of `RolloutStore.shadowed`, in a shadow stage
    """
    seen: Evidence = {**verdict.evidence, "verdict": type(verdict).__name__, "judgement": verdict.reason}
    if not tallies:
        return seen
    now = tallies[-1]
    canary, stable = quantile_ms(now.canary_served), quantile_ms(now.stable_served)
    if not in_shadow(rollout):
        return {**seen, "latency_p99_ms": {CANARY: canary, STABLE: stable}}
    return {
        **seen,
        "latency_p99_ms": {STABLE: stable},
        "ranking_cpu_p99_ms": {CANARY: canary},
        "agreement": agreement(now.canary_served),
        "offline": offline(shadowed),
    }


def agreement(shadow: Served) -> Evidence:
    """How far a shadow's lists are those that were shown; None where none was compared.

    overlap : mean share of a shown list's items that the shadow's has too; first_same : share of lists that begin alike

    >>> agreement(Served(requests=5, compared=4, overlap=3.0, first_same=1, dropped=2))
    {'requests': 5, 'compared': 4, 'dropped': 2, 'overlap': 0.75, 'first_same': 0.25}
    """
    compared = shadow.compared
    return {
        "requests": shadow.requests,
        "compared": compared,
        "dropped": shadow.dropped,
        "overlap": round(shadow.overlap / compared, 4) if compared else None,
        "first_same": round(shadow.first_same / compared, 4) if compared else None,
    }


def quantile_ms(served: Served, share: float = 0.99) -> float | None:
    """Upper edge of the bucket that a quantile of the latencies is in; None without requests, or above the last edge.

    >>> quantile_ms(Served(latency=(98, 0, 0, 2, *[0] * 9)))
    10.0
    """
    wanted = share * sum(served.latency)
    reached = (
        edge for edge, below in zip(LATENCY_EDGES_MS, accumulate(served.latency), strict=False) if below >= wanted
    )
    return next(reached, None) if wanted else None
