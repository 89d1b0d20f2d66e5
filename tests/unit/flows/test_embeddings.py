"""Online ALS against slow oracles: popularity, fold-in of touched users, new items; and any split of the same events."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flows.admission import Admitted
from flows.embeddings import Grouped, OnlineAls, Popularity, engagements, fold_in_version, group_by_user
from flows.live import LiveVersion, LiveVersions
from online_models.als import event_strength
from online_models.contracts.events import EVENT_TYPES, TYPE_CODES, Event, EventBatch, EventType
from online_models.contracts.ids import ItemId, ModelVersion, UserId, hash64
from online_models.contracts.rollouts import Route
from online_models.history import EMPTY, ENTRY, SEEN, UserHistory, merge
from online_models.ports import VersionUpdate
from online_models.stores import redis
from online_models.stores.embedded import Endpoints
from online_models.stores.filesystem import FilesystemArtifacts
from online_models.stores.redis import RedisEmbeddings, RedisRoutes
from tests.artifacts import FACTORS, HOW, SmallModel, small_model
from tests.flow_process import all_values
from tests.samples import MOVIES, batch, event

Floats = npt.NDArray[np.float64]

MADE = small_model(5, items=20)
V1 = ModelVersion("v1")
SECOND_DAYS = 1 / 86_400
START_MS = 1_767_225_600_000


# --- popularity

STRIDE_MS = 256_000
COUNTED = st.tuples(
    st.sampled_from("abcd"),
    st.builds(lambda stride, ms: max(0, stride * STRIDE_MS + ms), st.integers(0, 6), st.integers(-20_000, 20_000)),
)
"""Items and times; the half-life is a second, so that landmarks are 256 s apart: times lie around them."""


def counted(popularity: Popularity, events: Sequence[tuple[str, int]]) -> dict[ItemId, tuple[float, int]]:
    return popularity.add([ItemId(item) for item, _ in events], np.array([ms for _, ms in events], np.int64))


def log2_of_sums(events: Sequence[tuple[str, int]]) -> dict[str, float]:
    """Item -> log2 of its sum of 2^(t in seconds), which ranks as the decayed counts do at any common time."""
    times: dict[str, list[float]] = {}
    for item, ms in events:
        times.setdefault(item, []).append(ms / 1000)
    tops = {item: max(seconds) for item, seconds in times.items()}
    return {item: tops[item] + math.log2(sum(2.0 ** (s - tops[item]) for s in each)) for item, each in times.items()}


@given(st.lists(COUNTED, min_size=1, max_size=40))
def test_counts_and_their_order_are_those_of_plain_sums(events: list[tuple[str, int]]) -> None:
    popularity = Popularity(SECOND_DAYS, {})
    state = counted(popularity, events)
    sums = log2_of_sums(events)
    assert set(state) == set(sums)
    for item, (count, at_ms) in state.items():
        assert math.isclose(math.log2(count) + at_ms / 1000, sums[item], rel_tol=1e-9, abs_tol=1e-9)
    best = popularity.best(10)
    assert sorted(best) == sorted(sums)
    assert all(sums[before] > sums[after] - 1e-9 for before, after in pairwise(best))
    assert popularity.best(2) == best[:2]


@given(st.lists(COUNTED, min_size=1, max_size=40), st.lists(st.integers(0, 40), max_size=6), st.booleans())
@example([("a", 0), ("a", 0), ("a", STRIDE_MS - 1), ("a", STRIDE_MS)], [3], False)
def test_popularity_does_not_depend_on_where_chunks_end_to_the_last_bit(
    events: list[tuple[str, int]], cuts: list[int], restart: bool
) -> None:
    whole, pieces = Popularity(SECOND_DAYS, {}), Popularity(SECOND_DAYS, {})
    expected = counted(whole, events)
    state: dict[ItemId, tuple[float, int]] = {}
    for start, end in pairwise(sorted({0, *(cut for cut in cuts if cut < len(events)), len(events)})):
        if restart:
            pieces = Popularity(SECOND_DAYS, dict(sorted(state.items())))
        state |= counted(pieces, events[start:end])
    assert state == expected
    assert pieces.best(3) == whole.best(3)


def test_an_interaction_one_half_life_older_counts_half() -> None:
    popularity = Popularity(SECOND_DAYS, {})
    state = counted(popularity, [("old", 100_000), ("new", 101_000), ("old", 101_000)])
    (old, at_ms), (new, same_ms) = state[ItemId("old")], state[ItemId("new")]
    assert at_ms == same_ms
    assert math.isclose(old, 1.5 * new)


def test_items_of_one_popularity_are_in_the_order_of_their_ids() -> None:
    popularity = Popularity(30.0, {})
    counted(popularity, [(item, START_MS) for item in "dbca"])
    assert popularity.best(3) == ["a", "b", "c"]


def test_thousands_of_items_are_counted_one_by_one() -> None:
    popularity = Popularity(30.0, {})
    names = [f"item-{number % 3_000}" for number in range(4_500)]
    counted(popularity, [(name, START_MS) for name in names])
    assert set(popularity.best(1_500)) == set(names[:1_500])
    assert len(popularity.best(10_000)) == 3_000


# --- events by user

KINDS = [EventType.CLICK, EventType.SKIP, EventType.WATCH, EventType.PURCHASE, EventType.RATING]


def engagement(number: int, ts_ms: int, user: int, item: int, kind: EventType, value: float | None) -> Event:
    return event(number, kind, user_id=f"u{user}", item_id=f"i{item}", ts=ts_ms, value=value)


@st.composite
def logs(draw: st.DrawFn, ordered: bool, max_size: int = 40) -> list[Event]:
    """Engagements of four users; items from `i20` on are newer than the model. Times repeat."""
    rows = draw(
        st.lists(
            st.tuples(
                st.integers(0, 12).map(lambda second: START_MS + 1000 * second),
                st.integers(0, 3),
                st.integers(14, 25),
                st.sampled_from(KINDS),
                st.none() | st.sampled_from([2.0, 5.0, 900.0]),
            ),
            min_size=1,
            max_size=max_size,
        )
    )
    return [engagement(n, *row) for n, row in enumerate(sorted(rows, key=lambda row: row[0]) if ordered else rows)]


def strength_of(one: Event) -> float:
    value = np.array([np.nan if one.value is None else one.value])
    return float(event_strength(np.array([TYPE_CODES[one.type]], np.int8), value)[0])


@given(logs(ordered=False))
def test_events_are_grouped_by_user_in_the_order_of_time(log: list[Event]) -> None:
    grouped = group_by_user(batch(log))
    assert sorted(grouped.users) == sorted({one.user_id for one in log})
    for row, user in enumerate(grouped.users):
        mine = [one for one in log if one.user_id == user]
        mine.sort(key=lambda one: (one.ts, hash64(one.event_id)))
        rows = grouped.rows(row)
        assert grouped.entries["event"][rows].tolist() == [hash64(one.event_id) for one in mine]
        assert grouped.entries["ts_ms"][rows].tolist() == [one.ts for one in mine]
        assert grouped.entries["item"][rows].tolist() == [hash64(one.item_id) for one in mine]
        assert grouped.entries["strength"][rows].tolist() == [strength_of(one) for one in mine]
        assert grouped.items[rows] == [one.item_id for one in mine]
        assert [log[place] for place in grouped.place[rows].tolist()] == mine
    assert grouped.starts.tolist() == sorted(grouped.starts.tolist())
    marked = grouped.entries["strength"] > 0
    in_order = [int(grouped.place[row]) for row in grouped.in_order(marked)]
    assert in_order == [number for number, one in enumerate(log) if strength_of(one) > 0]


def test_engagements_are_one_batch_per_domain_without_impressions() -> None:
    kinds = list(EventType)
    log = [event(n, kind, domain="movies") for n, kind in enumerate(kinds)]
    log += [event(20, EventType.CLICK, domain="products"), event(21, EventType.IMPRESSION, domain="books")]
    found = engagements(Admitted(partition="log", batch=batch(log, position=7), rejects=[], duplicates=[]))
    assert [key for key, _ in found] == ["als:0", "als:0"]
    movies, products = (of for _, of in found)
    assert (movies.domains, products.domains) == (("movies",), ("products",))
    assert [EVENT_TYPES[code] for code in movies.type] == kinds[1:]
    assert list(movies.events) == log[1:6]
    assert products.domain.tolist() == [0]
    assert (movies.source, movies.position, products.position) == ("test", 7, 7)


# --- fold-in of touched users, and new items


def live_version(made: SmallModel = MADE) -> LiveVersion:
    return LiveVersion(made.manifest(MOVIES, V1, [0, 2]), made.files(), {})


def fold_in_oracle(met: Sequence[tuple[str, float]]) -> Floats:
    """The user vector (k,) after items met with positive strength, oldest first: dense, in float64."""
    Y = MADE.item_factors.astype(np.float64)
    r = np.zeros(len(Y))
    for age, (item, strength) in enumerate(reversed(met)):
        if item in MADE.items:
            r[MADE.items.index(item)] += strength * 2 ** (-age / HOW.half_life_events)
    if not r.any():
        return np.zeros(FACTORS)
    C, p = np.diag(1 + HOW.alpha * r), (r > 0).astype(np.float64)
    return np.asarray(np.linalg.solve(Y.T @ C @ Y + HOW.regularization * np.eye(FACTORS), Y.T @ C @ p), np.float64)


def in_history_order(log: Sequence[Event]) -> list[tuple[str, float]]:
    """One user's positive events as the history keeps them."""
    kept = sorted(log, key=lambda one: (one.ts, hash64(one.event_id)))
    return [(one.item_id, strength_of(one)) for one in kept if strength_of(one) > 0]


def entries_of(log: Sequence[Event]) -> tuple[npt.NDArray[np.void], npt.NDArray[np.void]]:
    rows = [(one.ts, hash64(one.event_id), hash64(one.item_id), strength_of(one)) for one in log]
    met = np.array(rows, ENTRY) if rows else np.empty(0, ENTRY)
    return met[met["strength"] > 0], met[["ts_ms", "item"]].astype(SEEN)


def learned(live: LiveVersion, log: Sequence[Event], before: Sequence[Event]) -> tuple[Grouped, VersionUpdate]:
    """One batch folded into a version, after the events that came before it."""
    grouped = group_by_user(batch(log))

    def known(user: str, events: Sequence[Event]) -> UserHistory:
        return merge(EMPTY, *entries_of([one for one in events if one.user_id == user]))

    old = [known(user, before) for user in grouped.users]
    new = {user: known(user, [*before, *log]) for user in grouped.users}
    return grouped, fold_in_version(live, grouped, old, new, grouped.entries["strength"] > 0)


@settings(deadline=None)
@given(logs(ordered=True), st.integers(0, 40))
def test_touched_users_are_folded_in_as_the_dense_equations_say(log: list[Event], cut: int) -> None:
    before, rest = log[:cut], log[cut:]
    if not rest:
        return
    grouped, update = learned(live_version(), rest, before)
    for user in grouped.users:
        exact = fold_in_oracle(in_history_order([one for one in log if one.user_id == user]))
        assert (user in update.users) == exact.any()
        if exact.any():
            version_ms, vector = update.users[user]
            np.testing.assert_allclose(vector, exact, rtol=2e-4, atol=2e-5)
            assert version_ms == max(one.ts for one in log if one.user_id == user)
    assert set(update.users) <= set(grouped.users)


def equations_oracle(log: Sequence[Event]) -> dict[str, Floats]:
    """Event by event: an event with a new item adds what its user was just before to the item's equations."""
    tables: dict[str, Floats] = {}
    for number, one in enumerate(log):
        strength = strength_of(one)
        if one.item_id in MADE.items or strength == 0:
            continue
        x = fold_in_oracle(in_history_order([other for other in log[:number] if other.user_id == one.user_id]))
        if x.any():
            c = 1 + HOW.alpha * strength
            table = tables.setdefault(one.item_id, np.zeros((FACTORS, FACTORS + 1)))
            table += np.column_stack([(c - 1) * np.outer(x, x), c * x])
    return tables


@settings(deadline=None)
@given(logs(ordered=False), st.integers(0, 40))
def test_new_items_collect_the_equations_of_an_event_by_event_oracle(log: list[Event], cut: int) -> None:
    live = live_version()
    found: dict[ItemId, npt.NDArray[np.float32]] = {}
    for before, piece in (([], log[:cut]), (log[:cut], log[cut:])):
        if piece:
            _, update = learned(live, piece, before)
            found |= update.equations
            assert set(update.items) == set(update.equations)
    expected = equations_oracle(log)
    assert set(found) == set(expected)
    for item, table in expected.items():
        np.testing.assert_allclose(found[ItemId(item)], table, rtol=1e-3, atol=1e-3)


def test_a_new_item_s_vector_solves_its_equations() -> None:
    log = [
        engagement(0, START_MS, 0, 4, EventType.CLICK, None),
        engagement(1, START_MS + 1, 0, 22, EventType.CLICK, None),
    ]
    _, update = learned(live_version(), log, [])
    (ts_ms, vector) = update.items[ItemId("i22")]
    x, c = fold_in_oracle([("i4", 1.0)]), 1 + HOW.alpha
    X = MADE.user_factors.astype(np.float64)
    A = X.T @ X + HOW.regularization * np.eye(FACTORS) + (c - 1) * np.outer(x, x)
    np.testing.assert_allclose(vector, np.linalg.solve(A, c * x), rtol=1e-3, atol=1e-4)
    assert ts_ms == START_MS + 1


def test_a_user_of_whom_nothing_is_known_says_nothing_about_a_new_item() -> None:
    _, update = learned(live_version(), [engagement(0, START_MS, 0, 22, EventType.CLICK, None)], [])
    assert (dict(update.users), dict(update.items), dict(update.equations)) == ({}, {}, {})


# --- any split of the same events, in real Redis


@contextmanager
def learner(url: str, home: Path, run_id: str = "run") -> Iterator[OnlineAls]:
    """A learner of the small model, live as `v1`; a new one goes on with what Redis holds."""
    client = redis.connect(url)
    embeddings, routes, artifacts = RedisEmbeddings(client), RedisRoutes(client), FilesystemArtifacts(home)
    if not artifacts.path(MOVIES, V1).exists():
        artifacts.write(MADE.manifest(MOVIES, V1, [0, 2]), MADE.files())
    routes.put_route(MOVIES, Route(epoch=1, stable=V1))
    try:
        yield OnlineAls(MOVIES, run_id, embeddings, LiveVersions(routes, artifacts, embeddings, 1e9), SECOND_DAYS)
    finally:
        client.close()


def pieces_of(log: Sequence[Event], cuts: Sequence[int]) -> list[EventBatch]:
    """The log as batches whose rows stand at their number in the log."""
    ends = sorted({0, *(cut for cut in cuts if cut < len(log)), len(log)})
    whole = batch(log)
    made = []
    for start, end in pairwise(ends):
        rows = (whole.offset >= start) & (whole.offset < end)
        taken = whole.take(rows)
        made.append(
            EventBatch(
                **{name: getattr(taken, name) for name in EventBatch.__slots__ if name != "position"}, position=end
            )
        )
    return made


def emptied(url: str) -> str:
    client = redis.connect(url)
    client.flushdb()
    client.close()
    return url


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(log=logs(ordered=True), cuts=st.lists(st.integers(0, 40), max_size=5), restart=st.booleans())
def test_what_redis_holds_in_the_end_does_not_depend_on_where_batches_end(
    fresh_stores: Endpoints, twin_stores: Endpoints, tmp_path: Path, log: list[Event], cuts: list[int], restart: bool
) -> None:
    one, other = emptied(fresh_stores.redis_url), emptied(twin_stores.redis_url)
    with learner(one, tmp_path) as whole:
        for piece in pieces_of(log, []):
            whole.learn(piece)
    with learner(other, tmp_path) as going:
        for number, piece in enumerate(pieces_of(log, cuts)):
            if restart and number:
                with learner(other, tmp_path) as again:
                    again.learn(piece)
            else:
                going.learn(piece)
    assert all_values(other) == all_values(one)


def test_a_batch_applied_before_changes_nothing_and_writes_no_vector(redis_url: str, tmp_path: Path) -> None:
    log = [engagement(n, START_MS + n, n % 3, 14 + n % 9, EventType.CLICK, None) for n in range(30)]
    first, second = pieces_of(log, [20])
    with learner(redis_url, tmp_path) as als:
        assert als.learn(first) > 0
        assert als.learn(second) > 0
        expected = all_values(redis_url)
        assert als.learn(first) == als.learn(second) == 0
    with learner(redis_url, tmp_path) as resumed:
        assert resumed.learn(first) == resumed.learn(second) == 0
    assert all_values(redis_url) == expected


def test_a_log_read_again_by_another_run_counts_once(redis_url: str, tmp_path: Path) -> None:
    log = [engagement(n, START_MS + n, n % 3, 14 + n % 9, EventType.CLICK, None) for n in range(30)]
    (whole,) = pieces_of(log, [])
    with learner(redis_url, tmp_path) as als:
        als.learn(whole)
    expected = all_values(redis_url)
    with learner(redis_url, tmp_path, run_id="another run") as again:
        again.learn(whole)
    assert all_values(redis_url) == expected


def test_users_without_a_version_still_get_their_history_and_popularity(redis_url: str, tmp_path: Path) -> None:
    client = redis.connect(redis_url)
    embeddings = RedisEmbeddings(client)
    live = LiveVersions(RedisRoutes(client), FilesystemArtifacts(tmp_path), embeddings, 1e9)
    log = [engagement(n, START_MS + n, 1, 14 + n // 2, EventType.CLICK, None) for n in range(5)]
    assert OnlineAls(MOVIES, "run", embeddings, live, 30.0).learn(pieces_of(log, [])[0]) == 0
    (known,) = embeddings.histories(MOVIES, [UserId("u1")])
    assert known.recent["item"].tolist() == [hash64(one.item_id) for one in log]
    assert set(embeddings.popularity(MOVIES)) == {"i14", "i15", "i16"}
    client.close()
