"""Seeded versions of a model in the middle of a stream, and users who ask them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from online_models.als import FoldIn, gramian
from online_models.contracts.ids import hash64
from online_models.evidence import QUERIES
from online_models.history import ENTRY
from online_models.learner import Trained, VersionLearner
from online_models.sources import Sources, Steps
from online_models.two_tower import UserTower, expected_shapes
from tests.oracles.least_squares import factors

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

ITEMS, K, USERS = 12, 6, 20
HOW = FoldIn(alpha=3.0, regularization=0.1)


def names(rows: range) -> list[str]:
    return [f"item-{row}" for row in rows]


def drawn_trained(rng: np.random.Generator, items: int = ITEMS, k: int = K, *, tower: bool = False) -> Trained:
    """Normal factors of items and users, and for some the two towers."""
    Y, X = factors(rng, items, k), factors(rng, USERS, k)
    return Trained(
        ids=names(range(items)),
        factors=Y,
        weights=rng.exponential(20, items),
        gramian=gramian(Y),
        user_gramian=gramian(X),
        users=USERS,
        fold_in=HOW,
        tower=drawn_tower(rng, items) if tower else None,
    )


def drawn_tower(rng: np.random.Generator, items: int) -> UserTower:
    return UserTower.of(drawn_tower_tensors(rng, items))


def drawn_tower_tensors(rng: np.random.Generator, items: int) -> dict[str, F32]:
    sizes = {"item_inputs": (items, 4), "attention_query": (2, 3), "place_bias": (2, 6), "mlp_hidden_bias": (2, 5)}
    shapes = expected_shapes({name: np.empty(shape, np.float32) for name, shape in sizes.items()})
    tensors = {name: np.asarray(rng.normal(size=shape), np.float32) for name, shape in shapes.items()}
    tensors["item_vectors"] /= np.linalg.norm(tensors["item_vectors"], axis=1, keepdims=True)
    return tensors


def drawn_entries(rng: np.random.Generator, events: int, items: int) -> npt.NDArray[np.void]:
    """A user's events, oldest first."""
    entries = np.zeros(events, ENTRY)
    entries["ts_ms"], entries["event"] = np.sort(rng.integers(0, 9**9, events)), np.arange(events)
    entries["item"] = [hash64(f"item-{row}") for row in rng.integers(0, items, events)]
    entries["strength"] = rng.choice([1, 2.5, 4], events)
    return entries


def drawn_learner(rng: np.random.Generator, items: int = ITEMS, k: int = K, *, tower: bool = False) -> VersionLearner:
    """After some events; every fifth item of the sources is new to the version, and of the last one nothing is known."""
    learner = VersionLearner(drawn_trained(rng, items, k, tower=tower), Sources())
    more = items // 5
    learner.sources.rows_of(names(range(items, items + more + 1)))
    many = rng.integers(0, 12, 80)
    steps = Steps(
        item=rng.integers(0, items + more, 80),
        ts_ms=np.sort(rng.integers(0, 10**10, 80)),
        context=rng.integers(0, items + more, many.sum()).astype(np.int32),
        ptr=np.concatenate([[0], np.cumsum(many)]),
    )
    learner.sources.learn(steps)
    learner.move_items(steps.item, np.ones(80, np.float32), factors(rng, 80, k))
    return learner


@dataclass(frozen=True)
class Asked:
    """Who asks: arguments of `rank` and `learn_choice`."""

    context: I64
    events: int
    queries: F32
    ts_ms: int
    excluded: I64
    tower: F32 | None = None

    def rank(self, learner: VersionLearner, count: int) -> tuple[I64, F32]:
        return learner.rank(self.context, self.events, self.queries, self.ts_ms, self.excluded, count, self.tower)

    def choose(self, learner: VersionLearner, taken: I64) -> I64:
        return learner.learn_choice(
            self.context, self.events, self.queries, self.ts_ms, self.excluded, taken, self.tower
        )


def drawn_asked(rng: np.random.Generator, learner: VersionLearner) -> Asked:
    """Somebody with up to 35 recent items, some of them unknown."""
    items = len(learner.sources.items)
    queries = rng.normal(size=(len(QUERIES), learner.fold_ins.k)).astype(np.float32)
    queries[2] = 0
    return Asked(
        context=rng.integers(-1, items, rng.integers(0, 35)),
        events=int(rng.integers(0, 40)),
        queries=queries,
        ts_ms=int(rng.integers(0, 10**10)),
        excluded=rng.integers(-1, items, rng.integers(0, 6)),
        tower=learner.fold_ins.tower_query(drawn_entries(rng, 5, items)),
    )


def state(learner: VersionLearner) -> list[bytes]:
    """All that it has learned, to the bit."""
    return [
        learner.sources.encode(),
        learner.blend.encode(),
        learner.encode_moved(),
        learner.vectors.tobytes(),
        learner.weights.tobytes(),
    ]
