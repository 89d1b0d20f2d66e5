"""Matrix factorization as it is mostly used: frozen, with users folded in, and refitted now and then.

- All have the factors of one training, that of the version that our own learner begins the test with.
- A user without a vector gets live popularity.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from online_models import als
from online_models.contracts.jobs import TrainAls
from online_models.evaluation.baselines import Popularity
from online_models.evaluation.factorization import Factors, factorize
from online_models.evaluation.log import Log, Moment
from online_models.evaluation.protocol import Split
from online_models.ridge import Ridge

F32 = npt.NDArray[np.float32]

REFITS: Final = 10
"""The test is cut into so many parts, and the factors are fitted anew before each."""


class FrozenAls:
    """Users and items as they were trained; nothing moves but the popularity that strangers get."""

    def __init__(self, log: Log, until: int, factors: Factors) -> None:
        self._factors = factors
        self._popular = Popularity(log, until)

    def scores(self, at: Moment) -> F32:
        """See `Model`."""
        if at.user >= len(self._factors.users):
            return self._popular.scores(at)
        return scores_of(self._factors.users[at.user], self._factors.items, at.items)

    def learn(self, at: Moment) -> None:
        """See `Model`."""
        self._popular.learn(at)


class FoldInAls:
    """Items as they were trained, users folded in over all of their events.

    refit_every : events after which the factors are fitted again to everything so far; 0 for never
    half_life : an event followed by so many later ones of its user weighs half; infinite for all alike
    """

    def __init__(
        self,
        log: Log,
        until: int,
        factors: Factors,
        how: TrainAls,
        refit_every: int = 0,
        half_life: float = np.inf,
    ) -> None:
        self._log, self._how, self._half_life = log, how, half_life
        self._popular = Popularity(log, until)
        self._refit_every, self._fitted = refit_every, int(log.begins[until])
        self._take(factors)

    def scores(self, at: Moment) -> F32:
        """See `Model`."""
        trained = self._log.item[at.history] < len(self._items)
        known, later = at.history[trained], np.arange(len(at.history))[::-1][trained]
        if not len(known):
            return self._popular.scores(at)
        weight = self._log.strength[known] * np.exp2(-later / self._half_life)
        c = (1 + self._how.alpha * weight).astype(np.float32)
        rows = np.array([0, len(known)]), self._log.item[known], c
        x = als.fold_in(
            *rows,
            self._items,
            self._gramian,
            self._how.regularization,
            self._ridge,
            fading=np.isfinite(self._half_life),
        )
        return scores_of(x[0], self._items, at.items)

    def learn(self, at: Moment) -> None:
        """See `Model`."""
        self._popular.learn(at)
        if self._refit_every and at.end - self._fitted >= self._refit_every:
            self._fitted = at.end
            self._take(factorize(self._log, at.end, self._how))

    def _take(self, factors: Factors) -> None:
        self._items, self._gramian = factors.items, als.gramian(factors.items)
        self._ridge = Ridge.of(self._gramian, self._how.regularization)


def scores_of(user: F32, items: F32, many: int) -> F32:
    """x . y_i of a user (k,) and the items (m, k), 0 for those up to `many` that have no vector."""
    scores = np.zeros(many, np.float32)
    scores[: len(items)] = items[:many] @ user
    return scores


def events_per_refit(log: Log, split: Split) -> int:
    """Events from one refit to the next."""
    return max(1, (len(log) - int(log.begins[split.test])) // REFITS)
