"""The text model: against counting in plain Python, as bytes, on columns of texts, and what surprises it."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain, pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from online_models.columns import MappingColumns
from online_models.construction import construct, words_of
from online_models.contracts.events import EventType
from online_models.contracts.features import FeatureKind, FeatureSpec
from online_models.errors import ArtifactError
from online_models.text import PRIOR, Surprise, TextColumns, TextModel
from tests.oracles.features import Row, observed

WORDS = st.sampled_from(["red", "Red", "house", "car", "ключ", "2001", "!?", ""])
TEXTS = st.lists(st.lists(WORDS, max_size=6).map(" ".join), max_size=8)
START = "<start>"


class Oracle:
    """The equations, word by word."""

    def __init__(self, texts: Sequence[str]) -> None:
        split = [words for text in texts if (words := words_of(text))]
        self.single = Counter(word for words in split for word in words)
        self.pairs = Counter(pair for words in split for pair in pairwise([START, *words]))
        self.lefts = Counter(left for left, _ in self.pairs.elements())

    def one(self, word: str) -> float:
        return (self.single[word] + 1) / (self.single.total() + len(self.single) + 1)

    def after(self, left: str, word: str) -> float:
        return (self.pairs[left, word] + PRIOR * self.one(word)) / (self.lefts[left] + PRIOR)

    def nll(self, text: str) -> float:
        words = words_of(text)
        return (
            -sum(math.log(self.after(*pair)) for pair in pairwise([START, *words])) / len(words) if words else math.nan
        )


@given(TEXTS, TEXTS)
@settings(max_examples=200, deadline=None)
def test_the_surprise_is_that_of_the_oracle(learned: list[str], asked: list[str]) -> None:
    oracle = Oracle(learned)
    np.testing.assert_allclose(TextModel.of(learned).nll(asked), [oracle.nll(text) for text in asked], rtol=1e-12)


@given(TEXTS)
@settings(max_examples=50, deadline=None)
def test_the_words_that_may_follow_and_one_that_is_unknown_share_all_probability(learned: list[str]) -> None:
    model, oracle = TextModel.of(learned), Oracle(learned)
    known = sorted(oracle.single)
    for left in known:
        both = [2 * nats for nats in model.nll([f"{left} {word}" for word in [*known, "unheard"]]).tolist()]
        first = float(model.nll([left])[0])
        assert sum(math.exp(first - nats) for nats in both) == pytest.approx(1)


@given(TEXTS, st.randoms())
@settings(max_examples=50, deadline=None)
def test_the_same_texts_in_any_order_are_the_same_bytes_and_the_bytes_the_same_model(
    learned: list[str], order: Random
) -> None:
    raw = TextModel.of(learned).encode()
    shuffled = list(learned)
    order.shuffle(shuffled)
    assert TextModel.of(shuffled).encode() == raw
    read = TextModel.decode(raw)
    assert read.encode() == raw
    np.testing.assert_array_equal(read.nll(["red house"]), TextModel.of(learned).nll(["red house"]))


def test_bytes_that_are_no_text_model_are_refused() -> None:
    tensors = load(TextModel.of(["the red house", "the car"]).encode())
    wrong = [
        b"nothing",
        save({name: tensor for name, tensor in tensors.items() if name != "lefts"}),
        save(tensors | {"counts": tensors["counts"][1:]}),
        save(tensors | {"counts": tensors["counts"].astype(np.float64)}),
        save(tensors | {"counts": tensors["counts"] - 9}),
        save(tensors | {"words": tensors["words"][::-1].copy()}),
    ]
    for raw in wrong:
        with pytest.raises(ArtifactError, match="text model"):
            TextModel.decode(raw)


def test_texts_of_events_become_the_mean_surprise_of_each_event() -> None:
    model = TextModel.of(["red house", "red car"])
    features: list[Mapping[str, object] | None] = [
        {"title": "red house"},
        {"title": ["red car", "blue"]},
        {"title": "?"},
        None,
        {"title": 7.0},
    ]
    rows = [Row(features=each) for each in features]
    columns = TextColumns(Surprise(model), MappingColumns(features))
    spec = FeatureSpec("nll", FeatureKind.NUMERIC, "nll:features.title", tuple(EventType), 0.0, 12.0)
    seen = observed(rows)
    column = construct(
        spec, type(seen)(seen.type, seen.ts_ms, seen.value, seen.item_hash, seen.user_hash, columns, rows)
    )
    one, two, three = model.nll(["red house", "red car", "blue"]).tolist()
    assert column.number_rows is not None
    assert column.number_rows.tolist() == [0, 1]
    assert column.numbers.tolist() == [one, (two + three) / 2]
    assert set(columns.names()) == {"title", "nll:features.title"}
    assert columns.column("title").numbers.tolist() == [7.0]
    taken = columns.take(np.array([False, True, False, False, True])).column("nll:features.title")
    assert taken.number_rows is not None
    assert (taken.number_rows.tolist(), taken.numbers.tolist()) == ([0], [(two + three) / 2])


def test_without_a_text_model_there_is_no_surprise() -> None:
    spec = FeatureSpec("nll", FeatureKind.NUMERIC, "nll:features.title", tuple(EventType))
    column = construct(spec, observed([Row(features={"title": "red house"})]))
    assert (len(column.numbers), len(column.words)) == (0, 0)


def test_a_text_that_is_remembered_reads_as_one_that_is_read_anew() -> None:
    model = TextModel.of(["red house"])
    surprise = Surprise(model)
    batches = [
        MappingColumns([{"t": f"red {number % 40}"} for number in range(start, start + 60)]) for start in (0, 30)
    ]
    for columns in (*batches, *batches):
        np.testing.assert_array_equal(
            surprise.column(columns.column("t")).numbers, Surprise(model).column(columns.column("t")).numbers
        )


def test_what_is_remembered_is_bounded() -> None:
    surprise = Surprise(TextModel.of(["red house"]), remembered=100)
    for start in range(0, 300, 40):
        texts = [{"t": str(number)} for number in range(start, start + 40)]
        assert len(surprise.column(MappingColumns(texts).column("t")).numbers) == 40
        assert len(surprise._known) <= 100


def test_new_words_and_a_new_order_surprise_and_a_longer_text_does_not() -> None:
    rng = np.random.default_rng(3)
    topics = [[f"t{topic}w{word}" for word in range(12)] for topic in range(6)]

    def title(vocabulary: list[str], length: int = 5) -> str:
        return " ".join(rng.choice(vocabulary, length))

    model = TextModel.of([title(topics[number % 6]) for number in range(3_000)])
    like = model.nll([title(topics[number % 6]) for number in range(500)]).mean()
    longer = model.nll([title(topics[number % 6], 15) for number in range(500)]).mean()
    mixed = model.nll([title(list(chain.from_iterable(topics))) for _ in range(500)]).mean()
    new = model.nll([title([f"new{word}" for word in range(12)]) for _ in range(500)]).mean()
    assert abs(longer - like) < 0.4
    assert like + 0.5 < mixed < new - 2
