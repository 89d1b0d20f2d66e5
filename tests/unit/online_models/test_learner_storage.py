"""What is kept of a version: moved items, the bytes that readers get, and what an artifact says that it was trained to."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from online_models.als import gramian
from online_models.blend import Blend
from online_models.contracts.ids import ItemId, ModelName, ModelVersion
from online_models.errors import ArtifactError, StoreError
from online_models.learner import (
    MovedItem,
    VersionLearner,
    decode_item_vectors,
    encode_item_vectors,
    trained_of,
)
from online_models.sources import Sources
from tests.artifacts import small_model
from tests.drawn_learner import ITEMS, K, drawn_asked, drawn_learner, drawn_tower_tensors, drawn_trained, state
from tests.oracles.least_squares import factors


def moved_of(learner: VersionLearner) -> dict[ItemId, MovedItem]:
    """All items as a store keeps them."""
    return {
        ItemId(item): MovedItem(5, float(learner.weights[row]), learner.vectors[row].copy())
        for row, item in enumerate(learner.sources.items.ids)
        if learner.weights[row] > 0
    }


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=20, deadline=None)
def test_to_restore_and_go_on_is_never_to_have_stopped(seed: int, with_tower: bool) -> None:
    rng = np.random.default_rng(seed)
    whole = drawn_learner(rng, tower=with_tower)
    for _ in range(5):
        drawn_asked(rng, whole).choose(whole, rng.integers(0, ITEMS, 1))
    sources, learned = Sources.decode(whole.sources.encode()), Blend.decode(whole.blend.encode())
    trained = drawn_trained(np.random.default_rng(seed), tower=with_tower)
    resumed = VersionLearner(trained, sources, learned)
    resumed.restore(moved_of(whole))
    assert state(resumed) == state(whole)
    asked, users = drawn_asked(rng, whole), factors(rng, 9, K)
    for learner in (whole, resumed):
        learner.move_items(np.arange(9), np.ones(9, np.float32), users)
        asked.choose(learner, np.array([1, 4]))
    assert state(resumed) == state(whole)


def test_what_was_not_moved_by_this_version_is_not_restored() -> None:
    rng = np.random.default_rng(5)
    learner, good = VersionLearner(drawn_trained(rng), Sources()), np.ones(K, np.float32)
    for moved in (
        MovedItem(0, 1.0, good[1:]),
        MovedItem(0, 1.0, good * np.float32(np.nan)),
        MovedItem(0, -1.0, good),
        MovedItem(0, float("nan"), good),
    ):
        with pytest.raises(StoreError, match="item item-3: expected"):
            learner.restore({ItemId("item-3"): moved})
    learner.restore({ItemId("item-3"): MovedItem(0, 2.0, good), ItemId("new"): MovedItem(0, 3.0, 2 * good)})
    assert learner.vectors[[3, ITEMS], 0].tolist() == [1.0, 2.0]
    assert learner.weights[[3, ITEMS]].tolist() == [2.0, 3.0]


def test_readers_get_the_vectors_of_the_items_that_moved_and_of_no_other() -> None:
    rng = np.random.default_rng(6)
    learner = VersionLearner(drawn_trained(rng), Sources())
    ids, vectors = decode_item_vectors(learner.encode_moved())
    assert (ids, vectors.shape) == ([], (0, K))
    learner.sources.rows_of(["new", "newer"])
    learner.move_items(np.array([3, ITEMS]), np.ones(2, np.float32), factors(rng, 2, K))
    ids, vectors = decode_item_vectors(learner.encode_moved())
    assert ids == ["item-3", "new"]
    assert np.array_equal(vectors, learner.vectors[[3, ITEMS]])


@given(st.lists(st.text(max_size=4), max_size=6), st.integers(0, 5))
def test_item_vectors_come_back_from_their_bytes(ids: list[str], k: int) -> None:
    vectors = np.random.default_rng(7).normal(size=(len(ids), k)).astype(np.float32)
    back, same = decode_item_vectors(encode_item_vectors(ids, vectors))
    assert back == ids
    assert np.array_equal(same, vectors)
    assert same.dtype == np.float32


def test_bytes_that_are_no_item_vectors_are_refused() -> None:
    raw = encode_item_vectors(["a", "b"], np.ones((2, 3), np.float32))
    for torn in (b"", raw[:9], raw[:-1], raw + b"0"):
        with pytest.raises(StoreError, match="item vectors"):
            decode_item_vectors(torn)
    for name, tensor in (
        ("vectors", np.ones((3, 3), np.float32)),
        ("vectors", np.ones(2, np.float32)),
        ("vectors", np.ones((2, 3))),
        ("vectors", np.full((2, 3), np.nan, np.float32)),
        ("items", np.frombuffer(b"[1, 2]", np.uint8)),
        ("items", np.frombuffer(b'["\xff"]', np.uint8)),
    ):
        with pytest.raises(StoreError, match="item vectors"):
            decode_item_vectors(save({**load(raw), name: tensor}))


@pytest.mark.parametrize("with_weights", [True, False])
def test_an_artifact_says_what_a_version_was_trained_to(with_weights: bool) -> None:
    made = small_model(10)
    tensors = load(made.files()["factors.safetensors"])
    if not with_weights:
        del tensors["item_weights"]
    manifest = made.manifest(ModelName("movies"), ModelVersion("v1"), [0, 2])
    trained = trained_of(manifest, tensors, msgspec.json.decode(made.files()["items.json"], type=list[str]))
    assert trained.ids == list(made.items)
    assert np.array_equal(trained.factors, made.item_factors)
    assert trained.weights.tolist() == (made.item_weights.tolist() if with_weights else [1.0] * len(made.items))
    assert trained.weights.dtype == np.float64
    assert trained.users == len(made.users)
    assert np.array_equal(trained.user_gramian, gramian(made.user_factors))
    assert np.array_equal(trained.gramian, gramian(made.item_factors))
    assert (trained.fold_in.alpha, trained.fold_in.regularization) == (10.0, 0.05)
    assert trained.tower is None
    assert VersionLearner(trained, Sources()).known().all()


def test_two_towers_of_an_artifact_are_over_its_items_or_refused() -> None:
    made, rng = small_model(10), np.random.default_rng(11)
    manifest = made.manifest(ModelName("movies"), ModelVersion("v1"), [0, 2])
    tensors, ids = load(made.files()["factors.safetensors"]), list(made.items)
    trained = trained_of(manifest, tensors, ids, drawn_tower_tensors(rng, len(ids)))
    assert trained.tower is not None
    assert len(trained.tower) == len(ids)
    with pytest.raises(ArtifactError, match=f"expected {len(ids)} items"):
        trained_of(manifest, tensors, ids, drawn_tower_tensors(rng, len(ids) - 1))
