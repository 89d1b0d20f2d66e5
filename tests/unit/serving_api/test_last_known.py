"""What is remembered of users: the newest states, within the memory allowed."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from online_models.contracts.ids import ModelName, ModelVersion, UserId
from online_models.history import EMPTY, SEEN, UserHistory
from online_models.ports import UserState
from serving_api.last_known import LastKnown, size_bytes

MOVIES = ModelName("movies")
V1, V2 = ModelVersion("v1"), ModelVersion("v2")


def state(items: int, vector: float = 1.0) -> UserState:
    return UserState(np.full(4, vector, np.float32), UserHistory(EMPTY.recent, np.zeros(items, SEEN)))


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 100)), max_size=60), st.integers(0, 8_000))
def test_it_holds_the_latest_users_that_fit(puts: list[tuple[int, int]], limit: int) -> None:
    known = LastKnown(limit)
    latest: dict[int, UserState] = {}
    for user, items in puts:
        put = state(items)
        known.put(MOVIES, V1, UserId(f"u{user}"), put)
        latest.pop(user, None)
        latest[user] = put
        while sum(map(size_bytes, latest.values())) > limit:
            del latest[next(iter(latest))]
    for user in range(7):
        assert known.get(MOVIES, V1, UserId(f"u{user}")) is latest.get(user)


def test_a_vector_and_a_list_count_for_their_own_version_only() -> None:
    known, put = LastKnown(10_000), replace(state(3), precomputed=b"[]")
    known.put(MOVIES, V1, UserId("u"), put)
    assert known.get(MOVIES, V1, UserId("u")) is put
    other = known.get(MOVIES, V2, UserId("u"))
    assert other is not None
    assert (other.vector, other.precomputed) == (None, None)
    assert (other.history, other.preferences) == (put.history, put.preferences)


def test_models_are_kept_apart() -> None:
    known = LastKnown(10_000)
    known.put(MOVIES, V1, UserId("u"), state(1))
    assert known.get(ModelName("products"), V1, UserId("u")) is None


def test_the_size_of_a_state_is_about_what_it_takes() -> None:
    assert size_bytes(state(1_000)) - size_bytes(state(0)) == 1_000 * SEEN.itemsize
    assert size_bytes(replace(state(0), precomputed=bytes(500))) - size_bytes(state(0)) == 500
