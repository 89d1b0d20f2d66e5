"""What the catalogue says of items stands in the rows of these items, whatever the catalogue leaves out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from online_models.contracts.events import Item
from online_models.contracts.ids import ModelName, hash64
from serving_api.facts import Facts
from serving_api.reranking.matching import matches
from serving_api.rules import Exclude, Rule, When

DAY_MS = 86_400_000
NOW_MS = 20_000 * DAY_MS
IDS = st.sampled_from("abcdefgh")
ITEMS = st.builds(
    Item,
    item_id=IDS,
    domain=st.just("movies"),
    title=st.just(""),
    categories=st.lists(st.sampled_from([f"c{n}" for n in range(70)]), max_size=4),
    price=st.none() | st.floats(0, 1e6, width=32),
    min_age=st.none() | st.sampled_from([0.0, 6.0, 18.0]),
    available_ms=st.none() | st.integers(0, NOW_MS),
)


def of(catalogue: list[Item], *rules: Rule, domain: str = "movies") -> Facts:
    return Facts.of({item.item_id: item for item in catalogue}, rules, domain)


@given(st.lists(ITEMS, unique_by=lambda item: item.item_id), st.lists(IDS, unique=True), st.data())
def test_each_row_says_what_the_catalogue_says_of_its_item(
    catalogue: list[Item], ids: list[str], data: st.DataObject
) -> None:
    facts = of(catalogue).of_rows(ids)
    rows = np.array(
        data.draw(st.lists(st.sampled_from(range(len(ids))), unique=True) if ids else st.just([])), np.int64
    )
    hashes = np.array([hash64(ids[row]) for row in rows.tolist()], np.uint64)
    n = len(rows)
    found = facts.candidates(rows, hashes, np.zeros(n, np.float32), np.zeros((n, 2), np.float32), NOW_MS)
    known = {item.item_id: item for item in catalogue}
    for place, row in enumerate(rows.tolist()):
        item = known.get(ids[row], Item(ids[row], "movies", ""))
        assert found.categories[place].tolist() == facts.names.bits([item.categories])[0].tolist()
        assert found.categories[place].any() == bool(item.categories)
        assert found.min_age[place] == (item.min_age or 0.0)
        price = np.nan if item.price is None else item.price
        age = np.nan if item.available_ms is None else (NOW_MS - item.available_ms) / DAY_MS
        assert found.price[place] == pytest.approx(price, nan_ok=True)
        assert found.age_days[place] == pytest.approx(age, rel=1e-6, nan_ok=True)
    assert found.hashes.tolist() == hashes.tolist()
    assert all(column.dtype == np.float32 for column in (found.price, found.min_age, found.age_days))
    assert all(column.flags.c_contiguous for column in (found.categories, found.price, found.factors, found.age_days))


def test_rules_hold_in_their_domain_and_by_the_names_of_the_catalogue() -> None:
    horror = Exclude(action="exclude", when=When(categories=("Horror",)))
    elsewhere = Exclude(action="exclude", when=When(categories=("Comedy",), domains=("products",)))
    unheard = Exclude(action="exclude", when=When(categories=("Opera",)))
    catalogue = [Item("a", "movies", "", ["Comedy"]), Item("b", "movies", "", ["Comedy", "Horror"])]
    facts = of(catalogue, horror, elsewhere, unheard).of_rows(["b", "?", "a"])
    assert len(facts.rules) == 2
    rows, scores = np.arange(3), np.zeros(3, np.float32)
    found = facts.candidates(rows, rows.astype(np.uint64), scores, np.zeros((3, 1), np.float32), NOW_MS)
    assert matches(facts.rules, found).excluded.tolist() == [True, False, False]


def test_an_empty_catalogue_says_nothing_of_any_row() -> None:
    facts = Facts.of({}, [], ModelName("movies")).of_rows(["a", "b"])
    assert facts.categories.tolist() == [[0], [0]]
    assert np.isnan(facts.price).all()
    assert np.isnan(facts.available_ms).all()
    assert facts.min_age.tolist() == [0, 0]
    assert len(facts.of_rows([]).price) == 0
