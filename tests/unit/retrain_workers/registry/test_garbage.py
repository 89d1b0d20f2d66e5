"""The rule of what may go, against a slow one that asks every moment of the grace period."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from online_models.contracts.ids import Epoch, ModelVersion
from online_models.contracts.registry import Alias, Happening, Pointer, RegistryEvent
from online_models.model_registry import RegisteredVersion
from retrain_workers.registry.garbage import Retention, garbage, interrupted
from tests.samples import MOVIES, SHA256, manifest

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
NOTHING_ELSE = Retention(champions=2, grace=HOUR)

Step = tuple[Happening, int, int]
"""What happened to which version, and at which hour."""


def events_of(steps: Sequence[Step]) -> list[RegistryEvent]:
    return [
        RegistryEvent(number, MOVIES, ModelVersion(f"v{version}"), happening, "test", {}, START + hour * HOUR)
        for number, (happening, version, hour) in enumerate(steps, 1)
    ]


def versions_of(steps: Sequence[Step], language_models: dict[int, int] | None = None) -> list[RegisteredVersion]:
    found = []
    for number in sorted(version for happening, version, _ in steps if happening is Happening.REGISTERED):
        used = (language_models or {}).get(number)
        made = replace(manifest(f"v{number}"), language_model=None if used is None else ModelVersion(f"v{used}"))
        found.append(RegisteredVersion(MOVIES, ModelVersion(f"v{number}"), SHA256, made, START))
    return found


def aliases_of(steps: Sequence[Step]) -> dict[Alias, Pointer]:
    """What the store would say: the last word on each alias."""
    found: dict[Alias, int] = {}
    for happening, version, _ in steps:
        match happening:
            case Happening.ADOPTED | Happening.PROMOTED:
                found[Alias.CHAMPION] = version
                found.pop(Alias.CHALLENGER, None)
            case Happening.REPLACED:
                found[Alias.PREVIOUS] = version
            case Happening.CHALLENGING:
                found[Alias.CHALLENGER] = version
            case Happening.WITHDRAWN:
                found.pop(Alias.CHALLENGER, None)
            case _:
                pass
    return {alias: Pointer(ModelVersion(f"v{version}"), Epoch(1), START) for alias, version in found.items()}


def gone(
    steps: Sequence[Step],
    hour: float,
    retention: Retention = NOTHING_ELSE,
    language_models: dict[int, int] | None = None,
) -> list[str]:
    versions = versions_of(steps, language_models)
    return list(garbage(versions, aliases_of(steps), events_of(steps), START + hour * HOUR, retention))


def promotion(version: int, over: int, hour: int) -> list[Step]:
    """A version that comes, challenges and wins within one hour."""
    return [
        (Happening.REGISTERED, version, hour),
        (Happening.CHALLENGING, version, hour),
        (Happening.PROMOTED, version, hour),
        (Happening.REPLACED, over, hour),
    ]


FIRST: list[Step] = [(Happening.REGISTERED, 1, 0), (Happening.ADOPTED, 1, 0)]
FOUR = FIRST + promotion(2, 1, 10) + promotion(3, 2, 20) + promotion(4, 3, 30)


def test_the_champion_and_the_two_before_it_are_kept_and_older_ones_go() -> None:
    assert gone(FOUR, 40) == ["v1"]
    assert gone(FOUR[:-4], 40) == []


@pytest.mark.parametrize(("champions", "expected"), [(1, ["v1", "v2"]), (3, [])])
def test_how_many_former_champions_are_kept_is_a_setting(champions: int, expected: list[str]) -> None:
    assert gone(FOUR, 40, Retention(champions, HOUR)) == expected


def test_a_champion_has_its_whole_grace_from_the_promotion_that_left_it_behind() -> None:
    patient = Retention(2, 5 * HOUR)
    assert gone(FOUR, 34.9, patient) == []
    assert gone(FOUR, 35.1, patient) == ["v1"]


def test_frequent_promotions_do_not_put_collection_off() -> None:
    steps = [*FIRST]
    for number in range(2, 30):
        steps += promotion(number, number - 1, number)
    assert gone(steps, 29.5, Retention(2, 3 * HOUR)) == [f"v{n}" for n in range(1, 24)]


def test_a_candidate_that_was_rolled_back_goes_after_its_grace() -> None:
    steps: list[Step] = [
        *FIRST,
        (Happening.REGISTERED, 2, 1),
        (Happening.CHALLENGING, 2, 1),
        (Happening.WITHDRAWN, 2, 5),
    ]
    assert gone(steps, 5.5) == []
    assert gone(steps, 6.5) == ["v2"]


def test_a_challenger_is_kept_however_long_its_rollout_lasts() -> None:
    assert gone([*FIRST, (Happening.REGISTERED, 2, 1), (Happening.CHALLENGING, 2, 1)], 10_000) == []


def test_a_candidate_that_waits_is_kept_and_one_that_was_passed_over_goes() -> None:
    waiting: list[Step] = [*FIRST, (Happening.REGISTERED, 2, 1)]
    assert gone(waiting, 10_000) == []
    assert gone(waiting + promotion(3, 1, 10), 20) == ["v2"]


def test_a_model_without_a_champion_keeps_everything() -> None:
    assert gone([(Happening.REGISTERED, 1, 0), (Happening.REGISTERED, 2, 0)], 10_000) == []


def test_a_version_whose_language_model_is_in_use_is_kept_and_so_on() -> None:
    assert gone(FOUR, 40, Retention(1, HOUR), {4: 2, 2: 1}) == []
    assert gone(FOUR, 40, Retention(1, HOUR), {4: 4}) == ["v1", "v2"]


def test_what_has_gone_or_is_going_does_not_go_again() -> None:
    going = [*FOUR, (Happening.COLLECTING, 1, 40)]
    assert gone(going, 50) == []
    assert interrupted(events_of(going)) == ["v1"]
    assert interrupted(events_of([*going, (Happening.COLLECTED, 1, 41)])) == []


def challenged(*versions: int, hour: int) -> list[Step]:
    return [(Happening.CHALLENGING, version, hour) for version in versions]


def test_the_arms_of_a_bandit_are_kept_until_it_ends() -> None:
    bandit = [*FOUR, *challenged(1, 2, hour=30)]
    assert gone(bandit, 10_000, Retention(1, HOUR)) == []
    ended: list[Step] = [*bandit, (Happening.WITHDRAWN, 1, 40), (Happening.WITHDRAWN, 2, 40)]
    assert gone(ended, 50, Retention(1, HOUR)) == ["v1", "v2"]


def test_after_a_return_the_champions_before_it_are_kept_the_abandoned_one_among_them() -> None:
    returned: list[Step] = [*FOUR, (Happening.PROMOTED, 2, 40), (Happening.REPLACED, 4, 40)]
    assert gone(returned, 50) == ["v1"]
    back_and_forth: list[Step] = [*returned, (Happening.PROMOTED, 4, 50), (Happening.REPLACED, 2, 50)]
    assert gone(back_and_forth, 60) == ["v1"]


def test_a_version_that_has_served_is_no_candidate_after_a_return_to_an_older_one() -> None:
    steps: list[Step] = [*FIRST, *((Happening.REGISTERED, number, 1) for number in (2, 3))]
    for version, over, hour in ((2, 1, 10), (3, 2, 20), (1, 3, 30)):
        steps += [(Happening.PROMOTED, version, hour), (Happening.REPLACED, over, hour)]
    assert gone(steps, 40, Retention(1, HOUR)) == ["v2"]


@st.composite
def histories(draw: st.DrawFn) -> list[Step]:
    """What may happen to a model, in order, at whole hours that need not differ; two challengers at once are arms of a bandit."""
    steps: list[Step] = []
    hour, number, champion = 0, 0, 0
    challengers: list[int] = []
    for _ in range(draw(st.integers(1, 25))):
        hour += draw(st.integers(0, 3))
        action = draw(st.sampled_from(["register", "begin", "promote", "withdraw", "restore"]))
        others = [version for version in range(1, number + 1) if version != champion]
        if action == "register" or not others:
            number += 1
            steps.append((Happening.REGISTERED, number, hour))
        elif champion == 0:
            champion = draw(st.sampled_from(others))
            steps.append((Happening.ADOPTED, champion, hour))
        elif action == "begin" and not challengers:
            challengers = draw(st.lists(st.sampled_from(others), min_size=1, max_size=2, unique=True))
            steps += challenged(*challengers, hour=hour)
        elif action == "promote" and len(challengers) == 1:
            steps += [(Happening.PROMOTED, challengers[0], hour), (Happening.REPLACED, champion, hour)]
            champion, challengers = challengers[0], []
        elif action in ("withdraw", "restore"):
            steps += [(Happening.WITHDRAWN, version, hour) for version in challengers]
            challengers = []
            if action == "restore":
                back = draw(st.sampled_from(others))
                steps += [(Happening.PROMOTED, back, hour), (Happening.REPLACED, champion, hour)]
                champion = back
    return steps


def in_use(steps: Sequence[Step], champions: int) -> set[int]:
    """The plain words of the rule, for one moment."""
    registered = {version for happening, version, _ in steps if happening is Happening.REGISTERED}
    crowned = [version for happening, version, _ in steps if happening in (Happening.ADOPTED, Happening.PROMOTED)]
    if not crowned:
        return registered
    kept: set[int] = set()
    for version in reversed(crowned):
        if len(kept) <= champions:
            kept.add(version)
    for version in registered:
        last = [happening for happening, of, _ in steps if of == version][-1]
        if last is Happening.CHALLENGING or (last is Happening.REGISTERED and version > crowned[-1]):
            kept.add(version)
    return kept


@given(histories(), st.integers(1, 3), st.integers(0, 10), st.integers(0, 10))
def test_what_goes_was_in_use_at_no_moment_of_the_grace_and_nothing_else_stays(
    steps: list[Step], champions: int, grace: int, later: int
) -> None:
    now = max((hour for _, _, hour in steps), default=0) + later
    used: set[int] = set()
    for half_hours in range(2 * (now - grace), 2 * now + 1):  # within an hour first all that is in it, then nothing
        used |= in_use([step for step in steps if 2 * step[2] <= half_hours], champions)
    inside = [number for number, step in enumerate(steps) if step[2] > now - grace]
    for number in inside:  # and the moments between two things of one hour
        used |= in_use(steps[: number + 1], champions) | {steps[number][1]}
    registered = {version for happening, version, _ in steps if happening is Happening.REGISTERED}
    assert gone(steps, now, Retention(champions, grace * HOUR)) == [f"v{n}" for n in sorted(registered - used)]
