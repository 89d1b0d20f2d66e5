"""All kinds of jobs through the whole cycle: data, training, gate, artifact, smoke test, and what the readers make of it."""

from contextlib import closing

import msgspec
import numpy as np

from online_models.contracts import keys
from online_models.contracts.artifacts import Manifest
from online_models.contracts.events import Item
from online_models.contracts.ids import ModelVersion, hashes_of
from online_models.contracts.jobs import JobPayload, JobState, Start, TrainLora, TrainTwoTower
from online_models.contracts.rollouts import Phase
from online_models.language_scores import SegmentScores, decode_scores
from online_models.rollout_store import Act
from online_models.stores import redis
from retrain_workers.app import chores_of
from retrain_workers.lora.language_files import LANGUAGE_FILES
from retrain_workers.publish import Prepared, Refused
from serving_api.model_cache import LoadedVersion, load_version
from tests.clustered_world import GROUPS, HOUR_MS, ITEMS, START_MS, as_batch, clustered_events
from tests.samples import canary
from tests.workshop import ALS, MOVIES, NOW, QUICK, Workshop

NEW_ITEMS = 5
TOWERS = TrainTwoTower(als=ALS, start=Start.COLD, dimensions=8, hidden=8, epochs=2, batch_size=128)
LORA = TrainLora(rank=4, alpha=8, epochs=1, group_size=4, candidates=40, holdout_fraction=0.2, choices=300)


def catalogue() -> list[Item]:
    """Titles that tell the group; some items that nobody has met."""
    words = ("storm", "garden", "engine", "letter")
    return [
        Item(f"item-{item}", MOVIES, f"the {words[item % GROUPS]} {item}", [f"group-{item % GROUPS}"])
        for item in range(ITEMS + NEW_ITEMS)
    ]


def published(workshop: Workshop, trigger: str, payload: JobPayload) -> Manifest:
    """A job's version, which becomes the champion."""
    outcome = workshop.train_here(trigger, payload)
    assert isinstance(outcome, Prepared), outcome
    return outcome.manifest


def served(workshop: Workshop, version: ModelVersion) -> LoadedVersion:
    """As a reader loads it."""
    registered = workshop.stores.registry.version(MOVIES, version)
    assert registered is not None
    return load_version(workshop.stores.artifacts, registered)


def time_passes(workshop: Workshop, seed: int) -> None:
    """As many events again, after those there are."""
    start_ms = START_MS + 1_500 * seed * HOUR_MS
    workshop.stores.interactions.write([as_batch(clustered_events(seed + 1, start_ms=start_ms))])


def test_a_language_model_stands_beside_the_champion_and_goes_with_its_successor(workshop: Workshop) -> None:
    workshop.stores.interactions.put_items(catalogue())
    first = published(workshop, "first", TOWERS)
    workshop.adopt(first.version)
    assert (first.kind, first.start, first.language_model) == ("two_tower", "cold", None)
    assert served(workshop, first.version).tower_vectors is not None

    time_passes(workshop, 1)
    second = published(workshop, "second", LORA)
    assert (second.kind, second.parent, second.language_model) == ("lora", first.version, second.version)
    loaded = served(workshop, second.version)
    assert loaded.tower_vectors is not None
    assert loaded.language_model is not None
    assert loaded.language_model.weight > 0  # titles tell the group
    assert second.known_until_ms == first.data_window.end_ms < second.data_window.end_ms
    files = {file.name: file.sha256 for file in first.files}
    assert files.items() <= {file.name: file.sha256 for file in second.files}.items()
    scores_are_there(workshop, second, second.space)
    promote(workshop, second.version)

    time_passes(workshop, 2)
    third = published(workshop, "third", ALS)
    assert (third.kind, third.parent, third.language_model) == ("als", second.version, second.version)
    loaded = served(workshop, third.version)
    assert loaded.tower_vectors is None
    assert loaded.language_model is not None
    assert loaded.language_model.version == second.version
    carried = {file.name: file.sha256 for file in second.files if file.name in LANGUAGE_FILES}
    assert carried.items() <= {file.name: file.sha256 for file in third.files}.items()
    promote(workshop, third.version)

    chores_of(QUICK, workshop.stores, workshop.found, "test").run_due(NOW, lambda: False)
    scores_are_there(workshop, second, third.space)  # new items lie elsewhere in it

    time_passes(workshop, 3)
    fourth = published(workshop, "fourth", LORA)
    assert (fourth.start, fourth.language_model) == ("warm", fourth.version)  # another adapter of the same base
    bases = [
        {file.name: file.sha256 for file in each.files if file.name.startswith("base_")} for each in (second, fourth)
    ]
    assert bases[0] == bases[1] != {}


def scores_are_there(workshop: Workshop, manifest: Manifest, space: str) -> None:
    """Of a user's candidates, all met items left out, and of the items that nobody has met, in the space of a recommender."""
    version = manifest.version
    with closing(redis.connect(workshop.found.redis_url)) as client:
        raw = client.get(keys.language_scores(MOVIES, version, "user-1"))
        assert isinstance(raw, bytes)
        rows = decode_scores(raw)
        assert 0 < len(rows) <= LORA.candidates
        assert np.isin(rows["item"], hashes_of([f"item-{item}" for item in range(ITEMS)])).all()
        segments = client.get(keys.segment_scores(MOVIES, version))
        assert isinstance(segments, bytes)
        said = SegmentScores.decode(segments, ALS.factors, space)
        assert set(said.items.tolist()) == set(
            hashes_of([f"item-{item}" for item in range(ITEMS, ITEMS + NEW_ITEMS)]).tolist()
        )
        assert 0 < client.ttl(keys.language_scores(MOVIES, version, "user-1")) <= QUICK.language_scores_seconds
    assert (
        workshop.stores.language.time_left(MOVIES, version, space).total_seconds() > QUICK.language_scores_seconds / 2
    )


def promote(workshop: Workshop, version: ModelVersion) -> None:
    """Make a version the champion, as a rollout that ends well does."""
    champion, rollouts = workshop.stores.registry.champion(MOVIES), workshop.stores.rollouts
    assert champion is not None
    rollout = rollouts.create(canary(champion, version), Act("test", "test", {}))
    rollouts.transition(rollout, msgspec.structs.replace(rollout, phase=Phase.PROMOTED), Act("test", "better", {}))


def test_the_same_job_twice_gives_the_same_files(workshop: Workshop) -> None:
    workshop.stores.interactions.put_items(catalogue())
    workshop.adopt(published(workshop, "first", ALS).version)
    time_passes(workshop, 1)
    for payload in (ALS, TOWERS, LORA):
        one, other = (published(workshop, f"{type(payload).__name__} {turn}", payload) for turn in range(2))
        assert one.version != other.version
        assert one.files == other.files
        assert one.snapshot_sha256 == other.snapshot_sha256 != ""
        assert (one.data_window, one.sketches, one.golden) == (other.data_window, other.sketches, other.golden)


def test_a_language_model_needs_a_champion(workshop: Workshop) -> None:
    workshop.submit("lora", LORA)
    workshop.work_off(workshop.worker())
    status = workshop.status()
    assert status.state is JobState.DEAD
    assert "champion" in (status.error or "")


def test_a_refusal_is_a_row_with_its_numbers(workshop: Workshop) -> None:
    workshop.adopt(published(workshop, "first", ALS).version)
    assert isinstance(workshop.train_here("second", ALS), Refused)  # nothing has happened since
    status = workshop.status()
    assert status.state is JobState.REJECTED
    assert status.report is not None
    assert status.report["verdict"] == "inconclusive"
    assert status.report["figures"]["holdout_users"] == 0
