"""What a verdict's numbers look like in the audit trail, in the API and on dashboards.

The keys are stable; every number is finite, None is "not known":

    stage, weight_bp         the current stage
    log_e, log_e_limit       of harm: log e-value and what it must reach to fail the rollout
    split                    log_e, log_e_limit; canary_users, stable_users: first exposures in all stages; share: the
                             canary's of them, expected_share by the weights
    lift                     metric; value, lower, upper: relative lift (0.05 is 5 % better), `lower`, `upper` one-sided bounds;
                             lowest_allowed: what `lower` must be above to pass the stage, None when nothing is asked; trusted:
                             whether there is enough for the bounds; groups, canary_hits, stable_hits
    collapse                 upper: bound on the lift; limit: below it the rollout fails
    guardrails               name -> state (clean, failed, no data); canary, stable: rates, of coverage effective items;
                             canary_of, stable_of: users' first requests, each reader counting its own, in the shadow all
                             requests; log_e, log_e_limit, None of coverage, which is a threshold
    users                    canary, stable: users of the current stage; canary_needed, stable_needed
    served                   canary, stable: requests of the current stage as readers count them
    missing                  what the stage still waits for, in words
    winner                   of an experiment: canary, stable or None
    stages                   per stage: stage, weight_bp, canary and stable: the sums of `contracts.rollouts.StageCounts`
"""

from collections.abc import Sequence
from math import expm1, isfinite

import msgspec

from online_models.contracts.rollouts import Stage
from serving_api.analysis.e_values import log_limit
from serving_api.analysis.guardrails import Guardrail
from serving_api.analysis.measures import Measures
from serving_api.analysis.tallies import Split, StageTally

Evidence = dict[str, object]
"""The numbers behind a verdict, ready for JSON."""


def evidence_of(found: Measures, stage: Stage, missing: Sequence[str]) -> Evidence:
    """Of a rollout with at least one stage; see the module for the keys."""
    now = found.tallies[-1]
    return {
        "stage": now.stage,
        "weight_bp": now.weight_bp,
        "log_e": finite(found.log_harm),
        "log_e_limit": finite(log_limit(found.policy.harm_alpha)),
        "split": _split(found),
        "lift": _lift(found, stage.margin),
        "collapse": {"upper": _relative(found.collapse.upper), "limit": finite(found.policy.collapse_ratio - 1.0)},
        "guardrails": {each.name: _guardrail(each) for each in found.guardrails},
        "users": {
            "canary": now.canary.counts.stage_users,
            "stable": now.stable.counts.stage_users,
            "canary_needed": stage.min_users,
            "stable_needed": stage.min_stable_users,
        },
        "served": {"canary": now.canary_served.requests, "stable": now.stable_served.requests},
        "missing": list(missing),
        "stages": stages_of(found.tallies),
    }


def stages_of(tallies: Sequence[StageTally]) -> list[Evidence]:
    """The sums of each stage."""
    return [
        {
            "stage": tally.stage,
            "weight_bp": tally.weight_bp,
            "canary": msgspec.to_builtins(tally.canary.counts),
            "stable": msgspec.to_builtins(tally.stable.counts),
        }
        for tally in tallies
    ]


def finite(number: float | None) -> float | None:
    """Rounded, and None where there is no such number.

    >>> finite(0.123456789), finite(float("inf"))
    (0.123457, None)
    """
    return round(number, 6) if number is not None and isfinite(number) else None


def _split(found: Measures) -> Evidence:
    split = Split.of(found.tallies)
    users = split.users
    return {
        "log_e": finite(found.log_split),
        "log_e_limit": finite(log_limit(found.policy.split_alpha)),
        "canary_users": split.canary,
        "stable_users": split.stable,
        "share": finite(split.canary / users) if users else None,
        "expected_share": finite(split.expected / users) if users else None,
    }


def _lift(found: Measures, margin: float | None) -> Evidence:
    known = isfinite(found.bounds.lower)
    return {
        "metric": found.policy.metric.value,
        "value": _relative(found.bounds.log_ratio) if known else None,
        "lower": _relative(found.bounds.lower) if known else None,
        "upper": _relative(found.bounds.upper),
        "lowest_allowed": None if margin is None else finite(-margin),
        "trusted": found.bounds.trusted,
        "groups": int(found.lift.groups),
        "canary_hits": int(found.lift.canary_hits),
        "stable_hits": int(found.lift.stable_hits),
    }


def _relative(log_ratio: float) -> float | None:
    """exp(x) - 1; None of a bound that says nothing."""
    return finite(expm1(log_ratio)) if log_ratio < _SAYS_NOTHING else None


_SAYS_NOTHING = 20.0
"""exp(20): a canary half a billion times better."""


def _guardrail(each: Guardrail) -> Evidence:
    return {
        "state": each.state.value,
        "canary": finite(each.canary),
        "stable": finite(each.stable),
        "canary_of": each.canary_of,
        "stable_of": each.stable_of,
        "log_e": finite(each.log_e),
        "log_e_limit": finite(each.limit),
    }
