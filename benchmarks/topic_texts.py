"""A generated catalogue of topics told in words, what its users choose, and a drift: where language-model scorers are measured.

- Each topic has words of its own; an item is three words, three in four of its topic's, else common ones. Some items are far more
  popular than others.
- A user likes three topics, unequally, and four times in five takes an item of theirs, else any.
- The drift: after a history of old tastes, the liked topics of 30 % of all topics are others, and items have come, 30 % as many
  again, of the same topics but in words that were never seen.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from retrain_workers.lora.choices import TAKEN, ChoiceGroups

Rows = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]

TOPICS: Final = 40
ITEMS: Final = 1_200
WORDS, NEW_WORDS, COMMON_WORDS = 12, 4, 40
TITLE: Final = 3
OF_THE_TOPIC: Final = 0.75
LIKED: Final = 3
LOYALTY: Final = 0.8
DRIFT: Final = 0.3
HISTORY: Final = 8
GROUP: Final = 6


@dataclass(frozen=True)
class TopicWorld:
    """texts : of all items, the new ones last; topic, popularity : (items,) of each; becomes : (topics,), under the drift"""

    texts: list[str]
    topic: Rows
    popularity: F64
    old: npt.NDArray[np.bool_]
    becomes: Rows

    @cached_property
    def _shares(self) -> dict[bool, "_Shares"]:
        return {drifted: _Shares.of(self, drifted) for drifted in (False, True)}

    def choices(self, many: int, seed: int, *, drifted: bool) -> ChoiceGroups:
        """What so many users took, beside items drawn by popularity^0.5 that they had not met; each after 8 items."""
        rng = np.random.default_rng([seed, drifted])
        shares = self._shares[drifted]
        liked = np.array([rng.permutation(TOPICS)[:LIKED] for _ in range(many)])
        weight = rng.dirichlet(np.full(LIKED, 2.0), size=many).cumsum(1)
        met = np.array(
            [
                shares.drawn(rng, self._topics(rng, liked, weight, drifted and last == HISTORY))
                for last in range(HISTORY + 1)
            ]
        ).T  # (many, history + 1): the last is taken
        beside = np.array([shares.others(rng, set(row)) for row in met.tolist()])
        history, taken = met[:, :HISTORY], met[:, HISTORY:]
        candidates = np.column_stack([taken, beside])
        columns = (np.arange(many + 1) * HISTORY, history.ravel(), candidates)
        even = np.ones(many, np.float32), np.ones(candidates.shape, np.float32)
        return ChoiceGroups(*columns, np.arange(many), *even)

    def _topics(self, rng: np.random.Generator, liked: Rows, weight: F64, after: bool) -> Rows:
        """A liked topic of each user (many,), as the drift makes it; -1 for any."""
        which = (rng.random((len(liked), 1)) > weight[:, :-1]).sum(1)
        topic = liked[np.arange(len(liked)), which]
        topic = self.becomes[topic] if after else topic
        return np.where(rng.random(len(liked)) < LOYALTY, topic, -1)


@dataclass(frozen=True, slots=True)
class _Shares:
    """Items that there are, and how likely each is: for each topic, over all (the last), and as one that was not taken."""

    items: Rows
    cumulative: F64
    beside: F64

    @classmethod
    def of(cls, world: TopicWorld, drifted: bool) -> "_Shares":
        items = np.arange(len(world.topic)) if drifted else np.flatnonzero(world.old)
        popularity = world.popularity[items]
        of_topic = (world.topic[items] == np.arange(TOPICS)[:, None]) * popularity
        shares = np.vstack([of_topic, popularity])
        root = np.sqrt(popularity)
        return cls(items, (shares / shares.sum(1, keepdims=True)).cumsum(1), (root / root.sum()).cumsum())

    def drawn(self, rng: np.random.Generator, topic: Rows) -> Rows:
        """An item of each topic (n,)."""
        places = (rng.random((len(topic), 1)) > self.cumulative[topic, :-1]).sum(1)
        found: Rows = self.items[places]
        return found

    def others(self, rng: np.random.Generator, met: set[int]) -> list[int]:
        found: list[int] = []
        while len(found) < GROUP - 1:
            item = int(self.items[np.searchsorted(self.beside[:-1], rng.random())])
            if item not in met and item not in found:
                found.append(item)
        return found


def topic_world(seed: int) -> TopicWorld:
    """The world of a seed."""
    rng = np.random.default_rng(seed)
    items = ITEMS + round(DRIFT * ITEMS)
    old = np.arange(items) < ITEMS
    topic = rng.integers(TOPICS, size=items)
    chosen = rng.permutation(TOPICS)[: round(DRIFT * TOPICS)]
    becomes = np.arange(TOPICS)
    becomes[chosen] = np.roll(chosen, 1)
    texts = [_text(rng, int(t), bool(o)) for t, o in zip(topic, old, strict=True)]
    return TopicWorld(texts, topic, rng.pareto(1.5, items) + 0.2, old, becomes)


def _text(rng: np.random.Generator, topic: int, old: bool) -> str:
    own = [f"{'old' if old else 'new'}{topic}x{word}" for word in range(WORDS if old else NEW_WORDS)]
    words = [
        rng.choice(own) if rng.random() < OF_THE_TOPIC else f"common{rng.integers(COMMON_WORDS)}" for _ in range(TITLE)
    ]
    return " ".join(map(str, words))


def group_auc(scores: npt.NDArray[np.floating]) -> F64:
    """Of each choice (n, c), the share of its other candidates that score below the taken one; a tie counts half.

    >>> group_auc(np.array([[2.0, 1.0, 3.0], [1.0, 1.0, 0.0]])).tolist()
    [0.5, 0.75]
    """
    taken, others = scores[:, [TAKEN]], np.delete(scores, TAKEN, axis=1)
    found: F64 = ((taken > others) + 0.5 * (taken == others)).mean(1)
    return found
