"""Absolute breakers on what the canary's requests of the last seconds came to: no comparison, no test, no waiting.

- They are for the plainly broken, on a fast tick; what is only worse than stable is left to the guardrails.
- Counts are the difference of two sums. Sums fall when a reader leaves: what is negative is nothing.
- A shadow's latency is CPU time of its ranking: `max_p99_ms` is an absolute limit, and sense is in holding it against that too.
- Popularity for somebody of whom nothing is known is no fault of a version: of fallbacks only those count in which another stood
  in for it. In a shadow nobody does.
"""

from typing import Final

from online_models.contracts.rollouts import LATENCY_EDGES_MS, Policy, Served

LATENCY_REQUESTS: Final = 10
"""Times `breaker_requests` that the 99th percentile asks for."""


def tripped(recent: Served, policy: Policy, who: str = "canary") -> str | None:
    """Why a rollout is to be rolled back at once, or None.

    recent : of the requests of one variant within the last `breaker_seconds`; who : what the reason calls it

    >>> tripped(Served(requests=20, errors=20), Policy())
    'breaker: errors of 20 of 20 canary requests are above 20%'
    >>> tripped(Served(requests=19, errors=19), Policy()) is None
    True
    """
    if recent.requests < policy.breaker_requests:
        return None
    rates = (
        ("errors", recent.errors, policy.max_error_rate),
        ("empty answers", recent.empty, policy.max_empty_rate),
        ("fallbacks", recent.stood_in, policy.max_fallback_rate),
    )
    for name, count, most in rates:
        if count > most * recent.requests:
            return f"breaker: {name} of {count} of {recent.requests} {who} requests are above {most:.0%}"
    return _slow(recent, policy, who)


def _slow(recent: Served, policy: Policy, who: str) -> str | None:
    """Whether more than one request in a hundred surely took longer than `max_p99_ms`: those in buckets that begin there
    or later, so that a limit above the last edge never trips."""
    lower_edges = (0.0, *LATENCY_EDGES_MS)
    measured = sum(max(count, 0) for count in recent.latency)
    late = sum(
        max(count, 0) for edge, count in zip(lower_edges, recent.latency, strict=True) if edge >= policy.max_p99_ms
    )
    if measured < LATENCY_REQUESTS * policy.breaker_requests or late <= 0.01 * measured:
        return None
    return f"breaker: {late} of {measured} {who} requests took longer than {policy.max_p99_ms:g} ms"
