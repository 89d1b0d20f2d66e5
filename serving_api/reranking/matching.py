"""Business rules compiled for one domain and one set of category names, and which candidates each is about."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from numba import njit

from online_models.contracts.ids import hash64
from serving_api.reranking.candidates import F32, Bits, Candidates, Categories, Hashes, Mask, Places
from serving_api.rules import Boost, Exclude, Limit, Pin, Rule, When

Ends = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Conditions:
    """What r rules ask of an item.

    items : uint64 (h,), hashes of each rule's items, ascending in each; item_ends : (r,), where each rule's end
    categories : uint64 (r, w), of which an item must have one; by_category : (r,), whether it must
    ages, prices : float32 (r, 2), least and most, both included; infinite where anything goes, even the unknown
    """

    items: Hashes
    item_ends: Ends
    categories: Bits
    by_category: Mask
    ages: F32
    prices: F32

    @classmethod
    def of(cls, whens: Sequence[When], categories: Categories) -> Self:
        """From the rules' own words."""
        items = [sorted(hash64(item) for item in when.items) for when in whens]
        return cls(
            items=np.array([each for of_rule in items for each in of_rule], np.uint64),
            item_ends=np.cumsum([len(of_rule) for of_rule in items], dtype=np.int64),
            categories=categories.bits([when.categories for when in whens]),
            by_category=np.array([bool(when.categories) for when in whens], np.bool_),
            ages=_bounds([(when.older_than_days, _below(when.newer_than_days)) for when in whens]),
            prices=_bounds([(when.min_price, when.max_price) for when in whens]),
        )


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules in the order excludes, boosts, limits, pins.

    conditions : of all r of them; excludes : how many the first are
    boosts : float32 (b,), their values; limits : int64 (l,), their counts; pins : int64 (p,), their places from 0
    """

    conditions: Conditions
    excludes: int
    boosts: F32
    limits: Places
    pins: Places

    def __len__(self) -> int:
        return self.excludes + len(self.boosts) + len(self.limits) + len(self.pins)


@dataclass(frozen=True, slots=True)
class Matches:
    """What rules say of n candidates.

    excluded : (n,); boost : float32 (n,)
    limited : (l, n), the items that each limit counts; pinned : (p, n), those that each pin is about
    """

    excluded: Mask
    boost: F32
    limited: Mask
    pinned: Mask


def compiled(rules: Iterable[Rule], domain: str, categories: Categories) -> Rules:
    """The rules that hold in a domain.

    >>> rule = Boost(action="boost", value=2, when=When(categories=["War"]))
    >>> rules = compiled([rule], "movies", Categories(["War"]))
    >>> films = Candidates.plain(np.array([7, 8], np.uint64), np.zeros(2, np.float32))
    >>> films.categories[1] = 1
    >>> matches(rules, films).boost.tolist()
    [0.0, 2.0]
    """
    here = [rule for rule in rules if not rule.when.domains or domain in rule.when.domains]
    excludes = [rule for rule in here if isinstance(rule, Exclude)]
    boosts = [rule for rule in here if isinstance(rule, Boost)]
    limits = [rule for rule in here if isinstance(rule, Limit)]
    pins = [rule for rule in here if isinstance(rule, Pin)]
    return Rules(
        conditions=Conditions.of([rule.when for rule in [*excludes, *boosts, *limits, *pins]], categories),
        excludes=len(excludes),
        boosts=np.array([rule.value for rule in boosts], np.float32),
        limits=np.array([rule.count for rule in limits], np.int64),
        pins=np.array([rule.rank - 1 for rule in pins], np.int64),
    )


def matches(rules: Rules, candidates: Candidates) -> Matches:
    """What the rules say of the candidates.

    Raises
    ------
    ValueError
        When rules and candidates do not share one set of category names.
    """
    asked = rules.conditions
    if len(rules) and asked.categories.shape[1] != candidates.categories.shape[1]:
        raise ValueError(
            f"expected {asked.categories.shape[1]} words of categories, got {candidates.categories.shape[1]}"
        )
    met = _met(
        *(asked.items, asked.item_ends, asked.categories, asked.by_category, asked.ages, asked.prices),
        *(candidates.hashes, candidates.categories, candidates.age_days, candidates.price),
    )
    excluded, boost = _said(met, rules.excludes, rules.boosts)
    after_boosts = rules.excludes + len(rules.boosts)
    after_limits = after_boosts + len(rules.limits)
    return Matches(excluded, boost, limited=met[after_boosts:after_limits], pinned=met[after_limits:])


@njit(cache=True, nogil=True)
def _met(
    items: Hashes,
    item_ends: Ends,
    categories: Bits,
    by_category: Mask,
    ages: F32,
    prices: F32,
    hashes: Hashes,
    item_categories: Bits,
    age_days: F32,
    price: F32,
) -> Mask:
    """Whether each of n candidates meets each of r conditions, (r, n)."""
    met = np.empty((len(item_ends), len(hashes)), np.bool_)
    start = 0
    for rule in range(len(item_ends)):
        named = items[start : item_ends[rule]]
        start = item_ends[rule]
        for i in range(len(hashes)):
            met[rule, i] = (
                (len(named) == 0 or _among(named, hashes[i]))
                and (not by_category[rule] or _common(categories[rule], item_categories[i]))
                and _within(ages[rule], age_days[i])
                and _within(prices[rule], price[i])
            )
    return met


@njit(cache=True, nogil=True)
def _said(met: Mask, excludes: int, boosts: F32) -> tuple[Mask, F32]:
    """Whether one of the first `excludes` rules (r, n) excludes an item, and the sum of those boosts after them that it gets."""
    excluded, boost = np.zeros(met.shape[1], np.bool_), np.zeros(met.shape[1], np.float32)
    for rule in range(excludes):
        excluded |= met[rule]
    for rule in range(len(boosts)):
        boost += boosts[rule] * met[excludes + rule]
    return excluded, boost


@njit(cache=True, nogil=True, inline="always")
def _among(ascending: Hashes, one: np.uint64) -> bool:
    place = np.searchsorted(ascending, one)
    return bool(place < len(ascending) and ascending[place] == one)


@njit(cache=True, nogil=True, inline="always")
def _common(some: Bits, others: Bits) -> bool:
    common = np.uint64(0)
    for word in range(len(some)):
        common |= some[word] & others[word]
    return bool(common)


@njit(cache=True, nogil=True, inline="always")
def _within(bounds: F32, value: np.float32) -> bool:
    """Unbounded, or a known value between the bounds: NaN is between none."""
    unbounded = bounds[0] == -np.inf and bounds[1] == np.inf
    return bool(unbounded or bounds[0] <= value <= bounds[1])


def _bounds(pairs: Sequence[tuple[float | None, float | None]]) -> F32:
    """float32 (r, 2), infinite where None."""
    whole = [(-np.inf if low is None else low, np.inf if high is None else high) for low, high in pairs]
    return np.array(whole, np.float32).reshape(len(pairs), 2)


def _below(bound: float | None) -> float | None:
    """The largest float32 below a bound."""
    return None if bound is None else float(np.nextafter(np.float32(bound), np.float32(-np.inf)))
