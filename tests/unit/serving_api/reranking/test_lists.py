"""Re-ranking equals the same steps in plain Python, and keeps what it promises whatever it is asked."""

from dataclasses import dataclass, replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given, settings

from online_models.contracts.ids import hash64
from serving_api.reranking import diversity, filters, freshness, matching
from serving_api.reranking.candidates import Candidates, Categories
from serving_api.reranking.lists import Chosen, Context, rerank, warm_up
from serving_api.reranking.matching import Rules, compiled
from serving_api.rules import Boost, Exclude, Limit, Pin, Reranking, Rule, When
from tests.oracles import reranking as oracle
from tests.oracles.reranking import Film

GENRES = ["Drama", "Horror", "War", *(f"genre {n}" for n in range(70))]
"""More than one word of bits; the films have the first three and the last."""

NAMES = Categories(GENRES)
SOME = [*GENRES[:3], GENRES[-1]]
VECTORS = [(3, 4), (4, 3), (5, 0), (0, 5), (-3, 4), (0, -5), (0, 0)]

whens = (
    st.fixed_dictionaries(
        {
            "items": st.lists(st.sampled_from([f"i{n}" for n in range(12)]), max_size=3),
            "categories": st.lists(st.sampled_from(SOME), max_size=2),
            "newer_than_days": st.sampled_from([None, None, 8]),
            "older_than_days": st.sampled_from([None, None, 0, 4]),
            "min_price": st.sampled_from([None, 5, 20]),
            "max_price": st.sampled_from([None, None, 20]),
            "domains": st.sampled_from([(), (), ("movies",), ("products",)]),
        }
    )
    .filter(lambda told: any(value not in ([], None) for key, value in told.items() if key != "domains"))
    .map(When.model_validate)
)
rules = st.one_of(
    st.builds(Exclude, action=st.just("exclude"), when=whens),
    st.builds(Boost, action=st.just("boost"), when=whens, value=st.integers(-3, 3)),
    st.builds(Limit, action=st.just("limit"), when=whens, count=st.integers(1, 3)),
    st.builds(Pin, action=st.just("pin"), when=whens, rank=st.integers(1, 8)),
)
configs = st.builds(
    Reranking,
    mmr_lambda=st.sampled_from([1.0, 1.0, 0.7, 0.25, 0.0]),
    similarity=st.sampled_from(["embedding", "categories"]),
    freshness_bonus=st.sampled_from([0.0, 2.0]),
    freshness_half_life_days=st.just(4.0),
    exposure_cap=st.sampled_from([1.0, 0.25]),
    stranger_age=st.sampled_from([None, 12.0]),
)


@st.composite
def films(draw: st.DrawFn) -> list[Film]:
    scores = sorted(draw(st.lists(st.integers(-4, 8), max_size=14)), reverse=True)
    return [
        Film(
            id=f"i{n}",
            score=score,
            vector=draw(st.sampled_from(VECTORS)),
            categories=frozenset(draw(st.lists(st.sampled_from(SOME), max_size=3))),
            age_days=draw(st.sampled_from([None, -2, 0, 4, 8, 12])),
            price=draw(st.sampled_from([None, 5, 20, 50])),
            min_age=draw(st.sampled_from([0, 0, 12, 18])),
            seen=draw(st.sampled_from([False, False, True])),
            disliked=draw(st.sampled_from([False, False, False, True])),
            share=draw(st.sampled_from([0.0, 0.25, 0.5])),
        )
        for n, score in enumerate(scores)
    ]


@dataclass(frozen=True)
class Asked:
    """A request, in the oracle's words and as arrays."""

    films: list[Film]
    rules: list[Rule]
    config: Reranking
    count: int
    user_age: float | None = None
    draw: float = 0.5

    @property
    def candidates(self) -> Candidates:
        def column(values: list[float | None]) -> np.ndarray:
            return np.array([np.nan if value is None else value for value in values], np.float32)

        return Candidates(
            hashes=np.array([hash64(film.id) for film in self.films], np.uint64),
            scores=column([film.score for film in self.films]),
            factors=np.array([film.vector for film in self.films], np.float32).reshape(len(self.films), 2),
            categories=NAMES.bits([film.categories for film in self.films]),
            age_days=column([film.age_days for film in self.films]),
            price=column([film.price for film in self.films]),
            min_age=column([film.min_age for film in self.films]),
        )

    @property
    def compiled(self) -> Rules:
        return compiled(self.rules, "movies", NAMES)

    @property
    def context(self) -> Context:
        return Context(
            count=self.count,
            seen=np.array([film.seen for film in self.films], np.bool_),
            disliked=np.array([hash64(film.id) for film in self.films if film.disliked], np.uint64),
            user_age=self.user_age,
            exposure=np.array([film.share for film in self.films], np.float32),
            rules=self.compiled,
            draw=self.draw,
        )

    @property
    def rules_here(self) -> list[Rule]:
        return [rule for rule in self.rules if not rule.when.domains or "movies" in rule.when.domains]

    @property
    def eligible(self) -> list[int]:
        age = self.config.stranger_age if self.user_age is None else self.user_age
        return [n for n, film in enumerate(self.films) if oracle.may_be_shown(film, self.rules_here, age)]

    def answer(self) -> Chosen:
        return rerank(self.candidates, self.config, self.context)


requests = st.builds(
    Asked,
    films=films(),
    rules=st.lists(rules, max_size=5),
    config=configs,
    count=st.integers(1, 16),
    user_age=st.sampled_from([None, 5.0, 15.0, 40.0]),
    draw=st.floats(0, 1, exclude_max=True),
)
exploring = st.builds(
    lambda asked, probability, rank: replace(
        asked, config=asked.config.model_copy(update={"explore_probability": probability, "explore_rank": rank})
    ),
    requests,
    st.sampled_from([0.25, 0.5, 1.0]),
    st.integers(0, 5),
)


@settings(deadline=None, max_examples=300)
@given(requests)
def test_a_list_is_that_of_plain_python(asked: Asked) -> None:
    chosen = asked.answer()
    plain = oracle.rerank(asked.films, asked.config, asked.rules_here, asked.count, asked.user_age)
    assert chosen.places.tolist() == [listed.place for listed in plain]
    assert chosen.pinned.tolist() == [listed.pinned for listed in plain]
    scores = [oracle.adjusted(asked.films[listed.place], asked.rules_here, asked.config) for listed in plain]
    np.testing.assert_allclose(chosen.scores, scores, rtol=1e-6)
    assert chosen.propensity.tolist() == [1.0] * len(plain)
    assert not chosen.explored.any()


@settings(deadline=None, max_examples=150)
@given(exploring)
def test_no_list_shows_what_may_not_be_shown_or_anything_twice_or_more_than_limits_allow(asked: Asked) -> None:
    places = asked.answer().places.tolist()
    listed = [asked.films[place] for place in places]
    assert set(places) <= set(asked.eligible)
    assert len(set(places)) == len(places) <= asked.count
    assert oracle.within_limits(listed, asked.rules_here)


@settings(deadline=None, max_examples=150)
@given(exploring)
def test_a_list_is_short_only_where_nothing_more_may_be_shown(asked: Asked) -> None:
    unexplored = replace(asked, config=asked.config.model_copy(update={"explore_probability": 0.0}))
    places = unexplored.answer().places.tolist()
    assert len(asked.answer().places) == len(places)
    if len(places) < asked.count:
        listed = [asked.films[place] for place in places]
        for more in set(asked.eligible) - set(places):
            assert not oracle.within_limits([*listed, asked.films[more]], asked.rules_here)
    if not any(isinstance(rule, Limit) for rule in asked.rules_here):
        assert len(places) == min(asked.count, len(asked.eligible))


@settings(deadline=None, max_examples=200)
@given(requests)
def test_what_was_shown_too_much_stands_behind_all_else_unless_pinned(asked: Asked) -> None:
    unlimited = replace(asked, rules=[rule for rule in asked.rules if not isinstance(rule, Limit | Pin)])
    shares = [unlimited.films[place].share > asked.config.exposure_cap for place in unlimited.answer().places]
    assert shares == sorted(shares)
    not_late = [place for place in unlimited.eligible if asked.films[place].share <= asked.config.exposure_cap]
    assert shares.count(False) == min(asked.count, len(not_late))


@settings(deadline=None)
@given(films(), st.integers(1, 16), st.floats(0, 1, exclude_max=True))
def test_with_every_default_a_list_is_the_ranking_without_what_was_seen(
    some: list[Film], count: int, draw: float
) -> None:
    liked = [replace(film, disliked=False) for film in some]
    chosen = Asked(liked, [], Reranking(), count, None, draw).answer()
    assert chosen.places.tolist() == [n for n, film in enumerate(liked) if not film.seen][:count]
    assert chosen.propensity.tolist() == [1.0] * len(chosen.places)
    for nothing in (chosen.bonus, chosen.pinned, chosen.explored):
        assert not nothing.any()


@settings(deadline=None, max_examples=200)
@given(requests)
def test_lambda_one_leaves_the_order_of_scores(asked: Asked) -> None:
    plain = replace(asked, rules=[rule for rule in asked.rules if isinstance(rule, Boost | Exclude)])
    config = asked.config.model_copy(update={"mmr_lambda": 1.0, "exposure_cap": 1.0})
    chosen = replace(plain, config=config).answer()
    assert np.lexsort((chosen.places, -chosen.scores)).tolist() == list(range(len(chosen.places)))


def answers_to_all_draws(asked: Asked) -> list[Chosen]:
    """One answer or more of every outcome: they begin at 0 or at epsilon j / m, for a pool of m <= 14 items, and are longer."""
    inside = 1e-3
    probability = asked.config.explore_probability
    begins = {0.0, probability, *(probability * j / m for m in range(1, 15) for j in range(m))}
    return [replace(asked, draw=begin + inside).answer() for begin in begins if begin < 1]


@settings(deadline=None, max_examples=150)
@given(exploring)
@example(Asked([Film("i0", 2.0), Film("i1", 1.0)], [], Reranking(explore_probability=0.5), 1))
def test_propensities_are_the_shares_of_all_draws_that_show_an_item_at_its_place(asked: Asked) -> None:
    outcomes = {tuple(chosen.places.tolist()): chosen.propensity for chosen in answers_to_all_draws(asked)}
    # One place differs between outcomes, so an outcome's probability is the product of its propensities.
    assert sum(propensity.prod() for propensity in outcomes.values()) == pytest.approx(1.0)
    for places, propensity in outcomes.items():
        for at, place in enumerate(places):
            shown = sum(other.prod() for listed, other in outcomes.items() if listed[at] == place)
            assert propensity[at] == pytest.approx(shown)


@settings(deadline=None, max_examples=150)
@given(exploring)
def test_whatever_else_might_stand_at_the_explored_place_is_drawn_by_some_draw(asked: Asked) -> None:
    plain = oracle.rerank(asked.films, asked.config, asked.rules_here, asked.count, asked.user_age)
    if not plain:
        return
    at = min(asked.config.explore_rank or len(plain), len(plain)) - 1
    beside = [asked.films[listed.place] for n, listed in enumerate(plain) if n != at]
    pool = {
        place
        for place in set(asked.eligible) - {listed.place for listed in plain}
        if asked.films[place].share <= asked.config.exposure_cap
        and oracle.within_limits([*beside, asked.films[place]], asked.rules_here)
    }
    drawn = {int(chosen.places[at]) for chosen in answers_to_all_draws(asked) if chosen.explored.any()}
    assert drawn == (set() if plain[at].pinned else pool)


def test_a_simulation_shows_items_as_often_as_the_propensities_say() -> None:
    some = [Film(f"i{n}", 10.0 - n) for n in range(6)]
    rng, shown = np.random.default_rng(5), np.zeros(6)
    weighted = np.zeros(6)
    for draw in rng.random(20_000):
        chosen = Asked(some, [], Reranking(explore_probability=0.3, explore_rank=2), 3, None, draw).answer()
        shown[chosen.places[1]] += 1
        weighted[chosen.places[1]] += 1 / chosen.propensity[1]
        assert (chosen.places[0], chosen.places[2]) == (0, 2)
        assert chosen.explored.tolist() == [False, chosen.places[1] != 1, False]
    np.testing.assert_allclose(shown / 20_000, [0, 0.7, 0, 0.1, 0.1, 0.1], atol=4 * np.sqrt(0.21 / 20_000))
    # Inverse propensities make every item that can be shown there count alike.
    np.testing.assert_allclose(weighted / 20_000, [0, 1, 0, 1, 1, 1], atol=0.1)


def test_a_pinned_place_is_not_explored_and_what_was_shown_too_much_is_not_drawn() -> None:
    some = [Film("i0", 3.0), Film("i1", 2.0), Film("i2", 1.0, share=0.5), Film("i3", 0.0)]
    config = Reranking(explore_probability=1.0, explore_rank=1, exposure_cap=0.4)
    drawn = Asked(some, [], config, 1, None, 0.999).answer()
    assert (drawn.places.tolist(), drawn.propensity.tolist(), drawn.explored.tolist()) == ([3], [0.5], [True])
    pin = Pin(action="pin", rank=1, when=When(items=("i1",)))
    held = Asked(some, [pin], config, 1, None, 0.999).answer()
    assert (held.places.tolist(), held.propensity.tolist(), held.pinned.tolist()) == ([1], [1.0], [True])


def test_what_leaves_the_explored_place_makes_room_under_a_limit() -> None:
    some = [Film(f"i{n}", 5.0 - n, categories=frozenset(["War"])) for n in range(2)]
    limit = Limit(action="limit", count=1, when=When(categories=("War",)))
    drawn = Asked(some, [limit], Reranking(explore_probability=1.0), 1).answer()
    assert (drawn.places.tolist(), drawn.propensity.tolist()) == ([1], [1.0])


def test_a_pin_is_counted_by_limits_before_anything_else_is_placed() -> None:
    some = [Film(f"i{n}", 5.0 - n, categories=frozenset(["War"])) for n in range(3)] + [Film("i3", 0.0)]
    pin = Pin(action="pin", rank=2, when=When(items=("i2",)))
    limit = Limit(action="limit", count=1, when=When(categories=("War",)))
    chosen = Asked(some, [limit, pin], Reranking(), 3).answer()
    assert chosen.places.tolist() == [3, 2]


def test_scores_that_are_no_numbers_are_never_shown() -> None:
    some = [Film("i0", float("inf")), Film("i1", 1.0), Film("i2", float("nan")), Film("i3", -float("inf"))]
    assert Asked(some, [], Reranking(mmr_lambda=0.5), 4).answer().places.tolist() == [1]


def test_no_request_waits_for_a_compiler_after_the_warm_up() -> None:
    warm_up()
    kernels = (
        *(filters._eligible, freshness._freshness, matching._met, matching._said),
        *(diversity._fill, diversity.others),
    )
    compiled_so_far = [len(kernel.signatures) for kernel in kernels]
    config = Reranking(mmr_lambda=0.5, freshness_bonus=1.0, exposure_cap=0.5, explore_probability=1.0)
    rule = Exclude(action="exclude", when=When(categories=("War",)))
    for some_rules in (list[Rule](), list[Rule]([rule])):
        Asked([Film("i0", 2.0), Film("i1", 1.0), Film("i2", 0.0)], some_rules, config, 2, 20.0, 0.0).answer()
    assert [len(kernel.signatures) for kernel in kernels] == compiled_so_far == [1] * len(kernels)


def test_a_request_that_contradicts_itself_is_refused() -> None:
    asked = Asked([Film("i0", 1.0)], [Exclude(action="exclude", when=When(items=("i9",)))], Reranking(), 1)
    with pytest.raises(ValueError, match="count >= 1"):
        replace(asked, count=0).answer()
    with pytest.raises(ValueError, match="one length"):
        rerank(asked.candidates, asked.config, replace(asked.context, seen=np.zeros(2, np.bool_)))
    with pytest.raises(ValueError, match="columns of 1"):
        replace(asked.candidates, price=np.zeros(2, np.float32))
    with pytest.raises(ValueError, match="words of categories"):
        rerank(replace(asked.candidates, categories=np.zeros((1, 1), np.uint64)), asked.config, asked.context)
