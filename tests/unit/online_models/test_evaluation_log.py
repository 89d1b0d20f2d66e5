"""The log of an evaluation against its definition: which events count, in what order, and what is known before each."""

import numpy as np
import pytest
from hypothesis import given

from online_models.contracts.events import EventType
from online_models.errors import SourceError
from online_models.evaluation.log import Log, log_of
from online_models.stores.recorded import Recorded
from tests.evaluation_logs import events
from tests.evaluation_logs import log_of as log_from
from tests.oracles import evaluation as oracle
from tests.oracles.evaluation import Event
from tests.samples import batch, event


@given(events)
def test_groups_are_the_first_occurrences_of_a_user_at_a_time(given_events: list[Event]) -> None:
    log, expected = log_from(given_events), oracle.groups_of(given_events)
    assert log.groups == len(expected)
    names = [
        [(log.ids[row]) for row in log.item[at.begin : at.end].tolist()] for at in map(log.moment, range(log.groups))
    ]
    assert names == [[f"i{item}" for _, item, _ in group] for group in expected]
    assert [log.moment(group).ts_ms for group in range(log.groups)] == [group[0][2] for group in expected]


@given(events)
def test_a_moment_knows_what_came_before_its_group_and_nothing_else(given_events: list[Event]) -> None:
    log, before = log_from(given_events), list[Event]()
    for number, group in enumerate(oracle.groups_of(given_events)):
        at, user = log.moment(number), group[0][0]
        history = [f"i{item}" for who, item, _ in before if who == user]
        assert [log.ids[row] for row in log.item[at.history].tolist()] == history
        assert at.items == len({item for _, item, _ in before})
        assert set(log.ids[: at.items]) == {f"i{item}" for _, item, _ in before}
        before += group


@given(events)
def test_users_and_items_are_numbered_by_first_appearance(given_events: list[Event]) -> None:
    log = log_from(given_events)
    for column, many in ((log.user, log.users), (log.item, len(log.ids))):
        assert list(dict.fromkeys(column.tolist())) == list(range(many))


def recorded(*rows: tuple[str, str, EventType, float | None, str]) -> Recorded:
    made = [
        event(number, kind, user_id=user, item_id=item, ts=number, domain=domain, value=value)
        for number, (user, item, kind, value, domain) in enumerate(rows)
    ]
    columns = batch(made)
    users, items = (list(dict.fromkeys(getattr(each, name) for each in made)) for name in ("user_id", "item_id"))
    return Recorded(
        users,
        items,
        list(columns.domains),
        np.array([users.index(each.user_id) for each in made]),
        np.array([items.index(each.item_id) for each in made]),
        columns.domain.astype(np.int64),
        columns.type,
        columns.ts_ms,
        columns.value,
        {},
    )


MIXED = recorded(
    ("u", "a", EventType.RATING, 3.5, "movies"),
    ("u", "b", EventType.RATING, 4.0, "movies"),
    ("u", "c", EventType.RATING, 2.0, "movies"),
    ("u", "d", EventType.IMPRESSION, None, "movies"),
    ("u", "e", EventType.CLICK, None, "movies"),
    ("u", "x", EventType.PURCHASE, 9.0, "products"),
)


def test_only_positive_events_of_the_domain_with_most_of_them_count_with_the_learner_s_strengths() -> None:
    log, domain = log_of(MIXED)
    assert (domain, log.ids, log.strength.tolist()) == ("movies", ["a", "b", "e"], [1.0, 1.5, 1.0])
    log, _ = log_of(MIXED, min_rating=4.0)
    assert log.ids == ["b", "e"]
    log, domain = log_of(MIXED, "products")
    assert (domain, log.ids, log.strength.tolist()) == ("products", ["x"], [4.0])


def test_what_cannot_be_evaluated_is_refused() -> None:
    with pytest.raises(SourceError, match="positive events of music"):
        log_of(MIXED, "music")
    with pytest.raises(SourceError, match=r"lowest rating of .* or more, got 1"):
        log_of(MIXED, min_rating=1.0)
    with pytest.raises(SourceError, match="expected positive events, got 1 others"):
        log_of(recorded(("u", "a", EventType.SKIP, None, "movies")))


def test_an_empty_log_has_no_group() -> None:
    none = np.empty(0, np.int64)
    log = Log.of([], none, none, none, np.empty(0, np.float32))
    assert (len(log), log.users, log.ids, log.groups) == (0, 0, [], 0)
