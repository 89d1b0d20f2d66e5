"""What everybody should beat, kept as fresh as each can be: popularity, item-kNN, sequential rules and EASE.

- All go with the log event by event; only EASE's weights stay as they were trained, and its users' profiles go on.
- A user or an item of which a model knows nothing gets live popularity: cold starts are no way to look good beside a baseline.
- Item by item tables are dense: exact, and as large as the square of the catalogue, so they are refused above some size.
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit
from scipy.linalg import lapack
from scipy.sparse import csr_matrix

from online_models.errors import TrainingError
from online_models.evaluation.log import Log, Moment
from online_models.evaluation.protocol import CUTOFF, Model, Split, prequential
from online_models.metrics import ndcg_at

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

MOST_DENSE_ITEMS: Final = 15_000
"""A table of them takes 0.9 GB."""

HALF_LIVES_DAYS: Final = (1.0, 7.0, 30.0, 180.0)
RIDGES: Final = (100.0, 300.0, 1000.0)
USUAL_RIDGE: Final = 500.0
MOST_TUNED_ITEMS: Final = 8_000

KNN_WINDOW: Final = 30
KNN_HALF_LIFE: Final = 5.0
KNN_SHRINKAGE: Final = 3.0
RULES_WINDOW: Final = 10
RULES_FOLLOWED: Final = 20
RULES_HALF_LIFE: Final = 3.0
RULES_SHRINKAGE: Final = 5.0

_DAY_MS: Final = 86_400_000.0


class Popularity:
    """Decayed counts of all events so far.

    half_life_days : infinite for plain counts
    """

    def __init__(self, log: Log, until: int, half_life_days: float = np.inf) -> None:
        """Learns the groups before `until`."""
        self._log = log
        self._half_life_ms = half_life_days * _DAY_MS
        end = int(log.begins[until])
        self._at = int(log.ts_ms[end - 1]) if end else 0
        weight = np.exp2((log.ts_ms[:end] - self._at) / self._half_life_ms)
        self._counts = np.bincount(log.item[:end], weight, minlength=len(log.ids)).astype(np.float64)

    def scores(self, at: Moment) -> F32:
        """See `Model`."""
        return self._counts[: at.items].astype(np.float32)

    def learn(self, at: Moment) -> None:
        """See `Model`."""
        # count 2^(-age / half-life) + 1
        self._counts *= np.exp2((self._at - at.ts_ms) / self._half_life_ms)
        self._counts[self._log.item[at.begin : at.end]] += 1
        self._at = at.ts_ms


class Neighbourhood:
    """Items near those of a user by a table of weights that is learned event by event.

    - item-kNN: w(a, j) counts who met both within `window` events; score_j = sum over a of w(a, j) / sqrt((n_a + s) (n_j + s))
    - rules: w(a -> j) sums 1 / distance of j after a; score_j = sum over a of w(a -> j) / (mass_a + s)
    - the sum is over the user's last `profile` items, each halved by every `half_life` later ones; s shrinks what is seldom seen

    References
    ----------
    Sarwar et al.: Item-based collaborative filtering recommendation algorithms. WWW 2001. Ludewig, Jannach: Evaluation of
    session-based recommendation algorithms. User Modeling and User-Adapted Interaction 28, 2018 (sequential rules).
    """

    def __init__(
        self,
        log: Log,
        until: int,
        *,
        rules: bool,
        window: int | None,
        profile: int | None,
        half_life: float,
        shrinkage: float,
    ) -> None:
        """Learns the groups before `until`. Raises TrainingError when the catalogue is too large."""
        refuse_large(log)
        self._log = log
        self._rules, self._half_life, self._shrinkage = rules, half_life, np.float32(shrinkage)
        self._window, self._profile = window or len(log), profile or len(log)
        self._weights = np.zeros((len(log.ids), len(log.ids)), np.float32)
        self._mass = np.zeros(len(log.ids), np.float32)
        self._popular = Popularity(log, until)
        self._add(0, int(log.begins[until]))

    def scores(self, at: Moment) -> F32:
        """See `Model`."""
        rows = self._log.item[at.history[-self._profile :]]
        found = np.zeros(at.items, np.float32)
        root = np.sqrt(self._mass[: at.items] + self._shrinkage)
        share = 1 / (self._mass[rows] + self._shrinkage) if self._rules else 1 / root[rows]
        later = np.arange(len(rows))[::-1]
        add_rows(self._weights, rows, (share * np.exp2(-later / self._half_life)).astype(np.float32), found)
        if not self._rules:
            found /= root
        return with_popular(found, self._popular.scores(at))

    def learn(self, at: Moment) -> None:
        """See `Model`."""
        self._add(at.begin, at.end)
        self._popular.learn(at)

    def _add(self, begin: int, end: int) -> None:
        log = self._log
        add = add_followers if self._rules else add_companions
        add(log.item, log.user, log.by_user, log.first, log.place, begin, end, self._window, self._weights, self._mass)


class Ease:
    """EASE with weights as they were trained and users' histories as they are: score_j = sum over met a of B_aj.

    References
    ----------
    Steck: Embarrassingly shallow autoencoders for sparse data. WWW 2019.
    """

    def __init__(self, log: Log, until: int, ridge: float) -> None:
        """Trains on the groups before `until`. Raises TrainingError when the catalogue is too large."""
        refuse_large(log)
        self._log = log
        self._popular = Popularity(log, until)
        self._weights = ease_weights(together_counts(log, int(log.begins[until])), ridge)

    def scores(self, at: Moment) -> F32:
        """See `Model`."""
        rows = self._log.item[at.history]
        rows = rows[rows < len(self._weights)]
        if not len(rows):
            return self._popular.scores(at)
        found = np.zeros(at.items, np.float32)
        add_rows(self._weights, rows, np.ones(len(rows), np.float32), found[: len(self._weights)])
        return found

    def learn(self, at: Moment) -> None:
        """See `Model`."""
        self._popular.learn(at)


def popularity(log: Log, split: Split) -> Popularity:
    """All events alike."""
    return Popularity(log, split.test)


def recent_popularity(log: Log, split: Split) -> Popularity:
    """With the half-life of `HALF_LIVES_DAYS` that is best before the test."""
    days = best_of(HALF_LIVES_DAYS, lambda days: Popularity(log, split.tuning, days), log, split)
    return Popularity(log, split.test, days)


def item_knn(log: Log, split: Split) -> Neighbourhood:
    """Cosine of all that users have met, over all that the user has."""
    return Neighbourhood(log, split.test, rules=False, window=None, profile=None, half_life=np.inf, shrinkage=0)


def recent_item_knn(log: Log, split: Split) -> Neighbourhood:
    """Cosine within the last events, over the user's last ones."""
    return Neighbourhood(
        log,
        split.test,
        rules=False,
        window=KNN_WINDOW,
        profile=KNN_WINDOW,
        half_life=KNN_HALF_LIFE,
        shrinkage=KNN_SHRINKAGE,
    )


def sequential_rules(log: Log, split: Split) -> Neighbourhood:
    """What follows the user's last items."""
    return Neighbourhood(
        log,
        split.test,
        rules=True,
        window=RULES_WINDOW,
        profile=RULES_FOLLOWED,
        half_life=RULES_HALF_LIFE,
        shrinkage=RULES_SHRINKAGE,
    )


def ease(log: Log, split: Split) -> Ease:
    """With the ridge of `RIDGES` that is best before the test; with `USUAL_RIDGE` where four trainings would take too long."""
    if len(log.ids) > MOST_TUNED_ITEMS:
        return Ease(log, split.test, USUAL_RIDGE)
    return Ease(log, split.test, best_of(RIDGES, lambda ridge: Ease(log, split.tuning, ridge), log, split))


def best_of(settings: Sequence[float], made: Callable[[float], Model], log: Log, split: Split) -> float:
    """The setting whose model, which knows what came before the tuning stretch, has the best NDCG there."""

    def ndcg(setting: float) -> float:
        ranks = prequential(made(setting), log, split.tuning, split.test).ranks
        return float(ndcg_at(ranks, CUTOFF).mean())

    return max(settings, key=ndcg)


def refuse_large(log: Log) -> None:
    """Raise TrainingError when a dense table of the catalogue would be too large."""
    if len(log.ids) > MOST_DENSE_ITEMS:
        raise TrainingError(f"{len(log.ids)} items: a dense table is made of at most {MOST_DENSE_ITEMS}")


def with_popular(found: F32, popular: F32) -> F32:
    """Scores (items,), those that nothing is found of after all others, most popular first.

    >>> with_popular(np.array([0, 2, 0], np.float32), np.array([1, 3, 2], np.float32)).tolist()
    [-0.75, 2.0, -0.5]
    """
    below = (popular - popular.max(initial=0) - 1) / (popular.max(initial=0) + 1)
    return np.where(found > 0, found, below).astype(np.float32)


def together_counts(log: Log, end: int) -> F32:
    """How many users met both items before `end`, float32 (items, items) of the items met by then."""
    rows, users = log.item[:end], log.user[:end]
    met = csr_matrix((np.ones(end, np.float32), (users, rows)), shape=(users.max() + 1, rows.max() + 1))
    together: F32 = (met.T @ met).toarray()
    return together


def ease_weights(together: F32, ridge: float) -> F32:
    """B = I - P diag(1 / diag P) with P = (G + ridge I)^-1, of G (items, items), whose zero diagonal keeps items from themselves.

    Raises
    ------
    TrainingError
        When G + ridge I is not positive definite in float32.

    >>> ease_weights(np.array([[3, 2], [2, 3]], np.float32), 1.0).round(3).tolist()
    [[0.0, 0.5], [0.5, 0.0]]
    """
    P = np.array(together, order="F")
    P[np.diag_indices(len(P))] += ridge
    P, failed = lapack.spotrf(P, lower=True, overwrite_a=True)
    P, singular = lapack.spotri(P, lower=True, overwrite_c=True)
    if failed or singular:
        raise TrainingError(f"the Gramian and {ridge} on its diagonal are not positive definite")
    P = np.tril(P)
    P += np.tril(P, -1).T
    # B_ij = -P_ij / P_jj for i != j
    B: F32 = np.ascontiguousarray(P / -np.diag(P))
    np.fill_diagonal(B, 0)
    return B


@njit(cache=True, nogil=True)
def add_rows(table: F32, rows: I64, weights: F32, total: F32) -> None:
    """Add to total (m,) the weighted rows (n,) of a table of at least m columns."""
    for n in range(rows.size):
        row, weight = table[rows[n]], weights[n]
        for column in range(total.size):
            total[column] += weight * row[column]


@njit(cache=True, nogil=True)
def add_companions(
    item: I64, user: I64, by_user: I64, first: I64, place: I64, begin: int, end: int, window: int, w: F32, mass: F32
) -> None:
    """Count events begin : end of a log and how often each item was met within `window` events of each other one."""
    for event in range(begin, end):
        j, last = item[event], first[user[event]] + place[event]
        for at in range(last - min(window, place[event]), last):
            a = item[by_user[at]]
            w[a, j] += 1
            w[j, a] += 1
        mass[j] += 1


@njit(cache=True, nogil=True)
def add_followers(
    item: I64, user: I64, by_user: I64, first: I64, place: I64, begin: int, end: int, window: int, w: F32, mass: F32
) -> None:
    """Add 1 / distance from each of the `window` items before to each item of events begin : end."""
    for event in range(begin, end):
        j, last = item[event], first[user[event]] + place[event]
        for at in range(last - min(window, place[event]), last):
            a, near = item[by_user[at]], np.float32(1) / np.float32(last - at)
            w[a, j] += near
            mass[a] += near
