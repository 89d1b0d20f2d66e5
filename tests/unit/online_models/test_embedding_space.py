"""Places in embedding space: axes that tell items apart, the same for the same factors, and their columns."""

import numpy as np

from online_models.embedding_space import Axes, EmbeddingColumns, coordinates


def factors(seed: int, rows: int = 200, width: int = 8) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(rows, width)) * np.linspace(3, 0.1, width)).astype(np.float32)


def test_coordinates_are_standardised_and_uncorrelated_over_what_the_axes_were_made_of() -> None:
    items = factors(0)
    places = coordinates(items, Axes.of(items, items))
    assert places.shape == (200, 4)
    assert np.abs(places.mean(0)).max() < 1e-5
    assert np.abs(places.std(0) - 1).max() < 1e-5
    assert np.abs(np.corrcoef(places.T) - np.eye(4)).max() < 1e-4


def test_axes_survive_the_artifact_and_do_not_depend_on_signs() -> None:
    items, users = factors(1), factors(2, 50)
    axes = Axes.of(items, users)
    again = Axes.unpacked(axes.packed())
    assert np.array_equal(coordinates(users, again), coordinates(users, axes))
    # the axes of mirrored factors are the same lines, with the same orientation
    assert np.allclose(Axes.of(-items, users).directions, axes.directions, atol=1e-4)


def test_vectors_of_one_point_have_places_all_the_same() -> None:
    items = np.ones((5, 3), np.float32)
    assert np.array_equal(coordinates(items, Axes.of(items, items)), np.zeros((5, 3)))


def test_columns_hold_the_events_whose_item_or_user_is_placed() -> None:
    items = (np.array([0, 2, 3], np.int32), np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    users = (np.array([1], np.int32), np.array([[7.0, 8.0]]))
    columns = EmbeddingColumns(items, users)
    assert columns.names() == ("embedding.item.0", "embedding.item.1", "embedding.user.0", "embedding.user.1")
    second = columns.column("embedding.item.1")
    assert second.number_rows is not None
    assert (second.number_rows.tolist(), second.numbers.tolist()) == ([0, 2, 3], [2.0, 4.0, 6.0])
    for unknown in ("embedding.item.2", "embedding.user.x", "embedding.", "genres"):
        assert len(columns.column(unknown).numbers) == 0
    later = columns.take(np.array([False, True, False, True])).column("embedding.item.0")
    assert later.number_rows is not None
    assert (later.number_rows.tolist(), later.numbers.tolist()) == ([1], [5.0])
    user = columns.take(np.array([False, True, False, True])).column("embedding.user.0")
    assert user.number_rows is not None
    assert (user.number_rows.tolist(), user.numbers.tolist()) == ([0], [7.0])
