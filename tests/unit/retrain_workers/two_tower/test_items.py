"""Bags of categories and words: by hand, for items of which nothing is known, and as rows of a table move with their names."""

import numpy as np
import pytest

from online_models.contracts.events import Item
from retrain_workers.two_tower.items import MOST_WORDS, WORD_ROWS, Bags, ItemContent, moved_rows

HEAT = Item("1", "movies", "Heat (1995)", ["Crime", "Action", "crime "])
FARGO = Item("2", "movies", "Fargo", ["Crime"])


def test_categories_have_rows_in_the_order_of_their_names() -> None:
    content = ItemContent.of(["2", "1"], {"1": HEAT, "2": FARGO})
    assert content.categories == ["action", "crime"]
    assert content.of_categories.rows.tolist() == [[1, 0], [1, 0]]
    assert content.of_categories.weights == pytest.approx(np.array([[1, 0], [0.5**0.5, 0.5**0.5]]))


def test_a_year_is_a_word_and_a_title_that_is_a_year_another() -> None:
    content = ItemContent.of(["1", "2"], {"1": Item("1", "m", "Heat (1995)"), "2": Item("2", "m", "1995")})
    year, _, title = content.of_words.rows[0].tolist()
    other = content.of_words.rows[1, 0]
    assert len({year, title, int(other)}) == 3
    assert 0 <= content.of_words.rows.min() <= content.of_words.rows.max() < WORD_ROWS


def test_an_item_of_which_nothing_is_known_has_empty_bags() -> None:
    content = ItemContent.of(["1", "?"], {"1": HEAT})
    assert not content.of_categories.weights[1].any()
    assert not content.of_words.weights[1].any()
    nothing = ItemContent.of(["?"], {})
    assert nothing.categories == []
    assert nothing.of_words.weights.tolist() == [[0.0]]


def test_a_long_title_keeps_its_first_words() -> None:
    title = " ".join(f"word{number}" for number in range(3 * MOST_WORDS))
    content = ItemContent.of(["1"], {"1": Item("1", "m", title)})
    assert content.of_words.rows.shape == (1, MOST_WORDS)
    assert np.square(content.of_words.weights).sum() == pytest.approx(1)


def test_every_bag_has_length_one() -> None:
    bags = Bags.of([[3], [1, 2], [4, 5, 6], []], 8)
    assert np.square(bags.weights).sum(axis=1) == pytest.approx([1, 1, 1, 0])


def test_rows_move_with_their_names_and_new_names_begin_otherwise() -> None:
    table = np.array([[1, 1], [2, 2], [3, 3]], np.float32)
    moved = moved_rows(["c", "new", "a"], ["a", "b", "c"], table, np.zeros((3, 2), np.float32))
    assert moved.tolist() == [[3, 3], [0, 0], [1, 1]]
    assert moved_rows([], ["a"], table[:1], np.zeros((0, 2), np.float32)).shape == (0, 2)
