"""A rule is about the items that meet all its conditions, and an unknown property meets none."""

from dataclasses import replace

import numpy as np
import pytest

from online_models.contracts.ids import hash64
from serving_api.reranking.candidates import Candidates, Categories
from serving_api.reranking.matching import compiled, matches
from serving_api.rules import Boost, Exclude, Limit, Pin, When

NAMES = Categories(["Drama", "War"])
NAN = np.nan


def candidates() -> Candidates:
    plain = Candidates.plain(np.array([hash64(item) for item in "abcd"], np.uint64), np.zeros(4, np.float32))
    return replace(
        plain,
        categories=NAMES.bits([["War"], ["Drama"], ["Drama", "War"], []]),
        age_days=np.array([7, 6.99, -3, NAN], np.float32),
        price=np.array([9.99, 10, NAN, 0], np.float32),
    )


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        (When(items=("a", "d", "unknown")), "ad"),
        (When(categories=("War",)), "ac"),
        (When(categories=("War", "Drama")), "abc"),
        (When(categories=("unheard of",)), ""),
        (When(categories=("War", "unheard of")), "ac"),
        (When(newer_than_days=7), "bc"),
        (When(older_than_days=7), "a"),
        (When(max_price=9.99), "ad"),
        (When(min_price=9.99), "ab"),
        (When(categories=("War",), items=("c", "d"), newer_than_days=1), "c"),
    ],
)
def test_a_rule_is_about_what_meets_every_condition(when: When, expected: str) -> None:
    excluded = matches(compiled([Exclude(action="exclude", when=when)], "movies", NAMES), candidates()).excluded
    assert "".join(item for item, out in zip("abcd", excluded, strict=True) if out) == expected


def test_rules_of_every_kind_are_told_apart_in_their_order() -> None:
    war, drama, a = When(categories=("War",)), When(categories=("Drama",)), When(items=("a",))
    said = matches(
        compiled(
            [
                Pin(action="pin", rank=4, when=war),
                Boost(action="boost", value=0.5, when=war),
                Limit(action="limit", count=3, when=drama),
                Exclude(action="exclude", when=a),
                Boost(action="boost", value=-2, when=drama),
                Pin(action="pin", rank=1, when=a),
            ],
            "movies",
            NAMES,
        ),
        candidates(),
    )
    assert said.excluded.tolist() == [True, False, False, False]
    assert said.boost.tolist() == [0.5, -2.0, -1.5, 0.0]
    assert said.limited.tolist() == [[False, True, True, False]]
    assert said.pinned.tolist() == [[True, False, True, False], [True, False, False, False]]


def test_a_rule_holds_in_its_domains_alone() -> None:
    rule = Exclude(action="exclude", when=When(items=("a",), domains=("movies", "series")))
    assert [len(compiled([rule], domain, NAMES)) for domain in ("movies", "series", "products")] == [1, 1, 0]


def test_pins_and_limits_keep_their_numbers() -> None:
    when = When(items=("a",))
    rules = compiled([Limit(action="limit", count=3, when=when), Pin(action="pin", rank=4, when=when)], "movies", NAMES)
    assert (rules.limits.tolist(), rules.pins.tolist()) == ([3], [3])
