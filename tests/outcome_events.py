"""Events that matter for outcomes: answers of the API and what people take of them."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from flows.open_requests import ModelOutcomes, Outcome
from flows.outcomes import Outcomes, Told
from online_models.contracts.events import Event, EventType, FeatureValue
from online_models.contracts.ids import ModelVersion, hash64
from online_models.contracts.rollouts import GROUPS, GroupedCounts, ShadowCounts, VariantWindow
from tests.samples import MOVIES, event, event_id

ATTRIBUTION_MS, WINDOW_MS, SETTLE_MS = 1_000, 10_000, 5_000
V1, V2 = ModelVersion("v1"), ModelVersion("v2")


def outcomes() -> Outcomes:
    return Outcomes(ATTRIBUTION_MS, WINDOW_MS, drop_fraction=0.1, settle_ms=SETTLE_MS)


def shown(
    request: str,
    ts_ms: int,
    items: Sequence[str] = ("a", "b"),
    *,
    user: str = "u1",
    version: ModelVersion | None = V1,
    rollout: int = 0,
    stage: int = -1,
    variant: FeatureValue = "stable",
    asked: Mapping[str, FeatureValue] | None = None,
    scores: Mapping[str, FeatureValue] | None = None,
    scored_by: FeatureValue | None = None,
    shadow: FeatureValue | None = None,
    places: Mapping[str, FeatureValue] | None = None,
    first: int = 0,
) -> list[Outcome]:
    """One answer of the API.

    asked : features in the place of those of stage and variant, or beside them
    scores : what its language model said of items; scored_by : its version, where that is told
    shadow : the version in the shadow; places : of items in its list; first : position of the first item
    """
    features: dict[str, FeatureValue] = {"stage": float(stage), "variant": variant, **(asked or {})}
    whose: dict[str, FeatureValue] = {} if scored_by is None else {"llm_version": scored_by}
    said = {item: {"llm_score": score, **whose} for item, score in (scores or {}).items()}
    features |= {} if shadow is None else {"shadow_version": shadow}
    at = {item: {"shadow_place": place} for item, place in (places or {}).items()}
    return [
        Outcome(
            Event(
                event_id=event_id(0),
                type=EventType.IMPRESSION,
                user_id=user,
                item_id=item,
                ts=ts_ms,
                domain="movies",
                request_id=request,
                model_version=version,
                rollout_id=rollout or None,
                position=position,
                features=features | said.get(item, {}) | at.get(item, {}),
            ),
            ts_ms,
            hash64(user),
        )
        for position, item in enumerate(items, first)
    ]


def stand_in(
    request: str,
    ts_ms: int,
    *,
    user: str,
    asked: str,
    version: ModelVersion,
    by: ModelVersion | None = None,
    rollout: int = 7,
    stage: int = 1,
) -> list[Outcome]:
    """An answer that another gave in the place of the version of the user's arm. by : which, None for popularity"""
    said: dict[str, FeatureValue] = {"asked_variant": asked, "asked_version": version}
    return shown(request, ts_ms, user=user, version=by, rollout=rollout, stage=stage, variant="fallback", asked=said)


def taken(request: str, ts_ms: int, item: str = "a", kind: EventType = EventType.CLICK) -> list[Outcome]:
    answer = event(1, kind, item_id=item, ts=ts_ms, request_id=request)
    return [Outcome(answer, ts_ms, hash64(answer.user_id))]


def later(ts_ms: int) -> list[Outcome]:
    """Something that only moves event time on."""
    return taken("no such request", ts_ms)


def found(state: Outcomes, *events: list[Outcome]) -> list[Told]:
    """What one chunk of the events gives."""
    return state.add(ModelOutcomes(MOVIES, [outcome for each in events for outcome in each]))


def windows(found: Sequence[Told]) -> list[VariantWindow]:
    return [each for each in found if isinstance(each, VariantWindow)]


def groups(found: Sequence[Told]) -> list[GroupedCounts]:
    return [each for each in found if isinstance(each, GroupedCounts)]


def rows(counts: GroupedCounts) -> npt.NDArray[np.uint32]:
    """Requests, hits, impressions and clicks of each group of users: (4, GROUPS)."""
    return np.frombuffer(counts.counts, "<u4").reshape(4, GROUPS)


def last_windows(found: Sequence[Told]) -> list[VariantWindow]:
    """The last state of each window, in order of first appearance."""
    last = {(w.version, w.rollout_id, w.stage, w.variant, w.window_start_ms): w for w in windows(found)}
    return list(last.values())


def last_groups(found: Sequence[Told]) -> list[GroupedCounts]:
    """The last state of each sum by group."""
    return list({(g.rollout_id, g.stage, g.variant, g.version, g.since_ms): g for g in groups(found)}.values())


def shadows(found: Sequence[Told]) -> list[ShadowCounts]:
    return [each for each in found if isinstance(each, ShadowCounts)]


def last_shadows(found: Sequence[Told]) -> list[ShadowCounts]:
    """The last state of each sum of a version in the shadow."""
    return list({(each.version, each.since_ms): each for each in shadows(found)}.values())
