"""What a version ranks by, as requests see it: the published sources, its vectors, its blend, and an index where items are many.

- Rows are those of the published sources, for all versions of a model; items of a version that the stream has not met come after.
- A view is made whole by the poller whenever the stream job has published, and never changes after; only its scratch is written
  to, by the one thread that answers requests.
- While a version has no index every item is scored. With one, those that the index finds by the trained vectors, the neighbours
  of the user's recent items, and the popular; all by their present vectors.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from online_models import evidence
from online_models.blend import BUCKETS, Blend, bucket_of
from online_models.evidence import QUERIES, Scratch, combined_query, scratch_for
from online_models.language_scores import SegmentScores
from online_models.ports import Vector
from online_models.sources import Sources
from online_models.top_k import best_of
from serving_api.facts import Facts
from serving_api.model_cache import LoadedVersion

Hashes = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]

INDEXED: Final = 300
"""Items that the index is asked for."""

UNINDEXED: Final = 2_000
"""Items newer than the version that are scored beside what its index finds: the newest so many."""

POPULAR: Final = 200
"""The most popular items, which are candidates of everybody where an index is."""

SERVED_NEIGHBOURS: Final = 32
"""Of an item's neighbours the heaviest so many are ranked by: the others cost more than they tell."""

_TOWER: Final = QUERIES.index("two_tower")


class Ranked(NamedTuple):
    """Items, best first: rows int64 (m,), scores float32 (m,), and what they add up from, see `evidence.parts` (m, 3)."""

    rows: Rows
    scores: F32
    parts: F32


@dataclass(frozen=True, slots=True)
class VersionView:
    """A version as requests see it.

    sources : the shared ones, their item table grown by the version's own items
    vectors : float32 (items, k), by row of the item table; zeros where there is none
    weights : float32 (buckets, FEATURES); bases : float32 (buckets, items), what popularity adds, -inf for an unknown item
    popular : per bucket the best rows by base, and those that no index of the artifact knows, at most `UNINDEXED`
    placed : items that have their vector from their content alone
    tower_vectors : float32 (items, t), what the user tower's query is multiplied with; None without two towers
    indexed : int64 (trained,), rows of the artifact's items, in its order; what its index answers in
    segments : what the version's language model says of new items; None without one, or while it has said nothing
    """

    loaded: LoadedVersion
    sources: Sources
    facts: Facts
    vectors: F32
    weights: F32
    bases: F32
    popular: Sequence[Rows]
    indexed: Rows
    scratch: Scratch = field(repr=False)
    tower_vectors: F32 | None = None
    placed: AbstractSet[str] = frozenset()
    segments: SegmentScores | None = None

    def rows(self, hashes: Hashes) -> Rows:
        """Row of each item hash (n,), -1 where unknown."""
        return self.sources.items.rows(hashes)

    def best(
        self,
        context: Rows,
        events: int,
        vectors: F32,
        excluded: Rows,
        count: int,
        tower: F32 | None = None,
        raised: F32 | None = None,
    ) -> Ranked:
        """The best items by the blend.

        Parameters
        ----------
        context : (n,), rows of the user's recent items, oldest first; -1 for an unknown one
        events : how long the user's history is
        vectors : float32 (2, k), the user's recent and long vector; excluded : (e,), rows that are left out
        tower : float32 (t,), what the user tower asks for
        raised : float32 (items,), what is added to each score; in `parts` it counts as popularity
        """
        bucket = bucket_of(events)
        query = self.query(vectors, events)
        base, popular = self.bases[bucket], self.popular[bucket]
        if raised is not None:
            base = base + raised
            popular = popular if self.loaded.nearest is None else np.append(popular, best_of(base, POPULAR)[0])
        towers, asked = self.tower_vectors, None
        if tower is not None and towers is not None:
            base, asked = base.copy(), self.weights[bucket][_TOWER] * tower
            evidence.add_products(towers, asked, base)
        followers, companions = self.sources.followers.arrays, self.sources.companions.arrays
        how = (followers, companions, base, self.vectors, query, self.weights[bucket])
        if self.loaded.nearest is None:
            ranked = Ranked(*evidence.blend_all(context, *how, excluded, count, self.scratch))
        else:
            found = self.indexed[self.loaded.nearest.search(query, INDEXED)[0]]
            ranked = Ranked(*evidence.blend_some(found, popular, context, *how, excluded, count, self.scratch))
        if towers is not None and asked is not None:
            _as_vectors(ranked, evidence.products(towers[ranked.rows], asked))
        return ranked

    def query(self, vectors: F32, events: int) -> F32:
        """The one vector (k,) whose products with the items are what the user's vectors (2, k) add to their scores."""
        queries = np.zeros((len(QUERIES), vectors.shape[1]), np.float32)
        queries[: len(vectors)] = vectors
        return combined_query(self.weights[bucket_of(events)], queries)


def _as_vectors(ranked: Ranked, added: F32) -> None:
    """Count what stood in the base for the towers (m,) among what the vectors add."""
    ranked.parts[:, 0] += added
    ranked.parts[:, 2] -= added


def views_of(
    loaded: Sequence[LoadedVersion],
    sources: Sources,
    blends: Sequence[Blend],
    overlays: Sequence[Mapping[str, Vector]],
    facts: Facts,
    known_facts: Facts | None = None,
    placed: Sequence[AbstractSet[str]] = (),
) -> list[VersionView]:
    """The views of a model's versions over the same sources, which gain their items.

    overlays : of each version item id -> vector (k,), of moved, new and placed items; those that are not finite or not of its
        length are left out
    placed : of each version the items that have their vector from their content
    known_facts : columns that are taken over where they are of the same items and catalogue
    """
    indexed = [sources.rows_of(version.item_ids) for version in loaded]
    fitting = [
        {item: vector for item, vector in overlay.items() if vector.shape == (version.k,) and np.isfinite(vector).all()}
        for version, overlay in zip(loaded, overlays, strict=True)
    ]
    moved = [sources.rows_of(list(overlay)) for overlay in fitting]
    facts = facts.of_rows(sources.items.ids, known_facts)
    return [
        _view(version, sources, blend, facts, rows, (moved_rows, list(overlay.values())), known)
        for version, blend, rows, moved_rows, overlay, known in zip(
            loaded, blends, indexed, moved, fitting, placed or [frozenset()] * len(loaded), strict=True
        )
    ]


def _view(
    loaded: LoadedVersion,
    sources: Sources,
    blend: Blend,
    facts: Facts,
    indexed: Rows,
    moved: tuple[Rows, Sequence[Vector]],
    placed: AbstractSet[str],
) -> VersionView:
    vectors = np.zeros((len(sources.items), loaded.k), np.float32)
    vectors[indexed] = loaded.item_factors
    known = sources.popularity.counted()
    known[indexed] = True
    if len(moved[0]):
        vectors[moved[0]] = np.array(moved[1], np.float32)
        known[moved[0]] = True
    towers = None
    if loaded.tower_vectors is not None:
        towers = np.zeros((len(sources.items), loaded.tower_vectors.shape[1]), np.float32)
        towers[indexed] = loaded.tower_vectors
    unindexed = moved[0][:0] if loaded.nearest is None else np.setdiff1d(moved[0], indexed)[-UNINDEXED:]
    weights = np.array([blend.of(events) for events in BUCKETS], np.float32)
    bases = _bases(sources, weights, known)
    return VersionView(
        loaded=loaded,
        sources=sources,
        facts=facts,
        vectors=vectors,
        weights=weights,
        bases=bases,
        popular=[np.concatenate([best_of(base, POPULAR)[0], unindexed]) for base in bases],
        indexed=indexed,
        scratch=scratch_for(len(sources.items)),
        tower_vectors=towers,
        placed=placed,
    )


def _bases(sources: Sources, weights: F32, known: npt.NDArray[np.bool_]) -> F32:
    """What popularity adds to each item's score, float32 (buckets, items); -inf where nothing is known of the item."""
    shares = sources.popularity.shares(sources.popularity.newest_ms)
    bases = np.empty((len(weights), len(known)), np.float32)
    for bucket, base in enumerate(bases):
        evidence.popularity_scores(shares, weights[bucket], base)
    bases[:, ~known] = -np.inf
    return bases


def served(sources: Sources) -> Sources:
    """The sources as they are ranked by, with the heaviest neighbours alone."""
    return Sources(
        sources.items,
        sources.followers.heaviest(SERVED_NEIGHBOURS),
        sources.companions.heaviest(SERVED_NEIGHBOURS),
        sources.popularity,
    )
