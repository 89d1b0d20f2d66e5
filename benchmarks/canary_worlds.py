"""Worlds that rollouts are simulated in: what one look more brings to many rollouts at once.

- `Fresh`: everybody comes once. `Returning`: a population comes again and again, each user with a rate and a sticky bucket of
  their own; who is on the canary at 5 % still is at 25 %. How many of them are met for the first time late, when the canary's
  share is large, depends on how often they come.
- A canary of ratio r has r times stable's rate for every user.
- Errors and the like befall both arms alike, at the rates of `BAD`, once per first request.
"""

from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from online_models.contracts.rollouts import GROUPS
from serving_api.analysis.guardrails import NAMES

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

BAD: Final = (0.01, 0.005, 0.02, 0.05)
"""Rates of the guardrails `NAMES`."""


class Look(NamedTuple):
    """What is new since the last look, of `runs` rollouts; the axis of 2 is the canary, stable.

    users, successes, stage_users : (runs, 2); trials, hits : (runs, 2, GROUPS); bad : (runs, 2, len(NAMES)), of `users`
    """

    users: I64
    successes: I64
    stage_users: I64
    trials: I64
    hits: I64
    bad: I64


class World(Protocol):
    """Many rollouts' users."""

    def look(self, share: F64, base: F64) -> Look:
        """The next look at shares (runs,) of users on the canary and base rates (runs,) relative to the world's own."""

    def next_stage(self, begins: Mask) -> None:
        """These rollouts (runs,) begin a stage."""

    def keep(self, kept: Mask) -> None:
        """Go on with these rollouts alone."""


class Fresh:
    """`per_look` users, Poisson, whom nobody has seen before; a share of them that should be on the canary is lost."""

    def __init__(
        self, rng: np.random.Generator, runs: int, per_look: int, rate: float, ratio: float, lost: float = 0.0
    ) -> None:
        self._rng, self._runs = rng, runs
        self._per_look, self._rates, self._lost = per_look, np.array([rate * ratio, rate]), lost

    def look(self, share: F64, base: F64) -> Look:
        rng = self._rng
        both = rng.poisson(self._per_look / GROUPS, (self._runs, GROUPS))
        canary = rng.binomial(both, share[:, None] * (1.0 - self._lost))
        trials = np.stack([canary, both - canary], axis=1)  # (runs, 2, GROUPS)
        hits = rng.binomial(trials, (base[:, None] * self._rates)[:, :, None])
        users = trials.sum(axis=-1)
        return Look(users, hits.sum(axis=-1), users, trials, hits, _bad(rng, users))

    def next_stage(self, begins: Mask) -> None:
        pass

    def keep(self, kept: Mask) -> None:
        self._runs = int(kept.sum())


class Returning:
    """`users` people, a share `active` of whom make a request between two looks. Their rates are Beta-distributed, `alike` is the
    sum of its parameters."""

    def __init__(
        self, rng: np.random.Generator, runs: int, users: int, active: float, rate: float, ratio: float, alike: float
    ) -> None:
        self._rng, self._active, self._ratio = rng, active, ratio
        self._rate = rng.beta(rate * alike, (1.0 - rate) * alike, (runs, users)).astype(np.float32)
        self._bucket = rng.random((runs, users), np.float32)
        self._group = rng.integers(0, GROUPS, (runs, users), np.uint8)
        self._seen, self._seen_in_stage = np.zeros((2, runs, users), np.bool_)

    def look(self, share: F64, base: F64) -> Look:
        rng, shape = self._rng, self._rate.shape
        run, user = np.divmod(_some(rng, self._rate.size, self._active), shape[1])
        arm = np.where(self._bucket[run, user] < share[run], 0, 1)
        rate = self._rate[run, user] * base[run] * np.where(arm == 0, self._ratio, 1.0)
        hit = rng.random(len(run), np.float32) < rate
        first, first_in_stage = ~self._seen[run, user], ~self._seen_in_stage[run, user]
        self._seen[run, user] = self._seen_in_stage[run, user] = True
        cell, place = run * 2 + arm, (run * 2 + arm) * GROUPS + self._group[run, user]

        def count(which: Mask, where: I64, width: int) -> I64:
            counted = np.bincount(where[which], minlength=shape[0] * 2 * width)
            return counted.reshape(shape[0], 2, width) if width > 1 else counted.reshape(shape[0], 2)

        users = count(first, cell, 1)
        everyone = np.ones(len(run), np.bool_)
        trials, hits = count(everyone, place, GROUPS), count(hit, place, GROUPS)
        return Look(users, count(first & hit, cell, 1), count(first_in_stage, cell, 1), trials, hits, _bad(rng, users))

    def next_stage(self, begins: Mask) -> None:
        self._seen_in_stage[begins] = False

    def keep(self, kept: Mask) -> None:
        self._rate, self._bucket, self._group = self._rate[kept], self._bucket[kept], self._group[kept]
        self._seen, self._seen_in_stage = self._seen[kept], self._seen_in_stage[kept]


def _some(rng: np.random.Generator, size: int, share: float) -> I64:
    """Places from 0 to below `size`, rising, each taken with a probability of `share`: by geometric gaps, ten standard deviations
    more of them than are expected."""
    expected = size * share
    places = rng.geometric(share, round(expected + 10.0 * np.sqrt(expected) + 10.0)).cumsum() - 1
    found: I64 = places[places < size]
    return found


def _bad(rng: np.random.Generator, users: I64) -> I64:
    return rng.binomial(users[..., None], np.array(BAD), (*users.shape, len(NAMES)))
