"""Constructed columns against the event-by-event oracle, their texts, and what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online_models.columns import MappingColumns
from online_models.construction import construct
from online_models.contracts.columns import Column
from online_models.contracts.events import EventType
from online_models.contracts.features import FeatureKind, FeatureSpec
from online_models.contracts.ids import hash64
from tests.oracles.features import Row, observed, values_of

ALL = tuple(EventType)
SOURCES = ("type", "item_id", "features.a", "tokens:features.a", "features.a*features.b", "weekday*features.a*user_id")
WORDS = st.sampled_from(["Drama", "drama comedy", "Sci-Fi", "", "ключ"])
FEATURES = st.fixed_dictionaries({}, optional=dict.fromkeys("ab", st.floats() | WORDS | st.lists(WORDS, max_size=3)))
ROWS = st.lists(st.builds(Row, type=st.sampled_from(ALL), ts_ms=st.integers(0, 10**12), features=FEATURES), max_size=10)


def spec(source: str, kind: FeatureKind = FeatureKind.MULTI_VALUED, edges: tuple[float, ...] = ()) -> FeatureSpec:
    return FeatureSpec("x", kind, source, ALL, edges=edges)


def listed(column: Column) -> list[tuple[int, int, str]]:
    """Row, hash and text of each word."""
    rows = np.arange(len(column.words)) if column.word_rows is None else column.word_rows
    texts = [column.text(place) for place in range(len(column.words))]
    return list(zip(rows.tolist(), column.words.tolist(), texts, strict=True))


@pytest.mark.parametrize("source", SOURCES)
@given(rows=ROWS)
@settings(max_examples=100, deadline=None)
def test_words_rows_and_texts_are_those_of_the_oracle(source: str, rows: list[Row]) -> None:
    for each in (spec(source), spec(source, FeatureKind.CATEGORICAL, (0.0, 2.5))):
        expected = [(i, *v) for i, row in enumerate(rows) for v in values_of(each, row) if not isinstance(v, float)]
        assert sorted(listed(construct(each, observed(rows)))) == sorted(expected)


def test_buckets_are_named_by_their_borders_and_stand_in_the_order_of_events() -> None:
    rows = [Row(features={"a": given}) for given in (2.5, "word", -1, 0.0, 9.0)]
    column = construct(spec("features.a", FeatureKind.CATEGORICAL, (0.0, 2.5)), observed(rows))
    texts = ["[2.5, inf)", "word", "[-inf, 0.0)", "[0.0, 2.5)", "[2.5, inf)"]
    assert listed(column) == [(i, hash64(text), text) for i, text in enumerate(texts)]


def test_a_cross_is_not_the_cross_the_other_way_round() -> None:
    rows = [Row(features={"a": "x", "b": "y"})]
    one, other = (
        listed(construct(spec(s), observed(rows)))[0] for s in ("features.a*features.b", "features.b*features.a")
    )
    assert one[1] != other[1]
    assert (one[2], other[2]) == ("x × y", "y × x")


def test_numbers_cross_by_their_integer_part() -> None:
    rows = [Row(features={"a": number, "b": "y"}) for number in (1.0, 1.9, 2.0, -0.5)]
    words = listed(construct(spec("features.a*features.b"), observed(rows)))
    assert [text for *_, text in words] == ["1 × y", "1 × y", "2 × y", "-1 × y"]
    assert len({hashed for _, hashed, _ in words}) == 3


def test_tokens_are_lower_case_distinct_and_of_any_alphabet() -> None:
    rows = [Row(features={"a": ["The end, the END!", "Конец"]}), Row(features={"a": "..."}), Row(features={"a": "end"})]
    assert [(row, text) for row, _, text in listed(construct(spec("tokens:features.a"), observed(rows)))] == [
        (0, "the"),
        (0, "end"),
        (0, "конец"),
        (2, "end"),
    ]


def test_a_categorical_feature_has_one_word_or_none() -> None:
    rows = [Row(features={"a": given}) for given in (["x"], ["x", "y"], "z", ["p", "q", "r"])]
    words = listed(construct(spec("features.a", FeatureKind.CATEGORICAL), observed(rows)))
    assert [(row, text) for row, _, text in words] == [(0, "x"), (2, "z")]


def test_coordinates_of_embeddings_go_by_their_full_name() -> None:
    class Space(MappingColumns):
        def column(self, name: str) -> Column:
            return Column(None, np.array([0.5])) if name == "embedding.item.0" else super().column(name)

    columns = observed([Row()])
    object.__setattr__(columns, "features", Space([None]))
    assert construct(spec("embedding.item.0", FeatureKind.NUMERIC), columns).numbers.tolist() == [0.5]


@pytest.mark.parametrize(
    "source", ["colour", "", "features.", "hour*", "embedding.item", "tokens:value", "type*colour"]
)
def test_an_unknown_source_is_refused_by_name(source: str) -> None:
    with pytest.raises(ValueError, match="expected a source of FeatureSpec") as error:
        construct(spec(source), observed([Row()]))
    assert repr(source) in str(error.value)
