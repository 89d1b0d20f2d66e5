"""Open requests: what each answer of the API showed and what was taken of it, until its outcome is final.

- A request is final once the watermark is `attribution` past it; final ones come in order of event time.
- An answer to an impression may come before it: it may be in another writer's segment, a moment ahead.
- A request is of the arm that its user is in, whoever answered it: what an arm cannot answer stays on its account.
- What an impression says of its rollout is taken only where a plan may say so; else it is outside of rollouts.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from types import MappingProxyType
from typing import Any, Final

from online_models.contracts.events import (
    ASKED_VARIANT_FEATURE,
    ASKED_VERSION_FEATURE,
    LANGUAGE_FEATURE,
    LANGUAGE_VERSION_FEATURE,
    MAX_ID_LENGTH,
    SHADOW_PLACE_FEATURE,
    SHADOW_VERSION_FEATURE,
    STAGE_FEATURE,
    VARIANT_FEATURE,
    Event,
    EventType,
    FeatureValue,
)
from online_models.contracts.ids import ModelName, ModelVersion
from online_models.contracts.rollouts import MOST_STAGES, SHADOW_PLACES, SHADOW_POSITIONS, Variant

FALLBACK: Final = ModelVersion("popularity")
"""Stands for the version in the windows of answers that no model gave."""

VARIANTS: Final = frozenset(each.value for each in Variant)
"""What an impression may say that it is of."""

ARMS: Final = VARIANTS - {Variant.FALLBACK.value}
"""What an impression may say that its user is in."""

STAGES: Final = range(-1, MOST_STAGES)
"""Of the longest plan; -1 is before its first."""

ROLLOUTS: Final = range(1, 2**63)
"""Numbers that a row may have."""

ShownBy = tuple[int, str, ModelVersion]
"""Stage, variant and version."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One event that matters for outcomes: an impression, or an answer to one."""

    event: Event
    ts_ms: int
    user: int


@dataclass(frozen=True, slots=True)
class ModelOutcomes:
    """One chunk's outcomes of one model, in source order."""

    model: ModelName
    outcomes: list[Outcome]


@dataclass(slots=True)
class Request:
    """One answered request until its outcome is final. Mutable: it collects items and answers."""

    ts_ms: int
    user: int
    version: ModelVersion
    """Of the arm that its user is in; outside of rollouts of who answered."""
    rollout_id: int
    stage: int
    variant: str
    """The arm that its user is in; else one of `VARIANTS`, or empty."""
    shown: set[str] = field(default_factory=set)
    taken: set[str] = field(default_factory=set)
    scores: dict[str, float] = field(default_factory=dict)
    """What the language model said of the items that it had a say in."""
    scored_by: ModelVersion | None = None
    """Whose language model that is; None of one that was logged before impressions told."""
    shadow: ModelVersion | None = None
    """The version that was scored in the shadow of it."""
    places: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Where its items were shown, and their places in the shadow's list, `SHADOW_PLACES` for none; of the first positions."""

    @property
    def shown_by(self) -> ShownBy:
        """Whose account it is on within its rollout."""
        return (self.stage, self.variant, self.version)

    def take_over(self, told: "Request") -> None:
        """Go by what another impression tells of the answer, if that names a variant."""
        if told.variant:
            self.version, self.rollout_id, self.stage = told.version, told.rollout_id, told.stage
            self.variant, self.shadow = told.variant, told.shadow


class OpenRequests:
    """One model's open requests, and how far event time has come.

    Parameters
    ----------
    attribution_ms : how long after a request an answer counts for it
    window_ms : length of the windows that final requests are counted in
    """

    def __init__(self, attribution_ms: int, window_ms: int) -> None:
        self._attribution_ms = attribution_ms
        self._window_ms = window_ms
        self._open: dict[str, Request] = {}
        self._early: dict[str, list[tuple[str, int]]] = {}
        self._newest_ms = 0

    def add(self, outcomes: Iterable[Outcome]) -> list[Request]:
        """Take events in; returns the requests that are final by them, in order of event time."""
        for outcome in outcomes:
            self._newest_ms = max(self._newest_ms, outcome.ts_ms)
            if outcome.event.type is EventType.IMPRESSION:
                self._show(outcome)
            else:
                self._take(outcome)
        return self._final()

    @property
    def forgotten_until_ms(self) -> int:
        """Windows that end before this event time are final."""
        return self._newest_ms - self._attribution_ms - self._window_ms

    def window_start_ms(self, ts_ms: int) -> int:
        """Where the window of an event time begins."""
        return ts_ms // self._window_ms * self._window_ms

    def _show(self, outcome: Outcome) -> None:
        event = outcome.event
        assert event.request_id is not None
        request = self._open.get(event.request_id)
        # A request so late would begin its window anew, and its counts would replace the full ones.
        if request is None and self.window_start_ms(outcome.ts_ms) + self._window_ms < self.forgotten_until_ms:
            return
        if request is None:
            request = self._open[event.request_id] = _request(outcome)
        elif not request.variant:  # so far by impressions of somebody else, who repeats the request
            request.take_over(_request(outcome))
        request.shown.add(event.item_id)
        features = event.features or {}
        score = features.get(LANGUAGE_FEATURE)
        if score is not None and isinstance(score, (float, int)) and isfinite(score):
            request.scores[event.item_id] = float(score)
            request.scored_by = _version(features.get(LANGUAGE_VERSION_FEATURE))
        if request.shadow is not None and event.position is not None and 0 <= event.position < SHADOW_POSITIONS:
            place = _number(features.get(SHADOW_PLACE_FEATURE), range(SHADOW_PLACES))
            request.places[event.item_id] = (event.position, SHADOW_PLACES if place is None else place)
        for item, ts_ms in self._early.pop(event.request_id, []):
            self._answer(event.request_id, item, ts_ms)

    def _take(self, outcome: Outcome) -> None:
        event = outcome.event
        assert event.request_id is not None
        self._answer(event.request_id, event.item_id, outcome.ts_ms)

    def _answer(self, request_id: str, item: str, ts_ms: int) -> None:
        request = self._open.get(request_id)
        if request is None or item not in request.shown:
            self._early.setdefault(request_id, []).append((item, ts_ms))
        # By event time, not by chunk: an answer that comes too late is none, wherever its chunk began.
        elif ts_ms <= request.ts_ms + self._attribution_ms:
            request.taken.add(item)

    def _final(self) -> list[Request]:
        # Strictly past it: an answer of the very last moment may still be in the next chunk.
        horizon = self._newest_ms - self._attribution_ms
        final = sorted((request.ts_ms, name) for name, request in self._open.items() if request.ts_ms < horizon)
        if final:
            self._early = {name: kept for name, kept in self._early.items() if kept[-1][1] >= horizon}
        return [self._open.pop(name) for _, name in final]

    def snapshot(self) -> tuple[Any, ...]:
        """Plain values; `restore` continues exactly from here."""
        requests = {
            name: (
                *(r.ts_ms, r.user, r.version, r.rollout_id, r.stage, r.variant),
                *(tuple(r.shown), tuple(r.taken), dict(r.scores), r.scored_by, r.shadow, dict(r.places)),
            )
            for name, r in self._open.items()
        }
        return (requests, {name: tuple(answers) for name, answers in self._early.items()}, self._newest_ms)

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Take a snapshot's state."""
        requests, early, self._newest_ms = snapshot
        self._open = {name: _restored(*row) for name, row in requests.items()}
        self._early = {name: list(answers) for name, answers in early.items()}


def _request(outcome: Outcome) -> Request:
    event = outcome.event
    features = event.features or {}
    # an integer: of anything else a range would look at each of its numbers
    stage, rollout_id = _number(features.get(STAGE_FEATURE), STAGES), event.rollout_id or 0
    asked = _one_of(ARMS, features.get(ASKED_VARIANT_FEATURE))
    version = _version(features.get(ASKED_VERSION_FEATURE)) if asked else None
    return Request(
        ts_ms=outcome.ts_ms,
        user=outcome.user,
        version=ModelVersion(version or event.model_version or FALLBACK),
        rollout_id=rollout_id if rollout_id in ROLLOUTS and stage is not None else 0,
        stage=-1 if stage is None else stage,
        variant=asked or _one_of(VARIANTS, features.get(VARIANT_FEATURE)),
        shadow=None
        if event.rollout_id or stage is None or stage < 0
        else _version(features.get(SHADOW_VERSION_FEATURE)),
    )


def _number(said: FeatureValue | None, within: range) -> int | None:
    return int(said) if isinstance(said, (int, float)) and isfinite(said) and said in within else None


def _one_of(words: frozenset[str], said: FeatureValue | None) -> str:
    return said if isinstance(said, str) and said in words else ""


def _version(said: FeatureValue | None) -> ModelVersion | None:
    return ModelVersion(said) if isinstance(said, str) and 0 < len(said) <= MAX_ID_LENGTH else None


def _restored(
    ts_ms: int,
    user: int,
    version: ModelVersion,
    rollout_id: int,
    stage: int,
    variant: str,
    shown: tuple[str, ...],
    taken: tuple[str, ...],
    scores: Mapping[str, float] = MappingProxyType({}),
    scored_by: ModelVersion | None = None,
    shadow: ModelVersion | None = None,
    places: Mapping[str, tuple[int, int]] = MappingProxyType({}),
) -> Request:
    answer = (set(shown), set(taken), dict(scores), scored_by, shadow, dict(places))
    return Request(ts_ms, user, version, rollout_id, stage, variant, *answer)
