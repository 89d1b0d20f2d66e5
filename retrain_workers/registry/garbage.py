"""Which artifacts may go: a pure rule over what has happened to a model's versions.

- Needed are the champion, the former champions that one may want back (N-1 and N-2 by default), the challengers (the canary
  of an open rollout, and the arms of an open bandit), the candidates that a rollout may still begin with, and every version
  whose language model one of them uses. A parent is not needed: it is named in a manifest, not read.
- An artifact may go when nothing has needed it at any moment of the grace period: readers that follow an old route and
  trainings that began from an old champion end well within it. What is needed is worked out for each moment from the
  record alone, so that a promotion gives every version it leaves behind its own full grace.
- A model without a champion keeps everything: any of its versions may be adopted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from online_models.contracts.ids import ModelVersion
from online_models.contracts.registry import Alias, Happening, Pointer, RegistryEvent
from online_models.model_registry import RegisteredVersion

_CROWNED = (Happening.ADOPTED, Happening.PROMOTED)
_GONE = (Happening.COLLECTING, Happening.COLLECTED)


@dataclass(frozen=True, slots=True)
class Retention:
    """What is kept.

    champions : former champions, the newest ones, `previous` among them
    grace : how long a version that nothing needs is kept
    """

    champions: int
    grace: timedelta


def garbage(
    versions: Sequence[RegisteredVersion],
    aliases: Mapping[Alias, Pointer],
    events: Sequence[RegistryEvent],
    now: datetime,
    retention: Retention,
) -> list[ModelVersion]:
    """The versions of one model whose artifacts may go now, oldest first; without those that have gone or are going.

    events : all of the model's, oldest first
    """
    language_models = {each.version: each.manifest.language_model for each in versions}
    begin = now - retention.grace
    recent = [number for number, event in enumerate(events, 1) if event.at > begin]
    moments = [
        len(events) - len(recent),
        *recent,
    ]  # the record as it was when the period began, and after each later event
    kept = {pointer.version for pointer in aliases.values()}
    kept |= {event.version for event in events if event.at > begin}
    kept = kept.union(*(needed(events[:length], retention.champions) for length in moments))
    kept = with_language_models(kept, language_models)
    gone = {event.version for event in events if event.happening in _GONE}
    told = {event.version for event in events}  # a version that was registered meanwhile is in no record yet
    return [each.version for each in versions if each.version in told - kept - gone]


def interrupted(events: Sequence[RegistryEvent]) -> list[ModelVersion]:
    """The versions whose collection began and did not end: their worker died in between."""
    began = [event.version for event in events if event.happening is Happening.COLLECTING]
    ended = {event.version for event in events if event.happening is Happening.COLLECTED}
    return [version for version in began if version not in ended]


def needed(events: Sequence[RegistryEvent], champions: int) -> set[ModelVersion]:
    """The versions in use, or that may come into use, after these events; language models apart."""
    registered = [event.version for event in events if event.happening is Happening.REGISTERED]
    crowned = [event.version for event in events if event.happening in _CROWNED]
    if not crowned:
        return set(registered)
    newest_first = list(dict.fromkeys(reversed(crowned)))
    tried = {event.version for event in events if event.happening in (Happening.CHALLENGING, *_CROWNED)}
    last = max(place for place, event in enumerate(events) if event.happening in _CROWNED)
    late = {event.version for event in events[last:] if event.happening is Happening.REGISTERED}
    candidates = {
        version
        for version in registered
        if (_age(version) > _age(crowned[-1]) or version in late) and version not in tried
    }
    return set(newest_first[: 1 + champions]) | candidates | challengers(events)


def challengers(events: Sequence[RegistryEvent]) -> set[ModelVersion]:
    """The versions whose rollout is open after these events."""
    open_now: set[ModelVersion] = set()
    for event in events:
        if event.happening is Happening.CHALLENGING:
            open_now.add(event.version)
        elif event.happening in (Happening.WITHDRAWN, Happening.PROMOTED):
            open_now.discard(event.version)
    return open_now


def with_language_models(
    kept: set[ModelVersion], language_models: Mapping[ModelVersion, ModelVersion | None]
) -> set[ModelVersion]:
    """The versions, and those that they use the language model of, and so on.

    >>> v1, v2, v3 = map(ModelVersion, ("v1", "v2", "v3"))
    >>> sorted(with_language_models({v3}, {v3: v2, v2: v1, v1: v1}))
    ['v1', 'v2', 'v3']
    """
    reached, fresh = set(kept), set(kept)
    while fresh:
        used = {language_models.get(version) for version in fresh}
        fresh = {version for version in used if version is not None and version not in reached}
        reached |= fresh
    return reached


def _age(version: ModelVersion) -> int:
    return int(version.removeprefix("v"))
