"""From ranked candidates to the list that is shown.

The order, of which each step does nothing by default but the first:

1. Filters: what the user has seen or disliked, is too young for, or a rule excludes, is never shown.
2. Scores: the freshness bonus and the boosts of rules are added.
3. Exposure: what has had more than its share of recent impressions goes behind everything else.
4. Pins: rules put items at their places.
5. Diversity: the free places are filled by maximal marginal relevance, within the limits of rules.
6. Exploration: one place that no pin holds may go to an item drawn from those left, in step 1 and 3 and within the limits.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from serving_api.reranking.candidates import F32, Candidates, Categories, Hashes, Mask, Places
from serving_api.reranking.diversity import ALIKE_BY_CATEGORIES, ALIKE_BY_FACTORS, Likeness, Pool, fill, others
from serving_api.reranking.exploration import explore
from serving_api.reranking.exposure import Exposure
from serving_api.reranking.filters import eligible
from serving_api.reranking.freshness import freshness
from serving_api.reranking.matching import Rules, compiled, matches
from serving_api.rules import Exclude, Limit, Reranking, Similarity, When

_LIKENESS: Final[Mapping[Similarity, int]] = {"embedding": ALIKE_BY_FACTORS, "categories": ALIKE_BY_CATEGORIES}


@dataclass(frozen=True, slots=True)
class Context:
    """What a request adds to the candidates.

    count : the list's length, at most
    seen : (n,), candidates that the user has met
    disliked : uint64 (d,), hashes of items that the user skipped or rated low
    user_age : years, None where unknown
    exposure : float32 (n,), each candidate's share of recent impressions, as `Exposure.shares` has it
    rules : those of the domain
    draw : one number drawn evenly from [0, 1), for exploration
    """

    count: int
    seen: Mask
    disliked: Hashes
    user_age: float | None
    exposure: F32
    rules: Rules
    draw: float


@dataclass(frozen=True, slots=True)
class Chosen:
    """A list of m items in the order they are shown.

    places : int64 (m,), where each stood among the candidates
    scores : float32 (m,), with bonus and boosts; bonus : float32 (m,), the part of it that is for freshness
    propensity : float64 (m,), how likely the item was to stand at its place
    pinned, explored : (m,), put there by a rule, or by chance
    """

    places: Places
    scores: F32
    bonus: F32
    propensity: npt.NDArray[np.float64]
    pinned: Mask
    explored: Mask


def rerank(candidates: Candidates, config: Reranking, context: Context) -> Chosen:
    """The list for a request: at most `count` of the candidates (n,), in the order of steps that stands above.

    It is shorter only where fewer candidates are eligible, or limits do not allow another one. Takes time in n count: meant for
    hundreds of candidates.

    Raises
    ------
    ValueError
        When count is below 1, or a column is not of the candidates' length.

    >>> films = Candidates.plain(np.array([7, 8, 9], np.uint64), np.array([3, 2, 1], np.float32))
    >>> seen, nothing = np.array([False, True, False]), np.zeros(0, np.uint64)
    >>> context = Context(2, seen, nothing, None, np.zeros(3, np.float32), compiled([], "movies", Categories([])), draw=0.5)
    >>> rerank(films, Reranking(), context).places.tolist()
    [0, 2]
    """
    if context.count < 1:
        raise ValueError(f"expected count >= 1, got {context.count}")
    if not len(candidates) == len(context.seen) == len(context.exposure):
        lengths = (len(candidates), len(context.seen), len(context.exposure))
        raise ValueError(f"expected one length, got {lengths} candidates, seen and exposure")
    said = matches(context.rules, candidates)
    bonus = freshness(candidates.age_days, config.freshness_bonus, config.freshness_half_life_days)
    pool = Pool(
        scores=candidates.scores + bonus + said.boost,
        eligible=eligible(candidates, context.seen, context.disliked, config.age_of(context.user_age)) & ~said.excluded,
        late=context.exposure > config.exposure_cap,
        limited=said.limited,
        limits=context.rules.limits,
    )
    likeness = Likeness(config.mmr_lambda, _LIKENESS[config.similarity], candidates.factors, candidates.categories)
    count = min(context.count, len(candidates))
    places, pinned = fill(pool, said.pinned, context.rules.pins, likeness, count)
    explored, propensity = np.zeros(len(places), np.bool_), np.ones(len(places))
    if config.explore_probability and len(places):
        places, explored, propensity = _explored(places, pinned, pool, config, context.draw)
    return Chosen(places, pool.scores[places], bonus[places], propensity, pinned, explored)


def changes_nothing(config: Reranking, user_age: float | None) -> bool:
    """Whether re-ranking without rules and exposures leaves every list as the ranking made it, for a user of that age."""
    plain = config.mmr_lambda == 1 and not config.freshness_bonus and not config.explore_probability
    return plain and user_age is None


def unchanged(scores: F32, count: int) -> Chosen:
    """The first `count` of ranked items by their scores (n,), as they stand."""
    m = min(count, len(scores))
    nothing = np.zeros(m, np.bool_)
    return Chosen(np.arange(m), scores[:m], np.zeros(m, np.float32), np.ones(m), nothing, nothing)


def _explored(
    places: Places, pinned: Mask, pool: Pool, config: Reranking, draw: float
) -> tuple[Places, Mask, npt.NDArray[np.float64]]:
    """The list with its place for exploration given to chance: places, whether drawn, and propensities, each (m,)."""
    m = len(places)
    at = min(config.explore_rank or m, m) - 1
    explored, propensity = np.zeros(m, np.bool_), np.ones(m)
    if pinned[at]:
        return places, explored, propensity
    left = others(pool, places, at)
    found = explore(int(places[at]), left, config.explore_probability, draw)
    drawn = places.copy()
    drawn[at], explored[at], propensity[at] = found.item, found.drawn, found.propensity
    return drawn, explored, propensity


def warm_up() -> None:
    """Compile everything that a request needs, so that none waits for a compiler."""
    candidates = Candidates.plain(np.arange(1, 4, dtype=np.uint64), np.zeros(3, np.float32))
    shown = Exposure(half_life_seconds=1.0)
    shown.add(candidates.hashes, now_seconds=0.0)
    when = When(items=("any",))
    rules = compiled(
        [Exclude(action="exclude", when=when), Limit(action="limit", when=when, count=1)], "", Categories([])
    )
    exposure = shown.shares(candidates.hashes, now_seconds=0.0)
    context = Context(2, np.zeros(3, np.bool_), np.zeros(0, np.uint64), None, exposure, rules, draw=0.0)
    for similarity in _LIKENESS:
        config = Reranking(mmr_lambda=0.5, similarity=similarity, freshness_bonus=1.0, explore_probability=0.5)
        rerank(candidates, config, context)
