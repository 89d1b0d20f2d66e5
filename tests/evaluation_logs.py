"""Small logs for tests of the evaluation: any events at all, and a seeded world in which something can be learned."""

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from online_models.evaluation.log import Log
from tests.oracles.evaluation import Event

events = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7), st.integers(0, 9)), max_size=40)
"""Pairs and times repeat."""


def log_of(given: Sequence[Event]) -> Log:
    """Events of strength 1; item 3 is called `i3`."""
    user, item, ts_ms = (
        (np.array(column, np.int64) for column in zip(*given, strict=True))
        if given
        else (np.empty(0, np.int64) for _ in range(3))
    )
    ids = [f"i{row}" for row in range(int(item.max(initial=-1)) + 1)]
    return Log.of(ids, user, item, ts_ms, np.ones(len(given), np.float32))


def tastes(seed: int, events: int = 1_200, users: int = 150, items: int = 80, groups: int = 4) -> list[Event]:
    """Distinct pairs of users who like a fourth of the items, the popular ones first; baskets of up to three."""
    rng = np.random.default_rng(seed)
    made: dict[tuple[int, int], int] = {}
    basket = 0
    while len(made) < events:
        user, basket = int(rng.integers(users)), basket + 1
        for _ in range(int(rng.integers(1, 4))):
            own = user % groups if rng.random() < 0.9 else int(rng.integers(groups))
            item = int(items // groups * rng.random() ** 2) * groups + own
            made.setdefault((user, item), 60_000 * basket)
    return [(user, item, ts_ms) for (user, item), ts_ms in made.items()][:events]
