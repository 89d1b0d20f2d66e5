"""Rollouts: how a candidate version reaches users in stages, what it is asked for on the way, and the counts it is judged by.

- The PostgreSQL row is the truth; the route document in Redis is its projection, larger epoch wins.
- A rollout carries its own plan: settings that change do not change what is under way. Of a later release's plan the fields that
  are not known are left out, as of every contract; who lets people write one refuses them.
- Counts are kept per (rollout, stage, version, variant) and never pooled across stages.
"""

import enum
from datetime import datetime
from typing import Final

import msgspec

from online_models.contracts.ids import Epoch, ModelName, ModelVersion, RolloutId

FULL_WEIGHT_BP = 10_000
"""Weights are basis points: 500 is 5 %."""

MOST_STAGES: Final = 20
"""Of a plan."""

GROUPS: Final = 128
"""Users fall into so many groups by their hash, in whatever arm and stage they are; what differs between groups is noise."""

SHADOW_POSITIONS: Final = 20
SHADOW_PLACES: Final = 60
"""What a shadow is estimated from: items shown at the first positions, and where they are among so many places of its list."""

LATENCY_EDGES_MS: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0)
"""Upper edges of the buckets that latencies are counted in; one more bucket is above them."""


class Kind(enum.StrEnum):
    """What a rollout is for."""

    CANARY = "canary"  # a candidate's way to everybody, stage by stage
    AB = "ab"  # two versions beside each other to compare them; nobody is promoted by it
    AA = "aa"  # the champion against itself through the whole path: what is said when nothing differs
    BANDIT = "bandit"  # Thompson sampling among versions that have passed the gate
    ROLLBACK = "rollback"  # an operator's return to a retained version, at once and for everybody


class Phase(enum.StrEnum):
    """Where a rollout stands. All but the first three are final."""

    PREPARING = "preparing"  # weight 0 until every reader holds the candidate
    RAMPING = "ramping"
    PAUSED = "paused"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"  # by the controller, on evidence
    ABORTED = "aborted"  # by an operator
    SUPERSEDED = "superseded"
    CONCLUDED = "concluded"  # an experiment that has its answer, or its time is over


OPEN_PHASES = (Phase.PREPARING, Phase.RAMPING, Phase.PAUSED)


class Variant(enum.StrEnum):
    """Who answered. `arm` is one of a bandit's but the stable version; `fallback` is no arm of a comparison: popularity, or a
    version that stands in. What it answers counts for the arm that the user is in."""

    STABLE = "stable"
    CANARY = "canary"
    ARM = "arm"
    FALLBACK = "fallback"


class Metric(enum.StrEnum):
    """What "not worse" is about: requests with something taken, or impressions that were taken."""

    HIT_RATE = "hit_rate"
    CTR = "ctr"


class WhenOverdue(enum.StrEnum):
    """What becomes of a rollout whose stage has lasted too long."""

    HOLD = "hold"
    ROLL_BACK = "roll_back"


class Stage(msgspec.Struct, frozen=True):
    """One step of a rollout.

    weight_bp : share of users on the canary
    shadow : the canary is scored on live requests and never shown; the weight is 0
    min_users, min_stable_users : users of each arm in this stage before it may pass; of a shadow stage, scored requests
    min_seconds : shortest duration; max_seconds : after this the rollout is overdue
    margin : relative loss that must be excluded before the weight rises further; None, of a shadow, of an experiment, and after
        the stage that has proven the whole, asks for no such proof
    """

    weight_bp: int
    shadow: bool = False
    min_users: int = 100
    min_stable_users: int = 20
    min_seconds: float = 60.0
    max_seconds: float = 86_400.0
    margin: float | None = None
    when_overdue: WhenOverdue = WhenOverdue.HOLD

    def __post_init__(self) -> None:
        if not 0 <= self.weight_bp <= FULL_WEIGHT_BP or (self.shadow and self.weight_bp):
            raise ValueError(f"weight_bp: expected 0 to {FULL_WEIGHT_BP}, 0 in a shadow stage, got {self.weight_bp}")
        if min(self.min_users, self.min_stable_users, self.min_seconds) < 0 or self.max_seconds <= 0:
            raise ValueError("a stage: expected minimum users and seconds from 0, max_seconds above 0")
        if self.margin is not None and not 0.0 < self.margin < 1.0:
            raise ValueError(f"margin: expected within (0, 1), got {self.margin}")


class Policy(msgspec.Struct, frozen=True):
    """What counts as harm and as good enough, and how often the gates may be wrong.

    The error probabilities of the tests, that they ever roll back a candidate that is no worse, add up to `alpha`, however often
    the gates look: harm_alpha for the outcomes of first exposures, collapse_alpha for a fall of the metric below `collapse_ratio`
    of stable's, guardrail_alpha for the guardrails together. The coverage and the breakers are thresholds without a probability,
    and so is a refused artifact: what they roll back comes on top. The interval behind a collapse is an asymptotic one; in a
    shadow, and where users are met by several readers, the unit of a guardrail is not a user, see `analysis.guardrails`.

    metric : what the margin, and a collapse, are about
    margin : relative loss that has to be excluded before everybody gets the candidate; and times the share of users on the way
    promote_alpha : probability of ever passing a stage at a loss of its margin; split_alpha : of a false alarm about the split
    tolerated_harm : relative loss of first exposures that is not yet harm; smallest_effect : the one the test is tuned to find
    guardrail_ratio : times stable's rate that errors, empty, fallback and slow answers may be; guardrail_floor : or this rate
    coverage_ratio : share of stable's effective number of items that the canary shows at least, from `coverage_users` on
    slow_ms : an answer that takes longer is slow
    breaker_requests : of the last `breaker_seconds`, before a breaker may trip; p99 asks for ten times as many
    max_error_rate, max_empty_rate, max_p99_ms : what the breakers allow the canary; max_fallback_rate : of answers in which
        another stood in for it
    """

    metric: Metric = Metric.HIT_RATE
    margin: float = 0.1
    harm_alpha: float = 0.025
    collapse_alpha: float = 0.005
    guardrail_alpha: float = 0.015
    promote_alpha: float = 0.05
    split_alpha: float = 0.001
    tolerated_harm: float = 0.0
    smallest_effect: float = 0.1
    collapse_ratio: float = 0.75
    guardrail_ratio: float = 1.5
    guardrail_floor: float = 0.005
    coverage_ratio: float = 0.5
    coverage_users: int = 200
    slow_ms: float = 100.0
    breaker_requests: int = 20
    breaker_seconds: float = 60.0
    max_error_rate: float = 0.2
    max_empty_rate: float = 0.5
    max_fallback_rate: float = 0.5
    max_p99_ms: float = 1_000.0

    def __post_init__(self) -> None:
        within_one = (
            "margin", "harm_alpha", "collapse_alpha", "guardrail_alpha", "promote_alpha", "split_alpha", "smallest_effect",
            "collapse_ratio", "coverage_ratio", "max_error_rate", "max_empty_rate", "max_fallback_rate",
        )  # fmt: skip
        for name in within_one:
            if not 0.0 < getattr(self, name) < 1.0:
                raise ValueError(f"{name}: expected within (0, 1), got {getattr(self, name)}")
        if not 0.0 <= self.tolerated_harm < 1.0 or self.guardrail_ratio < 1.0 or self.guardrail_floor < 0.0:
            raise ValueError("expected tolerated_harm within [0, 1), guardrail_ratio from 1, guardrail_floor from 0")
        if min(self.slow_ms, self.breaker_seconds, self.max_p99_ms, self.breaker_requests, self.coverage_users) <= 0:
            raise ValueError("expected slow_ms, max_p99_ms, breaker_seconds, breaker_requests, coverage_users above 0")

    @property
    def alpha(self) -> float:
        """Bound on the probability that the tests, of harm, of a collapse and of the guardrails, ever roll back a candidate that
        is no worse; thresholds, which are coverage and the breakers, are not in it."""
        return self.harm_alpha + self.collapse_alpha + self.guardrail_alpha


class Plan(msgspec.Struct, frozen=True):
    """The stages of a rollout, in their order, and what it is judged by."""

    stages: tuple[Stage, ...] = ()
    policy: Policy = Policy()


class Arm(msgspec.Struct, frozen=True):
    """One version of a bandit and its share of the users."""

    version: ModelVersion
    weight_bp: int


class Rollout(msgspec.Struct, frozen=True):
    """One candidate's way to all users, or an experiment.

    stage : index into the plan's stages; -1 while preparing
    weight_bp : share of users on the canary, in basis points
    epoch : compare-and-set counter, from one sequence for all rollouts, so that it also orders route documents
    arms : of a bandit, the stable version first; their weights add up to 10,000
    """

    id: RolloutId
    model: ModelName
    stable: ModelVersion
    canary: ModelVersion
    phase: Phase
    stage: int
    weight_bp: int
    epoch: Epoch
    salt: str
    created_at: datetime
    stage_started_at: datetime
    kind: Kind = Kind.CANARY
    plan: Plan = Plan()
    arms: tuple[Arm, ...] = ()


class RolloutEvent(msgspec.Struct, frozen=True):
    """One row of a rollout's append-only audit trail; `evidence` is what the actor went by."""

    id: int
    rollout_id: RolloutId
    epoch: Epoch
    from_phase: Phase | None
    to_phase: Phase
    from_stage: int | None
    to_stage: int
    weight_bp: int
    actor: str
    reason: str
    evidence: dict[str, object]
    created_at: datetime


class Route(msgspec.Struct, frozen=True):
    """The route document of one model: which versions serve whom. Written by the rollout controller and by operators' calls.

    shadow : the canary is scored on live requests and never shown
    arms : of a bandit, whose users go by these weights instead of by `weight_bp`
    slow_ms : from which latency on a reader counts an answer as slow; 0 for no rollout
    """

    epoch: int
    stable: ModelVersion
    canary: ModelVersion | None = None
    weight_bp: int = 0
    salt: str = ""
    rollout_id: int | None = None
    stage: int = -1
    shadow: bool = False
    arms: tuple[Arm, ...] = ()
    slow_ms: float = 0.0


class VariantWindow(msgspec.Struct, frozen=True):
    """What was shown to the users of one version and variant in one event-time window of one stage, and what became of it.

    Within a rollout these are all requests of the arm's users, whoever answered them (intention to treat): an arm that can answer
    fewer people, or fails, keeps their trials. Outside of one they are those that the version answered.

    users : users first exposed in this rollout in this window; successes : those of them who clicked or consumed
    what that first request showed. The unit of every verdict is a user's first exposure. Outside a rollout the first
    request of a user's day (UTC) takes its place.
    requests, hits, impressions, clicks : all traffic, for display and for hit rate and CTR.
    variant : `stable`, `canary`, `arm` of a bandit; outside of rollouts, and in rows of earlier releases, also `fallback`; empty
        in rows of before there were variants
    stage_users : users whose first request of this stage is in this window
    first_items : items that first exposures showed; repeats : ordered pairs among them, over all windows of this stage
        before and in this window, that are the same item to two users and that this window completes
    """

    model: ModelName
    version: ModelVersion
    rollout_id: int
    """0 outside a rollout."""
    stage: int
    window_start_ms: int
    window_end_ms: int
    users: int
    successes: int
    requests: int
    hits: int
    impressions: int
    clicks: int
    variant: str = ""
    stage_users: int = 0
    first_items: int = 0
    repeats: int = 0


class GroupedCounts(msgspec.Struct, frozen=True):
    """What `VariantWindow` counts of one version in one stage of one rollout, by group of users; sums since a run of the flow
    began to count it.

    since_ms : event time of the first request counted, which tells the sums of one run from those of another
    counts : uint32 (4, GROUPS) little-endian, of requests, hits, impressions and clicks
    """

    model: ModelName
    version: ModelVersion
    rollout_id: int
    stage: int
    variant: str
    since_ms: int
    counts: bytes


class ShadowCounts(msgspec.Struct, frozen=True):
    """Where a version in the shadow had what others were shown, and what of it was taken; sums since a run of the flow began to
    count it, beside whichever version answered.

    since_ms : event time of the first request counted, which tells the sums of one run from those of another
    counts : uint32 (2, SHADOW_POSITIONS, SHADOW_PLACES + 1) little-endian, of impressions and of those taken, by the position
        that an item was shown at and its place in the shadow's list; in the last column those that are not in it
    """

    model: ModelName
    version: ModelVersion
    since_ms: int
    counts: bytes


class StageCounts(msgspec.Struct, frozen=True):
    """Sums of one variant's windows within one stage of one rollout."""

    users: int = 0
    successes: int = 0
    requests: int = 0
    hits: int = 0
    impressions: int = 0
    clicks: int = 0
    stage_users: int = 0
    first_items: int = 0
    repeats: int = 0


class Served(msgspec.Struct, frozen=True):
    """What requests of one variant in one stage of one rollout came to, as a reader counts them; sums since it began.

    Variants are `stable`, `canary`, and of a bandit `served_arm` of each version but the stable one.

    requests : asked of the variant's version, shown or in the shadow; errors : those it could not answer, so that another did
    empty : answers without an item; fallbacks : those of popularity, or of a version that stands in; slow : above `slow_ms`
    stood_in : fallbacks because the variant's version was not held or raised; the others are of users that it knows nothing of
    users, user_errors, user_empty, user_fallbacks, user_slow : the same of each user's first request in the rollout here
    latency : requests by bucket of `LATENCY_EDGES_MS`, of the whole answer; of a shadow, CPU time of its ranking
    compared : shadow requests whose list was compared with the one shown; overlap : sum of the shares of its items that the
        shadow's list has too; first_same : how often both began with the same item; dropped : those for which there was no time
    """

    requests: int = 0
    errors: int = 0
    empty: int = 0
    fallbacks: int = 0
    slow: int = 0
    users: int = 0
    user_errors: int = 0
    user_empty: int = 0
    user_fallbacks: int = 0
    user_slow: int = 0
    latency: tuple[int, ...] = (0,) * (len(LATENCY_EDGES_MS) + 1)
    compared: int = 0
    overlap: float = 0.0
    first_same: int = 0
    dropped: int = 0
    stood_in: int = 0


def served_arm(version: ModelVersion) -> str:
    """The variant that readers count the requests of a bandit's arm under: `arm` alone would be all arms together.

    >>> served_arm(ModelVersion("v3"))
    'arm:v3'
    """
    return f"arm:{version}"


class ReaderStatus(msgspec.Struct, frozen=True):
    """What one serving process says about one version: ready with this manifest's SHA-256, or refused with an error."""

    version: ModelVersion
    ready: bool
    manifest_sha256: str = ""
    error: str = ""
