"""The rules of online learning against slow oracles: users' vectors, which events move items, which choices are learned from."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.grouping import Grouped, group_by_user
from flows.live import LiveVersion
from flows.online_learning import (
    choices,
    earlier_of_same,
    moved_at,
    moves,
    users_of,
    version_update,
)
from online_models.contexts import contexts_of
from online_models.contracts.events import Event, EventType
from online_models.contracts.ids import ItemId, ModelVersion, UserId
from online_models.history import EMPTY
from online_models.learner import VersionLearner, decode_item_vectors
from online_models.pacing import CHOICES_AT_FIRST, CHOOSE_EVERY, MOVE_EVERY, RARE_EVENTS
from online_models.ports import VersionUpdate
from online_models.sources import Sources, Steps
from tests.artifacts import FACTORS
from tests.engagements import START_MS, engagement, history_of, logs
from tests.online_learners import MADE, V1
from tests.oracles import online_learning as oracle
from tests.samples import MOVIES, batch

I64 = npt.NDArray[np.int64]


def small_learner() -> VersionLearner:
    return LiveVersion(MADE.manifest(MOVIES, V1, [0, 2]), MADE.files(), {}).learner(Sources())


def steps(item: Sequence[int], first_ms: int = START_MS) -> Steps:
    """Events without contexts, a millisecond apart."""
    n = len(item)
    return Steps(np.array(item, np.int64), first_ms + np.arange(n), np.empty(0, np.int32), np.zeros(n + 1, np.int64))


# --- users


def updated(learner: VersionLearner, log: Sequence[Event], cut: int, publish: bool = False) -> VersionUpdate:
    """What the events from `cut` on change for a version, when nothing moves."""
    grouped: Grouped = group_by_user(batch(log[cut:]))
    new = {user: history_of(log, user) for user in grouped.users}
    return version_update(V1, learner, grouped, new, {}, publish)


@settings(deadline=None)
@given(logs(ordered=False), st.integers(0, 39))
def test_touched_users_get_a_recent_and_a_long_vector_as_the_dense_equations_say(log: list[Event], cut: int) -> None:
    if cut >= len(log):
        return
    touched = {UserId(one.user_id) for one in log[cut:]}
    update = updated(small_learner(), log, cut)
    for user in touched:
        exact = oracle.vectors(MADE, oracle.recent_of(log, user))
        assert (user in update.users) == exact.any()
        if exact.any():
            version_ms, vector = update.users[user]
            assert (vector.dtype.name, vector.shape) == ("float32", (2 * FACTORS,))
            np.testing.assert_allclose(vector, exact, rtol=2e-4, atol=2e-5)
            assert version_ms == max(int(one.ts) for one in log if one.user_id == user)
    assert set(update.users) <= touched


def test_of_a_long_history_its_newest_hundred_events_count() -> None:
    log = [engagement(n, START_MS + n, 0, n % 7, EventType.CLICK) for n in range(250)]
    _, vector = updated(small_learner(), log, 0).users[UserId("u0")]
    exact = oracle.vectors(MADE, oracle.recent_of(log, "u0"))
    np.testing.assert_allclose(vector, exact, rtol=2e-4, atol=2e-5)


def test_a_user_of_whom_nothing_is_known_gets_no_vector_and_moves_no_item() -> None:
    log = [engagement(0, START_MS, 0, 22, EventType.CLICK), engagement(1, START_MS + 1, 0, 14, EventType.SKIP)]
    assert updated(small_learner(), log, 0).users == {}
    learner = small_learner()
    contexts = contexts_of([EMPTY], np.zeros(1, np.int64), history_of(log, "u0").recent)
    assert not users_of(learner, contexts, np.ones(1, np.bool_)).any()


@settings(deadline=None)
@given(logs(ordered=False), st.lists(st.booleans(), min_size=40, max_size=40))
def test_users_just_before_an_event_are_those_that_training_would_know(log: list[Event], wanted: list[bool]) -> None:
    grouped = group_by_user(batch(log))
    rows = np.array(grouped.in_order(grouped.entries["strength"] > 0), np.int64)
    asked = np.array(wanted[: len(rows)], np.bool_)
    nobody = [EMPTY] * len(grouped.users)
    contexts = contexts_of(nobody, grouped.owner()[rows], grouped.entries[rows])
    found = users_of(small_learner(), contexts, asked)
    for n, row in enumerate(rows.tolist()):
        number = int(grouped.place[row])
        before = oracle.trained_user(MADE, oracle.recent_of(log[:number], log[number].user_id))
        np.testing.assert_allclose(found[n], before if asked[n] else 0, rtol=2e-4, atol=2e-5)


# --- items


@given(st.lists(st.integers(0, 5), max_size=60))
def test_how_many_earlier_events_have_the_same_item(item: list[int]) -> None:
    assert earlier_of_same(np.array(item, np.int64)).tolist() == [item[:n].count(i) for n, i in enumerate(item)]


def test_rare_items_move_with_every_event_and_others_with_every_fourth_wherever_batches_end() -> None:
    rng = np.random.default_rng(0)
    item = np.concatenate([np.repeat(0, 300), rng.integers(0, 4, 500)])
    rng.shuffle(item)
    expected = [
        (met := int((item[:n] == item[n]).sum())) < RARE_EVENTS or met % MOVE_EVERY == 0 for n in range(len(item))
    ]
    assert 0.3 < np.mean(expected) < 0.7
    for cuts in ([], [1, 5, 64, 65, 300], sorted(rng.choice(800, 40, replace=False).tolist())):
        sources = Sources()
        sources.rows_of(["a", "b", "c", "d"])
        found: list[bool] = []
        for start, end in pairwise([0, *cuts, 800]):
            found += moves(item[start:end], sources).tolist()
            sources.learn(steps(item[start:end].tolist()))
        assert found == expected


def test_an_item_moved_at_the_last_event_of_a_known_user() -> None:
    users = np.array([[1, 0], [0, 0], [0, 2], [0, 0]], np.float32)
    assert moved_at(steps([3, 3, 3, 5]), users) == {3: START_MS + 2}


def test_moved_items_are_told_as_they_are_and_published_together() -> None:
    learner = small_learner()
    new, trained = learner.sources.rows_of(["new", "i3"]).tolist()
    learner.grow()
    user = np.ones((1, FACTORS), np.float32)
    for row in (new, trained):
        learner.move_items(np.array([row]), np.ones(1, np.float32), user)
    log = [engagement(0, START_MS, 0, 14, EventType.CLICK)]
    grouped = group_by_user(batch(log))
    histories = {UserId("u0"): history_of(log, "u0")}
    update = version_update(V1, learner, grouped, histories, {new: 5, trained: 7}, publish=True)
    assert {item: (moved.ts_ms, moved.weight) for item, moved in update.items.items()} == {
        "new": (5, 10.0),
        "i3": (7, float(MADE.item_weights[3]) + 10.0),
    }
    assert update.item_vectors is not None
    ids, vectors = decode_item_vectors(update.item_vectors)
    assert set(ids) == {"new", "i3"}
    for item, vector in zip(ids, vectors, strict=True):
        np.testing.assert_array_equal(update.items[ItemId(item)].vector, vector)
    learner.move_items(np.array([new]), np.ones(1, np.float32), user)
    assert update.items[ItemId("new")].vector.tobytes() != learner.vectors[new].tobytes()  # what was told stands
    assert version_update(V1, learner, grouped, histories, {}, publish=False).item_vectors is None


# --- choices


def chosen(ends: Sequence[int], before: int, tried: int) -> list[int]:
    """Which events of a stream are learned from, after so many that came before there was a version."""
    learner = small_learner()
    learner.blend.tried[0] = tried
    learner.sources.popularity.arrays.events[0] = before
    found: list[int] = []
    for start, end in pairwise([0, *ends]):
        of_batch = choices({V1: learner}, end - start)
        found += [start + at for at in of_batch]
        learner.blend.tried += len(of_batch)
        learner.sources.popularity.arrays.events[0] += end - start
    return found


@settings(deadline=None)
@given(
    cuts=st.lists(st.integers(1, 2_999), max_size=12, unique=True).map(sorted),
    before=st.integers(0, 200),
    left=st.integers(0, CHOICES_AT_FIRST),
)
def test_all_choices_are_learned_from_at_first_and_then_every_32nd_of_the_stream(
    cuts: list[int], before: int, left: int
) -> None:
    expected = [at for at in range(3_000) if at < left or (before + at) % CHOOSE_EVERY == 0]
    assert chosen([*cuts, 3_000], before, CHOICES_AT_FIRST - left) == expected


def test_the_stable_version_says_which_choices_are_learned_from() -> None:
    stable, canary = small_learner(), small_learner()
    stable.blend.tried[0] = CHOICES_AT_FIRST
    assert choices({V1: stable, ModelVersion("v2"): canary}, 40) == [0, 32]
    assert choices({}, 40) == []
