"""The user tower against its equations written as loops in float64; batches, ties, extremes, refusals, the file."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from online_models.errors import ArtifactError
from online_models.two_tower import F32, UserTower, expected_shapes

SEEDS = st.integers(0, 2**32 - 1)
EXTREMES = np.array([0, 1e-45, -1e-45, 1e-20, 0.5, -1, 3, 1e20, -1e20, 3.4e38, -3.4e38], np.float32)
SIZES = ("attention_query", "place_bias", "mlp_hidden_bias")
Tensors = dict[str, F32]
Rows = npt.NDArray[np.int64]
ALL = expected_shapes({name: np.empty((1, 1), np.float32) for name in ("item_inputs", *SIZES)})
OF_MEMBERS = ALL.keys() - {"item_inputs", "item_vectors", "log_popularity", "log_temperature", "popularity_weight"}


def shapes_of(items: int, d: int, a: int, h: int, length: int, members: int = 1) -> dict[str, tuple[int, ...]]:
    sizes = {name: (members, size) for name, size in zip(SIZES, (a, length, h), strict=True)}
    tables = {"item_inputs": (items, members * d), "demographics.gender": (2,), "demographics.age": (7,)}
    return expected_shapes({name: np.empty(shape, np.float32) for name, shape in (sizes | tables).items()})


def with_unit_rows(tensors: Tensors) -> Tensors:
    vectors = tensors["item_vectors"].astype(np.float64)
    vectors[~vectors.any(axis=1), 0] = 1
    vectors /= np.abs(vectors).max(axis=1, keepdims=True)
    return tensors | {"item_vectors": (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)}


def some_tensors(
    rng: np.random.Generator, items: int = 9, d: int = 4, a: int = 3, h: int = 5, length: int = 6, members: int = 1
) -> Tensors:
    shapes = shapes_of(items, d, a, h, length, members)
    return with_unit_rows({name: np.asarray(rng.normal(size=shape), np.float32) for name, shape in shapes.items()})


def extreme_tensors(rng: np.random.Generator) -> Tensors:
    tensors = with_unit_rows({name: rng.choice(EXTREMES, shape) for name, shape in shapes_of(5, 3, 2, 4, 3).items()})
    return tensors | {"log_temperature": np.zeros((), np.float32)}


def dot(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def written_out(
    tensors: Mapping[str, F32], rows: Sequence[int], places: Sequence[int], demographics: Mapping[str, int]
) -> list[float]:
    """Oracle: h of the module's equations for a tower of one member, loop by loop in float64."""
    assert len(tensors["start_score"]) == 1
    of = {
        name: (tensor[0] if name in OF_MEMBERS else tensor).astype(np.float64).tolist()
        for name, tensor in tensors.items()
    }
    scores, inputs = [of["start_score"]], [of["start_input"]]
    for row, place in zip(rows, places, strict=True):
        if row >= 0 and place < len(of["place_bias"]):
            e = of["item_inputs"][row]
            units = zip(of["attention_query"], of["attention_weight"], of["attention_bias"], strict=True)
            scores.append(sum(q * math.tanh(dot(w, e) + b) for q, w, b in units) + of["place_bias"][place])
            inputs.append(e)
    exps = [math.exp(score - max(scores)) for score in scores]
    x = [dot(exps, column) / sum(exps) for column in zip(*inputs, strict=True)]
    for name, value in demographics.items():
        if value >= 0:
            x = [a + b for a, b in zip(x, of[f"demographics.{name}"][value], strict=True)]
    hidden = [max(dot(w, x) + b, 0.0) for w, b in zip(of["mlp_hidden_weight"], of["mlp_hidden_bias"], strict=True)]
    out = zip(x, of["mlp_out_weight"], of["mlp_out_bias"], strict=True)
    return [a + dot(w, hidden) + b for a, w, b in out]


def member_of(tensors: Mapping[str, F32], number: int) -> Tensors:
    """A member of a tower as a tower of its own."""
    d = tensors["start_input"].shape[1]
    own = {name: tensor[number : number + 1] for name, tensor in tensors.items() if name in OF_MEMBERS}
    rows = {name: tensor for name, tensor in tensors.items() if tensor.ndim == 2 and name not in OF_MEMBERS}
    return dict(tensors) | own | {name: tensor[:, number * d : (number + 1) * d] for name, tensor in rows.items()}


def unit(h: Sequence[float]) -> list[float]:
    return [entry / math.sqrt(dot(h, h)) for entry in h]


def places_of(rows: Sequence[int]) -> list[int]:
    return list(range(len(rows)))[::-1]


def csr(rng: np.random.Generator, users: int, items: int) -> tuple[Rows, Rows]:
    """Histories of up to 10 events, some of unknown items, some longer than the tower reads."""
    many = rng.integers(0, 11, users)
    return np.cumsum([0, *many]), rng.integers(-1, items, many.sum())


@given(
    SEEDS,
    st.integers(1, 9),
    st.integers(1, 70),
    st.integers(0, 5),
    st.integers(0, 6),
    st.integers(0, 12),
    st.integers(1, 3),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_vectors_are_the_equations_written_out_and_a_batch_is_its_users_one_by_one(
    seed: int, items: int, d: int, a: int, h: int, length: int, members: int, known: bool
) -> None:
    rng = np.random.default_rng(seed)
    tensors = some_tensors(rng, items, d, a, h, length, members)
    tower = UserTower.of(tensors)
    indptr, rows = csr(rng, 6, items)
    demographics = {"gender": rng.integers(-1, 2, 6), "age": rng.integers(-1, 7, 6)} if known else {}
    vectors = tower.vectors(indptr, rows, demographics=demographics)
    assert vectors.shape == (6, members * d)
    assert vectors.dtype == np.float32
    for user, vector in enumerate(vectors):
        own = rows[indptr[user] : indptr[user + 1]]
        values = {name: int(column[user]) for name, column in demographics.items()}
        parts = [
            unit(written_out(member_of(tensors, m), own.tolist(), places_of(own.tolist()), values))
            for m in range(members)
        ]
        assert np.allclose(vector, np.concatenate(parts) / math.sqrt(members), atol=1e-6)
        assert np.array_equal(vector, tower.vector(own, demographics=values))


@given(SEEDS, st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_events_at_equal_places_have_no_order(seed: int, events: int) -> None:
    rng = np.random.default_rng(seed)
    tensors = some_tensors(rng)
    tower = UserTower.of(tensors)
    rows, places = rng.integers(-1, 9, events), rng.integers(0, 8, events)
    shuffled = rng.permutation(events)
    vector = tower.vector(rows, places=places)
    assert np.allclose(vector, unit(written_out(tensors, rows.tolist(), places.tolist(), {})), atol=1e-6)
    assert np.allclose(tower.vector(rows[shuffled], places=places[shuffled]), vector, atol=1e-6)


@given(SEEDS)
@settings(max_examples=80, deadline=None)
def test_any_finite_tensors_give_vectors_of_length_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tensors = extreme_tensors(rng)
    tower = UserTower.of(tensors)
    indptr, rows = csr(rng, 8, 5)
    vectors = tower.vectors(indptr, rows)
    for user, vector in enumerate(vectors):
        own = rows[indptr[user] : indptr[user + 1]].tolist()
        norm = np.linalg.norm(vector.astype(np.float64))
        assert norm == pytest.approx(1) or (norm == 0 and not any(written_out(tensors, own, places_of(own), {})))


def test_a_history_without_a_known_item_among_the_newest_gives_the_start_vector() -> None:
    tensors = some_tensors(np.random.default_rng(1), length=2)
    tower = UserTower.of(tensors)
    start = tower.vector(np.empty(0, np.int64))
    assert np.allclose(start, unit(written_out(tensors, [], [], {})), atol=1e-6)
    for rows in ([-1], [3, -1, -1], [3, 4, -1, -1]):
        assert np.array_equal(tower.vector(np.array(rows)), start)
    assert not np.allclose(tower.vector(np.array([3, -1])), start, atol=1e-3)
    assert not np.allclose(tower.vector(np.empty(0, np.int64), demographics={"age": 2}), start, atol=1e-3)
    assert tower.vectors(np.zeros(1, np.int64), np.empty(0, np.int64)).shape == (0, 4)


def test_a_tower_of_zeros_gives_zeros() -> None:
    tensors = with_unit_rows({name: np.zeros(shape, np.float32) for name, shape in shapes_of(3, 2, 1, 1, 1).items()})
    assert UserTower.of(tensors).vector(np.array([1])).tolist() == [0, 0]


def test_a_vector_that_is_too_small_to_be_squared_still_has_a_direction() -> None:
    tensors = with_unit_rows({name: np.zeros(shape, np.float32) for name, shape in shapes_of(3, 2, 1, 1, 1).items()})
    tensors |= {"start_score": np.array([-700], np.float32), "start_input": np.array([[3, 4]], np.float32)}
    assert UserTower.of(tensors).vector(np.array([1])).tolist() == pytest.approx([0.6, 0.8])


def test_a_newer_place_with_a_larger_bias_moves_the_vector_towards_its_item() -> None:
    tensors = {name: np.zeros(shape, np.float32) for name, shape in shapes_of(2, 2, 1, 1, 2).items()}
    tensors |= {"item_inputs": np.eye(2, dtype=np.float32), "item_vectors": np.eye(2, dtype=np.float32)}
    tensors["place_bias"] = np.array([[math.log(3), 0]], np.float32)
    # weights 1/5 of a start vector of zeros, 1/5 and 3/5: along [1, 3]
    assert UserTower.of(tensors).vector(np.array([0, 1])).tolist() == pytest.approx([0.1**0.5, 0.9**0.5])


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_scores_are_over_the_temperature_and_with_popularity_and_are_an_inner_product(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tensors = some_tensors(rng)
    tower = UserTower.of(tensors)
    u = tower.vector(rng.integers(0, 9, 4))
    temperature, weight = math.exp(tensors["log_temperature"]), float(tensors["popularity_weight"])
    pairs = zip(tensors["item_vectors"].tolist(), tensors["log_popularity"].tolist(), strict=True)
    expected = [dot(u.tolist(), v) / temperature + weight * popularity for v, popularity in pairs]
    assert np.allclose(tower.scores(u), expected, rtol=1e-4, atol=1e-4)
    assert np.allclose(tower.search_vectors() @ tower.query(u), expected, rtol=1e-4, atol=1e-4)


def test_a_file_read_back_gives_the_same_tower_without_a_copy_of_its_tables() -> None:
    tensors = some_tensors(np.random.default_rng(2))
    read = load(save(tensors))
    for tensor in read.values():
        tensor.flags.writeable = False  # as a memory map would be
    tower = UserTower.of(read)
    rows = np.frombuffer(np.array([1, 5, 5], np.int64).tobytes(), np.int64)
    assert np.array_equal(tower.vector(rows), UserTower.of(tensors).vector(rows))
    assert np.shares_memory(tower.item_vectors, read["item_vectors"])
    with pytest.raises(ValueError, match="read-only"):
        tower.item_vectors[0] = 0


def without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if key != name}


def replaced(name: str, tensor: object) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {name: np.asarray(tensor, None if isinstance(tensor, np.ndarray) else np.float32)}


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (without("item_inputs"), "expected tensors item_inputs, got attention_bias"),
        (without("start_score"), "missing or unknown: start_score"),
        (replaced("item_inputs", np.zeros((9, 5), np.float32)), "equal parts for 2 members, got 5 entries"),
        (replaced("mlp_third_weight", [1]), "missing or unknown: mlp_third_weight"),
        (replaced("attention_weight", np.zeros((2, 2, 3), np.float32)), r"attention_weight: .*\(2, 3, 2\), got .*\(2, 2, 3\)"),
        (replaced("item_inputs", [1, 2]), r"item_inputs: expected float32 \(2, 0\), got float32 \(2,\)"),
        (replaced("place_bias", np.zeros((3, 4), np.float32)), r"place_bias: expected float32 \(2, 6\), got float32 \(3, 4\)"),
        (replaced("attention_query", 1), r"attention_weight: expected float32 \(1, 1, 4\), got float32 \(2, 3, 2\)"),
        (replaced("start_score", [1]), r"start_score: expected float32 \(2,\), got float32 \(1,\)"),
        (replaced("start_input", np.zeros((2, 2))), r"start_input: expected float32 \(2, 2\), got float64 \(2, 2\)"),
        (replaced("demographics.age", np.zeros((7, 5), np.float32)), r"demographics.age: expected float32 \(7, 4\)"),
        (replaced("demographics.age", 1), r"demographics.age: expected float32 \(4,\), got float32 \(\)"),
        (replaced("mlp_out_bias", [[0, np.nan], [0, np.inf]]), "mlp_out_bias: expected finite values, got 2 others"),
        (replaced("item_vectors", np.ones((9, 4), np.float32)), "item_vectors: expected rows of length 1, got 9 of another"),
        (replaced("item_vectors", np.full((9, 4), 3e38, np.float32)), "expected rows of length 1, got 9 of another"),
        (replaced("log_temperature", -21), "log_temperature: expected at most 20.0 either way, got -21"),
    ],
)  # fmt: skip
def test_a_broken_file_is_refused_with_what_was_expected(broken: Callable[[Tensors], Tensors], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        UserTower.of(broken(some_tensors(np.random.default_rng(3), d=2, members=2)))


def test_histories_and_demographics_out_of_range_are_refused() -> None:
    tower = UserTower.of(some_tensors(np.random.default_rng(4)))
    one, two = np.array([0]), np.array([0, 1])
    refusals: list[Callable[[], F32]] = [
        lambda: tower.vector(np.array([9])),
        lambda: tower.vector(two, places=one),
        lambda: tower.vector(two, places=np.array([0, -1])),
        lambda: tower.vector(one, demographics={"age": 7}),
        lambda: tower.vector(one, demographics={"income": 0}),
        lambda: tower.vectors(np.array([0, 1]), one, demographics={"age": two}),
        lambda: tower.vectors(np.array([0, 1]), two),
        lambda: tower.vectors(np.array([1, 2]), two),
        lambda: tower.vectors(np.array([0, 2, 1, 2]), two),
        lambda: tower.vectors(np.empty(0, np.int64), np.empty(0, np.int64)),
    ]
    for refused in refusals:
        with pytest.raises(ValueError, match="expected"):
            refused()
