"""From what is known of a user to the list that they are shown: retrieval and ranking by the blend, then re-ranking.

- The user's vectors are the first of these that exists: the stream's for the version, a fold-in of the history over its items,
  the artifact's factor. The neighbours of recent items and popularity need no vector.
- What new users have said to like counts until they have five events, see `preferring`.
- A user of whom nothing is known gets what is popular, by the blend for users without history; so does everybody while no version
  is there.
- Where rules and ages leave few of the candidates, others are taken among what they allow; a list that stays short is filled up
  by popularity, and then by whatever the catalogue and the version know, within the same excludes, limits and ages.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Final

import msgspec
import numpy as np

from online_models.contracts.ids import hash64
from online_models.evidence import ACCOMPANIED
from online_models.history import EMPTY, ENTRY, SEEN, UserHistory
from online_models.ports import UserState, Vector
from serving_api.facts import Facts
from serving_api.model_cache import LoadedVersion
from serving_api.preferring import as_if_met, liking_of
from serving_api.ranked_list import RankedList
from serving_api.reranking import lists
from serving_api.reranking.candidates import F32, Candidates, Hashes
from serving_api.reranking.explanations import SOURCES, Code, strongest_sources
from serving_api.reranking.exposure import Exposure
from serving_api.reranking.filters import eligible
from serving_api.reranking.lists import Chosen, Context, changes_nothing, rerank, unchanged
from serving_api.reranking.matching import matches
from serving_api.retrieval import Ranked, Rows, VersionView
from serving_api.rules import Reranking
from serving_api.suggesting import suggestions_of

POPULARITY: Final = "popularity"

POOL: Final = 100
"""Fewest candidates that re-ranking chooses from."""

POOL_SHARE: Final = 5
"""Candidates for each place of a list, where that is more."""

MOST_FILLING: Final = 2_000
"""Most items that are looked at to fill a list up within rules and ages."""

PLAIN_SHARE: Final = 3
"""Candidates for each place where nothing re-ranks them: what an item is more than the average of, to be explained."""

KNOWN_USER_EVENTS: Final = 20
"""A user of the artifact whose history is lost counts as one of so many events."""

_ALLOWED_AT_ONCE: Final = 64
_NOTHING: Final[Hashes] = np.empty(0, np.uint64)


class RankedItem(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One item of a list; `score` is None where no model placed it; `reason` is one of `Code`, or what a later release calls one.

    because : the item of the user's history that the reason is about; propensity : how likely the item was to stand at its place
    language : calibrated log-odds that the item is taken, where a language model had a say
    """

    item_id: str
    score: float | None = None
    reason: str = Code.POPULAR
    because: str | None = None
    propensity: float = 1.0
    language: float | None = None


@dataclass(frozen=True, slots=True)
class Ranking:
    """A list, best first, and what gave it."""

    source: str
    items: list[RankedItem]


@dataclass(frozen=True, slots=True)
class Visit:
    """A request as ranking sees it: k items at a time (epoch ms) for a user of an age, if it is known; `draw` is from [0, 1)."""

    user_id: str
    k: int
    ts_ms: int
    age: float | None = None
    draw: float = 0.0


@dataclass(frozen=True, slots=True)
class Known:
    """What a user is ranked by.

    source : what the vectors come from, None for nowhere; vectors : float32 (2, k); tower : float32 (t,) or None
    context : int64 (n,), rows of the items that count, oldest first; -1 for an unknown one
    events : how long the history counts as
    liked, suggested : float32 (items,), what stated preferences and a language model add to each item's score, or None
    logits : by row of the items that the language model has scored, see `Suggestions`
    """

    source: str | None
    vectors: F32
    tower: F32 | None
    context: Rows
    events: int
    liked: F32 | None
    suggested: F32 | None = None
    logits: Mapping[int, float] = field(default_factory=dict)

    @property
    def raised(self) -> F32 | None:
        """What is added to the score of each item, float32 (items,); None for nothing."""
        if self.liked is None or self.suggested is None:
            return self.suggested if self.liked is None else self.liked
        return self.liked + self.suggested


def rank(
    view: VersionView | None,
    popular: RankedList,
    facts: Facts,
    visit: Visit,
    user: UserState,
    config: Reranking,
    exposure: Exposure | None = None,
) -> Ranking:
    """The k best unseen items for a user.

    popular : the stream's list, which answers while there is no version
    facts : of the catalogue, by any rows
    exposure : what was shown lately; None where nothing is capped
    """
    seen: Hashes = user.history.seen["item"]
    if view is None:
        return Ranking(POPULARITY, _filled([], popular, facts, facts.catalogue, seen, visit, config))
    known = known_of(view, visit.user_id, user)
    # what the stream has published tells what is popular; before that its list does
    tells = known.source is not None or known.liked is not None or view.sources.popularity.newest_ms > 0
    items = _from_view(view, known, view.rows(seen), visit, config, exposure) if tells else []
    if len(items) < visit.k:
        popular = popular if popular.ids else view.loaded.popular
        items = _filled(items, popular, facts, chain(facts.catalogue, view.loaded.item_ids), seen, visit, config)
    return Ranking(known.source or POPULARITY, items)


def _from_view(
    view: VersionView, known: Known, excluded: Rows, visit: Visit, config: Reranking, exposure: Exposure | None
) -> list[RankedItem]:
    """At most k items of a view, without those in the excluded rows (e,)."""
    raised = known.raised
    if exposure is None and not view.facts.rules and changes_nothing(config, config.age_of(visit.age)):
        ranked = view.best(
            known.context, known.events, known.vectors, excluded, PLAIN_SHARE * visit.k, known.tower, raised
        )
        return _told(view, ranked, unchanged(ranked.scores, visit.k), known) if len(ranked.rows) else []
    pool, barred = max(POOL, POOL_SHARE * visit.k), False
    while True:
        ranked = view.best(known.context, known.events, known.vectors, excluded, pool, known.tower, raised)
        if not len(ranked.rows):
            return []
        candidates = _candidates(view, ranked, visit)
        context = Context(
            count=visit.k,
            seen=np.zeros(len(ranked.rows), np.bool_),
            disliked=_NOTHING,
            user_age=visit.age,
            exposure=_shares(candidates, visit, config, exposure),
            rules=view.facts.rules,
            draw=visit.draw,
        )
        chosen = rerank(candidates, config, context)
        if barred or len(chosen.places) == visit.k or len(ranked.rows) < pool:
            return _told(view, ranked, chosen, known)
        bar = _bar(view, config.age_of(visit.age), visit.ts_ms)
        raised, barred = bar if raised is None else raised + bar, True


def _bar(view: VersionView, age: float | None, now_ms: int) -> F32:
    """float32 (items,): -inf where rules or the age exclude an item, else 0."""
    n = len(view.vectors)
    nothing = np.zeros((n, 1), np.float32)
    items = view.facts.candidates(np.arange(n), view.sources.items.hashes, nothing[:, 0], nothing, now_ms)
    return np.where(view.facts.barred(items, age), np.float32(-np.inf), np.float32(0))


def known_of(view: VersionView, user_id: str, user: UserState) -> Known:
    """What ranking goes by, from what was read of a user."""
    met = user.history
    source, vectors = user_vectors(view.loaded, user_id, user)
    recent = met.recent["item"][-ACCOMPANIED:]
    events = len(met.recent) or (KNOWN_USER_EVENTS if source == "factors" else 0)
    liking = liking_of(user.preferences, events, view)
    if liking is not None:
        recent = np.concatenate([liking.items, recent])[-ACCOMPANIED:]
        if source is None:
            met = as_if_met(liking.items)
            source, vectors = "preferences", view.loaded.fold_ins.of_histories([met])[0]
    context = view.rows(recent)
    if (context >= 0).any():
        # an item that somebody has said to like tells as much as one met
        source, events = source or "neighbours", max(events, 1)
    tower = view.loaded.fold_ins.tower_query(met.recent)
    known = Known(source, vectors, tower, context, events, None if liking is None else liking.raised)
    said = suggestions_of(view, user, vectors[1])
    return (
        known if said is None else replace(known, suggested=said.raised(len(view.vectors)), logits=said.logits_by_row())
    )


def user_vectors(loaded: LoadedVersion, user_id: str, user: UserState) -> tuple[str | None, F32]:
    """What a user's vectors (2, k) come from, None for nowhere, and these."""
    shape = (2, loaded.k)
    vector = user.vector
    if vector is not None and vector.size == 2 * loaded.k and np.isfinite(vector).all() and vector.any():
        return "vector", vector.reshape(shape)
    if len(user.history.recent):
        folded: F32 = loaded.fold_ins.of_histories([user.history])[0]
        if folded.any():
            return "fold_in", folded
    factor: Vector | None = loaded.user_factor(user_id)
    if factor is not None:
        return "factors", np.array([factor, factor], np.float32)
    return None, np.zeros(shape, np.float32)


def _candidates(view: VersionView, ranked: Ranked, visit: Visit) -> Candidates:
    hashes = view.sources.items.hashes[ranked.rows]
    return view.facts.candidates(ranked.rows, hashes, ranked.scores, view.vectors[ranked.rows], visit.ts_ms)


def _shares(candidates: Candidates, visit: Visit, config: Reranking, exposure: Exposure | None) -> F32:
    if exposure is None:
        return np.zeros(len(candidates), np.float32)
    return exposure.shares(candidates.hashes, visit.ts_ms / 1000, config.exposure_min_impressions)


def _told(view: VersionView, ranked: Ranked, chosen: Chosen, known: Known) -> list[RankedItem]:
    """The chosen items with the reasons for them."""
    parts, context, ids = _parts(ranked, known), known.context, view.sources.items.ids
    tables = view.sources.followers.arrays, view.sources.companions.arrays
    source, about = strongest_sources(chosen.places, parts, chosen.bonus, ranked.rows, context, view.vectors, *tables)
    codes = (*SOURCES[: parts.shape[1]], Code.NEW, Code.FOR_YOU)  # where nothing can be said, -1, the last
    recent, items = context.tolist(), []
    columns = (
        ranked.rows[chosen.places],
        chosen.scores,
        source,
        about,
        chosen.pinned,
        chosen.explored,
        chosen.propensity,
    )
    for row, score, at, place, pinned, explored, propensity in zip(*(each.tolist() for each in columns), strict=True):
        code, because = codes[at], ids[recent[place]] if place >= 0 else None
        if pinned or explored:
            code, because = Code.EXPLORE if explored else Code.FEATURED, None
        elif code is Code.BECAUSE_YOU_WATCHED and ids[row] in view.placed:
            code = Code.SIMILAR_CONTENT  # its vector comes from its content alone
        placed = score if known.source else None
        items.append(RankedItem(ids[row], placed, code, because, propensity, known.logits.get(row)))
    return items


def _parts(ranked: Ranked, known: Known) -> F32:
    """What each of the `SOURCES` added to the scores, (m, 3), or (m, 5) with what was raised apart."""
    if known.liked is None and known.suggested is None:
        return ranked.parts
    nothing = np.zeros(len(ranked.rows), np.float32)
    liked, suggested = (nothing if each is None else each[ranked.rows] for each in (known.liked, known.suggested))
    return np.column_stack([ranked.parts[:, :2], ranked.parts[:, 2] - liked - suggested, liked, suggested])


def _filled(
    items: Sequence[RankedItem],
    popular: RankedList,
    facts: Facts,
    others: Iterable[str],
    seen: Hashes,
    visit: Visit,
    config: Reranking,
) -> list[RankedItem]:
    """A list with what popularity puts behind it, and other items behind that, up to k items."""
    placed = [each.item_id for each in items]
    age = config.age_of(visit.age)
    filling = _by_popularity(popular, others, seen, placed)
    if facts.rules or age is not None:
        filling = _allowed(islice(filling, MOST_FILLING), facts, placed, age, visit.ts_ms)
    listed = set(popular.ids)
    return [
        *items,
        *(
            RankedItem(item, reason=Code.POPULAR if item in listed else Code.FOR_YOU)
            for item in islice(filling, visit.k - len(items))
        ),
    ]


def _by_popularity(popular: RankedList, others: Iterable[str], seen: Hashes, placed: Sequence[str]) -> Iterator[str]:
    """Unseen items that are not placed, each once: the popular ones, then the others."""
    given, known = set(placed), set(seen.tolist())
    for item in chain(popular.unseen(seen), (item for item in others if hash64(item) not in known)):
        if item not in given:
            given.add(item)
            yield item


def _allowed(ids: Iterator[str], facts: Facts, placed: Sequence[str], age: float | None, now_ms: int) -> Iterator[str]:
    """Of distinct items those that age and rules allow behind the placed ones."""
    counts = matches(facts.rules, facts.plain(placed, now_ms)).limited.sum(axis=1)  # of each limit
    while some := list(islice(ids, _ALLOWED_AT_ONCE)):
        candidates = facts.plain(some, now_ms)
        said = matches(facts.rules, candidates)
        allowed = eligible(candidates, np.zeros(len(some), np.bool_), _NOTHING, age) & ~said.excluded
        for place in np.flatnonzero(allowed).tolist():
            more = counts + said.limited[:, place]
            if (more <= facts.rules.limits).all():
                counts = more
                yield some[place]


def warm_up(view: VersionView) -> None:
    """Rank once for a made-up user, so that no request of a version waits for a compiler."""
    lists.warm_up()
    ids = view.loaded.item_ids[:2]
    recent = np.array([(n, n, hash64(item), 1.0) for n, item in enumerate(ids, 1)], ENTRY)
    for known in (EMPTY, UserHistory(recent, recent[["ts_ms", "item"]].astype(SEEN))):
        rank(view, RankedList.of([]), view.facts, Visit("", 1, 0), UserState(None, known), Reranking(mmr_lambda=0.9))
