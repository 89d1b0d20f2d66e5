"""Choices made of a dataset and its impressions."""

import dataclasses

import numpy as np

from online_models.contracts.events import Item
from online_models.contracts.jobs import TrainLora
from retrain_workers.data.datasets import Dataset, dataset_of
from retrain_workers.data.impressions import NEVER, Impressions
from retrain_workers.lora.choices import ChoiceGroups
from retrain_workers.lora.trainer import Texts, groups_of
from tests.clustered_world import as_interactions, clustered_events

JOB = TrainLora(group_size=4, recent=5)
TEXTS = Texts.of({f"item-{n}": Item(f"item-{n}", "movies", f"title {n}") for n in range(100)})


def taken_from_a_list(events: int = 200) -> Dataset:
    """A dataset whose last positive event answers a recommendation."""
    dataset = dataset_of(as_interactions(clustered_events(0, events=events)))
    last = np.arange(len(dataset)) == np.flatnonzero(dataset.strength > 0)[-1]
    return dataclasses.replace(dataset, recommended=last)


def shown_to(dataset: Dataset, event: int, items: list[str], propensity: list[float]) -> Impressions:
    """Items that the user of an event looked past just before it, the last one last."""
    many = len(items)
    return Impressions(
        [dataset.users[dataset.user[event]]] * many,
        items,
        dataset.ts_ms[event] - np.arange(many, 0, -1),
        [None] * many,
        np.full(many, -1, np.int32),
        np.array(propensity),
        np.full(many, NEVER),
    )


def unmet(dataset: Dataset, event: int) -> list[str]:
    """Items that the user of an event has never met."""
    met = set(dataset.item[dataset.user == dataset.user[event]].tolist())
    return [name for item, name in enumerate(dataset.items) if item not in met]


def beside(groups: ChoiceGroups, choice: int) -> list[str]:
    """Names of what stands beside a taken item."""
    return [TEXTS.ids[row] for row in groups.candidates[choice, 1:].tolist()]


def test_impressions_that_were_looked_past_weigh_by_their_inverse_propensity() -> None:
    dataset = taken_from_a_list()
    last = int(np.flatnonzero(dataset.recommended)[0])
    frequent, rare = unmet(dataset, last)[:2]
    groups = groups_of(dataset, shown_to(dataset, last, [frequent, rare], [1.0, 0.25]), TEXTS, JOB, most=50)
    assert beside(groups, -1)[:2] == [rare, frequent]
    np.testing.assert_allclose(groups.candidate_weights[-1], [1, 2, 0.5, 0.5])  # the last is drawn: 4 : 1 : 1
    without = groups_of(dataset, None, TEXTS, JOB, most=50)
    assert (without.candidate_weights == 1).all()


def test_beside_what_was_found_without_us_nothing_stands_because_it_was_shown() -> None:
    dataset = taken_from_a_list()
    last = int(np.flatnonzero(dataset.recommended)[0])
    shown = shown_to(dataset, last, unmet(dataset, last)[:3], [1.0] * 3)
    found = dataclasses.replace(dataset, recommended=np.zeros(len(dataset), np.bool_))
    drawn = groups_of(found, None, TEXTS, JOB, most=50)
    assert groups_of(found, shown, TEXTS, JOB, most=50).sha256() == drawn.sha256()
    assert groups_of(dataset, shown, TEXTS, JOB, most=50).sha256() != drawn.sha256()


def test_choices_from_lists_alone_are_the_recommended_ones() -> None:
    dataset = taken_from_a_list()
    from_lists = groups_of(dataset, None, TEXTS, JOB, most=50, only_from_lists=True)
    assert len(from_lists) == 1
    assert from_lists.sha256() == groups_of(dataset, None, TEXTS, JOB, most=1).sha256()
    found = dataclasses.replace(dataset, recommended=np.zeros(len(dataset), np.bool_))
    assert len(groups_of(found, None, TEXTS, JOB, most=50, only_from_lists=True)) == 0


def test_choices_since_a_time_are_those_of_all_that_come_after_it() -> None:
    dataset = taken_from_a_list()
    everything = groups_of(dataset, None, TEXTS, JOB, most=50)
    since_ms = int(everything.ts_ms[20])
    later = everything.take(np.flatnonzero(everything.ts_ms >= since_ms))
    assert 0 < len(later) < len(everything)
    assert groups_of(dataset, None, TEXTS, JOB, most=50, since_ms=since_ms).sha256() == later.sha256()
