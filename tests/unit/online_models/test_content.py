"""Content vectors, similarities and placed items against written-out sums and scipy.sparse; words and years; bounds."""

import math
from collections import Counter, defaultdict

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from online_models.content import COLUMNS, ContentIndex, Placing, Profile, terms, words
from online_models.contracts.events import Item
from online_models.contracts.ids import hash64

F64 = npt.NDArray[np.float64]

WORDS = [f"word{number}" for number in range(12)]
TITLES = st.builds(
    lambda found, year: " ".join(found) + (f" ({year})" if year else ""),
    st.lists(st.sampled_from(WORDS), max_size=5),
    st.sampled_from([0, 1995, 1999, 2003]),
)
CATALOGUES = st.lists(
    st.builds(
        lambda title, categories: Item("i", "movies", title, categories),
        TITLES,
        st.lists(st.sampled_from(["Drama", "Comedy", "Film-Noir"]), max_size=2),
    ),
    max_size=15,
)
SEEDS = st.integers(0, 2**32 - 1)


def catalogue(*titles: str) -> list[Item]:
    return [Item(title, "movies", title) for title in titles]


def tally(item: Item) -> Counter[int]:
    return Counter(hash64(term) % COLUMNS for term in terms(item))


def idf(items: list[Item], column: int) -> float:
    """Oracle: log of the catalogue's size over how many items have a term; at least one counts as having it."""
    return math.log(max(len(items), 1) / max(sum(column in tally(item) for item in items), 1))


def unit(vector: dict[int, float]) -> dict[int, float]:
    norm = math.sqrt(sum(weight * weight for weight in vector.values()))
    return {column: weight / norm for column, weight in vector.items()} if norm else {}


def vector_of(item: Item, items: list[Item]) -> dict[int, float]:
    """Oracle: an item's vector, as the textbook writes it."""
    return unit(
        {column: (1 + math.log(times)) * math.sqrt(idf(items, column)) for column, times in tally(item).items()}
    )


def dot(one: dict[int, float], other: dict[int, float]) -> float:
    return sum(weight * other.get(column, 0.0) for column, weight in one.items())


def as_dict(profile: Profile) -> dict[int, float]:
    return dict(zip(profile.columns.tolist(), profile.weights.tolist(), strict=True))


def same(one: dict[int, float], other: dict[int, float]) -> bool:
    return all(abs(one.get(column, 0.0) - other.get(column, 0.0)) < 1e-6 for column in one.keys() | other.keys())


@given(CATALOGUES, SEEDS)
@settings(max_examples=40, deadline=None)
def test_similarities_of_a_history_are_the_cosines_of_written_out_vectors(items: list[Item], seed: int) -> None:
    rng = np.random.default_rng(seed)
    index = ContentIndex.of(items)
    rows = rng.integers(-1, len(items), 6)
    weights = rng.exponential(size=6).astype(np.float32)
    summed: defaultdict[int, float] = defaultdict(float)
    for row, weight in zip(rows.tolist(), weights.tolist(), strict=True):
        for column, entry in vector_of(items[row], items).items() if row >= 0 else ():
            summed[column] += weight * entry
    expected = unit({column: weight * idf(items, column) for column, weight in summed.items()})
    profile = index.profile(rows, weights)
    assert same(as_dict(profile), expected)
    assert (np.diff(profile.columns) > 0).all()
    scores = index.scores(profile)
    assert scores.dtype == np.float32
    assert np.allclose(scores, [dot(vector_of(item, items), expected) for item in items], atol=1e-6)


@given(CATALOGUES, CATALOGUES)
@settings(max_examples=40, deadline=None)
def test_an_item_in_or_outside_the_catalogue_is_weighed_by_the_catalogue(items: list[Item], others: list[Item]) -> None:
    index = ContentIndex.of(items)
    for item in items + others:
        profile = index.item_profile(item)
        assert same(as_dict(profile), vector_of(item, items))
        assert (np.diff(profile.columns) > 0).all()


def random_counts(rng: np.random.Generator, items: int, columns: int) -> csr_array:
    counts = csr_array((rng.random((items, columns)) < 0.2) * rng.integers(1, 4, (items, columns)), dtype=np.float64)
    return csr_array((counts.data, counts.indices, counts.indptr), shape=(items, COLUMNS))


def cosines(counts: csr_array, profile: Profile) -> F64:
    """Oracle: (items,), by scipy."""
    idf = np.log(counts.shape[0] / np.maximum(np.bincount(counts.indices, minlength=COLUMNS), 1))
    data = (1 + np.log(counts.data)) * np.sqrt(idf[counts.indices])
    weights = csr_array((data, counts.indices, counts.indptr), shape=counts.shape)
    norms = np.sqrt(weights.multiply(weights).sum(axis=1))
    query = csr_array((profile.weights, profile.columns, [0, len(profile.columns)]), shape=(1, COLUMNS))
    found: F64 = (weights @ query.T).toarray()[:, 0] / np.where(norms > 0, norms, 1)
    return found


@given(SEEDS, st.integers(1, 60), st.integers(1, 40), st.integers(0, 70))
@settings(max_examples=40, deadline=None)
def test_the_best_items_are_those_of_a_sparse_product_ties_by_row(
    seed: int, items: int, columns: int, count: int
) -> None:
    rng = np.random.default_rng(seed)
    counts = random_counts(rng, items, columns)
    index = ContentIndex(counts)
    profile = index.profile(rng.integers(0, items, 4), rng.exponential(size=4).astype(np.float32))
    scores = index.scores(profile)
    assert np.allclose(scores, cosines(counts, profile), atol=1e-6)
    among, excluded = np.append(rng.permutation(items)[: items // 2 + 1], -1), rng.integers(-1, items, 3)
    for chosen, left_out in ((None, np.empty(0, np.int64)), (None, excluded), (among, excluded)):
        allowed = set(range(items) if chosen is None else chosen.tolist()) - set(left_out.tolist())
        ranked = sorted((-score, row) for row, score in enumerate(scores.tolist()) if score > 0 and row in allowed)
        rows, similarities = index.best(profile, count, among=chosen, excluded=left_out)
        assert rows.tolist() == [row for _, row in ranked[:count]]
        assert similarities.tolist() == [-score for score, _ in ranked[:count]]


@given(SEEDS, st.integers(2, 40))
@settings(max_examples=25, deadline=None)
def test_neighbours_of_an_item_are_by_cosine_without_itself(seed: int, items: int) -> None:
    rng = np.random.default_rng(seed)
    index = ContentIndex(random_counts(rng, items, 15))
    row = int(rng.integers(items))
    near = index.neighbours(row, items)
    assert row not in near.rows
    for other, similarity in zip(near.rows.tolist(), near.similarities.tolist(), strict=True):
        backward = index.neighbours(other, items)
        assert backward.similarities[backward.rows == row].tolist() == [pytest.approx(similarity, abs=1e-6)]
        assert 0 < similarity < 1 + 1e-6
    assert (np.diff(near.similarities) <= 0).all()


@given(SEEDS, st.integers(1, 30), st.integers(1, 8), st.sampled_from([0.0, 0.5, 3.0]))
@settings(max_examples=40, deadline=None)
def test_a_cold_item_is_placed_at_the_shrunk_mean_of_its_warm_neighbours(
    seed: int, items: int, neighbours: int, shrinkage: float
) -> None:
    rng = np.random.default_rng(seed)
    index = ContentIndex(random_counts(rng, items, 10))
    warm = rng.permutation(items)[: rng.integers(0, items + 1)]
    factors = rng.normal(size=(len(warm), 5)).astype(np.float32)
    cold = [index.profile(np.array([row]), np.ones(1, np.float32)) for row in range(items)]
    vectors = index.placed(cold, warm, factors, Placing(neighbours, shrinkage))
    assert vectors.shape == (items, 5)
    for profile, vector in zip(cold, vectors, strict=True):
        scores = index.scores(profile)
        ranked = sorted((-float(scores[row]), row, place) for place, row in enumerate(warm.tolist()) if scores[row] > 0)
        weighted, total = np.zeros(5), shrinkage
        for similarity, _, place in ranked[:neighbours]:
            weighted -= similarity * factors[place].astype(np.float64)
            total -= similarity
        assert np.allclose(vector, weighted / total if ranked else 0, atol=1e-5)


def test_a_placed_vector_shrinks_where_neighbours_are_few_or_far() -> None:
    index = ContentIndex.of(catalogue("red bag", "red bag", "red lamp", "blue lamp", "oak chair"))
    factors = np.ones((4, 2), np.float32)
    near, far, none = (Item("new", "products", title) for title in ("red bag", "red stool", "zinc pot"))
    placed = index.placed([*map(index.item_profile, (near, far, none))], np.arange(4), factors, Placing())[:, 0]
    assert 1 > placed[0] > placed[1] > placed[2] == 0


def test_a_sequel_is_nearer_than_a_film_of_the_same_year_and_the_same_word_elsewhere_is_another_term() -> None:
    titles = ["Toy Story (1995)", "Toy Story 2 (1999)", "Heat (1995)", "Se7en (1994)", "Comedy (1950)"]
    items = [*catalogue(*titles), Item("x", "movies", "Up", ["Comedy"])]
    index = ContentIndex.of(items)
    assert index.neighbours(0, 5).rows.tolist() == [1, 2, 3]
    assert len(index.neighbours(5, 5).rows) == 0


def test_words_are_folded_and_split_at_punctuation() -> None:
    assert words("Léon: The Professional") == words("LEON - the (professional)") == ["leon", "the", "professional"]
    assert words("Don't, 'n' Rock’s") == ["dont", "n", "rocks"]
    assert words("Straße") == ["strasse"]
    assert words("снег_Ёлка") == ["снег", "елка"]
    assert words("  ...  ") == []


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Heat (1995)", ["year 1995", "decade 199", "title heat"]),
        ("Heat (1995) ", ["year 1995", "decade 199", "title heat"]),
        ("Fargo (2014-2020)", ["year 2014", "decade 201", "title fargo"]),
        ("Fargo (2014–)", ["year 2014", "decade 201", "title fargo"]),
        (
            "2001: A Space Odyssey (1968)",
            ["year 1968", "decade 196", *(f"title {w}" for w in ["2001", "a", "space", "odyssey"])],
        ),
        ("1984", ["title 1984"]),
        ("Room (4242)", ["title room", "title 4242"]),
        ("", []),
    ],
)
def test_only_a_year_in_brackets_at_the_end_is_a_year(title: str, expected: list[str]) -> None:
    assert list(terms(Item("i", "movies", title))) == expected


@given(st.text(max_size=30), st.lists(st.text(max_size=8), max_size=3))
@settings(max_examples=60, deadline=None)
def test_any_text_gives_words_that_are_words_already_and_a_finite_vector(title: str, categories: list[str]) -> None:
    for word in words(title):
        assert words(word) == [word]
    item = Item("i", "movies", title, categories)
    profile = ContentIndex.of([item, Item("j", "movies", "another")]).item_profile(item)
    norm = float(np.linalg.norm(profile.weights))
    assert norm == pytest.approx(1, abs=1e-5) if len(profile.columns) else norm == 0


@given(st.text(st.characters(max_codepoint=127), max_size=30))
def test_case_does_not_matter(title: str) -> None:
    lower, upper = (list(terms(Item("i", "movies", text, [text]))) for text in (title.lower(), title.upper()))
    assert lower == upper


def test_a_catalogue_of_nothing_or_of_one_kind_has_no_neighbours() -> None:
    empty = ContentIndex.of([])
    assert len(empty) == 0
    assert empty.scores(empty.item_profile(Item("i", "movies", "Heat"))).shape == (0,)
    assert len(empty.best(empty.item_profile(Item("i", "movies", "Heat")), 3).rows) == 0
    same = ContentIndex.of(catalogue("heat", "heat", "heat"))
    assert len(same.neighbours(0, 3).rows) == 0


def test_terms_of_many_items_are_left_out_when_the_budget_of_postings_is_spent() -> None:
    index = ContentIndex.of(catalogue("rare common", "rare common", *["common"] * 5, *["other"] * 5))
    profile = index.item_profile(Item("i", "movies", "rare common"))
    found = {postings: (index.scores(profile, postings=postings) > 0).sum() for postings in (0, 2, 8, 9)}
    assert found == {0: 0, 2: 2, 8: 2, 9: 7}


def test_rows_out_of_range_and_columns_of_two_lengths_are_refused() -> None:
    index, one = ContentIndex.of(catalogue("a", "b")), np.ones(1, np.float32)
    profile = index.profile(np.array([0]), one)
    two, far = np.array([0, 1]), np.array([2])
    for refused in (
        lambda: index.profile(far, one),
        lambda: index.profile(two, one),
        lambda: index.best(profile, 1, among=far),
        lambda: index.best(profile, 1, excluded=far),
        lambda: index.neighbours(2, 1),
        lambda: index.neighbours(-1, 1),
        lambda: index.placed([profile], two, np.ones((1, 3), np.float32), Placing()),
        lambda: index.placed([profile], np.array([-1]), np.ones((1, 3), np.float32), Placing()),
        lambda: index.placed([], far, np.ones((1, 3), np.float32), Placing()),
        lambda: Placing(neighbours=0),
        lambda: Placing(shrinkage=-1.0),
        lambda: Placing(shrinkage=math.nan),
    ):
        with pytest.raises(ValueError, match="expected"):
            refused()
