"""Who is answered from a precomputed list, and what of it."""

from datetime import timedelta

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online_models.contracts.events import Item
from online_models.contracts.ids import hashes_of
from online_models.contracts.preferences import PrecomputedList
from online_models.errors import StoreError
from serving_api.facts import Facts
from serving_api.modes import PRECOMPUTED, Allowed, Modes, ranking_of
from serving_api.reranking.explanations import Code
from serving_api.rules import Exclude, When
from serving_api.settings import Mode

IDS = st.lists(st.sampled_from([f"i{n}" for n in range(12)]), unique=True)
HOUR = timedelta(hours=1)
HOUR_MS = 3_600_000
CATALOGUE = {
    f"i{n}": Item(f"i{n}", "movies", f"Title {n}", categories=["War" if n % 2 else "Crime"], min_age=n)
    for n in range(12)
}
NO_WAR = Exclude(action="exclude", when=When(categories=("War",)))
ANYTHING = Allowed(Facts.of(CATALOGUE, [], "movies"), None, 0)


@pytest.mark.parametrize(
    ("mode", "idle_ms", "expected"),
    [
        ("realtime", 10 * HOUR_MS, False),
        ("hybrid", -5, False),
        ("hybrid", HOUR_MS, False),
        ("hybrid", HOUR_MS + 1, True),
        ("precomputed", 0, True),
    ],
)
def test_hybrid_ranks_for_the_active_and_precomputed_for_nobody_with_a_list(
    mode: Mode, idle_ms: int, expected: bool
) -> None:
    assert Modes(mode, HOUR).prefers_list(50 * HOUR_MS, 50 * HOUR_MS + idle_ms) == expected
    assert Modes(mode, HOUR).reads_lists == (mode != "realtime")


@given(IDS, st.sets(st.sampled_from([f"i{n}" for n in range(12)])), st.integers(1, 5), st.integers(5, 20))
def test_a_list_gives_its_best_unseen_items_or_nothing(
    listed: list[str], seen: set[str], least: int, most: int
) -> None:
    scores = [None if item == "i3" else float(item[1:]) for item in listed]
    found = ranking_of(
        msgspec.json.encode(PrecomputedList(5, listed, scores)), hashes_of(sorted(seen)), least, most, ANYTHING
    )
    unseen = [item for item in listed if item not in seen]
    if len(unseen) < least:
        assert found is None
        return
    assert found is not None
    assert found.source == PRECOMPUTED
    assert [item.item_id for item in found.items] == unseen[:most]
    for item in found.items:
        popular = item.item_id == "i3"
        assert item.score == (None if popular else float(item.item_id[1:]))
        assert item.reason == (Code.POPULAR if popular else Code.FOR_YOU)


@pytest.mark.parametrize(
    "raw", [b"", b"{", b'{"ts_ms":1,"items":["i"],"scores":[]}', b'{"ts_ms":1,"items":[1],"scores":[1]}']
)
def test_a_torn_list_is_a_fault_of_the_store(raw: bytes) -> None:
    with pytest.raises(StoreError, match="a precomputed list"):
        ranking_of(raw, hashes_of([]), 1, 1, ANYTHING)


@settings(deadline=None)  # the first example may compile
@given(IDS, st.booleans(), st.none() | st.integers(0, 12))
def test_what_a_rule_excludes_or_the_age_bars_now_is_left_out_of_a_list(
    listed: list[str], ruled: bool, age: int | None
) -> None:
    allowed = Allowed(Facts.of(CATALOGUE, [NO_WAR] if ruled else [], "movies"), age, 0)
    raw = msgspec.json.encode(PrecomputedList(5, listed, [1.0] * len(listed)))
    found = ranking_of(raw, hashes_of([]), 0, 20, allowed)
    assert found is not None
    assert [item.item_id for item in found.items] == [
        item for item in listed if not (ruled and int(item[1:]) % 2) and (age is None or int(item[1:]) <= age)
    ]
