"""Retrieval equals plain sorting, whatever was seen and whatever is new."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from online_models import als
from online_models.contracts.ids import ItemId, ModelName, ModelVersion
from serving_api.model_cache import LoadedVersion
from serving_api.retrieval import NewItems, RankedList, best_items, hashes_of
from tests.artifacts import FACTORS, HOW, small_model

MADE = small_model(3, items=20)
LOADED = LoadedVersion(
    manifest=MADE.manifest(ModelName("movies"), ModelVersion("v1"), [0, 2]),
    manifest_sha256="",
    item_ids=list(MADE.items),
    index=als.ItemIndex.of(MADE.items),
    item_factors=MADE.item_factors,
    item_gramian=als.gramian(MADE.item_factors),
    user_rows={},
    user_factors=MADE.user_factors,
    popular=[],
    fold_in=HOW,
)
NAMES = [*MADE.items, "n0", "n1", "n2", "unknown"]


def new_items(seed: int, count: int) -> dict[ItemId, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {ItemId(f"n{n}"): rng.normal(size=FACTORS).astype(np.float32) for n in range(count)}


@given(st.integers(0, 2**31), st.integers(0, 3), st.lists(st.sampled_from(NAMES), max_size=30), st.integers(1, 30))
def test_the_best_items_are_those_of_plain_sorting(seed: int, count: int, seen: list[str], k: int) -> None:
    vector = np.random.default_rng(seed).normal(size=FACTORS).astype(np.float32)
    fresh = new_items(seed, count)
    found = best_items(LOADED, NewItems.of(fresh, LOADED), vector, hashes_of(seen), k)
    factors = dict(zip(MADE.items, MADE.item_factors, strict=True)) | dict(fresh.items())
    plain = sorted(((float(row @ vector), item) for item, row in factors.items() if item not in seen), reverse=True)
    assert [item for item, _ in found] == [item for _, item in plain[:k]]
    np.testing.assert_allclose([score for _, score in found], [score for score, _ in plain[:k]], rtol=1e-4, atol=1e-5)


def test_new_items_that_do_not_fit_the_version_are_left_out() -> None:
    odd = {
        ItemId("i1"): np.ones(FACTORS, np.float32),  # trained already
        ItemId("long"): np.ones(FACTORS + 1, np.float32),
        ItemId("torn"): np.full(FACTORS, np.nan, np.float32),
        ItemId("fits"): np.ones(FACTORS, np.float32),
    }
    assert NewItems.of(odd, LOADED).ids == ["fits"]
    assert NewItems.of({}, LOADED).factors.shape == (0, FACTORS)


@given(st.lists(st.text(max_size=5), unique=True), st.lists(st.text(max_size=5)))
def test_a_ranked_list_leaves_out_what_was_seen_and_keeps_its_order(ids: list[str], seen: list[str]) -> None:
    assert RankedList.of(ids).unseen(hashes_of(seen)) == [item for item in ids if item not in seen]
