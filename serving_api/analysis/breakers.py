"""Absolute breakers on what the canary's requests of the last seconds came to: no comparison, no test, no waiting.

- They are for the plainly broken, on a fast tick; what is only worse than stable is left to the guardrails.
- Counts are the difference of two sums. Sums fall when a reader leaves: what is negative is nothing.
"""

from typing import Final

from online_models.contracts.rollouts import LATENCY_EDGES_MS, Policy, Served

LATENCY_REQUESTS: Final = 10
"""Times `breaker_requests` that the 99th percentile asks for."""


def tripped(recent: Served, policy: Policy) -> str | None:
    """Why the canary is to be rolled back at once, or None.

    recent : of its requests within the last `breaker_seconds`

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
        ("fallbacks", recent.fallbacks, policy.max_fallback_rate),
    )
    for name, count, most in rates:
        if count > most * recent.requests:
            return f"breaker: {name} of {count} of {recent.requests} canary requests are above {most:.0%}"
    return _slow(recent, policy)


def _slow(recent: Served, policy: Policy) -> str | None:
    """Whether more than one request in a hundred surely took longer than `max_p99_ms`: those in buckets that begin there
    or later, so that a limit above the last edge never trips."""
    lower_edges = (0.0, *LATENCY_EDGES_MS)
    measured = sum(max(count, 0) for count in recent.latency)
    late = sum(
        max(count, 0) for edge, count in zip(lower_edges, recent.latency, strict=True) if edge >= policy.max_p99_ms
    )
    if measured < LATENCY_REQUESTS * policy.breaker_requests or late <= 0.01 * measured:
        return None
    return f"breaker: {late} of {measured} canary requests took longer than {policy.max_p99_ms:g} ms"
