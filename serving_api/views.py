"""The views of one model's versions, made anew as a whole when a part changes: versions, publication, or catalogue.

- What was published stays bytes until views are made of it: a version that is loaded later ranks by it too.
- What was published of one version and cannot be read costs that version what it learned, and the others nothing; `torn` says so.
- Cold items, which neither the version nor the stream knows, are placed by their content near what they are like.
- Making views of a large catalogue takes a while, so that after it they rest for a multiple of that.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, TypeVar

import numpy as np

from online_models.blend import Blend
from online_models.content import ContentIndex, Placing
from online_models.contracts.ids import ModelName, ModelVersion
from online_models.errors import StoreError
from online_models.language_scores import SegmentScores
from online_models.learner import decode_item_vectors
from online_models.ports import Published, Vector
from online_models.sources import Sources
from serving_api.facts import Facts
from serving_api.model_cache import LoadedVersion
from serving_api.retrieval import VersionView, served, views_of

T = TypeVar("T")

REST_SHARE: Final = 20
"""Views rest for so many times what it took to make them."""

PLACING: Final = Placing()

BLEND: Final = "blend"
ITEM_VECTORS: Final = "item_vectors"
SEGMENTS: Final = "segment_scores"

NOTHING: Final = Published(0, None, {}, {})


@dataclass(frozen=True, slots=True)
class Views:
    """built : what requests see; facts : of the catalogue; content : its words, None while it is empty
    placed : of each version, cold items by their content; kept until versions or the catalogue change
    asked : versions that the publication was asked for
    segments : of each version, what its language model says of new items, as bytes
    torn : by what it is and the version, what could not be read as these views were made
    due_at : monotonic seconds before which no publication is taken in
    """

    model: ModelName
    facts: Facts
    loaded: Mapping[ModelVersion, LoadedVersion] = field(default_factory=dict)
    published: Published = NOTHING
    content: ContentIndex | None = None
    built: Mapping[ModelVersion, VersionView] = field(default_factory=dict)
    placed: Mapping[ModelVersion, Mapping[str, Vector]] = field(default_factory=dict)
    asked: frozenset[ModelVersion] = frozenset()
    segments: Mapping[ModelVersion, bytes] = field(default_factory=dict)
    torn: Mapping[tuple[str, ModelVersion], StoreError] = field(default_factory=dict)
    due_at: float = 0.0

    def is_due(self, publication: int, now: float) -> bool:
        """Whether a publication of this number is to be fetched."""
        stale = publication != self.published.number or not self.loaded.keys() <= self.asked
        return bool(self.loaded and publication and stale and now >= self.due_at)

    def resting(self, now: float, took: float) -> "Views":
        """The same views, which take in no publication for a multiple of what the last one took."""
        return replace(self, due_at=now + REST_SHARE * took)

    def with_versions(self, loaded: Mapping[ModelVersion, LoadedVersion]) -> "Views":
        """The views of other versions."""
        kept = {version: items for version, items in self.placed.items() if loaded.get(version) is self.loaded[version]}
        return replace(self, loaded=dict(loaded), placed=kept)._made()

    def with_facts(self, facts: Facts) -> "Views":
        """The views under another catalogue."""
        catalogue = list(facts.catalogue.values())
        return replace(self, facts=facts, content=ContentIndex.of(catalogue) if catalogue else None, placed={})._made()

    def with_publication(self, published: Published) -> "Views":
        """The views of another publication, which was asked for all loaded versions. Raises StoreError when its sources are
        torn."""
        return replace(self, published=published, asked=frozenset(self.loaded))._made()

    def with_segments(self, segments: Mapping[ModelVersion, bytes]) -> "Views":
        """The views of other scores of new items; those that are torn are left out."""
        torn = {(what, version): error for (what, version), error in self.torn.items() if what != SEGMENTS}
        built = {}
        for version, view in self.built.items():
            decode = partial(SegmentScores.decode, k=view.loaded.k, space=view.loaded.manifest.space)
            built[version] = replace(view, segments=_read((SEGMENTS, version), segments.get(version), decode, torn))
        return replace(self, segments=dict(segments), built=built, torn=torn)

    def _made(self) -> "Views":
        raw = self.published.sources
        sources = served(Sources() if raw is None else Sources.decode(raw))
        torn: dict[tuple[str, ModelVersion], StoreError] = {}
        stable = next(iter(self.published.blends.values()), None)
        blends = [
            _read((BLEND, version), self.published.blends.get(version, stable), Blend.decode, torn) or Blend.begin()
            for version in self.loaded
        ]
        placed = {
            version: self.placed[version] if version in self.placed else self._place_cold(loaded)
            for version, loaded in self.loaded.items()
        }
        read = self.published.item_vectors.get
        moved = {
            version: _read((ITEM_VECTORS, version), read(version), _vectors, torn) or {} for version in self.loaded
        }
        overlays = [{**placed[version], **moved[version]} for version in self.loaded]
        known = next((view.facts for view in self.built.values()), None)
        by_content = [placed[version].keys() - moved[version].keys() for version in self.loaded]
        views = views_of(list(self.loaded.values()), sources, blends, overlays, self.facts, known, by_content)
        built = dict(zip(self.loaded, views, strict=True))
        return replace(self, built=built, placed=placed, torn=torn).with_segments(self.segments)

    def _place_cold(self, loaded: LoadedVersion) -> dict[str, Vector]:
        """Items of the catalogue that the version does not know, near those that they are like."""
        place = {item_id: row for row, item_id in enumerate(self.facts.catalogue)}
        known = set(loaded.item_ids)
        cold = [item for item in self.facts.catalogue.values() if item.item_id not in known]
        warm = [(place[item], row) for row, item in enumerate(loaded.item_ids) if item in place]
        if self.content is None or not cold or not warm:
            return {}
        rows, trained = np.array(warm, np.int64).T
        profiles = [self.content.item_profile(item) for item in cold]
        vectors = self.content.placed(profiles, rows, loaded.item_factors[trained], PLACING)
        return {item.item_id: vector for item, vector in zip(cold, vectors, strict=True) if vector.any()}


def _vectors(raw: bytes) -> dict[str, Vector]:
    return dict(zip(*decode_item_vectors(raw), strict=True))


def _read(
    what: tuple[str, ModelVersion],
    raw: bytes | None,
    decode: Callable[[bytes], T],
    torn: dict[tuple[str, ModelVersion], StoreError],
) -> T | None:
    """What bytes stand for; None where there are none, or they are torn, which is added to what is."""
    try:
        return None if raw is None else decode(raw)
    except StoreError as error:
        torn[what] = error
        return None
