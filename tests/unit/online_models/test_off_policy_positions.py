"""Position propensities in worlds of known theta, beside the other ways to estimate them, and lists valued by them."""

import numpy as np
import numpy.typing as npt
import pytest

from online_models.off_policy import (
    Lists,
    Ranked,
    Reason,
    Refused,
    Terms,
    list_weights,
    position_propensities,
    ranked_value,
)
from tests.off_policy_worlds import Shelf
from tests.oracles import off_policy as oracle

WORLDS = 80
K = 6


def test_theta_comes_out_with_honest_errors_and_closer_than_by_neighbours_or_by_the_first_position() -> None:
    errors: dict[str, list[npt.NDArray[np.float64]]] = {"ours": [], "chain": [], "pivot": []}
    held = []
    for seed in range(WORLDS):
        shelf = Shelf.drawn(seed, items=30)
        position, clicked, item = shelf.swaps(seed)
        found = position_propensities(position, clicked, item)
        cells = oracle.cells(position.tolist(), clicked.tolist(), item.tolist())
        others = [np.array(way(cells, K)) for way in (oracle.chained, oracle.pivoted)]
        if not found.known.all() or not all((other > 0).all() for other in others):
            continue
        held.append(np.abs(found.theta - shelf.theta)[1:] < 1.96 * found.standard_error[1:])
        for name, theta in zip(errors, (found.theta, *others), strict=True):
            errors[name].append(np.log(theta / shelf.theta)[1:])
    assert len(held) > 0.85 * WORLDS
    assert 0.9 <= np.mean(held) <= 0.98
    ours, chain, pivot = (np.sqrt(np.mean(np.square(each), axis=0)) for each in errors.values())
    assert (ours < chain).all()
    assert (ours < pivot).all()
    off = np.array(errors["ours"])
    assert (np.abs(off.mean(axis=0)) < 4 * off.std(axis=0) / np.sqrt(len(off)) + 0.01).all()


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_maximum_that_plain_alternation_finds(seed: int) -> None:
    position, clicked, item = Shelf.drawn(seed, items=8).swaps(seed)
    found = position_propensities(position, clicked, item)
    cells = oracle.cells(position.tolist(), clicked.tolist(), item.tolist())
    tied = {key: cell for key, cell in cells.items() if any(row[0] == key[0] and cells[row][1] for row in cells)}
    assert found.known.all()
    np.testing.assert_allclose(found.theta, oracle.maximised(tied, K), rtol=1e-6)


def test_errors_are_clustered_by_unit() -> None:
    """Every row twice: the estimate stays, and so does its error, where the two copies are one unit."""
    position, clicked, item = Shelf.drawn(1, items=8).swaps(1)
    unit = np.arange(len(position))
    once = position_propensities(position, clicked, item, unit)
    two = [np.tile(column, 2) for column in (position, item, unit)]
    twice = position_propensities(two[0], np.tile(clicked, 2), two[1], two[2])
    alone = position_propensities(two[0], np.tile(clicked, 2), two[1])
    np.testing.assert_allclose(twice.theta, once.theta, rtol=1e-8)
    np.testing.assert_allclose(twice.standard_error, once.standard_error, rtol=1e-6)
    np.testing.assert_allclose(alone.standard_error[1:], once.standard_error[1:] / np.sqrt(2), rtol=1e-4)


def test_one_ranker_tells_nothing_of_positions() -> None:
    position, clicked, item = Shelf.drawn(0).swaps(0, rankers=1)
    found = position_propensities(position, clicked, item)
    assert not found.known.any()
    assert found.shared == 0
    assert found.reason.startswith(
        "position 0, which the others are compared with: fewer than 10 clicks on items that other"
    )


def test_positions_that_nothing_ties_to_the_first_have_no_theta() -> None:
    """Two rankers swap positions 0 and 1, and 2 and 3, never across."""
    rng = np.random.default_rng(0)
    item = np.stack([np.tile([[0, 1, 2, 3], [1, 0, 3, 2]], (2_000, 1))])[0].ravel()
    position = np.tile(np.arange(4), 4_000)
    theta, taken = np.array([1.0, 0.5, 0.4, 0.2]), np.array([0.3, 0.2, 0.4, 0.5])
    clicked = rng.random(len(item)) < theta[position] * taken[item]
    found = position_propensities(position, clicked, item)
    assert found.known.tolist() == [True, True, False, False]
    assert found.theta[1] == pytest.approx(0.5, abs=0.05)
    assert found.reason == "no common clicked items tie positions 2, 3 to the first position"


def test_a_position_with_few_clicks_has_no_theta() -> None:
    position, clicked, item = Shelf.drawn(2, items=8).swaps(2)
    scarce = clicked & ((position != 4) | (np.cumsum(position == 4) < 40))
    found = position_propensities(position, scarce, item)
    assert found.known.tolist() == [True, True, True, True, False, True]
    assert found.reason == "fewer than 10 clicks on items that other positions share at position 4"


def test_a_log_without_rows_has_no_positions() -> None:
    empty = np.empty(0, np.int64)
    found = position_propensities(empty, empty.astype(bool), empty)
    assert (len(found.theta), found.shared) == (0, 0)


def test_rows_that_do_not_fit_are_errors() -> None:
    one = np.zeros(1, np.int64)
    with pytest.raises(ValueError, match="positions from 0"):
        position_propensities(one - 1, one > 0, one)
    with pytest.raises(ValueError, match="one length"):
        position_propensities(one, one > 0, np.zeros(2))
    with pytest.raises(ValueError, match="theta above 0"):
        ranked_value(Lists(one, one, one, one > 0, one), np.zeros(1))
    with pytest.raises(ValueError, match="one length"):
        Lists(one, one, one, one > 0, np.zeros(2))


def test_a_click_counts_by_how_much_its_new_place_is_looked_at() -> None:
    theta = np.array([1.0, 0.5, np.nan])
    place, position = np.array([0, 1, 2, 5, -1, 0]), np.array([1, 0, 0, 0, 0, 2])
    np.testing.assert_array_equal(list_weights(theta, place, position), [2.0, 0.5, 0.0, 0.0, 0.0, np.nan])


def test_reordered_lists_are_valued_without_bias_and_the_intervals_hold_the_truth() -> None:
    """Both rankers show the same six items."""
    errors, held, lifts = [], [], []
    for seed in range(300):
        shelf = Shelf.drawn(seed, items=K)
        lists, was, truth = shelf.shadowed(seed, 2_000, candidate_noise=0.3, noise=0.05)
        found = ranked_value(lists, shelf.theta)
        assert isinstance(found, Ranked)
        assert found.coverage == pytest.approx(1.0)
        assert np.isnan([found.break_even, found.dropped_rate]).all()
        errors.append(found.per_list.value - truth)
        held.append(found.per_list.covers(truth))
        lifts.append(found.order.covers(truth / was - 1))
    assert abs(np.mean(errors)) < 4 * np.std(errors) / np.sqrt(len(errors))
    assert 0.92 <= np.mean(held) <= 0.98
    assert 0.92 <= np.mean(lifts) <= 0.98


def test_what_a_candidate_alone_shows_counts_as_nothing_and_breaks_even_where_it_is_said_to() -> None:
    told = 0
    for seed in range(40):
        shelf = Shelf.drawn(seed)
        for noise in (0.02, 0.3):
            lists, was, truth = shelf.shadowed(seed, 3_000, noise)
            found = ranked_value(lists, shelf.theta)
            assert isinstance(found, Ranked)
            assert 0 < found.coverage < 1
            assert found.per_list.lower < truth
            alone = (truth - found.per_list.value) / ((1 - found.coverage) * shelf.theta.sum())
            if abs(truth - was) > 4 * (found.per_list.standard_error + found.logged.standard_error):
                assert (truth > was) == (alone > found.break_even)
                told += 1
    assert told > 20


def test_sums_of_a_small_log_by_hand() -> None:
    """Two requests of three positions; the candidate swaps the first two of one and has the last elsewhere."""
    theta = np.array([1.0, 0.5, 0.25])
    lists = Lists(
        request=np.array([7, 7, 7, 9, 9, 9]),
        position=np.array([0, 1, 2, 0, 1, 2]),
        place=np.array([1, 0, 3, 0, -1, 2]),
        clicked=np.array([True, True, True, False, True, True]),
        unit=np.array([1, 1, 1, 2, 2, 2]),
    )
    found = ranked_value(lists, theta, Terms(min_ess=1))
    assert isinstance(found, Ranked)
    assert found.logged.value == 5 / 2
    assert found.per_list.value == (0.5 + 2 + 0 + 0 + 0 + 1) / 2
    assert found.coverage == pytest.approx((0.5 + 1 + 1 + 0.25) / 3.5)
    assert found.dropped_clicks == 2 / 5
    assert found.dropped_rate == pytest.approx(2 / 0.75)
    assert found.break_even == pytest.approx((5 - 3.5) / (3.5 - 2.75))
    assert found.order.value == pytest.approx((3.5 / 2.75) / (3 / 2.75) - 1)


def test_a_later_page_is_compared_with_the_candidate_s_same_page() -> None:
    theta = np.ones(20)
    request, position = np.repeat(np.arange(50), 10), np.tile(np.arange(10, 20), 50)
    same = Lists(request, position, position, position == 12, request)
    first = Lists(request, position, position - 10, position == 12, request)
    found = ranked_value(same, theta, Terms(min_ess=1))
    assert isinstance(found, Ranked)
    assert found.per_list.value == found.logged.value == 1
    refused = ranked_value(first, theta, Terms(min_ess=1))
    assert isinstance(refused, Refused)
    assert refused.reason is Reason.SMALL_SAMPLE


def test_lists_that_cannot_tell_are_refused() -> None:
    shelf = Shelf.drawn(0)
    lists, _, _ = shelf.shadowed(0, 100, 0.1)
    small = ranked_value(lists, shelf.theta)
    assert isinstance(small, Refused)
    assert (small.reason, small.ess < 500) == (Reason.SMALL_SAMPLE, True)
    unknown = ranked_value(lists, np.full(K, np.nan))
    assert isinstance(unknown, Refused)
    assert unknown.reason is Reason.NO_POSITIONS
    cold = ranked_value(
        Lists(lists.request, lists.position, lists.place, lists.clicked & False, lists.unit),
        shelf.theta,
        Terms(min_ess=1),
    )
    assert isinstance(cold, Refused)
    assert cold.detail == "no click on an item that the candidate shows"


def test_positions_of_which_nothing_is_known_are_left_out_for_both() -> None:
    shelf = Shelf.drawn(3, items=K)
    lists, _, _ = shelf.shadowed(3, 2_000, 0.3)
    theta = np.where(np.arange(K) < 4, shelf.theta, np.nan)
    found = ranked_value(lists, theta)
    assert isinstance(found, Ranked)
    rows = lists.position < 4
    assert found.logged.value == pytest.approx(lists.clicked[rows].sum() / 2_000)
    assert found.coverage == pytest.approx(
        theta[lists.place[rows & (lists.place < 4)]].sum() / (2_000 * theta[:4].sum())
    )
