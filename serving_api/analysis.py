"""From the counts of a rollout's stages to a verdict: evidence of harm, enough good to advance, or neither.

- Harm's unit is a user's first exposure in the rollout; a success is such a user who clicked or consumed.
- Harm is a sequential test that may be looked at on every tick: the conditional-binomial e-process of Lindon
  and Malek, "Anytime-Valid Inference for Multinomial Count Data" (NeurIPS 2022), with a one-sided truncated
  Beta prior. Stages are multiplied, never pooled: the base rate may drift between them.
- Beside it stands a breaker for the clearly bad: a hit rate below half of stable's on enough requests. A threshold, not a test:
  it catches what a small population's first exposures are too few to prove. It compares rates, so it holds whatever the split.
- A split of users far from the weight (sample ratio mismatch) stops the harm test and the advance, never the breaker.
- The advance rule is plain in this version: a minimum of requests in the stage, and a hit rate within the margin. It has no
  error bound. It counts all requests, because a small population has met the rollout after one stage: later ones would wait
  for first exposures for ever.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import log, log1p, sqrt
from typing import Final

from scipy.special import betainc, betaln

from online_models.contracts.rollouts import FULL_WEIGHT_BP, StageCounts

Evidence = dict[str, object]
"""The numbers behind a verdict, ready for JSON."""

SPLIT_SIGMAS: Final = 5.0
"""A split of users this many standard deviations from the weight is no accident, however often it is looked at."""

_LOG_SMALLEST: Final = -600.0
"""Below this, `betainc` runs out of double precision and the series takes over."""


@dataclass(frozen=True, slots=True)
class GateConfig:
    """What counts as harm and as good enough.

    alpha : probability of ever rolling back a canary that is not worse than stable
    tolerated_harm : relative loss that is not yet harm; the null hypothesis is
        p_canary >= (1 - tolerated_harm) p_stable
    smallest_effect : relative loss that the test is tuned to find
    breaker_ratio, breaker_requests : a hit rate below this share of stable's is harm once both arms have so many requests in
        the stage
    margin : a stage is passed at a hit rate of at least (1 - margin) times stable's
    """

    alpha: float = 0.05
    tolerated_harm: float = 0.0
    smallest_effect: float = 0.2
    margin: float = 0.1
    breaker_ratio: float = 0.5
    breaker_requests: int = 300


@dataclass(frozen=True, slots=True)
class StageTally:
    """What both arms did in one stage while the canary had `weight_bp` of the users."""

    weight_bp: int
    canary: StageCounts
    stable: StageCounts


@dataclass(frozen=True, slots=True)
class Required:
    """Requests of each arm in a stage without which it says nothing."""

    canary_requests: int
    stable_requests: int


@dataclass(frozen=True, slots=True)
class Successful:
    """The stage is good enough to go on."""

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


def log_harm(tally: StageTally, gate: GateConfig) -> float:
    """Log e-value of one stage against "the canary is not worse"; large is evidence of harm.

    With C successes in the canary and B in stable, a success is the canary's with probability
    q(r) = rho r / (rho r + 1 - rho) at rate ratio r and canary share rho. Against q0 = q(1 - tolerated_harm)
    stands a Beta(a, b) prior cut to q < q0:

        E = I_q0(a + C, b + B) Be(a + C, b + B) / (I_q0(a, b) Be(a, b)) / (q0^C (1 - q0)^B)

    >>> gate = GateConfig()
    >>> log_harm(StageTally(500, StageCounts(users=100), StageCounts(users=1900)), gate)  # no success
    0.0
    >>> bad = StageTally(5000, StageCounts(users=500, successes=20), StageCounts(users=500, successes=80))
    >>> log_harm(bad, gate) > log(1 / gate.alpha)
    True
    """
    rho, ratio = tally.weight_bp / FULL_WEIGHT_BP, 1.0 - gate.tolerated_harm
    if not 0.0 < rho < 1.0:
        return 0.0  # one arm alone compares with nothing
    q0 = rho * ratio / (rho * ratio + 1.0 - rho)
    kappa = 1.0 / (gate.smallest_effect**2 * q0 * (1.0 - q0))
    a, b = kappa * q0, kappa * (1.0 - q0)
    c, s = tally.canary.successes, tally.stable.successes
    prior = _log_betainc(a, b, q0) + float(betaln(a, b))
    posterior = _log_betainc(a + c, b + s, q0) + float(betaln(a + c, b + s))
    return posterior - prior - c * log(q0) - s * log1p(-q0)


def verdict(tallies: Sequence[StageTally], required: Required, gate: GateConfig) -> Verdict:
    """Judge a rollout by all its stages so far; the last tally is the current stage.

    Impossible counts are an Error. Then the breaker fails the rollout, whatever the split of users; a split far from
    the weight in any stage is an Error, too; and harm in the product of all stages fails the rollout at any time. The
    current stage succeeds when both arms have the required requests and the canary's hit rate is at least
    (1 - margin) of stable's. No data is Inconclusive, never Successful.

    >>> verdict([], Required(100, 20), GateConfig()).reason
    'no stage has been measured'
    >>> good = StageTally(500, StageCounts(requests=200, hits=40), StageCounts(requests=3800, hits=760))
    >>> type(verdict([good], Required(100, 20), GateConfig())).__name__
    'Successful'
    """
    stages: Evidence = {"stages": [asdict(tally) for tally in tallies]}
    if (wrong := _first_wrong(tallies, _impossible)) is not None:
        return Error(wrong, stages)
    if tallies and (why := _breaks(tallies[-1], gate)) is not None:
        return Failed(why, stages)
    if (wrong := _first_wrong(tallies, _mismatch)) is not None:
        return Error(wrong, stages)
    log_e = sum(log_harm(tally, gate) for tally in tallies)
    evidence: Evidence = {
        "log_e": round(log_e, 4),
        "log_e_limit": round(-log(gate.alpha), 4),
        **stages,
    }
    if log_e >= -log(gate.alpha):
        return Failed(f"evidence of harm: log e-value {log_e:.2f} >= {-log(gate.alpha):.2f}", evidence)
    if not tallies:
        return Inconclusive("no stage has been measured", evidence)
    return _advance(tallies[-1], required, gate, evidence)


def _breaks(tally: StageTally, gate: GateConfig) -> str | None:
    """Why the current stage trips the breaker, or None."""
    canary, stable = tally.canary, tally.stable
    if min(canary.requests, stable.requests) < max(gate.breaker_requests, 1):
        return None
    rate, reference = canary.hits / canary.requests, stable.hits / stable.requests
    if rate >= gate.breaker_ratio * reference:
        return None
    found = f"{rate:.3f} of {canary.requests} canary requests, {reference:.3f} of {stable.requests} stable"
    return f"breaker: hit rate {found}: below {gate.breaker_ratio:.2f} of stable"


def _advance(tally: StageTally, required: Required, gate: GateConfig, evidence: Evidence) -> Successful | Inconclusive:
    """The plain rule: enough requests in both arms and a hit rate within the margin; no bound on its error."""
    canary, stable = tally.canary, tally.stable
    if canary.requests < max(required.canary_requests, 1) or stable.requests < max(required.stable_requests, 1):
        need = f"{required.canary_requests} canary and {required.stable_requests} stable"
        return Inconclusive(
            f"{canary.requests} canary and {stable.requests} stable requests of {need} needed", evidence
        )
    if canary.hits + stable.hits == 0:
        return Inconclusive("no request of either arm had a hit", evidence)
    rate, reference = canary.hits / canary.requests, stable.hits / stable.requests
    found = f"hit rate {rate:.3f} of {canary.requests} canary requests, {reference:.3f} of {stable.requests} stable"
    if rate >= (1.0 - gate.margin) * reference:
        return Successful(found, evidence)
    return Inconclusive(f"{found}: below {1.0 - gate.margin:.2f} of stable, yet no evidence of harm", evidence)


def _first_wrong(tallies: Sequence[StageTally], check: Callable[[StageTally], str | None]) -> str | None:
    for stage, tally in enumerate(tallies):
        if (wrong := check(tally)) is not None:
            return f"stage {stage}: {wrong}"
    return None


def _mismatch(tally: StageTally) -> str | None:
    """Why the split of users is no accident: the harm test takes the weight for the canary's share."""
    rho, users = tally.weight_bp / FULL_WEIGHT_BP, tally.canary.users + tally.stable.users
    if abs(tally.canary.users - rho * users) > SPLIT_SIGMAS * max(sqrt(users * rho * (1.0 - rho)), 1.0):
        return f"the canary has {tally.canary.users} of {users} users at a weight of {rho:.2%}"
    return None


def _impossible(tally: StageTally) -> str | None:
    """Why the counts cannot be right."""
    for arm, counts in (("canary", tally.canary), ("stable", tally.stable)):
        if not 0 <= counts.successes <= counts.users:
            return f"{arm} has {counts.successes} successes of {counts.users} users"
        if not 0 <= counts.hits <= counts.requests:
            return f"{arm} has {counts.hits} hits of {counts.requests} requests"
    return None


def _log_betainc(a: float, b: float, x: float) -> float:
    """log I_x(a, b), also where I_x underflows.

    There x lies far below the mean a / (a + b), and I_x = x^a (1-x)^b / (a Be(a, b)) 2F1(a + b, 1; a + 1; x)
    is a series whose terms fall geometrically. (`scipy.special.hyp2f1` is wrong by e^200 at such parameters.)
    """
    log_front = a * log(x) + b * log1p(-x) - log(a) - float(betaln(a, b))
    if log_front > _LOG_SMALLEST:
        return log(float(betainc(a, b, x)))
    if x > a / (a + b):
        return 0.0  # the other tail is below e^-600
    total = term = 1.0
    n = 0
    while term > 1e-17 * total:
        term *= x * (a + b + n) / (a + 1 + n)
        total += term
        n += 1
    return log_front + log(total)
