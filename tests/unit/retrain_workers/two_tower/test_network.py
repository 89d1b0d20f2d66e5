"""The network in torch: its loss as loops, its users as the torch-free tower has them, its beginnings."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from online_models.contracts.events import Item
from online_models.two_tower import UserTower
from retrain_workers.two_tower import network as tower_network
from retrain_workers.two_tower.examples import Batch
from retrain_workers.two_tower.items import ItemContent
from retrain_workers.two_tower.network import BatchTensors, Sizes, Towers, begin_parameters

ITEMS, MEMBERS, D, HIDDEN, LENGTH = 7, 2, 6, 5, 4
CPU = torch.device("cpu")
CATALOGUE = {f"i{row}": Item(f"i{row}", "m", f"word{row % 3} other", [f"c{row % 2}"]) for row in range(ITEMS - 1)}
CONTENT = ItemContent.of([f"i{row}" for row in range(ITEMS)], CATALOGUE)
SEEDS = st.integers(0, 2**31 - 1)


def towers(seed: int, demographics: dict[str, int] | None = None) -> Towers:
    sizes = Sizes(ITEMS, len(CONTENT.categories), MEMBERS, D, HIDDEN, LENGTH, demographics or {})
    rng = np.random.default_rng(seed)
    begun = begin_parameters(sizes, seed)
    # nothing is left at zero: an attention that is off would hide a mistake
    return Towers(
        {name: array + rng.normal(0, 0.3, array.shape).astype(np.float32) for name, array in begun.items()}, CONTENT
    )


def served(network: Towers) -> dict[str, np.ndarray]:
    popularity = np.linspace(-5, -1, ITEMS).astype(np.float32)
    return network.served() | {"log_popularity": popularity, "popularity_weight": np.array(0.3, np.float32)}


def some_histories(rng: np.random.Generator, many: int) -> np.ndarray:
    """Newest first, of any length, unknown items among them."""
    return np.array(
        [
            np.where(np.arange(LENGTH) < rng.integers(LENGTH + 1), rng.integers(-1, ITEMS, LENGTH), -1)
            for _ in range(many)
        ]
    )


@settings(deadline=None, max_examples=40)
@given(SEEDS)
def test_users_are_those_of_the_torch_free_tower(seed: int) -> None:
    rng, network = np.random.default_rng(seed), towers(seed, {"age": 3})
    histories, ages = some_histories(rng, 9), rng.integers(-1, 3, 9)
    found = network.user_vectors(histories, {"age": ages})
    tower = UserTower.of(served(network))
    for history, age, vector in zip(histories, ages.tolist(), found, strict=True):
        places = np.arange(LENGTH)
        expected = tower.vector(history, places=places, demographics={"age": age})
        np.testing.assert_allclose(vector, expected, atol=1e-5)


@settings(deadline=None, max_examples=25)
@given(SEEDS)
def test_the_loss_is_the_sampled_softmax_with_its_corrections(seed: int) -> None:
    rng = np.random.default_rng(seed)
    items = np.sort(rng.permutation(ITEMS)[:5])
    history = np.where(rng.random((6, LENGTH)) < 0.5, rng.integers(0, 5, (6, LENGTH)), -1)
    batch = Batch(items, rng.integers(0, 5, 6), history, rng.random(6).astype(np.float32) + 0.5, {})
    offsets = np.log(rng.random((6, 6))).astype(np.float32)
    network = towers(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tower_network, "DROPPED", 0.0)
        loss = float(network(BatchTensors.of(batch, offsets, CPU), seed).detach())
    rows = np.where(history >= 0, items[history], -1)
    users, vectors = network.user_vectors(rows), network.served()["item_vectors"]
    temperature = math.exp(network.served()["log_temperature"])
    losses = []
    for member, (user, own) in itertools.product(range(MEMBERS), enumerate(batch.targets.tolist())):
        part, scores = slice(member * D, (member + 1) * D), {}
        for other, target in enumerate(batch.targets.tolist()):
            met = target in history[user].tolist() or target == own
            if other == user or not met:
                # parts of length 1 / sqrt(M), both of them
                cosine = MEMBERS * users[user, part] @ vectors[items[target], part]
                scores[other] = cosine / temperature + offsets[user, other]
        logarithm = math.log(sum(math.exp(score) for score in scores.values()))
        losses.append(batch.weights[user] * (logarithm - scores[user]))
    assert loss == pytest.approx(np.mean(losses), rel=1e-4, abs=1e-5)


def test_what_is_dropped_follows_from_the_seed_alone() -> None:
    batch = Batch(
        np.arange(5), np.array([0, 1, 2]), np.array([[3, 4]] * 3), np.ones(3, np.float32), {"age": np.arange(3)}
    )
    sizes = Sizes(ITEMS, len(CONTENT.categories), MEMBERS, D, HIDDEN, 2, {"age": 3})
    network = Towers(begin_parameters(sizes, 1), CONTENT)
    tensors = BatchTensors.of(batch, np.zeros((3, 3), np.float32), CPU)
    torch.manual_seed(1)
    first = float(network(tensors, 5).detach())
    torch.manual_seed(2)
    assert float(network(tensors, 5).detach()) == first
    assert float(network(tensors, 6).detach()) != first


def test_the_temperature_stays_in_bounds() -> None:
    network = towers(0)
    for log, expected in ((-20.0, tower_network.LEAST_TEMPERATURE), (5.0, 1.0)):
        with torch.no_grad():
            network.named["log_temperature"].fill_(log)
        assert math.exp(network.served()["log_temperature"]) == pytest.approx(expected)


def test_a_beginning_follows_from_the_seed_alone() -> None:
    sizes = Sizes(ITEMS, 2, MEMBERS, D, HIDDEN, LENGTH, {"age": 3})
    one, same, other = (begin_parameters(sizes, seed) for seed in (1, 1, 2))
    assert all(one[name].tobytes() == same[name].tobytes() for name in one)
    assert one["words"].tobytes() != other["words"].tobytes()
    assert {array.dtype.name for array in one.values()} == {"float32"}


def test_a_catalogue_without_categories_works() -> None:
    content = ItemContent.of(["a", "b"], {})
    network = Towers(begin_parameters(Sizes(2, 0, MEMBERS, D, HIDDEN, LENGTH, {}), 0), content)
    assert np.isfinite(network.user_vectors(np.array([[0, 1, -1, -1], [-1] * 4]))).all()
    np.testing.assert_allclose(np.linalg.norm(network.served()["item_vectors"], axis=1), 1, rtol=1e-6)
