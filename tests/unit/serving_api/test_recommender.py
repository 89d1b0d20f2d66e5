"""What gives a user's list: the stream's vector, the artifact's factor, a fold-in of the history, popularity."""

from dataclasses import replace

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from online_models import als
from online_models.contracts.artifacts import DataWindow
from online_models.contracts.ids import ItemId, ModelName, ModelVersion, hash64
from online_models.history import EMPTY, ENTRY, SEEN, UserHistory, merge
from online_models.ports import UserState
from serving_api.model_cache import LoadedVersion
from serving_api.reader import ModelState, ServedVersion
from serving_api.recommender import Ranking, rank
from serving_api.retrieval import NewItems, RankedList
from tests.artifacts import FACTORS, HOW, small_model

MOVIES = ModelName("movies")
MADE = small_model(4, items=20)
TRAINED_UNTIL_MS = 1_000
MANIFEST = MADE.manifest(MOVIES, ModelVersion("v1"), [0, 2])
LOADED = LoadedVersion(
    manifest=msgspec.structs.replace(MANIFEST, data_window=DataWindow(0, TRAINED_UNTIL_MS, 1)),
    manifest_sha256="",
    item_ids=list(MADE.items),
    index=als.ItemIndex.of(MADE.items),
    item_factors=MADE.item_factors,
    item_gramian=als.gramian(MADE.item_factors),
    user_rows={user: row for row, user in enumerate(MADE.users)},
    user_factors=MADE.user_factors,
    popular=list(MADE.items[::-1]),
    fold_in=HOW,
)
SERVED = ServedVersion(LOADED, NewItems.of({}, LOADED))
STATE = ModelState(MOVIES, versions={LOADED.version: SERVED}, popular=RankedList.of(list(MADE.items)))


def history(*items: str, last_ms: int, strength: float = 1.0) -> UserHistory:
    """A user who met the items one after the other, the last at `last_ms`."""
    recent = np.zeros(len(items), ENTRY)
    recent["ts_ms"] = last_ms - np.arange(len(items))[::-1]
    recent["event"] = recent["item"] = [hash64(item) for item in items]
    recent["strength"] = strength
    return merge(EMPTY, recent[recent["strength"] > 0], recent[["ts_ms", "item"]].astype(SEEN))


def asked(user: str, known: UserHistory, vector: npt.NDArray[np.float32] | None = None) -> Ranking:
    return rank(STATE, SERVED, user, UserState(vector, known), 5)


def best(vector: npt.NDArray[np.float32], *seen: int) -> list[str]:
    return [MADE.items[row] for row in MADE.best(vector, 5, list(seen))]


def items(ranking: Ranking) -> list[str]:
    return [item for item, _ in ranking.items]


@pytest.mark.parametrize("last_ms", [1, TRAINED_UNTIL_MS])
def test_a_history_that_the_training_has_seen_leaves_the_factor_in_place(last_ms: int) -> None:
    found = asked("u1", history("i0", "i2", last_ms=last_ms))
    assert (found.source, items(found)) == ("factors", best(MADE.user_factors[1], 0, 2))


def test_what_happened_after_the_training_counts_more_than_the_factor() -> None:
    found = asked("u1", history("i0", "i2", last_ms=TRAINED_UNTIL_MS + 1))
    assert (found.source, items(found)) == ("fold_in", best(MADE.vector([0, 2]), 0, 2))
    assert items(found) != best(MADE.user_factors[1], 0, 2)


def test_a_vector_of_the_stream_counts_more_than_factor_and_history() -> None:
    known = history("i0", "i2", last_ms=TRAINED_UNTIL_MS + 1)
    vector = MADE.vector([1, 3])
    found = asked("u0", known, vector)
    assert (found.source, items(found)) == ("vector", best(vector, 0, 2))


@pytest.mark.parametrize("known", [history("n1", last_ms=5_000), history("i0", last_ms=5_000, strength=0.0)])
def test_a_newer_history_without_a_liked_item_of_the_version_leaves_the_factor_in_place(known: UserHistory) -> None:
    found = asked("u1", known)
    assert found.source == "factors"
    assert items(found) == [item for item in best(MADE.user_factors[1]) if hash64(item) not in known.seen["item"]]


def test_a_user_whom_the_version_does_not_know_is_folded_in_however_old_the_history() -> None:
    found = asked("stranger", history("i3", last_ms=1))
    assert (found.source, items(found)) == ("fold_in", best(MADE.vector([3]), 3))


def test_a_user_of_whom_nothing_is_known_gets_what_is_popular() -> None:
    assert asked("stranger", EMPTY) == Ranking("popularity", [(item, None) for item in MADE.items[:5]])
    met = history("i1", last_ms=5_000, strength=0.0)
    assert items(asked("stranger", met)) == ["i0", "i2", "i3", "i4", "i5"]


@pytest.mark.parametrize("vector", [np.full(FACTORS, np.nan), np.full(FACTORS, np.inf), np.ones(FACTORS + 1)])
def test_a_vector_that_cannot_be_the_version_s_is_not_used(vector: npt.NDArray[np.float64]) -> None:
    found = asked("u1", EMPTY, vector.astype(np.float32))
    assert (found.source, items(found)) == ("factors", best(MADE.user_factors[1]))


def test_a_new_item_that_was_seen_is_left_out_whatever_gave_the_list() -> None:
    fresh = {ItemId("n1"): 100 * MADE.vector([0]), ItemId("n2"): 100 * MADE.vector([0])}
    served = replace(SERVED, new_items=NewItems.of(fresh, LOADED))
    known = history("i0", "n1", last_ms=TRAINED_UNTIL_MS + 1)
    found = rank(STATE, served, "u1", UserState(None, known), 19)
    assert found.source == "fold_in"
    assert items(found)[0] == "n2"
    assert not {"i0", "n1"} & set(items(found))


def test_without_any_version_popularity_answers_without_what_was_seen() -> None:
    found = rank(STATE, None, "u1", UserState(MADE.vector([0]), history("i0", last_ms=1)), 3)
    assert found == Ranking("popularity", [("i1", None), ("i2", None), ("i3", None)])
