"""Seeded worlds of known truth for off-policy estimates: a contextual bandit, and lists with positions looked at unevenly."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from online_models.off_policy import Lists, Logged

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Bandit:
    """Contexts with their own rewards; rows are drawn from the log's policy.

    expected, behaviour, target : (contexts, actions), expected rewards and two policies
    """

    expected: F64
    behaviour: F64
    target: F64

    @classmethod
    def drawn(cls, seed: int, contexts: int = 6, actions: int = 5, rate: float = 0.2) -> "Bandit":
        """A world of its own; `rate` is the mean probability of a reward."""
        rng = np.random.default_rng([seed, 1])
        expected = np.minimum(rng.gamma(2.0, rate / 2, (contexts, actions)), 0.95)
        behaviour, target = (rng.dirichlet(np.full(actions, 2.0), contexts) for _ in range(2))
        return cls(expected, 0.8 * behaviour + 0.2 / actions, target)

    @property
    def truth(self) -> float:
        """Value of the target policy; contexts are equally frequent."""
        return float((self.target * self.expected).sum(axis=1).mean())

    def logged(self, rows: int, seed: int, per_unit: int = 1, spread: float = 0.0) -> "Drawn":
        """Rows of units that stay in one context; with a spread, some units are more easily pleased than others."""
        rng = np.random.default_rng([seed, 2])
        unit = np.arange(rows) // per_unit
        context = rng.integers(len(self.expected), size=int(unit[-1]) + 1)[unit]
        bounds = self.behaviour.cumsum(axis=1)[context]
        action = np.minimum((rng.random(rows)[:, None] > bounds).sum(axis=1), bounds.shape[1] - 1)
        pleased = np.where(rng.random(int(unit[-1]) + 1) < 0.5, 1 - spread, 1 + spread)[unit]
        reward = (rng.random(rows) < pleased * self.expected[context, action]).astype(np.float64)
        return Drawn(
            self, context, action, Logged(reward, self.behaviour[context, action], unit if per_unit > 1 else None)
        )


@dataclass(frozen=True)
class Drawn:
    """Rows of a bandit. context, action : (n,)"""

    world: Bandit
    context: I64
    action: I64
    logged: Logged

    @property
    def target(self) -> F64:
        """(n,), of the action that was taken."""
        return self.world.target[self.context, self.action]

    def model(self, expected: F64) -> tuple[F64, F64]:
        """What a direct model (contexts, actions) says of the action taken, and of the target policy, (n,) each."""
        by_context = (self.world.target * expected).sum(axis=1)
        return expected[self.context, self.action], by_context[self.context]


@dataclass(frozen=True)
class Shelf:
    """Lists of items by several rankers; a click needs a look, whose probability depends on the position alone.

    theta : (K,), from 1 on; taken : (items,), probability that an item is taken once it is looked at
    """

    theta: F64
    taken: F64

    @classmethod
    def drawn(cls, seed: int, positions: int = 6, items: int = 60) -> "Shelf":
        rng = np.random.default_rng([seed, 3])
        return cls(1 / np.arange(1, positions + 1) ** 0.8, rng.beta(1.0, 6.0, items))

    def rankings(self, noise: float, requests: int, rng: np.random.Generator) -> I64:
        """Items (requests, K), best first by a ranker that sees what is taken through noise, its own in each request."""
        seen = self.taken + noise * rng.standard_normal((requests, len(self.taken)))
        return np.argsort(-seen, axis=1)[:, : len(self.theta)]

    def fixed(self, noise: float, rng: np.random.Generator) -> I64:
        """One list (K,) for everybody, as a ranker without any idea of the user has it."""
        (found,) = self.rankings(noise, 1, rng)
        return np.asarray(found, np.int64)

    def clicked(self, items: I64, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
        """Clicks (requests, K) on lists (requests, K)."""
        found: npt.NDArray[np.bool_] = rng.random(items.shape) < self.theta * self.taken[items]
        return found

    def truth(self, items: I64) -> float:
        """Clicks that lists (requests, K) are worth."""
        return float((self.theta * self.taken[items]).sum(axis=1).mean())

    def swaps(
        self, seed: int, requests: int = 3_000, rankers: int = 12, noise: float = 0.2
    ) -> tuple[I64, npt.NDArray[np.bool_], I64]:
        """Position, click and item of each row of a log that rankers without any idea of the user have shared evenly."""
        rng = np.random.default_rng([seed, 4])
        lists = np.stack([self.fixed(noise, rng) for _ in range(rankers)])[np.arange(requests) % rankers]
        position = np.tile(np.arange(len(self.theta)), requests)
        return position, self.clicked(lists, rng).ravel(), lists.ravel()

    def shadowed(
        self, seed: int, requests: int, candidate_noise: float, noise: float = 0.1
    ) -> tuple[Lists, float, float]:
        """Lists of one ranker with the places that another has their items at, and what the lists of both are worth."""
        rng = np.random.default_rng([seed, 5])
        logged, other = self.rankings(noise, requests, rng), self.rankings(candidate_noise, requests, rng)
        same = logged[:, :, None] == other[:, None, :]  # (requests, K, K)
        place = np.where(same.any(axis=2), same.argmax(axis=2), -1)
        K = len(self.theta)
        request = np.repeat(np.arange(requests), K)
        rows = Lists(
            request, np.tile(np.arange(K), requests), place.ravel(), self.clicked(logged, rng).ravel(), request
        )
        return rows, self.truth(logged), self.truth(other)
