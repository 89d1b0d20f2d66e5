"""Re-ranking in plain Python, item by item: slow, and the documented order of steps word for word."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serving_api.rules import Boost, Exclude, Limit, Pin, Reranking, Rule, When


@dataclass(frozen=True)
class Film:
    """All that is known of a candidate; None is unknown. `vector` has a whole length, so that cosines are exact."""

    id: str
    score: float
    vector: tuple[int, ...] = (0, 0)
    categories: frozenset[str] = frozenset()
    age_days: float | None = None
    price: float | None = None
    min_age: float = 0.0
    seen: bool = False
    disliked: bool = False
    share: float = 0.0


@dataclass(frozen=True)
class Listed:
    """A film of a list: its place among the candidates, and whether a rule put it there."""

    place: int
    pinned: bool


def meets(film: Film, when: When) -> bool:
    """Whether a film meets every condition given."""
    met = [
        not when.items or film.id in when.items,
        not when.categories or bool(film.categories & set(when.categories)),
        when.newer_than_days is None or (film.age_days is not None and film.age_days < when.newer_than_days),
        when.older_than_days is None or (film.age_days is not None and film.age_days >= when.older_than_days),
        when.min_price is None or (film.price is not None and film.price >= when.min_price),
        when.max_price is None or (film.price is not None and film.price <= when.max_price),
    ]
    return all(met)


def may_be_shown(film: Film, rules: Sequence[Rule], user_age: float | None) -> bool:
    """Neither seen nor disliked nor excluded, and the user is old enough."""
    excluded = any(isinstance(rule, Exclude) and meets(film, rule.when) for rule in rules)
    too_young = user_age is not None and user_age < film.min_age
    return not (film.seen or film.disliked or excluded or too_young) and math.isfinite(film.score)


def adjusted(film: Film, rules: Sequence[Rule], config: Reranking) -> float:
    """The score with bonus and boosts."""
    fresh = 0.0
    if film.age_days is not None:
        fresh = config.freshness_bonus * 2 ** (-max(film.age_days, 0) / config.freshness_half_life_days)
    return film.score + fresh + sum(r.value for r in rules if isinstance(r, Boost) and meets(film, r.when))


def likeness(a: Film, b: Film, config: Reranking) -> float:
    """Cosine of vectors or Jaccard of categories."""
    if config.similarity == "categories":
        either = a.categories | b.categories
        return len(a.categories & b.categories) / len(either) if either else 0.0
    lengths = math.hypot(*a.vector) * math.hypot(*b.vector)
    dot = sum(x * y for x, y in zip(a.vector, b.vector, strict=True))
    return float(np.float32(dot) / np.float32(lengths)) if lengths else 0.0


def within_limits(films: Sequence[Film], rules: Sequence[Rule]) -> bool:
    """Whether a list holds no more of anything than rules allow."""
    limits = [rule for rule in rules if isinstance(rule, Limit)]
    return all(sum(meets(film, limit.when) for film in films) <= limit.count for limit in limits)


def rerank(
    films: Sequence[Film], config: Reranking, rules: Sequence[Rule], count: int, user_age: float | None
) -> list[Listed]:
    """The list without exploration; `rules` are those of the domain."""
    age = config.stranger_age if user_age is None else user_age
    scores = [adjusted(film, rules, config) for film in films]
    left = [place for place, film in enumerate(films) if may_be_shown(film, rules, age)]
    worst, best = min((scores[p] for p in left), default=0), max((scores[p] for p in left), default=0)
    slots: dict[int, Listed] = {}

    def worth(place: int) -> float:
        relevance = (scores[place] - worst) / (best - worst) if best > worst else 1.0
        closest = max(
            (likeness(films[place], films[in_list.place], config) for in_list in slots.values()), default=-1.0
        )
        return config.mmr_lambda * relevance - (1 - config.mmr_lambda) * closest

    def take(slot: int, places: list[int], by: dict[int, float], pinned: bool) -> None:
        listed = [films[in_list.place] for in_list in slots.values()]
        fitting = [place for place in places if within_limits([*listed, films[place]], rules)]
        if fitting:
            first = min(fitting, key=lambda p: (films[p].share > config.exposure_cap, -by[p], p))
            slots[slot] = Listed(first, pinned)
            left.remove(first)

    for pin in (rule for rule in rules if isinstance(rule, Pin)):
        if pin.rank <= min(count, len(films)) and pin.rank - 1 not in slots:
            matching = [place for place in left if meets(films[place], pin.when)]
            take(pin.rank - 1, matching, dict(enumerate(scores)), True)
    for slot in range(min(count, len(films))):
        if slot not in slots:
            take(slot, left, {place: worth(place) for place in left}, False)
    return [slots[slot] for slot in sorted(slots)]
