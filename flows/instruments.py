"""The Prometheus instruments of one stream job, in a registry of their own.

Labels are bounded: models are domains, features are declared, detectors and verdicts are a closed set; no word, user or
item is a label.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from online_models.errors import SettingsError
from online_models.ports import FeatureWindowRow

VERDICTS: Final = ("drift", "unconfirmed", "seasonal", "stable", "inconclusive", "unjudged")
"""All that `FeatureWindowRow.verdict` can be."""


class Instruments:
    """What the latest window of each model and length showed, as gauges, and how much has been judged, as counters.

    windows_seconds : the declared window lengths, which label what is told; a window that had to grow keeps the label of the
        longest one that fits into it

    >>> instruments = Instruments([60])
    >>> row = FeatureWindowRow("movies", 0, 60_000, "rating", "numeric", "v1", 100, 20, "drift", statistics={"psi": 0.5})
    >>> instruments.observe([row])
    >>> of = {"model": "movies", "feature": "rating", "window": "60"}
    >>> instruments.registry.get_sample_value("penstock_feature_coverage", of)
    0.8
    >>> instruments.registry.get_sample_value("penstock_feature_verdict", {**of, "verdict": "drift"})
    1.0
    """

    def __init__(self, windows_seconds: Sequence[int], registry: CollectorRegistry | None = None) -> None:
        if not windows_seconds or min(windows_seconds) <= 0:
            raise ValueError(f"expected window lengths above 0 s, got {list(windows_seconds)}")
        self.registry = registry = registry or CollectorRegistry()
        self._lengths = sorted(windows_seconds)
        self._detectors: dict[tuple[str, str, str], set[str]] = {}
        self.statistic = self._gauge("statistic", "Drift statistic of the latest window", "detector")
        self.verdict = self._gauge("verdict", "1 for the verdict on the latest window, 0 for the others", "verdict")
        self.coverage = self._gauge("coverage", "Share of the events that carry the feature")
        self.cardinality = self._gauge("cardinality", "Distinct words in the latest window (estimate)")
        self.new_share = self._gauge("new_share", "Share of words that the reference never had")
        self.p_value = self._gauge("p_value", "Calibrated p-value, before correction for the number of features")
        self.effect = self._gauge("effect", "Size of the drift, about PSI for small shifts")
        self.detectable = self._gauge("detectable", "Smallest effect that such a window would show")
        self.information = self._gauge("information_nats", "Mutual information with the target")
        self.rank = self._gauge("rank", "Rank by mutual information with the target, 1 is best")
        self.events = self._gauge("events", "Events of the latest window that should carry the feature")
        self.window_end = Gauge(
            "penstock_window_end_seconds",
            "Event time at which the latest window ended",
            ["model", "window"],
            registry=registry,
        )
        self.windows = Counter("penstock_windows", "Windows reported", ["model", "window"], registry=registry)
        self.alarms = Counter(
            "penstock_feature_alarms",
            "Windows in which the feature drifted",
            ["model", "feature", "window"],
            registry=registry,
        )

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(
            f"penstock_feature_{name}", meaning, ["model", "feature", "window", *labels], registry=self.registry
        )

    def observe(self, rows: Sequence[FeatureWindowRow]) -> None:
        """Take in the rows of closed windows, oldest first; a window's rows come in one call."""
        windows = dict.fromkeys((row.model, row.window_start_ms, row.window_end_ms) for row in rows)
        for model, start_ms, end_ms in windows:
            self.windows.labels(model, self._window(start_ms, end_ms)).inc()
            self.window_end.labels(model, self._window(start_ms, end_ms)).set(end_ms / 1000)
        for row in rows:
            self._observe(row)

    def _observe(self, row: FeatureWindowRow) -> None:
        of = (row.model, row.feature, self._window(row.window_start_ms, row.window_end_ms))
        self.events.labels(*of).set(row.events)
        coverage = 1 - row.missing / row.events if row.events else None
        for gauge, figure in (
            (self.coverage, coverage),
            (self.cardinality, row.cardinality),
            (self.new_share, row.new_share),
            (self.p_value, row.p_value),
            (self.effect, row.effect),
            (self.detectable, row.detectable),
            (self.information, row.information),
            (self.rank, row.rank),
        ):
            # Prometheus reads NaN as "no value"; a gauge that kept its last figure would hide that there is none.
            gauge.labels(*of).set(math.nan if figure is None else figure)
        for detector in self._detectors.setdefault(of, set()) | set(row.statistics):
            self._detectors[of].add(detector)
            self.statistic.labels(*of, detector).set(row.statistics.get(detector, math.nan))
        for verdict in VERDICTS:
            self.verdict.labels(*of, verdict).set(verdict == row.verdict)
        self.alarms.labels(*of).inc(row.verdict == "drift")

    def _window(self, start_ms: int, end_ms: int) -> str:
        fitting = [length for length in self._lengths if length * 1000 <= end_ms - start_ms]
        return str(max(fitting, default=self._lengths[0]))

    def serve(self, port: int) -> Callable[[], None]:
        """Answer `GET /metrics` on a daemon thread; the returned function ends that.

        Raises
        ------
        SettingsError
            When the port is taken.
        """
        try:
            server, thread = start_http_server(port, registry=self.registry)
        except OSError as error:
            raise SettingsError(f"metrics port {port}: {error}") from error

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return stop
