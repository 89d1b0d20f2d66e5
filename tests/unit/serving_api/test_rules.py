"""Rules and re-ranking as an operator writes them, and what is refused with which words."""

from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from online_models.errors import SettingsError
from online_models.settings import Settings
from serving_api import rules
from serving_api.rules import Boost, Exclude, Limit, Pin, Reranking, Rule, When


class Lists(Settings):
    section: ClassVar[str] = "serving"
    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="PENSTOCK_SERVING_")

    reranking: Reranking = Field(default_factory=Reranking)
    rules: tuple[Rule, ...] = ()


def read(tmp_path: Path, toml: str) -> Lists:
    (tmp_path / "penstock.toml").write_text(toml)
    return Lists.load(tmp_path / "penstock.toml")


def test_every_kind_of_rule_can_be_written(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        """
        [serving.reranking]
        mmr_lambda = 0.8
        similarity = "categories"

        [[serving.rules]]
        action = "exclude"
        when = { items = ["1", "2"], domains = ["movies"] }

        [[serving.rules]]
        action = "boost"
        value = -0.5
        when = { older_than_days = 30, min_price = 10 }

        [[serving.rules]]
        action = "pin"
        rank = 3
        when = { newer_than_days = 7 }

        [[serving.rules]]
        action = "limit"
        count = 2
        when = { categories = ["Horror"] }
        """,
    )
    assert found.reranking == Reranking(mmr_lambda=0.8, similarity="categories")
    assert found.rules == (
        Exclude(action="exclude", when=When(items=("1", "2"), domains=("movies",))),
        Boost(action="boost", value=-0.5, when=When(older_than_days=30, min_price=10)),
        Pin(action="pin", rank=3, when=When(newer_than_days=7)),
        Limit(action="limit", count=2, when=When(categories=("Horror",))),
    )


def test_the_example_of_the_module_is_valid(tmp_path: Path) -> None:
    example = "\n".join(line for line in (rules.__doc__ or "").splitlines() if line.startswith("    "))
    found = read(tmp_path, example)
    assert found.reranking.mmr_lambda == 0.8
    assert found.rules == (Limit(action="limit", count=2, when=When(categories=("Horror",), domains=("movies",))),)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ('action = "hide"\nwhen = { items = ["1"] }', "rules.0: Input tag 'hide'"),
        ('action = "exclude"', "rules.0.exclude.when: Field required"),
        ('action = "exclude"\nwhen = {}', "rules.0.exclude.when: .*at least one condition"),
        ('action = "exclude"\nwhen = { domains = ["movies"] }', "at least one condition"),
        ('action = "exclude"\nwhen = { genre = "War" }', "rules.0.exclude.when.genre: Extra inputs"),
        ('action = "exclude"\nwhen = { items = [""] }', "rules.0.exclude.when.items.0"),
        ('action = "boost"\nwhen = { items = ["1"] }', "rules.0.boost.value: Field required"),
        ('action = "boost"\nvalue = inf\nwhen = { items = ["1"] }', "rules.0.boost.value: .*finite"),
        ('action = "pin"\nrank = 0\nwhen = { items = ["1"] }', "rules.0.pin.rank: .*greater than or equal to 1"),
        ('action = "limit"\ncount = 0\nwhen = { items = ["1"] }', "rules.0.limit.count: .*greater than or equal to 1"),
        ('action = "limit"\ncount = 1\nvalue = 1\nwhen = { items = ["1"] }', "rules.0.limit.value: Extra inputs"),
        ('action = "exclude"\nwhen = { min_price = 3, max_price = 2 }', r"min_price 3.* is above max_price 2"),
        ('action = "exclude"\nwhen = { older_than_days = 9, newer_than_days = 2 }', "older_than_days 9.* is above"),
    ],
)
def test_a_rule_that_says_nothing_or_too_much_is_refused_by_name(tmp_path: Path, rule: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read(tmp_path, f"[[serving.rules]]\n{rule}")


@pytest.mark.parametrize(
    "line",
    [
        "mmr_lambda = 1.1",
        "mmr_lambda = nan",
        'similarity = "title"',
        "freshness_half_life_days = 0",
        "exposure_cap = 0",
        "explore_probability = -0.1",
        "explore_rank = -1",
        "stranger_age = -1",
        "lambda = 1",
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(tmp_path: Path, line: str) -> None:
    with pytest.raises(SettingsError, match=rf"reranking\.{line.split()[0]}"):
        read(tmp_path, f"[serving.reranking]\n{line}")


@pytest.mark.parametrize("kind", [Reranking, When])
def test_every_field_is_documented(kind: type[Reranking | When]) -> None:
    listed = [
        name for line in (kind.__doc__ or "").splitlines() if " : " in line for name in line.split(" : ")[0].split(", ")
    ]
    assert sorted(name.strip() for name in listed) == sorted(kind.model_fields)
