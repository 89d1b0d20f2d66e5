"""The offline gate: candidate against champion on later events that neither was trained on, paired by user.

- Both rank all items for the same users, from the same histories, as serving would: fold-in, seen items left
  out, popularity where the history says nothing. What is compared is the model, not how fresh its user
  vectors are.
- What people found without us is the test, where there is enough of it: a click on a recommendation was made possible by the
  champion's own list, and flatters it.
- The candidate judged here is trained on the history alone. What is published is refitted on all data with
  the same settings: the newest events are the ones that matter most after a shift, and they are not thrown
  away.
- Lack of data is never success: with too few users a champion stays. A drifted champion is still replaceable,
  for its drift goes on triggering jobs, and each later job has more events since the champion to be judged
  on.
- Offline figures are a smoke test, not proof: the rule compares means within a tolerance, and the canary has
  the sequential test. A first model has no rival but popularity, and is refused only when it is absurd beside
  it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from online_models.contracts.ids import hash64
from online_models.history import ENTRY, RECENT_EVENTS, SEEN, UserHistory
from online_models.metrics import hit_rate, ndcg, reciprocal_rank
from retrain_workers.datasets import Dataset, Split, popular_rows

CUTOFF: Final = 10
"""Length of the lists that are judged."""

MAX_USERS: Final = 2_000
"""More holdout users than this are sampled, by the hash of their id: they cost time and change no figure."""

Hashes = npt.NDArray[np.uint64]


class Ranker(Protocol):
    """Anything that answers a history with items."""

    def top(self, histories: Sequence[UserHistory], count: int) -> list[Hashes]:
        """For each history the item hashes (<= count,) of the best unseen items, best first."""


@dataclass(frozen=True, slots=True)
class Popularity:
    """The same list for everybody, less what they have seen: item hashes (items,), best first."""

    order: Hashes

    def top(self, histories: Sequence[UserHistory], count: int) -> list[Hashes]:
        """See `Ranker`."""
        return [self.unseen(history, count) for history in histories]

    def unseen(self, history: UserHistory, count: int) -> Hashes:
        """The `count` most popular items that the history has not met."""
        reach = self.order[: count + len(history.seen)]  # all seen items could stand before the first unseen one
        return reach[~np.isin(reach, history.seen["item"])][:count]


@dataclass(frozen=True, slots=True)
class Case:
    """A holdout user: what was known of them before the cut, and the unseen items (m,) they liked after it."""

    history: UserHistory
    relevant: Hashes


@dataclass(frozen=True, slots=True)
class Scores:
    """Per holdout user, in one order for all rankers: float64 (users,) each."""

    hit_rate: npt.NDArray[np.float64]
    ndcg: npt.NDArray[np.float64]
    mrr: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.ndcg)

    def figures(self, prefix: str = "") -> dict[str, float]:
        """Means by metric name; empty without users."""
        if len(self) == 0:
            return {}
        return {
            f"{prefix}hit_rate_at_{CUTOFF}": float(self.hit_rate.mean()),
            f"{prefix}ndcg_at_{CUTOFF}": float(self.ndcg.mean()),
            f"{prefix}mrr_at_{CUTOFF}": float(self.mrr.mean()),
        }


@dataclass(frozen=True, slots=True)
class Gate:
    """tolerance : share of the champion's mean NDCG that may be lost
    absurd_share : a first model must reach this share of popularity's mean NDCG
    min_users : fewer paired users say nothing
    """

    tolerance: float
    absurd_share: float
    min_users: int


@dataclass(frozen=True, slots=True)
class Accept:
    """The candidate may go on to a canary."""

    reason: str


@dataclass(frozen=True, slots=True)
class Reject:
    """The candidate goes no further."""

    reason: str


def judge(candidate: Scores, champion: Scores | None, popularity: Scores, gate: Gate) -> Accept | Reject:
    """Whether the candidate may be published. Scores are paired: row u is the same user in all.

    Against a champion: mean(candidate) >= (1 - tolerance) · mean(champion), in NDCG, on `min_users` or more.
    Without one: mean(candidate) >= absurd_share · mean(popularity), or too few users to tell.

    >>> even, worse = (Scores(*[np.full(30, x)] * 3) for x in (0.5, 0.4))
    >>> gate = Gate(tolerance=0.05, absurd_share=0.5, min_users=20)
    >>> judge(even, even, even, gate)
    Accept(reason='NDCG 0.5000 against 0.5000 of the champion, difference +0.0000 ± 0.0000 on 30 users')
    >>> type(judge(worse, even, even, gate)).__name__, type(judge(worse, None, even, gate)).__name__
    ('Reject', 'Accept')
    """
    users = len(candidate)
    if users < gate.min_users:
        shortage = f"inconclusive: {users} holdout users, {gate.min_users} needed"
        return Reject(shortage) if champion is not None else Accept(f"{shortage}; there is no champion to lose")
    rival, name, share = (
        (popularity, "popularity", gate.absurd_share)
        if champion is None
        else (champion, "the champion", 1 - gate.tolerance)
    )
    ours, theirs = float(candidate.ndcg.mean()), float(rival.ndcg.mean())
    reason = f"NDCG {ours:.4f} against {theirs:.4f} of {name}, {_difference(candidate.ndcg, rival.ndcg)}"
    if ours >= share * theirs:
        return Accept(reason)
    return Reject(f"{reason}: below {share:.0%} of {name}")


def _difference(ours: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64]) -> str:
    paired = ours - theirs
    # SE of a paired difference: s / sqrt(n)
    error = paired.std(ddof=1) / np.sqrt(len(paired)) if len(paired) > 1 else np.inf
    return f"difference {paired.mean():+.4f} ± {error:.4f} on {len(paired)} users"


def unaided_cases(split: Split, min_users: int) -> list[Case]:
    """The cases of what users found without a recommendation; of everything, where those are fewer than `min_users`."""
    unaided = replace(split, holdout=split.holdout.take(~split.holdout.recommended))
    found = cases_of(unaided)
    return found if len(found) >= min_users else cases_of(split)


def cases_of(split: Split) -> list[Case]:
    """The holdout users who liked something they had not met before, in the order of their ids' hashes."""
    item_hash = split.history.item_hashes()
    past, later = _rows_by_user(split.history), _rows_by_user(split.holdout)
    users = sorted(later, key=lambda user: hash64(split.holdout.users[user]))
    found: list[Case] = []
    for user in users:
        history = history_of(split.history, past.get(user, np.empty(0, np.int64)), item_hash)
        liked = np.unique(item_hash[split.holdout.item[later[user]]])
        relevant = liked[~np.isin(liked, history.seen["item"])]
        if len(relevant):
            found.append(Case(history, relevant))
        if len(found) == MAX_USERS:
            break
    return found


def popularity_of(history: Dataset, half_life_days: float) -> Popularity:
    """The rival of a first model: the most popular items of the history, by decayed strength."""
    return Popularity(history.item_hashes()[popular_rows(history, half_life_days)])


def score(ranker: Ranker, cases: Sequence[Case]) -> Scores:
    """How well a ranker foresees each case, in the order of the cases."""
    lists = ranker.top([case.history for case in cases], CUTOFF)
    rows = [_score(ranked, case.relevant) for ranked, case in zip(lists, cases, strict=True)]
    return Scores(*np.array(rows, np.float64).reshape(-1, 3).T)


def _score(ranked: Hashes, relevant: Hashes) -> tuple[float, float, float]:
    ours, wanted = ranked.tolist(), set(relevant.tolist())
    return (
        hit_rate(ours, wanted, CUTOFF),
        ndcg(ours, wanted, CUTOFF),
        reciprocal_rank(ours, wanted, CUTOFF),
    )


def history_of(dataset: Dataset, rows: npt.NDArray[np.int64], item_hash: Hashes) -> UserHistory:
    """The history that one user's rows (r,), oldest first, make; `item_hash` (items,) by item number."""
    positive = rows[dataset.strength[rows] > 0][-RECENT_EVENTS:]
    recent = np.empty(len(positive), ENTRY)
    recent["ts_ms"], recent["event"] = dataset.ts_ms[positive], positive
    recent["item"], recent["strength"] = item_hash[dataset.item[positive]], dataset.strength[positive]
    seen = np.empty(len(rows), SEEN)
    seen["ts_ms"], seen["item"] = dataset.ts_ms[rows], item_hash[dataset.item[rows]]
    _, last = np.unique(seen["item"][::-1], return_index=True)
    return UserHistory(recent, seen[np.sort(len(seen) - 1 - last)])


def _rows_by_user(dataset: Dataset) -> Mapping[int, npt.NDArray[np.int64]]:
    order = np.argsort(dataset.user, kind="stable")  # within a user still oldest first
    users, starts = np.unique(dataset.user[order], return_index=True)
    return dict(zip(users.tolist(), np.split(order, starts[1:]), strict=True)) if len(users) else {}
