"""What both arms did in one stage, as the tests ask for it: counts by stage as arrays, and counts that cannot be right."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from online_models.contracts.rollouts import FULL_WEIGHT_BP, GROUPS, Metric, Served
from online_models.rollout_store import VariantCounts

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

_ROWS = {Metric.HIT_RATE: (1, 0), Metric.CTR: (3, 2)}
"""Rows of `VariantCounts.grouped` that are a metric's hits and trials."""


@dataclass(frozen=True, slots=True)
class StageTally:
    """What both arms did in one stage while the canary had `weight_bp` of the users.

    Of a shadow stage, whose weight is 0, only `canary_served` and `stable_served` are looked at.
    """

    stage: int
    weight_bp: int
    canary: VariantCounts
    stable: VariantCounts
    canary_served: Served
    stable_served: Served

    @property
    def share(self) -> float:
        """Of the users, on the canary."""
        return self.weight_bp / FULL_WEIGHT_BP

    @property
    def compares(self) -> bool:
        """Whether both arms had users."""
        return 0 < self.weight_bp < FULL_WEIGHT_BP


def shares(tallies: Sequence[StageTally]) -> F64:
    """Shares of users on the canary (stages,)."""
    return np.array([tally.share for tally in tallies], np.float64)


def by_stage(tallies: Sequence[StageTally], number: Callable[[VariantCounts], int]) -> tuple[I64, I64]:
    """A number of the canary's and of stable's, each (stages,)."""
    return (
        np.array([number(tally.canary) for tally in tallies], np.int64),
        np.array([number(tally.stable) for tally in tallies], np.int64),
    )


@dataclass(frozen=True, slots=True)
class Split:
    """First exposed users of all stages in which both arms had some; expected : of the canary, by the weights."""

    canary: int
    stable: int
    expected: float

    @property
    def users(self) -> int:
        """Of both."""
        return self.canary + self.stable

    @classmethod
    def of(cls, tallies: Sequence[StageTally]) -> "Split":
        """Summed up."""
        shown = [tally for tally in tallies if tally.compares]
        canary, stable = by_stage(shown, lambda variant: variant.counts.users)
        return cls(int(canary.sum()), int(stable.sum()), float(shares(shown) @ (canary + stable)))


def by_group(tally: StageTally, metric: Metric) -> tuple[I64, I64]:
    """Hits and trials of a metric, each (2, GROUPS): the canary's, stable's."""
    hits, trials = _ROWS[metric]
    both = np.stack([tally.canary.grouped, tally.stable.grouped])  # (2, 4, GROUPS)
    return both[:, hits], both[:, trials]


def first_wrong(tallies: Sequence[StageTally]) -> str | None:
    """Why some stage's counts cannot be right, or None."""
    for tally in tallies:
        for arm, counts, served in (
            ("canary", tally.canary, tally.canary_served),
            ("stable", tally.stable, tally.stable_served),
        ):
            if (wrong := _wrong_counts(counts) or _wrong_served(served)) is not None:
                return f"stage {tally.stage}: {arm} has {wrong}"
    return None


def _wrong_counts(variant: VariantCounts) -> str | None:
    counts, grouped = variant.counts, variant.grouped
    parts = (
        ("successes", counts.successes, "users", counts.users),
        ("hits", counts.hits, "requests", counts.requests),
        ("clicks", counts.clicks, "impressions", counts.impressions),
    )
    if (wrong := _first_more(parts)) is not None:
        return wrong
    if counts.stage_users < 0 or counts.first_items < 0 or counts.repeats < 0:
        return "negative counts"
    if grouped.shape != (4, GROUPS):
        return f"counts by group of shape {grouped.shape}"
    requests, hits, impressions, clicks = grouped
    if grouped.min() < 0 or (hits > requests).any() or (clicks > impressions).any():
        return "a group of users with more hits than requests, or more clicks than impressions"
    return None


def _wrong_served(served: Served) -> str | None:
    of_requests = [(name, getattr(served, name)) for name in ("errors", "empty", "fallbacks", "slow")]
    of_users = [(f"user_{name}", getattr(served, f"user_{name}")) for name, _ in of_requests]
    return _first_more(
        [(name, count, "requests", served.requests) for name, count in of_requests]
        + [("stood_in", served.stood_in, "fallbacks", served.fallbacks)]
        + [(name, count, "users", served.users) for name, count in of_users]
    )


def _first_more(parts: Sequence[tuple[str, int, str, int]]) -> str | None:
    for part, count, whole, of in parts:
        if not 0 <= count <= of:
            return f"{count} {part} of {of} {whole}"
    return None
