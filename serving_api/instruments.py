"""The Prometheus instruments of serving, in a registry of their own; several processes tell the sums of all of them.

Labels are bounded: routes are templates, never paths; domains and models are those of the settings; no user or
item is a label. What a request touches is resolved to its label once: `labels` alone costs more than counting does.
"""

import functools

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

LATENCY_BUCKETS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Instruments:
    """What a reader counts and measures.

    shared : the directory in which several processes count together; None for a process alone
    """

    def __init__(self, shared: str | None = None) -> None:
        self._shared = shared
        self.registry = CollectorRegistry()
        counter = functools.partial(Counter, registry=self.registry)
        self.requests = counter("penstock_requests", "Requests answered", ["route", "status"])
        self.latency = Histogram(
            "penstock_request_seconds",
            "Time from request to answer",
            ["route"],
            buckets=LATENCY_BUCKETS_SECONDS,
            registry=self.registry,
        )
        self.answers = counter("penstock_answers", "Recommendations given", ["domain", "variant", "source"])
        self.degraded = counter("penstock_degraded_answers", "Answers given while Redis was away", ["domain"])
        self.torn = counter(
            "penstock_torn_reads", "What Redis held of a user or a version and nobody could read", ["what", "domain"]
        )
        self.version_errors = counter(
            "penstock_version_errors", "Lists that a version raised on, so that another made them", ["model", "variant"]
        )
        self.impressions = counter("penstock_impressions_appended", "Impressions logged", ["domain"])
        refused = "Impressions that the event log refused, or had no room for in time"
        self.impressions_lost = counter("penstock_impressions_lost", refused, ["domain"])
        self.events = counter("penstock_events_appended", "Events accepted over HTTP")
        self.events_refused = counter("penstock_events_refused", "Events refused over HTTP")
        self.epoch = Gauge(
            "penstock_reader_epoch",
            "Epoch of the route that is served",
            ["model"],
            registry=self.registry,
            multiprocess_mode="mostrecent",
        )
        self.artifacts_refused = counter("penstock_artifacts_refused", "Versions that were not fit to serve", ["model"])
        self.poll_failures = counter("penstock_poll_failures", "Polls that a store did not answer", ["store"])
        self.requests_of = functools.cache(self.requests.labels)
        self.latency_of = functools.cache(self.latency.labels)
        self.answers_of = functools.cache(self.answers.labels)

    def exposition(self) -> bytes:
        """All of it in the Prometheus text format."""
        if self._shared is None:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        MultiProcessCollector(together, self._shared)  # type: ignore[no-untyped-call]
        return generate_latest(together)
