"""From the counts of a rollout's stages to a verdict: evidence of harm, enough good to advance, or neither.

- Harm is a sequential test on first exposures that may be looked at on every tick, see `e_values`; collapse and the advance are
  bounds of one interval over all traffic, by user, see `lift`; errors and the like are `guardrails`.
- Advancing asks for users, for answers counted by the readers, for clean guardrails and for the proof that no more is lost than
  the stage's margin; of a stage without one, for no proof that more than the policy's is. No data is never success.
- A split of users far from the weight stops the harm test, which rests on it, and the advance; never collapse nor guardrails,
  which do not.
- What a shadow stage passes on is answers: as many as the stage asks for, with guardrails as clean as stable's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import expm1, log

from online_models.contracts.rollouts import Plan, Stage
from serving_api.analysis.e_values import log_limit
from serving_api.analysis.evidence import Evidence as Evidence
from serving_api.analysis.evidence import evidence_of, stages_of
from serving_api.analysis.guardrails import COVERAGE, State
from serving_api.analysis.measures import Measures, measure
from serving_api.analysis.tallies import Split, first_wrong
from serving_api.analysis.tallies import StageTally as StageTally


@dataclass(frozen=True, slots=True)
class Successful:
    """The stage is good enough to go on; of an experiment: it has its answer."""

    reason: str
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Failed:
    """There is evidence of harm."""

    reason: str
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Inconclusive:
    """Too little data, or neither good enough nor proven bad."""

    reason: str
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Error:
    """The counts cannot be right, so nothing follows from them."""

    reason: str
    evidence: Evidence


Verdict = Successful | Failed | Inconclusive | Error


def verdict(tallies: Sequence[StageTally], plan: Plan) -> Verdict:
    """Judge a rollout by all its stages so far; the last tally is the current stage, which is the plan's of that number.

    Impossible counts are an Error. Then a collapse, harm and a failed guardrail fail the rollout at any time; a split that
    cannot be chance is an Error in the place of harm and of all that follows. The current stage succeeds when nothing is missing:
    users of both arms, answers that readers counted, clean guardrails, a lift above -margin where it has one. See `evidence` for
    the numbers.

    >>> verdict([], Plan()).reason
    'no stage has been measured'
    """
    stage = _stage_of(tallies, plan)
    if not isinstance(stage, Stage):
        return stage
    found = measure(tallies, plan.policy, stage.margin or plan.policy.margin, plan.policy.promote_alpha)
    missing = [*_missing(found, stage), *_unproven(found, stage)]
    evidence = evidence_of(found, stage, missing)
    if (ended := _ended(found, evidence)) is not None:
        return ended
    if missing:
        return Inconclusive("; ".join(missing), evidence)
    return Successful(_passed(found, stage), evidence)


def comparison(tallies: Sequence[StageTally], plan: Plan) -> Verdict:
    """Judge an experiment of two versions: Failed and Error as in `verdict`; Successful once an interval of the lift, of error
    `promote_alpha` at all times together, excludes 0, with the `winner` in the evidence; Inconclusive before."""
    stage = _stage_of(tallies, plan)
    if not isinstance(stage, Stage):
        return stage
    found = measure(tallies, plan.policy, plan.policy.smallest_effect, plan.policy.promote_alpha / 2.0)
    winner, missing = _winner(found), _missing(found, stage)
    evidence = {**evidence_of(found, stage, missing), "winner": winner}
    if (ended := _ended(found, evidence)) is not None:
        return ended
    if missing:
        return Inconclusive("; ".join(missing), evidence)
    if winner is None:
        return Inconclusive(f"no difference is proven: {_told(found)}", evidence)
    return Successful(f"{winner} is better: {_told(found)}", evidence)


def _stage_of(tallies: Sequence[StageTally], plan: Plan) -> Stage | Verdict:
    """The plan's current stage, or what is to be said without it."""
    if not tallies:
        return Inconclusive("no stage has been measured", {"stages": []})
    if (wrong := first_wrong(tallies)) is not None:
        return Error(wrong, {"stages": stages_of(tallies)})
    if not 0 <= tallies[-1].stage < len(plan.stages):
        wrong = f"stage {tallies[-1].stage} of a plan of {len(plan.stages)}"
        return Error(wrong, {"stages": stages_of(tallies)})
    return plan.stages[tallies[-1].stage]


def _ended(found: Measures, evidence: Evidence) -> Failed | Error | None:
    """What ends the judgement whatever is missing."""
    policy = found.policy
    if found.collapsed:
        limit = policy.collapse_ratio - 1.0
        return Failed(
            f"collapse: the {policy.metric} is surely below {limit:+.0%} of stable's, {_told(found)}", evidence
        )
    if failed := found.failed_guardrails:
        return Failed("guardrail " + "; ".join(each.told for each in failed), evidence)
    if found.split_wrong:
        return Error(_split_told(found), evidence)
    if found.harmful:
        told = f"log e-value {found.log_harm:.2f} >= {log_limit(policy.harm_alpha):.2f}"
        return Failed(f"evidence of harm to users at first exposure: {told}", evidence)
    return None


def _missing(found: Measures, stage: Stage) -> list[str]:
    """Data that the current stage still waits for: one of each at least, whatever the plan says."""
    now = found.tallies[-1]
    canary, stable = max(stage.min_users, 1), max(stage.min_stable_users, 1)
    served = now.canary_served.requests, now.stable_served.requests
    if now.weight_bp == 0:
        asked = [
            (served[0] - now.canary_served.errors, canary, "shadow requests scored"),
            (served[1], stable, "stable requests counted by the readers"),
        ]
    else:
        asked = [
            (now.canary.counts.stage_users, canary, "canary users in this stage"),
            (now.stable.counts.stage_users, stable, "stable users in this stage"),
            (served[0], canary, "canary requests counted by the readers"),
            (served[1], stable, "stable requests counted by the readers"),
        ]
    unknown = [each.name for each in found.guardrails if each.state is State.NO_DATA and each.name != COVERAGE]
    return [f"{have} of {need} {what}" for have, need, what in asked if have < need] + [
        f"no data of the guardrail {name}" for name in unknown
    ]


def _unproven(found: Measures, stage: Stage) -> list[str]:
    """What of the lift is not proven yet; where the stage asks for no proof, what speaks against the one before it."""
    if found.tallies[-1].weight_bp == 0:
        return []
    if stage.margin is None:
        margin = found.policy.margin
        contradicted = found.bounds.trusted and found.bounds.upper < log(1.0 - margin)
        return [f"a loss of more than {margin:.1%} is proven: {_told(found)}"] if contradicted else []
    if not found.bounds.trusted:
        return [f"too few hits for an interval: {_hits(found)}"]
    if found.bounds.lower > log(1.0 - stage.margin):
        return []
    return [f"a loss of {stage.margin:.1%} is not excluded yet: {_told(found)}"]


def _winner(found: Measures) -> str | None:
    if not found.bounds.trusted:
        return None
    if found.bounds.lower > 0.0:
        return "canary"
    return "stable" if found.bounds.upper < 0.0 else None


def _passed(found: Measures, stage: Stage) -> str:
    now = found.tallies[-1]
    if now.weight_bp == 0:
        return f"{now.canary_served.requests} requests scored in the shadow, as clean as stable's"
    users = f"{now.canary.counts.stage_users} canary and {now.stable.counts.stage_users} stable users"
    proof = "no further proof asked for" if stage.margin is None else f"a loss of {stage.margin:.1%} is excluded"
    return f"{users}; {proof}: {_told(found)}"


def _told(found: Measures) -> str:
    """The lift with its bounds, for people."""
    if not found.bounds.trusted:
        return f"lift unknown, {_hits(found)}"
    value, lower, upper = (expm1(each) for each in (found.bounds.log_ratio, found.bounds.lower, found.bounds.upper))
    return f"lift {value:+.1%} ({lower:+.1%} to {upper:+.1%})"


def _hits(found: Measures) -> str:
    lift = found.lift
    return f"{lift.canary_hits:.0f} canary and {lift.stable_hits:.0f} stable hits in {lift.groups:.0f} groups of users"


def _split_told(found: Measures) -> str:
    split = Split.of(found.tallies)
    return (
        f"split: the canary has {split.canary} of {split.users} first exposed users where {split.expected:.0f} are expected by "
        "the weight"
    )
