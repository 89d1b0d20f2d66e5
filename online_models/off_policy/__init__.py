"""What a policy would earn, told from the logs of another one: off-policy estimates that say how far they can be trusted.

- `estimators` (IPS, SNIPS, DR, replay) for logs with propensities; `positions` (how often each position is looked at, from the
  logs of several rankers), `ranked` (a candidate's lists on another ranker's logs) and `counted` (the same from counts alone)
  for lists without them.
- Every estimate has an interval over users and an effective sample size; what cannot be told is a `Refused`, not a figure.
"""

from online_models.off_policy.counted import Counted, assumed_looks, counted_value
from online_models.off_policy.estimates import Bias, Diagnosis, Estimated, Reason, Refused, Terms, estimated, lift
from online_models.off_policy.estimators import Logged, dr, ips, replay, snips
from online_models.off_policy.positions import PositionPropensities, list_weights, position_propensities
from online_models.off_policy.ranked import Lists, Ranked, ranked_value

__all__ = [
    "Bias",
    "Counted",
    "Diagnosis",
    "Estimated",
    "Lists",
    "Logged",
    "PositionPropensities",
    "Ranked",
    "Reason",
    "Refused",
    "Terms",
    "assumed_looks",
    "counted_value",
    "dr",
    "estimated",
    "ips",
    "lift",
    "list_weights",
    "position_propensities",
    "ranked_value",
    "replay",
    "snips",
]
