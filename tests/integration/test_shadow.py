"""A candidate in the shadow: scored behind the answers, counted, its places logged, and no impression ever lost."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest

from online_models.contracts.events import SHADOW_PLACE_FEATURE, SHADOW_VERSION_FEATURE, Event, FeatureValue
from online_models.contracts.ids import UserId, hashes_of
from online_models.contracts.rollouts import Route, Served
from online_models.evidence import scratch_for
from online_models.history import EMPTY
from online_models.language_scores import LanguageModel, encode_scores
from online_models.ports import EmbeddingUpdate, UserState, VersionUpdate
from online_models.stores import redis
from online_models.stores.files import SegmentLog
from online_models.stores.redis import RedisEmbeddings
from online_models.stores.redis_language import RedisLanguageScores
from online_models.stores.redis_serving import RedisServing
from serving_api.impressions import ImpressionLog, Shown
from serving_api.instruments import Instruments
from serving_api.ranked_list import RankedList
from serving_api.ranking import Visit, rank
from serving_api.retrieval import VersionView
from serving_api.rules import Reranking
from serving_api.served import ServedCounts
from serving_api.shadow import PATIENCE_SECONDS, PLACES, Shadow, Shadowed
from tests.api_process import eventually
from tests.damage import raising
from tests.drawn_learner import drawn_trained
from tests.samples import MOVIES
from tests.serving_views import V1, V2, drawn_view, facts_of, history_of, loaded_of, views_over

RNG = np.random.default_rng(4)
TRAINED = {V1: drawn_trained(RNG), V2: drawn_trained(RNG)}
LOADED = {version: loaded_of(trained, version) for version, trained in TRAINED.items()}
BUILT = views_over(LOADED).built
IDS = list(TRAINED[V1].ids)
ROUTE = Route(3, V1, V2, 0, "salt", rollout_id=7, stage=0, shadow=True, slow_ms=100.0)
KNOWN = UserState(None, history_of(IDS[:2]))
K = 2


@dataclass
class Stage:
    """A shadow on a real log and a real Redis."""

    log: SegmentLog
    directory: Path
    store: RedisServing
    counts: ServedCounts
    instruments: Instruments

    def run(self, work: Callable[[Shadow, ImpressionLog], None], share: float = 1.0, capacity: int = 256) -> None:
        """Until all is closed, in the order of the application."""

        async def main() -> None:
            patience = timedelta(seconds=1)
            with (
                closing(ImpressionLog(self.log, self.instruments, 10_000, patience)) as impressions,
                closing(Shadow(self.store, impressions, self.counts, Reranking(), share, capacity)) as shadow,
            ):
                work(shadow, impressions)

        asyncio.run(main())

    def logged(self) -> list[Event]:
        paths = sorted((self.directory / "events").glob("*"))
        return [msgspec.json.decode(line, type=Event) for path in paths for line in path.read_bytes().splitlines()]

    def scored(self, ones: Sequence[Shadowed]) -> None:
        """`run` with these requests, until their impressions are on the log."""

        def work(shadow: Shadow, _: ImpressionLog) -> None:
            for one in ones:
                assert shadow.offer(one)
            items = sum(len(one.shown.items) for one in ones)
            eventually(lambda: len(self.logged()) == items, "the impressions are logged")

        self.run(work)

    def canary(self) -> Served:
        return next(iter(self.counts.taken().values()), {}).get((0, "canary"), Served())


@pytest.fixture
def stage(redis_url: str, tmp_path: Path) -> Iterator[Stage]:
    with (
        closing(SegmentLog(tmp_path / "events", lambda: datetime.now(UTC))) as log,
        closing(RedisServing(redis_url, timedelta(seconds=5))) as store,
    ):
        yield Stage(log, tmp_path, store, ServedCounts(), Instruments())


def asked(
    n: int,
    items: Sequence[str] = ("x", "y"),
    view: VersionView = BUILT[V2],
    user: UserState = KNOWN,
    offered_at: float | None = None,
) -> Shadowed:
    features: dict[str, FeatureValue] = {"variant": "stable"}
    request_id = f"{n:08x}-0000-4000-a000-000000000000"
    shown = Shown(MOVIES, UserId("u"), 5_000, request_id, list(items), [1.0] * len(items), V1, None, features)
    visit, now = Visit("u", K, 5_000), time.monotonic() if offered_at is None else offered_at
    return Shadowed(ROUTE, view, RankedList.of([]), facts_of([]), visit, user, shown, now)


def by_canary(user: UserState = KNOWN, view: VersionView = BUILT[V2]) -> list[str]:
    """Its list, made in front of the stage."""
    visit = Visit("u", PLACES * K, 5_000)
    return [item.item_id for item in rank(view, RankedList.of([]), facts_of([]), visit, user, Reranking()).items]


def features_of(event: Event) -> dict[str, FeatureValue]:
    assert event.features is not None
    return event.features


def test_each_request_is_scored_and_its_impressions_tell_the_candidate_s_places(stage: Stage) -> None:
    listed = by_canary()
    shown = [listed[3], "unknown-to-it", listed[0]]
    stage.scored([asked(n, shown) for n in range(5)])
    events = stage.logged()
    assert [event.item_id for event in events] == shown * 5
    assert {features_of(event)[SHADOW_VERSION_FEATURE] for event in events} == {V2}
    assert [features_of(event).get(SHADOW_PLACE_FEATURE) for event in events] == [3.0, None, 0.0] * 5
    said = stage.canary()
    assert (said.requests, said.compared, said.first_same) == (5, 5, 0)
    assert said.overlap == pytest.approx(5 / 3)  # of three items one is among its first three
    assert (said.errors, said.empty, said.users, said.dropped, sum(said.latency)) == (0, 0, 0, 0, 5)


def test_a_candidate_that_agrees_is_seen_to(stage: Stage) -> None:
    listed = by_canary()
    stage.scored([asked(1, listed[:K])])
    said = stage.canary()
    assert (said.overlap, said.first_same) == (1.0, 1)


def test_the_candidate_has_its_own_vector_and_scores_of_the_user(stage: Stage, redis_url: str) -> None:
    model = LanguageModel(weight=5.0, version=V2)
    manifest = msgspec.structs.replace(LOADED[V2].manifest, language_model=V2)
    loaded = replace(LOADED[V2], manifest=manifest, language_model=model)
    view = views_over({V1: LOADED[V1], V2: loaded}).built[V2]
    vector = np.tile(RNG.normal(size=loaded.k).astype(np.float32), 2)
    scores = encode_scores(hashes_of([IDS[4]]), np.array([3.0], np.float32))
    with closing(redis.connect(redis_url)) as client:
        own = VersionUpdate(V2, {UserId("u"): (5, vector)})
        RedisEmbeddings(client).apply(
            EmbeddingUpdate(MOVIES, "run", "log", 1, {UserId("u"): EMPTY}, [own], popularity={}, popular=[])
        )
        RedisLanguageScores(client).put_scores(MOVIES, V2, {UserId("u"): scores}, timedelta(minutes=5))
    expected = by_canary(UserState(vector, KNOWN.history, language=scores), view)
    assert expected != by_canary(KNOWN, view)
    # what was read for stable is no vector of the candidate
    answered = replace(KNOWN, vector=np.ones(2 * loaded.k, np.float32))
    stage.scored([asked(1, expected, view, answered)])
    places = [features_of(event).get(SHADOW_PLACE_FEATURE) for event in stage.logged()]
    assert places == [float(place) for place in range(len(expected))]


def test_a_candidate_that_raises_costs_nothing_but_is_counted(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.scored([asked(n, view=raising(BUILT[V2])) for n in range(4)])
    assert stage.counts.news.is_set()
    said = stage.canary()
    assert (said.requests, said.errors, said.compared) == (4, 4, 0)
    assert len(stage.logged()) == 8
    assert {SHADOW_VERSION_FEATURE in features_of(event) for event in stage.logged()} == {False}
    assert [line.split()[0] for line in caplog.messages] == ["shadow_raised"]


def test_what_there_is_no_room_for_is_dropped_and_left_to_the_caller(stage: Stage) -> None:
    taken: list[bool] = []

    def work(shadow: Shadow, _: ImpressionLog) -> None:
        taken.extend(shadow.offer(asked(n)) for n in range(300))

    stage.run(work, capacity=10)
    said = stage.canary()
    assert 10 <= taken.count(True) < 300
    assert said.requests + said.dropped == 300
    assert said.dropped >= taken.count(False)
    assert len(stage.logged()) == 2 * taken.count(True)


def test_the_end_scores_no_more_and_loses_no_impression(stage: Stage) -> None:
    def work(shadow: Shadow, _: ImpressionLog) -> None:
        for n in range(200):
            assert shadow.offer(asked(n))

    stage.run(work)
    assert len(stage.logged()) == 400
    said = stage.canary()
    assert said.requests + said.dropped == 200
    assert said.dropped > 0


def test_after_the_end_nothing_is_taken(stage: Stage) -> None:
    def work(shadow: Shadow, _: ImpressionLog) -> None:
        shadow.close()
        assert not shadow.offer(asked(1))

    stage.run(work)


def test_a_request_that_has_waited_long_is_logged_without_its_score(stage: Stage) -> None:
    long_ago = time.monotonic() - PATIENCE_SECONDS - 0.1
    stage.scored([asked(1, offered_at=long_ago), asked(2)])
    said = stage.canary()
    assert (said.requests, said.dropped) == (1, 1)
    assert [SHADOW_VERSION_FEATURE in features_of(event) for event in stage.logged()] == [False] * 2 + [True] * 2


def test_a_share_of_the_requests_is_drawn_by_their_ids(stage: Stage) -> None:
    drawn: list[list[int]] = []

    def work(shadow: Shadow, _: ImpressionLog) -> None:
        drawn.append([n for n in range(2_000) if shadow._drawn(asked(n).shown.request_id)])

    for _ in range(2):
        stage.run(work, share=0.25)
    assert drawn[0] == drawn[1]
    assert 400 < len(drawn[0]) < 600
    stage.run(lambda shadow, _: drawn.append([shadow.offer(asked(n)) for n in range(20)]), share=0.0)
    assert drawn[2] == [False] * 20


def test_without_redis_the_candidate_goes_by_the_history(tmp_path: Path) -> None:
    listed = by_canary()
    with (
        closing(SegmentLog(tmp_path / "events", lambda: datetime.now(UTC))) as log,
        closing(RedisServing(f"unix://{tmp_path}/nowhere.sock", timedelta(seconds=0.1))) as store,
    ):
        away = Stage(log, tmp_path, store, ServedCounts(), Instruments())
        away.scored([asked(1, listed)])
        assert [features_of(event)[SHADOW_PLACE_FEATURE] for event in away.logged()] == [
            *map(float, range(len(listed)))
        ]


def test_it_ranks_on_scratch_of_its_own_for_requests_may_be_ranking_on_the_version_s(stage: Stage) -> None:
    view = drawn_view(np.random.default_rng(2))
    met = UserState(None, history_of(view.sources.items.ids[:4]))
    listed, halfway = by_canary(met, view), scratch_for(len(view.sources.items))
    halfway.follows[:] = 1e6  # as another thread in the middle of a request would have it
    stage.scored([asked(n, listed, replace(view, scratch=halfway), met) for n in range(3)])
    places = [features_of(event).get(SHADOW_PLACE_FEATURE) for event in stage.logged()]
    assert places == [*map(float, range(len(listed)))] * 3
    assert (halfway.follows == 1e6).all()
