"""What an operator says about lists: business rules (`[[serving.rules]]`) and re-ranking (`[serving.reranking]`).

- Types alone, checked as they are read; `reranking` carries them out.
- With every default a list is what the ranking made it, without what the user has seen.

    [serving.reranking]
    mmr_lambda = 0.8

    [[serving.rules]]
    action = "limit"
    count = 2
    when = { categories = ["Horror"], domains = ["movies"] }
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

Similarity = Literal["embedding", "categories"]
Texts = tuple[Annotated[str, Field(min_length=1)], ...]


class _Told(BaseModel):
    """Frozen, and strict about keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class When(_Told):
    """The items that a rule is about: those that meet every condition given. What is not known of an item meets none.

    items : item ids, one of which it is
    categories : names, one of which it has
    newer_than_days, older_than_days : age below, or at least so many days
    min_price, max_price : price at least, or at most
    domains : where the rule holds; everywhere when none is given
    """

    items: Texts = ()
    categories: Texts = ()
    newer_than_days: FiniteFloat | None = Field(None, gt=0)
    older_than_days: FiniteFloat | None = Field(None, ge=0)
    min_price: FiniteFloat | None = None
    max_price: FiniteFloat | None = None
    domains: Texts = ()

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not (self.items or self.categories or self._bounded):
            raise ValueError("expected at least one condition on items: items, categories, an age or a price")
        for low, high in (("older_than_days", "newer_than_days"), ("min_price", "max_price")):
            least, most = getattr(self, low), getattr(self, high)
            if least is not None and most is not None and least > most:
                raise ValueError(f"{low} {least} is above {high} {most}: no item meets both")
        return self

    @property
    def _bounded(self) -> bool:
        bounds = (self.newer_than_days, self.older_than_days, self.min_price, self.max_price)
        return any(bound is not None for bound in bounds)


class _Of(_Told):
    when: When


class Exclude(_Of):
    """These items are never shown."""

    action: Literal["exclude"]


class Boost(_Of):
    """These items' scores rise by `value`, or fall where it is negative; boosts of several rules add up."""

    action: Literal["boost"]
    value: FiniteFloat


class Pin(_Of):
    """The best of these items among the candidates stands at `rank`, counted from 1.

    A rank that an earlier rule has taken, or that is beyond the list, pins nothing.
    """

    action: Literal["pin"]
    rank: int = Field(ge=1)


class Limit(_Of):
    """At most `count` of these items are in a list, which ends early rather than have more."""

    action: Literal["limit"]
    count: int = Field(ge=1)


Rule = Annotated[Exclude | Boost | Pin | Limit, Field(discriminator="action")]
"""One business rule; those of one kind are taken in their order."""


class Reranking(_Told):
    """How a ranked list is made more varied, fresher, and less repetitive. The defaults change nothing.

    mmr_lambda : weight of relevance against likeness to what is in the list already; 1 is relevance alone
    similarity : what makes two items alike: the cosine of their vectors, or the share of categories they have in common
    freshness_bonus : what the score of an item of age 0 rises by
    freshness_half_life_days : age at which the bonus is half
    exposure_cap : an item with a larger share of recent impressions goes behind all others; 1 is no cap
    exposure_half_life_seconds : an impression so long ago counts half
    exposure_min_impressions : with fewer recent impressions than this, counted so, nothing is capped
    explore_probability : chance that one place of a list goes to an item drawn from the candidates that are not in it
    explore_rank : that place, counted from 1; 0 is the last
    stranger_age : age in years that a user of unknown age is taken to have; none lets such a user see everything
    """

    mmr_lambda: float = Field(1.0, ge=0, le=1)
    similarity: Similarity = "embedding"
    freshness_bonus: float = Field(0.0, ge=0, allow_inf_nan=False)
    freshness_half_life_days: float = Field(14.0, gt=0, allow_inf_nan=False)
    exposure_cap: float = Field(1.0, gt=0, le=1)
    exposure_half_life_seconds: float = Field(3_600.0, gt=0, allow_inf_nan=False)
    exposure_min_impressions: float = Field(1_000.0, ge=0, allow_inf_nan=False)
    explore_probability: float = Field(0.0, ge=0, le=1)
    explore_rank: int = Field(0, ge=0)
    stranger_age: float | None = Field(None, ge=0, allow_inf_nan=False)

    def age_of(self, user_age: float | None) -> float | None:
        """The age in years that a user is taken to have; None sees everything."""
        return self.stranger_age if user_age is None else user_age
