"""Another ranker's lists on a recorded log: where it has each item that was shown, and what its lists would be worth.

- Its lists come from a file, by request or by user, or from the log itself: a version that was scored in the shadow of each
  request has left its places on the impressions.
- Lists are compared under the position-based model. Where the log has places that were given to chance, with propensities below
  1, those slots alone are estimated by IPS and SNIPS too, which need no such model.
- How often each position is looked at is estimated from the whole log, or given.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from online_models.errors import SourceError
from online_models.evaluation.shown import NOWHERE, Shown
from online_models.off_policy import (
    Estimated,
    Lists,
    Logged,
    PositionPropensities,
    Ranked,
    Reason,
    Refused,
    Terms,
    ips,
    position_propensities,
    ranked_value,
    snips,
)

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

ITEM: Final = "item"
USER_ITEM: Final = "user-item"
SAME: Final = {
    ITEM: "an item is as good at every position it is found in; right for rankers that do not know the user",
    USER_ITEM: "only what the same user was shown again counts; wrong where what was taken is not shown again",
}
"""What is the same item in several places -> what is assumed with it."""


class PolicyList(msgspec.Struct, frozen=True):
    """One line of a file of lists.

    items : ids, best first; propensities : how likely each is to stand at its place, 1 where not told
    request_id, user_id : whose list it is, one of the two
    """

    items: list[str]
    request_id: str | None = None
    user_id: str | None = None
    propensities: list[float] | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """Lists by request and by user; each maps an item to its place and the probability to stand there."""

    by_request: Mapping[str, Mapping[str, tuple[int, float]]]
    by_user: Mapping[str, Mapping[str, tuple[int, float]]]


@dataclass(frozen=True, slots=True)
class Places:
    """Where a candidate has what was shown, (n,) each.

    told : bool, whether it has a list for the request at all; place : int64, -1 for nowhere
    probability : float64, of the item at that place
    """

    told: npt.NDArray[np.bool_]
    place: I64
    probability: F64


@dataclass(frozen=True, slots=True)
class Study:
    """What a log says of positions and of a candidate.

    looks : float64 (K,), NaN where not known; positions : how they were estimated, None where they were given
    requests : lists for which the candidate has one
    ranked : the candidate's lists beside the logged ones; slots : estimator -> of the places given to chance, empty without any
    """

    looks: F64
    positions: PositionPropensities | None
    requests: int = 0
    ranked: Ranked | Refused | None = None
    slots: Mapping[str, Estimated | Refused] | None = None


def study_positions(shown: Shown, same: str = ITEM) -> Study:
    """How much each position is looked at. same : of `SAME`"""
    key = shown.item if same == ITEM else shown.user * len(shown.items) + shown.item
    found = position_propensities(shown.position, shown.taken, key, shown.user)
    return Study(found.theta, found)


def study_candidate(shown: Shown, places: Places, known: Study, terms: Terms, version: str | None = None) -> Study:
    """A candidate's lists beside those of the log, of one version of it or of all.

    known : of `study_positions`, or `Study(looks, None)`
    """
    rows = places.told if version is None else places.told & (shown.version == _code_of(shown, version))
    lists = Lists(shown.request[rows], shown.position[rows], places.place[rows], shown.taken[rows], shown.user[rows])
    ranked = ranked_value(lists, known.looks, terms)
    if (
        isinstance(ranked, Refused)
        and ranked.reason is Reason.NO_POSITIONS
        and known.positions is not None
        and rows.any()
    ):
        ranked = Refused(Reason.NO_POSITIONS, f"position propensities: {known.positions.reason}")
    drawn = rows & (shown.propensity < 1)
    slots: dict[str, Estimated | Refused] = {}
    if drawn.any():
        target = np.where(places.place == shown.position, places.probability, 0.0)[drawn]
        logged = Logged(shown.taken[drawn].astype(np.float64), shown.propensity[drawn], shown.user[drawn])
        slots = {"IPS": ips(logged, target, terms), "SNIPS": snips(logged, target, terms)}
    return Study(known.looks, known.positions, len(np.unique(lists.request)), ranked, slots)


def places_of_policy(shown: Shown, policy: Policy) -> Places:
    """Where lists of a file have what was shown; a list of the request comes before one of the user."""
    told, place, probability = np.zeros(len(shown), np.bool_), np.full(len(shown), NOWHERE), np.zeros(len(shown))
    columns = (shown.request.tolist(), shown.user.tolist(), shown.item.tolist())
    for row, (request, user, item) in enumerate(zip(*columns, strict=True)):
        own = policy.by_request.get(shown.requests[request]) or policy.by_user.get(shown.users[user])
        if own is not None:
            told[row] = True
            place[row], probability[row] = own.get(shown.items[item], (NOWHERE, 0.0))
    return Places(told, place, probability)


def places_of_shadow(shown: Shown, version: str) -> Places:
    """Where the log says that a version in the shadow had what was shown. Raises SourceError when there is none of it."""
    told = shown.shadow == _code_of(shown, version)
    if not told.any():
        there = (
            ", ".join(sorted({shown.versions[code] for code in np.unique(shown.shadow).tolist() if code >= 0}))
            or "none"
        )
        raise SourceError(f"--shadow: no impression has a place by {version}; versions in the shadow: {there}")
    return Places(told, np.where(told, shown.shadow_place, NOWHERE), told.astype(np.float64))


def _code_of(shown: Shown, version: str) -> int:
    """The number of a version; one that no impression has where it is not known."""
    return shown.versions.index(version) if version in shown.versions else len(shown.versions)


def read_policy(path: Path) -> Policy:
    """Lists of a candidate, one JSON object a line.

    Raises
    ------
    SourceError
        When the file cannot be read, or a line is no list, has neither or both of request and user, or repeats one.
    """
    by_request: dict[str, Mapping[str, tuple[int, float]]] = {}
    by_user: dict[str, Mapping[str, tuple[int, float]]] = {}
    decode = msgspec.json.Decoder(PolicyList).decode
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            _keep(decode(line), by_request, by_user)
        except (msgspec.DecodeError, ValueError) as error:
            raise SourceError(f"{path}, line {number}: {error}") from error
    if not by_request and not by_user:
        raise SourceError(f"{path}: expected a list a line, got none")
    return Policy(by_request, by_user)


def _keep(
    given: PolicyList,
    by_request: dict[str, Mapping[str, tuple[int, float]]],
    by_user: dict[str, Mapping[str, tuple[int, float]]],
) -> None:
    if (given.request_id is None) == (given.user_id is None):
        raise ValueError("expected one of request_id and user_id")
    kept, name = (by_user, given.user_id) if given.request_id is None else (by_request, given.request_id)
    if str(name) in kept:
        raise ValueError(f"expected one list for each, got a second one for {name!r}")
    kept[str(name)] = _places(given.items, given.propensities)


def _places(items: Sequence[str], propensities: Sequence[float] | None) -> Mapping[str, tuple[int, float]]:
    chances = [1.0] * len(items) if propensities is None else propensities
    if not items or len(set(items)) < len(items) or len(chances) != len(items):
        raise ValueError("expected distinct items, at least one, and as many propensities where there are any")
    if not all(0 <= chance <= 1 for chance in chances):
        raise ValueError(f"expected propensities within [0, 1], got {chances}")
    return {item: (place, chance) for place, (item, chance) in enumerate(zip(items, chances, strict=True))}
