"""Online learning on a real Redis: any cut of the same events, restarts, and repeats leave the same state to the bit."""

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flows.live import LiveVersion
from online_models.blend import Blend
from online_models.contracts import keys
from online_models.contracts.events import Event, EventType, timestamp_ms
from online_models.contracts.ids import ModelVersion, hash64
from online_models.history import EMPTY, UserHistory, merge
from online_models.learner import VersionLearner
from online_models.pacing import CHOICES_AT_FIRST, CHOOSE_EVERY, MOVE_EVERY, RARE_EVENTS
from online_models.sources import TOGETHER_WINDOW, Sources, Steps, restored
from online_models.stores import redis
from online_models.stores.embedded import Endpoints
from online_models.stores.redis import RedisEmbeddings, decode_vector
from tests.engagements import START_MS, busy_log, engagement, entries_of, logs, pieces_of, strength_of
from tests.flow_process import all_values
from tests.online_learners import MADE, V1, emptied, learner, store_at
from tests.oracles import online_learning as oracle
from tests.samples import MOVIES

I64 = npt.NDArray[np.int64]

with_redis = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def learned(url: str, home: Path, log: Sequence[Event], cuts: Sequence[int] = (), restarts: Sequence[int] = ()) -> None:
    """Learn a log piece by piece, by a new learner from each piece with a number in `restarts` on."""
    pieces = pieces_of(log, cuts)
    starts = sorted({0, *(number for number in restarts if number < len(pieces)), len(pieces)})
    for start, end in pairwise(starts):
        with learner(url, home) as going:
            for piece in pieces[start:end]:
                going.learn(piece)


def published(url: str, home: Path) -> list[object]:
    """The sources and the item vectors, once one more batch is published that says nothing new."""
    with learner(url, home, run_id="the last") as last:
        last.learn(pieces_of([engagement(10**6, START_MS, 0, 14, EventType.SKIP)])[0])
    with closing(redis.connect(url)) as client:
        return [client.get(name) for name in (keys.sources(MOVIES), keys.item_vectors(MOVIES, V1))]


@with_redis
@given(
    log=logs(ordered=True),
    cuts=st.lists(st.integers(1, 39), max_size=8),
    restarts=st.lists(st.integers(1, 8), max_size=3),
)
def test_what_redis_holds_in_the_end_does_not_depend_on_where_batches_end(
    fresh_stores: Endpoints,
    twin_stores: Endpoints,
    tmp_path: Path,
    log: list[Event],
    cuts: list[int],
    restarts: list[int],
) -> None:
    one, other = emptied(fresh_stores.redis_url), emptied(twin_stores.redis_url)
    learned(one, tmp_path, log)
    learned(other, tmp_path, log, cuts, restarts)
    assert all_values(other) == all_values(one)
    assert published(other, tmp_path) == published(one, tmp_path)


@pytest.mark.parametrize("seed", range(3))
def test_a_long_log_leaves_the_same_in_many_batches_of_many_learners(
    fresh_stores: Endpoints, twin_stores: Endpoints, tmp_path: Path, seed: int
) -> None:
    """Long enough that histories are full, well-known items rest, and only some choices are learned from."""
    log = busy_log(3_500, seed, users=25, first_item=0, items=300)
    rng = np.random.default_rng(seed)
    cuts = rng.choice(3_500, 150, replace=False).tolist()
    one, other = fresh_stores.redis_url, twin_stores.redis_url
    learned(one, tmp_path, log)
    learned(other, tmp_path, log, cuts, rng.choice(150, 12, replace=False).tolist())
    assert all_values(other) == all_values(one)
    assert published(other, tmp_path) == published(one, tmp_path)


@with_redis
@given(log=logs(ordered=False), cuts=st.lists(st.integers(1, 39), max_size=4))
def test_items_move_as_an_event_by_event_oracle_says(
    redis_url: str, tmp_path: Path, log: list[Event], cuts: list[int]
) -> None:
    learned(emptied(redis_url), tmp_path, log, cuts)
    check_moved(redis_url, log)


def test_well_known_items_move_with_every_fourth_event(redis_url: str, tmp_path: Path) -> None:
    log = busy_log(1_000, seed=4, items=9)
    learned(redis_url, tmp_path, log, cuts=[333, 334, 700])
    check_moved(redis_url, log)


def check_moved(url: str, log: Sequence[Event]) -> None:
    with store_at(url) as store:
        found, expected = store.moved_items(MOVIES, V1), oracle.moved_items(MADE, log)
    assert {item: moved.ts_ms for item, moved in found.items()} == {item: ts for item, (ts, _, _) in expected.items()}
    for item, moved in found.items():
        _, weight, vector = expected[item]
        assert moved.weight == pytest.approx(weight, rel=1e-6)
        np.testing.assert_allclose(moved.vector, vector, rtol=1e-3, atol=1e-4)


# --- what the blends learn from


def one_by_one(log: Sequence[Event]) -> VersionLearner:
    """The same learning as a plain loop over events: each is chosen first, then moves its item, then the sources count it."""
    sources = Sources()
    learner = LiveVersion(MADE.manifest(MOVIES, V1, [0, 2]), MADE.files(), {}).learner(sources)
    history: dict[str, UserHistory] = {}
    met: dict[str, list[str]] = {}
    counts: Counter[str] = Counter()
    for one in log:
        mine, known = met.setdefault(one.user_id, []), history.get(one.user_id, EMPTY)
        if strength_of(one) > 0:
            row = sources.rows_of([one.item_id])
            number = counts.total()
            if number < CHOICES_AT_FIRST or number % CHOOSE_EVERY == 0:
                learner.blend.tried += 1
                if one.item_id not in mine:
                    choose(learner, one, row, known.recent, mine)
            if counts[one.item_id] < RARE_EVENTS or counts[one.item_id] % MOVE_EVERY == 0:
                learner.grow()
                user = learner.fold_ins.users(known.recent, np.array([len(known.recent)]))
                learner.move_items(row, np.array([strength_of(one)], np.float32), user)
            context = sources.items.rows(known.recent["item"][-TOGETHER_WINDOW:]).astype(np.int32)
            sources.learn(Steps(row, np.array([one.ts], np.int64), context, np.array([0, len(context)])))
            counts[one.item_id] += 1
            history[one.user_id] = merge(known, *entries_of([one]))
        mine.append(one.item_id)
    return learner


def choose(learner: VersionLearner, one: Event, row: I64, recent: npt.NDArray[np.void], met: Sequence[str]) -> None:
    """Of what the user knew before the time of the event: a basket's items are no evidence for each other."""
    before, rows = recent[recent["ts_ms"] < one.ts], learner.sources.items.rows
    queries = learner.fold_ins.queries(before, np.array([len(before)]))[0]
    excluded = rows(np.array([hash64(item) for item in met], np.uint64))
    learner.learn_choice(rows(before["item"]), len(before), queries, int(one.ts), excluded, row)


@pytest.mark.parametrize("cuts", [[], [1, 2, 700, 2_100]], ids=["one batch", "five batches"])
def test_batches_learn_to_the_bit_what_a_loop_over_events_learns(
    redis_url: str, tmp_path: Path, cuts: list[int]
) -> None:
    log = busy_log(2_700, seed=9, users=25, first_item=0, items=300)
    expected = one_by_one(log)
    learned(redis_url, tmp_path, log, cuts)
    with store_at(redis_url) as store:
        state, moved = store.sources(MOVIES), store.moved_items(MOVIES, V1)
        assert store.blend(MOVIES, V1) == expected.blend.encode()
    assert restored(state.published, state.steps).encode() == expected.sources.encode()
    assert (expected.blend.steps[1:] > 40).all()
    row = {item: at for at, item in enumerate(expected.sources.items.ids)}
    for item, each in moved.items():
        assert (each.weight, each.vector.tobytes()) == (
            expected.weights[row[item]],
            expected.vectors[row[item]].tobytes(),
        )


def test_a_choice_of_what_the_user_had_met_teaches_the_blend_nothing(redis_url: str, tmp_path: Path) -> None:
    first = [engagement(n, START_MS + n, n % 4, n, EventType.SKIP if n % 3 else EventType.CLICK) for n in range(40)]
    again = [engagement(100 + n, START_MS + 100 + n, n % 4, n, EventType.CLICK) for n in range(40)]
    basket = [engagement(200 + n, START_MS + 200, 9, 3, EventType.CLICK) for n in range(2)]
    with learner(redis_url, tmp_path) as going:
        going.learn(pieces_of(first)[0])
        before = blend_at(redis_url)
        going.learn(pieces_of([*first, *again], [40])[1])
        after = blend_at(redis_url)
        assert after.tried[0] == before.tried[0] + 40
        assert after.steps.tolist() == before.steps.tolist()
        assert after.weights.tobytes() == before.weights.tobytes()
        going.learn(pieces_of([*first, *again, *basket], [80])[1])
        assert blend_at(redis_url).steps.sum() == before.steps.sum() + 1  # of two takes of one item, the first


def blend_at(url: str, version: ModelVersion = V1) -> Blend:
    with store_at(url) as store:
        raw = store.blend(MOVIES, version)
    assert raw is not None
    return Blend.decode(raw)


# --- anything that may come


EDGES_MS = [
    timestamp_ms("1900-01-01T00:00:00Z"),
    timestamp_ms("1990-01-01T00:00:00Z"),
    START_MS,
    timestamp_ms("2100-01-01T00:00:00Z"),
]
EXTREME = st.lists(
    st.tuples(
        st.sampled_from(EDGES_MS),
        st.integers(0, 2),
        st.integers(16, 23),
        st.sampled_from([EventType.WATCH, EventType.RATING, EventType.PURCHASE]),
        st.sampled_from([None, 0.0, 5e-324, 60.0, 1e308, -1e308]),
    ),
    min_size=1,
    max_size=60,
)


@with_redis
@given(rows=EXTREME, cuts=st.lists(st.integers(1, 59), max_size=4))
@example(rows=[(START_MS, 0, 16 + n % 8, EventType.WATCH, 1e308) for n in range(60)], cuts=[30])
def test_everything_stays_finite_whatever_comes(
    redis_url: str, tmp_path: Path, rows: list[tuple[int, int, int, EventType, float | None]], cuts: list[int]
) -> None:
    learned(emptied(redis_url), tmp_path, [engagement(n, *row) for n, row in enumerate(rows)], cuts)
    check_finite(redis_url)


def test_everything_stays_finite_when_one_user_takes_thousands_of_items(redis_url: str, tmp_path: Path) -> None:
    items = [n % 20 if n % 2 else 20 + n for n in range(5_000)]
    log = [engagement(n, START_MS + n // 3, 0, item, EventType.WATCH, 1e308) for n, item in enumerate(items)]
    learned(redis_url, tmp_path, log)
    check_finite(redis_url)
    with store_at(redis_url) as store:
        assert set(store.moved_items(MOVIES, V1)) == {f"i{item}" for item in items[1:]}


def check_finite(url: str) -> None:
    """All that Redis holds of a model, numbers by numbers."""
    with closing(redis.connect(url)) as client:
        store = RedisEmbeddings(client)
        moved, state, raw = store.moved_items(MOVIES, V1), store.sources(MOVIES), store.blend(MOVIES, V1)
        vectors = [client.get(key) for key in client.scan_iter(keys.user_vector(MOVIES, V1, "*"))]
        popularity = list(store.popularity(MOVIES).values())
    assert raw is not None
    blend, sources = Blend.decode(raw), restored(state.published, state.steps)
    numbers = [
        *(decode_vector(vector)[1] for vector in vectors if isinstance(vector, bytes)),
        *(np.append(each.vector, each.weight) for each in moved.values()),
        np.array(popularity),
        blend.weights,
        blend.curvature,
        *(
            each
            for part in (sources.followers, sources.companions, sources.popularity)
            for each in part.packed().values()
        ),
        sources.popularity.shares(START_MS),
    ]
    assert all(np.isfinite(array).all() for array in numbers)
