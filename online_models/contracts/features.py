"""What is monitored: the declared features of events, the same in the stream job, in training and in serving.

- A feature is read from an event field or from the event's `features`, on the event types that carry it.
- Its histogram is a vector of `bins + 3` counts: `[under, bin 0 ... bin n-1, over, missing]`, mergeable by addition.
"""

import enum
import hashlib
from collections.abc import Sequence

import msgspec

from online_models.contracts.events import EventType

ENGAGEMENT = (EventType.CLICK, EventType.WATCH, EventType.PURCHASE, EventType.RATING)


class FeatureKind(enum.StrEnum):
    """How values become bins: by range, by hash of one word, or by hash of each of several words."""

    NUMERIC = "numeric"
    CATEGORICAL = "categorical"
    MULTI_VALUED = "multi-valued"


class FeatureSpec(msgspec.Struct, frozen=True):
    """One monitored feature.

    source : `value`, `hour` (UTC hour of `ts`), `type`, `item_id`, or `features.<name>`
    types : the event types that carry the feature; others are not counted, not even as missing
    low, high : range of the uniform fine bins of a numeric feature, in its own unit
    bins : number of fine bins (numeric) or of hash buckets (categorical and multi-valued)
    domains : the domains that have the feature; empty means all
    """

    name: str
    kind: FeatureKind
    source: str
    types: tuple[EventType, ...]
    low: float = 0.0
    high: float = 1.0
    bins: int = 256
    domains: tuple[str, ...] = ()


# What people consume, not how we show it: the mix of event types follows our own pages, and the hour drifts in every window
# that is shorter than a day. Both can be declared where they mean something.
DEFAULT_FEATURES: tuple[FeatureSpec, ...] = (
    FeatureSpec("rating", FeatureKind.NUMERIC, "value", (EventType.RATING,), 0.0, 10.0, 200),
    FeatureSpec("watch_seconds", FeatureKind.NUMERIC, "value", (EventType.WATCH,), 0.0, 14_400.0),
    FeatureSpec("amount", FeatureKind.NUMERIC, "value", (EventType.PURCHASE,), 0.0, 1_024.0),
    FeatureSpec("genres", FeatureKind.MULTI_VALUED, "features.genres", ENGAGEMENT, domains=("movies",)),
    FeatureSpec("category", FeatureKind.CATEGORICAL, "features.category", ENGAGEMENT, domains=("products",)),
)


def spec_hash(specs: Sequence[FeatureSpec]) -> str:
    """Hex SHA-256 of the declared features: sketches made under another declaration must not be compared.

    >>> spec_hash(DEFAULT_FEATURES) == spec_hash(DEFAULT_FEATURES), spec_hash(()) == spec_hash(DEFAULT_FEATURES)
    (True, False)
    """
    return hashlib.sha256(msgspec.json.encode(specs)).hexdigest()
