"""Tallies of made-up rollouts, for the tests of what they are judged by."""

import msgspec
import numpy as np

from online_models.contracts.ids import ModelVersion
from online_models.contracts.rollouts import GROUPS, Served, StageCounts
from online_models.rollout_store import Grouped, VariantCounts
from serving_api.analysis.verdicts import StageTally


def spread(total: int) -> Grouped:
    """A number in GROUPS parts, as even as can be; int64 (GROUPS,)."""
    return np.diff(np.arange(GROUPS + 1) * total // GROUPS)


def arm(
    variant: str,
    requests: int,
    hits: int,
    users: int | None = None,
    successes: int | None = None,
    stage: int = 0,
    **more: int,
) -> VariantCounts:
    """Counts of one arm, spread over the groups; each request is a user's first unless users are given."""
    counts = StageCounts(
        users=requests if users is None else users,
        successes=hits if successes is None else successes,
        requests=requests,
        hits=hits,
        impressions=10 * requests,
        clicks=hits,
        stage_users=requests,
        **more,
    )
    rows = [spread(requests), spread(hits), spread(10 * requests), spread(hits)]
    return VariantCounts(stage, variant, ModelVersion("v1"), counts, np.stack(rows))


def served(**counts: int) -> Served:
    """Answers by the names of their counts."""
    return msgspec.convert(counts, Served)


def clean(requests: int) -> Served:
    """Answers without a fault, each to another user."""
    return Served(requests=requests, users=requests)


def tally(
    weight_bp: int,
    canary: VariantCounts,
    stable: VariantCounts,
    stage: int = 0,
    answers: tuple[Served, Served] | None = None,
) -> StageTally:
    """A stage, its readers without a fault unless they are given."""
    canary_served, stable_served = answers or (clean(canary.counts.requests), clean(stable.counts.requests))
    return StageTally(stage, weight_bp, canary, stable, canary_served, stable_served)


def stage_of(
    weight_bp: int,
    canary: tuple[int, int],
    stable: tuple[int, int],
    stage: int = 0,
    answers: tuple[Served, Served] | None = None,
) -> StageTally:
    """A stage of (requests, hits) of users who came once each."""
    return tally(weight_bp, arm("canary", *canary, stage=stage), arm("stable", *stable, stage=stage), stage, answers)
