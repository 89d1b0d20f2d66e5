"""What is monitored: the declared features of events, the same in the stream job, in training and in serving.

- A feature is read from an event field or from the event's `features`, or constructed from them, on the event types
  that carry it.
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


NUMERIC_BINS = 256
WORD_BUCKETS = 4_096
"""Bins of a feature that declares none."""


class FeatureSpec(msgspec.Struct, frozen=True):
    """One monitored feature.

    source : what it is read from, see below
    types : the event types that carry the feature; others are not counted, not even as missing
    low, high : range of the uniform fine bins of a numeric feature, in its own unit
    bins : number of fine bins (numeric) or of hash buckets (categorical and multi-valued); 0 for the usual number
    domains : the domains that have the feature; empty means all
    edges : increasing; numeric: borders of the fine bins instead of uniform ones, n + 1 of n bins; categorical: a number becomes
        the word of the bucket it falls in
    component : which row of the policy matrix judges it: `recommender` or `llm`
    ghost : only profiled and ranked, never judged: a candidate that no model uses yet

    A source is one of
    `value` (numbers), `hour`, `minute`, `weekday` (numbers: UTC hour 0-23, minute of the day 0-1439, 0 = Monday),
    `type`, `item_id`, `user_id` (words), `features.<name>` (either),
    `tokens:features.<name>` (the distinct lower-case words of a text),
    `nll:features.<name>` (numbers: mean surprise of a text's words under the live version's text model, nats a word),
    `embedding.user.<axis>`, `embedding.item.<axis>` (numbers: a coordinate in the live version's space), or
    several of these joined by `*`: a cross, one word per combination, numbers by their integer part.
    """

    name: str
    kind: FeatureKind
    source: str
    types: tuple[EventType, ...]
    low: float = 0.0
    high: float = 1.0
    bins: int = 0
    domains: tuple[str, ...] = ()
    edges: tuple[float, ...] = ()
    component: str = "recommender"
    ghost: bool = False

    @property
    def cells(self) -> int:
        """Number of fine bins or buckets: the histogram has three counts more."""
        if self.kind is not FeatureKind.NUMERIC:
            return self.bins or WORD_BUCKETS
        return len(self.edges) - 1 if self.edges else self.bins or NUMERIC_BINS

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the event features that the source is made of.

        >>> FeatureSpec("f", FeatureKind.CATEGORICAL, "features.country*hour", ()).reads
        ('country',)
        """
        parts = [part.rpartition(":")[2] for part in self.source.split("*")]
        return tuple(part.removeprefix("features.") for part in parts if part.startswith("features."))


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
