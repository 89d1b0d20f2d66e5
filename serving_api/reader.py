"""What one serving process knows of its models, by polling: routes, versions, new items, popularity, titles.

- A request takes one frozen `ModelState` and works with that alone: one route and one set of versions.
- Whatever a store does not answer stays as it was last known, and `missing` says so.
- What is replaced rarely and is large, versions and catalogues, is taken out of the collector's sight: walking through millions
  of ids would hold up requests. It is freed by its reference counts all the same.
- A route of a smaller epoch, or none after there was one, is Redis that lost data: the last good one is kept
  until the controller has written it again.
"""

import gc
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from online_models.content import ContentIndex
from online_models.contracts.events import Item
from online_models.contracts.ids import ModelName, ModelVersion
from online_models.contracts.rollouts import Route
from online_models.errors import PenstockError, StoreUnavailable
from online_models.ports import (
    ArtifactStore,
    InteractionStore,
    ModelRegistry,
    RouteStore,
    StreamReads,
)
from serving_api.facts import Facts
from serving_api.instruments import Instruments
from serving_api.model_cache import ModelCache
from serving_api.quiet import Quiet
from serving_api.ranked_list import RankedList
from serving_api.ranking import warm_up
from serving_api.retrieval import VersionView
from serving_api.rules import Rule
from serving_api.views import Views

log: Final = logging.getLogger(__name__)

CATALOGUE_SECONDS: Final = 60.0
"""A catalogue is read again after so long though nothing is missing in it: prices, ages and titles change."""

SEGMENTS_SECONDS: Final = 30.0
"""Between two reads of what a language model says of new items."""


@dataclass(frozen=True, slots=True)
class ModelState:
    """One model as this process knows it at one moment.

    popular : the stream's list, empty while it has none
    content : of the catalogue's entries in their order, None while there are none; facts : of no rows yet
    """

    model: ModelName
    route: Route | None = None
    versions: Mapping[ModelVersion, VersionView] = field(default_factory=dict)
    popular: RankedList = field(default_factory=lambda: RankedList.of([]))
    content: ContentIndex | None = None
    facts: Facts = field(default_factory=lambda: Facts.of({}, (), ""))

    @property
    def catalogue(self) -> Mapping[str, Item]:
        """Item id -> entry, in the order of ids."""
        return self.facts.catalogue


@dataclass(frozen=True, slots=True)
class ReaderStores:
    """What a reader polls."""

    routes: RouteStore
    stream: StreamReads
    registry: ModelRegistry
    artifacts: ArtifactStore
    interactions: InteractionStore


@dataclass(frozen=True, slots=True)
class ReaderTimes:
    """catalogue_refresh : least time between two reads of a catalogue
    retire : how long a version that no route names stays warm
    """

    catalogue_refresh: timedelta
    retire: timedelta


class Reader:
    """Polls the stores on a thread of its own; everything that requests use is replaced whole."""

    def __init__(
        self,
        reader_id: str,
        models: Sequence[ModelName],
        stores: ReaderStores,
        times: ReaderTimes,
        instruments: Instruments,
        clock: Callable[[], datetime],
        rules: Sequence[Rule] = (),
        *,
        reports: bool = True,
    ) -> None:
        """rules : what an operator says about lists; reports : count as one that serves, and say what is loaded"""
        self.reader_id = reader_id
        self._stores = stores
        self._times = times
        self._instruments = instruments
        self._clock = clock
        self._reports = reports
        self._rules = rules
        self._views = {model: Views(model, Facts.of({}, rules, model)) for model in models}
        self._states = {model: ModelState(model, facts=views.facts) for model, views in self._views.items()}
        self._caches = {model: self._cache(model) for model in models}
        self._catalogue_read_at: dict[ModelName, float] = {}
        self._unknown_items: set[ModelName] = set()
        self._segments_asked: dict[ModelName, tuple[set[ModelVersion], float]] = {}
        self._awaited = {"redis", "postgres"}
        self._down: dict[str, str] = {}
        self._quiet = Quiet()
        self._was_ready = False
        self._served: set[ModelName] = set()

    def state(self, model: ModelName) -> ModelState:
        """The model as known now. Raises KeyError for a model that is not served."""
        return self._states[model]

    def degraded(self) -> list[str]:
        """What the last poll did not get, silent stores and single models that failed, and versions of a route that others stand
        in for here."""
        missing, down = self.missing(), list(self._down.items())
        absent = [each for state in self._states.values() for each in self._absent(state) if each not in missing]
        return [f"{what}: {reason}" for what, reason in down] + absent

    def missing(self) -> list[str]:
        """What keeps this process from serving: stores that have never answered, and stable versions that are not loaded. Once
        it has been ready, only that it holds no version of a model any more: a new route must not take all readers away."""
        return [f"{store}: has not answered yet" for store in sorted(self._awaited)] + [
            absent
            for state in self._states.values()
            if state.route is not None and state.route.stable not in state.versions
            if not self._was_ready or (state.model in self._served and not state.versions)
            for absent in self._absent(state)[:1]
        ]

    def want_titles(self, model: ModelName) -> None:
        """Say that an item without a catalogue entry was served: the catalogue is read again soon."""
        self._unknown_items.add(model)

    def poll(self) -> None:
        """One pass over all models. What fails is logged, counted, and left as it was."""
        self._attempt("versions", self._sync_versions)
        # Redis before PostgreSQL: one that hangs must not make this reader look dead.
        self._attempt("redis", self._poll_redis)
        self._attempt("versions", self._sync_versions)
        self._attempt("postgres", self._poll_postgres)
        self._served |= {model for model, state in self._states.items() if state.versions}
        self._was_ready = self._was_ready or not self.missing()

    def settle(self) -> None:
        """Poll until the versions of the present routes are loaded or refused."""
        self.poll()
        for cache in self._caches.values():
            cache.settle()
        self.poll()

    def run(self, stop: threading.Event, poll_seconds: float) -> None:
        """Poll until `stop` is set."""
        while not stop.wait(poll_seconds):
            self.poll()

    def close(self) -> None:
        """Stop loading versions."""
        for cache in self._caches.values():
            cache.close()

    def _cache(self, model: ModelName) -> ModelCache:
        refused = self._instruments.artifacts_refused.labels(model)
        retire_seconds = self._times.retire.total_seconds()
        return ModelCache(model, self._stores.artifacts, self._stores.registry, retire_seconds, refused.inc)

    def _attempt(self, store: str, part: Callable[[ModelName], None]) -> None:
        """One part of a poll for every model; one that fails does not stop the others, a silent store does."""
        for model in list(self._states):
            try:
                part(model)
            except StoreUnavailable as error:
                self._failed(store, store, error)
                return
            except Exception as error:  # noqa: BLE001 - the boundary of a tick: the next one tries again
                self._failed(f"{store} {model}", store, error)
            else:
                self._answered(f"{store} {model}")
        self._awaited.discard(store)
        self._answered(store)

    def _failed(self, what: str, store: str, error: Exception) -> None:
        if what not in self._down:
            expected = isinstance(error, PenstockError)
            log.warning("poll_failed what=%r error=%s", what, error, exc_info=not expected)
        self._down[what] = str(error) or type(error).__name__
        self._instruments.poll_failures.labels(store).inc()

    def _answered(self, what: str) -> None:
        if self._down.pop(what, None) is not None:
            log.info("poll_answered what=%r", what)

    def _poll_redis(self, model: ModelName) -> None:
        self._poll_route(model)
        if self._reports:
            self._report(model)
        self._poll_stream(model)

    def _poll_postgres(self, model: ModelName) -> None:
        self._stores.registry.models()
        if self._catalogue_is_due(model):
            items = self._stores.interactions.items(model)
            self._catalogue_read_at[model] = time.monotonic()
            self._unknown_items.discard(model)
            catalogue = {item.item_id: item for item in items}
            if catalogue != self._states[model].catalogue:
                self._show(model, self._views[model].with_facts(Facts.of(catalogue, self._rules, model)))
                gc.freeze()

    def _poll_route(self, model: ModelName) -> None:
        state, route = self._states[model], self._stores.routes.route(model)
        # of the same epoch is another one only after PostgreSQL lost time and gave the epoch again
        if route is not None and (state.route is None or (route.epoch >= state.route.epoch and route != state.route)):
            log.info("route_changed model=%s epoch=%d document=%s", model, route.epoch, route)
            self._instruments.epoch.labels(model).set(route.epoch)
            self._states[model] = replace(state, route=route)

    def _catalogue_is_due(self, model: ModelName) -> bool:
        read_at = self._catalogue_read_at.get(model)
        if read_at is None:
            return True
        wanted = model in self._unknown_items or not self._states[model].catalogue
        period = self._times.catalogue_refresh.total_seconds()
        return time.monotonic() - read_at >= (period if wanted else max(period, CATALOGUE_SECONDS))

    def _sync_versions(self, model: ModelName) -> None:
        state, cache = self._states[model], self._caches[model]
        cache.sync(versions_of(state.route), time.monotonic())
        held = cache.loaded()
        if {version: view.loaded for version, view in state.versions.items()} != held:
            self._show(model, self._views[model].with_versions(held))
            gc.freeze()

    def _poll_stream(self, model: ModelName) -> None:
        popular = self._stores.stream.popular(model)
        if popular and popular != self._states[model].popular.ids:
            self._states[model] = replace(self._states[model], popular=RankedList.of(popular))
        self._poll_segments(model)
        views = self._views[model]
        if views.is_due(self._stores.stream.publication(model), time.monotonic()):
            begun = time.monotonic()
            try:
                published = self._stores.stream.published(model, list(views.loaded))
                self._show(model, views.with_publication(published))
            finally:
                now = time.monotonic()
                self._views[model] = self._views[model].resting(now, now - begun)

    def _poll_segments(self, model: ModelName) -> None:
        """What language models say of new items: written by a training and by workers that score again, and so read rarely."""
        views, now = self._views[model], time.monotonic()
        wanted = {version: named for version, each in views.loaded.items() if (named := each.manifest.language_model)}
        asked, due_at = self._segments_asked.get(model, (set(), 0.0))
        if (asked == set(wanted) and now < due_at) or not (wanted or views.segments):
            return
        read = {version: self._stores.stream.segments(model, named) for version, named in wanted.items()}
        self._segments_asked[model] = set(wanted), now + SEGMENTS_SECONDS
        found = {version: raw for version, raw in read.items() if raw is not None}
        if found != views.segments:
            self._show(model, views.with_segments(found))

    def _show(self, model: ModelName, views: Views) -> None:
        """Let requests see a model's versions anew, but for those that cannot rank."""
        unfit = self._refuse_unfit(model, views)
        if unfit:
            fit = {version: loaded for version, loaded in views.loaded.items() if version not in unfit}
            views = views.with_versions(fit)
        self._count_torn(views)
        self._views[model] = views
        self._states[model] = replace(
            self._states[model],
            versions=views.built,
            content=views.content,
            facts=views.facts,
        )

    def _count_torn(self, views: Views) -> None:
        for (what, version), error in views.torn.items():
            self._instruments.torn.labels(what, views.model).inc()
            if self._quiet.tells(f"{what} {views.model}", time.monotonic()):
                log.warning("%s_torn model=%s version=%s error=%s", what, views.model, version, error)

    def _refuse_unfit(self, model: ModelName, views: Views) -> set[ModelVersion]:
        """Try the versions that are new. One that raises is refused: it would keep the others from being seen at all."""
        unfit = set()
        for version, view in views.built.items():
            if version not in self._states[model].versions:
                try:
                    warm_up(view)
                except Exception as error:  # noqa: BLE001 - a version is data: what is wrong with it, it says itself
                    self._caches[model].refuse(version, f"cannot rank: {error!r}", time.monotonic())
                    unfit.add(version)
        return unfit

    def _report(self, model: ModelName) -> None:
        """Say what is held, then that this reader lives: it is never seen alive without its statuses."""
        for version in versions_of(self._states[model].route):
            status = self._caches[model].status(version)
            # ready is what requests can use, which a held version without a view is not
            if status is not None and (not status.ready or version in self._states[model].versions):
                self._stores.routes.put_status(model, self.reader_id, status)
        self._stores.routes.heartbeat(model, self.reader_id, self._clock())

    def _absent(self, state: ModelState) -> list[str]:
        """Versions that its route names and requests cannot be answered by, stable first, and why."""
        absent = [version for version in versions_of(state.route) if version not in state.versions]
        return [f"{state.model} {version}: {self._absence(state.model, version)}" for version in absent]

    def _absence(self, model: ModelName, version: ModelVersion) -> str:
        status = self._caches[model].status(version)
        return f"refused: {status.error}" if status is not None and status.error else "not loaded yet"


def versions_of(route: Route | None) -> list[ModelVersion]:
    """The versions that a route names, each once, stable first."""
    if route is None:
        return []
    named = (route.stable, route.canary, *(arm.version for arm in route.arms))
    return list(dict.fromkeys(version for version in named if version is not None))
