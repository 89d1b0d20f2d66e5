"""The Prometheus instruments of one serving process, in a registry of their own.

Labels are bounded: routes are templates, never paths; domains and models are those of the settings; no user or
item is a label.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

LATENCY_BUCKETS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Instruments:
    """What a reader counts and measures."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("penstock_requests", "Requests answered", ["route", "status"], registry=self.registry)
        self.latency = Histogram(
            "penstock_request_seconds",
            "Time from request to answer",
            ["route"],
            buckets=LATENCY_BUCKETS_SECONDS,
            registry=self.registry,
        )
        self.answers = Counter(
            "penstock_answers",
            "Recommendations given",
            ["domain", "variant", "source"],
            registry=self.registry,
        )
        self.degraded = Counter(
            "penstock_degraded_answers",
            "Answers given while Redis was away",
            ["domain"],
            registry=self.registry,
        )
        self.impressions = Counter(
            "penstock_impressions_appended", "Impressions logged", ["domain"], registry=self.registry
        )
        self.impressions_lost = Counter(
            "penstock_impressions_lost",
            "Impressions that the event log refused",
            ["domain"],
            registry=self.registry,
        )
        self.events = Counter("penstock_events_appended", "Events accepted over HTTP", registry=self.registry)
        self.events_refused = Counter("penstock_events_refused", "Events refused over HTTP", registry=self.registry)
        self.epoch = Gauge(
            "penstock_reader_epoch", "Epoch of the route that is served", ["model"], registry=self.registry
        )
        self.artifacts_refused = Counter(
            "penstock_artifacts_refused",
            "Versions that were not fit to serve",
            ["model"],
            registry=self.registry,
        )
        self.poll_failures = Counter(
            "penstock_poll_failures", "Polls that a store did not answer", ["store"], registry=self.registry
        )
