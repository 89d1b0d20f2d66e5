"""What the stream makes of users and items, event by event with dense solves in float64: the oracle of the stream job.

- Plain lists of (item, strength); nothing of the code under test but its constants.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from online_models.contracts.events import Event
from online_models.contracts.ids import hash64
from online_models.history import RECENT_EVENTS
from online_models.learner import LONG_HALF_LIFE, RECENT_HALF_LIFE
from online_models.pacing import MOVE_EVERY, RARE_EVENTS
from tests.artifacts import FACTORS, HOW, SmallModel
from tests.engagements import strength_of

F64 = npt.NDArray[np.float64]
Met = Sequence[tuple[str, float]]


def recent_of(log: Sequence[Event], user: str) -> Met:
    """A user's newest positive events as (item, strength), oldest first by (time, event)."""
    return newest([one for one in log if one.user_id == user and strength_of(one) > 0])


def newest(positive: Sequence[Event]) -> Met:
    """As `recent_of`, of one user's positive events."""
    mine = sorted(positive, key=lambda one: (one.ts, hash64(one.event_id)))[-RECENT_EVENTS:]
    return [(one.item_id, strength_of(one)) for one in mine]


def vectors(made: SmallModel, met: Met) -> F64:
    """What a user wants now and has long liked (2 k,): (YtY + lambda I + Yt R Y) x = Yt R 1 with R = diag(c - 1)."""
    Y = made.item_factors.astype(np.float64)
    found = []
    for half_life in (RECENT_HALF_LIFE, LONG_HALF_LIFE):
        R = np.diag(HOW.alpha * preference(made, met, half_life))
        found.append(
            np.linalg.solve(Y.T @ (Y + R @ Y) + HOW.regularization * np.eye(FACTORS), Y.T @ R @ np.ones(len(Y)))
        )
    return np.concatenate(found)


def trained_user(made: SmallModel, met: Met) -> F64:
    """A user as training knows them (k,): (Yt C Y + lambda I) x = Yt C p with all events alike; zeros when no item is known."""
    Y, r = made.item_factors.astype(np.float64), preference(made, met, np.inf)
    if not r.any():
        return np.zeros(FACTORS)
    C, p = np.diag(1 + HOW.alpha * r), (r > 0).astype(np.float64)
    A = Y.T @ C @ Y + HOW.regularization * np.eye(FACTORS)
    return np.linalg.solve(A, Y.T @ C @ p).astype(np.float64)


def preference(made: SmallModel, met: Met, half_life: float) -> F64:
    """r (items,): strengths halved every so many later events; those of items that training did not know count for the age."""
    r = np.zeros(len(made.items))
    for later, (item, strength) in enumerate(reversed(met)):
        if item in made.items:
            r[made.items.index(item)] += strength * 2.0 ** (-later / half_life)
    return r


def moved_items(made: SmallModel, log: Sequence[Event]) -> dict[str, tuple[int, float, F64]]:
    """Items that a log has moved -> (time of the last event that did, weight, vector (k,)).

    Of each positive event with an item that is rare, and of every fourth with another one, what its user was just before pulls
    the item: (s XtX + lambda I + (c - 1) x xt) y' = (s XtX + lambda I) y + c x with s = 1 + w / users.
    """
    X = made.user_factors.astype(np.float64)
    state = {
        item: (0, float(weight), vector.astype(np.float64))
        for item, weight, vector in zip(made.items, made.item_weights, made.item_factors, strict=True)
    }
    count: dict[str, int] = {}
    before: dict[str, list[Event]] = {}
    moved = set()
    for one in log:
        if strength_of(one) == 0:
            continue
        met = count.get(one.item_id, 0)
        count[one.item_id] = met + 1
        mine = before.setdefault(one.user_id, [])
        x = trained_user(made, newest(mine))
        mine.append(one)
        if not x.any() or not (met < RARE_EVENTS or met % MOVE_EVERY == 0):
            continue
        _, w, y = state.get(one.item_id, (0, 0.0, np.zeros(FACTORS)))
        c = 1 + HOW.alpha * strength_of(one)
        P = (1 + w / len(X)) * X.T @ X + HOW.regularization * np.eye(FACTORS)
        y = np.linalg.solve(P + (c - 1) * np.outer(x, x), P @ y + c * x)
        state[one.item_id] = (int(one.ts), w + c - 1, y)
        moved.add(one.item_id)
    return {item: state[item] for item in moved}
