"""What rankers are judged on: later events that nobody was trained on, as cases, and how well each user is served.

- All rank all items for the same users, from the same histories, as serving would: fold-in, seen items left out, popularity where
  the history says nothing. What is compared is the model, not how fresh its user vectors are.
- What people found without us is the test, where there is enough of it: a click on a recommendation was made possible by the
  champion's own list, and flatters it.
- A history that holds an event at or after the cut is an error, not a good figure.
- What the old regime has to say about forgetting is in the champion's own data: both rankers were trained on these events.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from online_models.contracts.artifacts import DataWindow
from online_models.contracts.ids import hash64
from online_models.errors import TrainingError
from online_models.history import ENTRY, RECENT_EVENTS, SEEN, UserHistory
from online_models.metrics import hit_rate, ndcg, reciprocal_rank
from retrain_workers.data.datasets import Dataset, popular_rows
from retrain_workers.data.splits import Split, split

CUTOFF: Final = 10
"""Length of the lists that are judged."""

DEPTH_SHARE: Final = 0.05
MOST_DEPTH: Final = 100
"""Rankers are compared by the best twentieth of the items, at most as many as serving re-ranks. Few users have something in a
list of ten out of a large catalogue, and those few tell little: in a world of 1,200 items, 6,000 events after its tastes had
shifted, 1 of 6 candidates was told to be better by the first 10 items, 3 by the first 50 and 4 by the first 100."""

MAX_USERS: Final = 2_000
"""More holdout users than this are sampled, by the hash of their id: they cost time and change no figure."""

NEW_SHARE: Final = 0.5
"""Of the events since the champion at least the other half is for the candidate to learn from. Were all of them held out, as
where they are fewer than the holdout's share of all, it would know nothing that the champion does not."""

PERSISTENCE: Final = 0.9
"""How likely a reader of two lists is to go on to the next place; weighs the places of `rank_biased_overlap`."""

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
    """Per holdout user, in one order for all rankers: float64 (users,) each.

    lists : what each user was given, item hashes, best first; for what the lists have in common
    deep : NDCG of the first `depth` items; None where these are the list
    """

    hit_rate: npt.NDArray[np.float64]
    ndcg: npt.NDArray[np.float64]
    mrr: npt.NDArray[np.float64]
    lists: Sequence[Hashes] = ()
    deep: npt.NDArray[np.float64] | None = None
    depth: int = CUTOFF

    @property
    def judged(self) -> npt.NDArray[np.float64]:
        """What rankers are compared by: NDCG of the first `depth` items (users,)."""
        return self.ndcg if self.deep is None else self.deep

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
            **({} if self.deep is None else {f"{prefix}ndcg_at_{self.depth}": float(self.deep.mean())}),
        }


def parts_and_cases(
    dataset: Dataset,
    holdout_fraction: float,
    champion: DataWindow | None,
    min_users: int,
    new_share: float = NEW_SHARE,
) -> tuple[Split, list[Case]]:
    """The split that a candidate is judged on, and its cases.

    The holdout begins after the newest of the champion's events: what it has learned by heart is no test of it. One event dated
    far ahead would so hold up every later candidate: with fewer than `min_users` cases it begins after as many of the oldest
    events as the champion was trained on. Then it may hold some that the champion knows, which favours the champion. Without
    new events there are no cases either way.

    new_share : of the positive events since the champion, held out at most
    """
    if champion is None:
        parts = split(dataset, holdout_fraction)
        return parts, unaided_cases(parts, min_users)
    parts = newest(dataset, holdout_fraction, champion.end_ms + 1, new_share)
    cases = unaided_cases(parts, min_users)
    if len(cases) < min_users and champion.events > 0:
        known_ms = int(np.sort(dataset.ts_ms)[min(champion.events, len(dataset)) - 1])
        parts = newest(dataset, holdout_fraction, min(champion.end_ms, known_ms) + 1, new_share)
        cases = unaided_cases(parts, min_users)
    return parts, cases


def newest(dataset: Dataset, holdout_fraction: float, since_ms: int, new_share: float = NEW_SHARE) -> Split:
    """The split that holds out the newest positive events, none before a time, and of those since then at most a share."""
    positive = dataset.ts_ms[dataset.strength > 0]
    new = np.count_nonzero(positive >= since_ms)
    return split(dataset, min(holdout_fraction, new_share * new / max(1, len(positive))), since_ms)


def unaided_cases(split: Split, min_users: int) -> list[Case]:
    """The cases of what users found without a recommendation; of everything, where those are fewer than `min_users`.

    Raises as `cases_of` does.
    """
    unaided = replace(split, holdout=split.holdout.take(~split.holdout.recommended))
    found = cases_of(unaided)
    return found if len(found) >= min_users else cases_of(split)


def cases_of(split: Split) -> list[Case]:
    """The holdout users who liked something they had not met before, in the order of their ids' hashes.

    Raises TrainingError when the split leaks: an event of the history at or after the cut, or one of the holdout before it.
    """
    refuse_leak(split)
    item_hash = split.history.item_hashes()
    past, later = rows_by_user(split.history), rows_by_user(split.holdout)
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


def old_regime_cases(dataset: Dataset, champion_end_ms: int, holdout_fraction: float) -> list[Case]:
    """Cases from the champion's own time: the last `holdout_fraction` of what it was trained on. None where that is too little.

    Champion and candidate have both been trained on these events, so their figures are no forecast; what the one still knows of
    them and the other does not, it has forgotten.
    """
    try:
        return cases_of(split(dataset.take(dataset.ts_ms <= champion_end_ms), holdout_fraction))
    except TrainingError:
        return []


def refuse_leak(parts: Split) -> None:
    """Raise TrainingError unless all of the history lies strictly before the cut, and all of the holdout from there on."""
    history, holdout = parts.history, parts.holdout
    for late in np.flatnonzero(history.ts_ms >= parts.cut_ms)[:1].tolist():
        raise TrainingError(
            f"leak: expected a history before {parts.cut_ms} ms, got user {history.users[history.user[late]]!r} "
            f"with item {history.items[history.item[late]]!r} at {history.ts_ms[late]} ms"
        )
    for early in np.flatnonzero(holdout.ts_ms < parts.cut_ms)[:1].tolist():
        raise TrainingError(
            f"leak: expected a holdout from {parts.cut_ms} ms on, got user {holdout.users[holdout.user[early]]!r} "
            f"with item {holdout.items[holdout.item[early]]!r} at {holdout.ts_ms[early]} ms"
        )


def popularity_of(history: Dataset, half_life_days: float) -> Popularity:
    """The rival of a first model: the most popular items of the history, by decayed strength."""
    return Popularity(history.item_hashes()[popular_rows(history, half_life_days)])


def depth_of(history: Dataset) -> int:
    """How many of the best items rankers are to be compared by: `DEPTH_SHARE` of those that are known, a list at least."""
    known = len(np.unique(history.positive().item))
    return min(max(int(known * DEPTH_SHARE), CUTOFF), MOST_DEPTH)


def score(ranker: Ranker, cases: Sequence[Case], depth: int = CUTOFF) -> Scores:
    """How well a ranker foresees each case, in the order of the cases. depth : see `Scores`, at least CUTOFF"""
    lists = ranker.top([case.history for case in cases], depth)
    rows = [_score(ranked, case.relevant, depth) for ranked, case in zip(lists, cases, strict=True)]
    deep, hit, gain, rank = np.array(rows, np.float64).reshape(-1, 4).T
    return Scores(hit, gain, rank, [ranked[:CUTOFF] for ranked in lists], deep if depth > CUTOFF else None, depth)


def _score(ranked: Hashes, relevant: Hashes, depth: int) -> tuple[float, float, float, float]:
    ours, wanted = ranked.tolist(), set(relevant.tolist())
    return (
        ndcg(ours, wanted, depth),
        hit_rate(ours, wanted, CUTOFF),
        ndcg(ours, wanted, CUTOFF),
        reciprocal_rank(ours, wanted, CUTOFF),
    )


def distinct_items(lists: Sequence[Hashes]) -> int:
    """How many different items lists hold together."""
    return len(np.unique(np.concatenate(lists))) if lists else 0


def jaccard(ours: Hashes, theirs: Hashes) -> float:
    """Items that both lists have, as a share of those that either has; 1 where both are empty.

    >>> round(jaccard(np.array([1, 2, 3], np.uint64), np.array([2, 3, 4], np.uint64)), 3)
    0.5
    """
    either = len(np.union1d(ours, theirs))
    return len(np.intersect1d(ours, theirs)) / either if either else 1.0


def rank_biased_overlap(ours: Hashes, theirs: Hashes, persistence: float = PERSISTENCE) -> float:
    """Agreement of two lists, the first places counting most; 1 for the same list, 0 for no item in common.

    >>> a, b = np.array([1, 2, 3], np.uint64), np.array([1, 3, 2], np.uint64)
    >>> round(rank_biased_overlap(a, b), 3), rank_biased_overlap(a, a)
    (0.955, 1.0)

    References
    ----------
    Webber, Moffat, Zobel: A similarity measure for indefinite rankings. TOIS 28 (2010), equation 30.
    """
    depth = min(len(ours), len(theirs))
    if depth == 0:
        return float(len(ours) == len(theirs))
    agreement = np.array([len(np.intersect1d(ours[:d], theirs[:d])) / d for d in range(1, depth + 1)])
    weight = persistence ** np.arange(1, depth + 1)
    # RBO_ext = A_k p^k + (1 - p) / p  sum_d A_d p^d, A_d the share of common items among the first d
    return float(agreement[-1] * weight[-1] + (1 - persistence) / persistence * agreement @ weight)


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


def rows_by_user(dataset: Dataset) -> Mapping[int, npt.NDArray[np.int64]]:
    """Row numbers of each user's events, by user number, oldest first."""
    order = np.argsort(dataset.user, kind="stable")  # within a user still oldest first
    users, starts = np.unique(dataset.user[order], return_index=True)
    return dict(zip(users.tolist(), np.split(order, starts[1:]), strict=True)) if len(users) else {}
