"""Heavy words of linear sketches: found, never undercounted, none invented; and the texts of new ones in a batch."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online_models.contracts.columns import Column
from online_models.heavy_hitters import COUNTERS, SHARE, Counters, add_fingerprints, heavy_words, new_heavy_words

EVENTS = 100_000


def zipf(words: int, exponent: float) -> npt.NDArray[np.float64]:
    weights: npt.NDArray[np.float64] = np.arange(1.0, words + 1) ** -exponent
    weights /= weights.sum()
    return weights


SHARES = {
    "Zipf 1.05 of 10k": zipf(10_000, 1.05),
    "Zipf 0.8 of 10k": zipf(10_000, 0.8),
    "Zipf 1.3 of 100k": zipf(100_000, 1.3),
    "a hundred alike": np.full(100, 0.01),
    "half a few, half rare": np.concatenate([np.full(25, 0.02), np.full(50_000, 1e-5)]),
    "rare only": np.full(20_000, 5e-5),
}


def counters_of(words: npt.NDArray[np.uint64]) -> Counters:
    counters = np.zeros(COUNTERS, np.int64)
    add_fingerprints(words, counters)
    return counters


@pytest.mark.parametrize("name", list(SHARES))
@pytest.mark.parametrize("seed", range(5))
def test_every_word_of_one_percent_is_found_with_no_less_than_its_count(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 2**64, len(SHARES[name]), np.uint64)
    counts = rng.multinomial(EVENTS, SHARES[name])
    true = dict(zip((words >> np.uint64(32)).tolist(), counts.tolist(), strict=True))
    found = dict(heavy_words(counters_of(np.repeat(words, counts)), 1_000))
    assert {word for word, count in true.items() if count >= 0.01 * EVENTS} <= found.keys()
    assert all(word in true for word in found)
    for word, at_most in found.items():
        assert true[word] <= at_most <= true[word] + 0.005 * EVENTS
    assert list(found.values()) == sorted(found.values(), reverse=True)


@given(st.dictionaries(st.integers(0, 2**32 - 1), st.integers(1, 300), max_size=5))
@settings(max_examples=100, deadline=None)
def test_a_few_words_are_counted_exactly(counts: dict[int, int]) -> None:
    words = np.array([word << 32 for word in counts], np.uint64)
    found = dict(heavy_words(counters_of(np.repeat(words, list(counts.values()))), 10))
    assert found == {word: n for word, n in counts.items() if n >= SHARE * sum(counts.values())}


def test_only_the_k_most_frequent_are_given() -> None:
    words = np.repeat(np.array([1 << 32, 2 << 32, 3 << 32], np.uint64), [5, 9, 7])
    assert heavy_words(counters_of(words), 2) == [(2, 9), (3, 7)]
    assert heavy_words(counters_of(words[:0]), 2) == []


def texts(words: list[int], rows: list[int] | None = None) -> Column:
    hashes = np.array([word << 32 for word in words], np.uint64)
    return Column(
        word_rows=None if rows is None else np.array(rows, np.int32), words=hashes, text=lambda p: f"w{words[p]}"
    )


def test_texts_are_asked_for_frequent_unknown_words_only() -> None:
    asked: list[int] = []
    rng = np.random.default_rng(0)
    words = np.where(rng.random(50_000) < 0.3, rng.integers(1, 4, 50_000), rng.integers(1_000, 2**31, 50_000))

    def text(place: int) -> str:
        asked.append(place)
        return f"w{words[place]}"

    column = Column(word_rows=None, words=words.astype(np.uint64) << np.uint64(32), text=text)
    assert new_heavy_words(column, known={2}) == {1: "w1", 3: "w3"}
    assert len(asked) == 2


def test_events_that_are_left_out_do_not_count() -> None:
    rows = np.array([True, False, True])
    assert new_heavy_words(texts([5, 6, 7]), rows=rows) == {5: "w5", 7: "w7"}
    assert new_heavy_words(texts([5, 6, 7, 8], [0, 1, 1, 2]), rows=rows) == {5: "w5", 8: "w8"}
    assert new_heavy_words(texts([])) == {}
