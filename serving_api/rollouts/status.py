"""Where a rollout stands: its counts, what the gates say of them now, and what it waits for.

- It is judged by what the controller judges by: the next tick would do what `outlook` says, if nothing changes.
- Of a rollout that made its canary the champion, what readers say of it goes on being told: a rollback asks nobody beforehand.
- While Redis is away the counts in PostgreSQL are still told; a verdict without the readers' counts would be another one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from online_models.contracts.rollouts import OPEN_PHASES, Kind, Rollout, Served
from online_models.errors import StoreError
from online_models.ports import VariantCounts
from serving_api.analysis.verdicts import Evidence, Verdict
from serving_api.rollouts.judgement import evidence_of, judged, tallies_of
from serving_api.rollouts.readiness import RolloutStores, readiness_of, said_of
from serving_api.rollouts.shadow_estimates import shadowed_of
from serving_api.rollouts.transitions import Readiness, Ready, step


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of a rollout.

    verdict : None where the gates do not judge it: before its first stage, after its end, of a bandit, while Redis is away
    outlook : what it waits for, or what the next tick makes of it
    """

    measured: Sequence[VariantCounts]
    served: Mapping[tuple[int, str], Served]
    outlook: str
    verdict: Verdict | None = None
    evidence: Evidence = field(default_factory=dict)


def standing_of(stores: RolloutStores, rollout: Rollout, now: datetime) -> Standing:
    """Read and judge a rollout. Raises StoreUnavailable when PostgreSQL is away."""
    measured = stores.rollouts.measured(rollout)
    try:
        served = stores.routes.served(rollout.model, rollout.id)
        if rollout.phase not in OPEN_PHASES:
            return Standing(measured, served, _ended(stores, rollout, now))
        ready = readiness_of(stores, rollout, now)
    except StoreError as error:
        return Standing(measured, {}, f"the readers cannot be asked now: {error}")
    if rollout.stage < 0 or rollout.kind is Kind.BANDIT:
        return Standing(measured, served, _outlook(rollout, judged(rollout, []), ready, now))
    tallies = tallies_of(rollout, measured, served)
    verdict = judged(rollout, tallies)
    outlook = _outlook(rollout, verdict, ready, now)
    evidence = evidence_of(rollout, tallies, verdict, shadowed_of(stores.rollouts, rollout))
    return Standing(measured, served, outlook, verdict, evidence)


def _ended(stores: RolloutStores, rollout: Rollout, now: datetime) -> str:
    final, champion = f"{rollout.phase} is final", stores.rollouts.champion_epoch(rollout.model)
    if champion is None or champion[0] != rollout.canary:
        return final
    said = said_of(stores, rollout.model, rollout.canary, now)
    return final if isinstance(said, Ready) else f"{final}; {said.reason}"


def _outlook(rollout: Rollout, verdict: Verdict, ready: Readiness, now: datetime) -> str:
    decision = step(rollout, verdict, ready, now)
    if decision.rollout == rollout:
        return decision.reason
    return f"the next tick makes it {decision.rollout.phase} in stage {decision.rollout.stage}: {decision.reason}"
