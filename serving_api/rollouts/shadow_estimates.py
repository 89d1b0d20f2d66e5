"""What a shadow's lists would have earned, told from what others showed and what of it was taken; it decides nothing.

- Looks by position are assumed: a shadow swaps nothing that they could be measured by. `python -m online_models off-policy`
  measures them on a log of several rankers, and has intervals over users.
- The counts are of a version, beside whichever version answered, in all rollouts in whose shadow it has been.
"""

from typing import Final

from online_models.contracts.rollouts import SHADOW_POSITIONS, Rollout
from online_models.off_policy import Refused, assumed_looks, counted_value
from online_models.rollout_store import RolloutStore, Shadowed
from serving_api.analysis.evidence import Evidence, finite
from serving_api.rollouts.transitions import in_shadow

LOOKS: Final = assumed_looks(SHADOW_POSITIONS)

FIGURES: Final = ("lists", "positions", "clicks_per_list", "at_least", "order", "kept")


def shadowed_of(rollouts: RolloutStore, rollout: Rollout) -> Shadowed | None:
    """What the flow has counted of the canary; None outside of a shadow stage."""
    return rollouts.shadowed(rollout.model, rollout.canary) if in_shadow(rollout) else None


def offline(shadowed: Shadowed | None) -> Evidence | None:
    """Estimates under the position-based model, ready for JSON; None where nothing is counted.

    looks : `assumed`, 1 / log2(position + 2); unit : of the intervals, an impression
    impressions, taken : all that is counted; lists, positions : how many lists are compared, on how many first positions
    clicks_per_list : as shown; at_least : of the shadow's lists, where what they alone have counts for nothing
    order : relative difference in clicks per look on items that both show: value, lower, upper
    kept : share of what was taken that the shadow shows too; effective : impressions
    refused : reason and detail where there is no estimate, and no figures; else None

    >>> offline(None) is None
    True
    """
    if shadowed is None or not shadowed.any():
        return None
    shown, taken = shadowed
    found = counted_value(shown, taken, LOOKS)
    told: Evidence = {
        "looks": "assumed",
        "unit": "impression",
        "impressions": int(shown.sum()),
        "taken": int(taken.sum()),
    }
    if isinstance(found, Refused):
        refusal = {"reason": found.reason.value, "detail": found.detail}
        return {**told, **dict.fromkeys(FIGURES), "effective": finite(found.ess), "refused": refusal}
    figures = (
        *(found.lists, found.positions, finite(found.logged), finite(found.per_list)),
        {name: finite(getattr(found.order, name)) for name in ("value", "lower", "upper")},
        finite(found.kept),
    )
    return {
        **told,
        **dict(zip(FIGURES, figures, strict=True)),
        "effective": finite(found.order.diagnosis.ess),
        "refused": None,
    }
