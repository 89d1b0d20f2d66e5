"""The generated catalogue of the LoRA benchmark, and how ways to train are compared."""

import numpy as np
import pytest

from benchmarks.lora import Found, quality_targets, summary
from benchmarks.lora_costs import Cost
from benchmarks.lora_ways import EVERY, FULL, like_of
from benchmarks.topic_texts import HISTORY, TOPICS, group_auc, topic_world


def test_a_seed_is_a_world_and_its_choices() -> None:
    world, again = topic_world(3), topic_world(3)
    assert world.texts == again.texts
    assert world.choices(20, 5, drifted=True).sha256() == again.choices(20, 5, drifted=True).sha256()
    assert world.choices(20, 5, drifted=True).sha256() != world.choices(20, 6, drifted=True).sha256()


@pytest.mark.parametrize("drifted", [False, True])
def test_what_is_taken_is_of_a_liked_topic_as_the_drift_makes_it(drifted: bool) -> None:
    world = topic_world(0)
    groups = world.choices(800, 1, drifted=drifted)
    becomes = world.becomes if drifted else np.arange(TOPICS)
    liked = becomes[world.topic[groups.history_items.reshape(-1, HISTORY)]]  # (n, history)
    shared = (liked[:, None, :] == world.topic[groups.candidates][:, :, None]).sum(2)
    assert group_auc(shared.astype(float)).mean() > 0.8
    assert bool(world.old[groups.candidates].all()) is not drifted


def found(auc: float, seconds: float, peak_bytes: int, kept_bytes: int = 0, drift: float = 0.0) -> Found:
    """Of two cycles, the second `drift` better."""
    levels = auc + np.tile([0.1, -0.1], 50)
    cost = Cost(0.1, 0.0, 0.0, peak_bytes, kept_bytes)
    return Found(cost, [seconds] * 2, [levels, levels + drift], [levels] * 2)


def test_a_way_is_compared_with_full_fine_tuning_in_percent() -> None:
    of = summary(found(0.72, 3.0, 30), found(0.75, 10.0, 100))
    assert (of.time, of.memory, of.difference) == pytest.approx((-70.0, -70.0, -4.0))
    assert of.half == pytest.approx(0.0, abs=1e-9)
    assert of.by_seed == pytest.approx((-4.0, -4.0))
    apart = summary(found(0.72, 3.0, 30, drift=0.03), found(0.75, 10.0, 100))
    assert apart.by_seed == pytest.approx((-4.0, 0.0))
    assert apart.difference == pytest.approx(-2.0)


def test_what_is_kept_in_a_file_counts_as_memory_too() -> None:
    of = summary(found(0.75, 3.0, 30, 20), found(0.75, 10.0, 100))
    assert (of.memory, of.all_memory) == pytest.approx((-70.0, -50.0))
    ways = {FULL: found(0.75, 10.0, 100), "top": found(0.75, 3.0, 30, 20)}
    (joint,) = quality_targets(ways)
    assert joint.value == 0


def test_each_recipe_is_compared_with_full_fine_tuning_that_is_like_it() -> None:
    for name, way in EVERY.items():
        like = like_of(name)
        if way.recipe is None:
            assert like is None
            continue
        assert like is not None, name
        full = EVERY[like]
        assert full.recipe is None
        settings = (way.recipe.epochs, way.recipe.groups_per_batch, way.recipe.placed_words, way.share)
        assert (full.epochs, full.groups_per_batch, full.words, full.share) == settings


def test_a_recipe_counts_only_when_it_meets_all_three() -> None:
    full = found(0.75, 10.0, 100)
    ways = {
        FULL: full,
        "all slow": found(0.75, 5.0, 30),
        "top bad": found(0.70, 3.0, 30),
        "all good": found(0.745, 3.0, 30),
    }
    (joint,) = quality_targets(ways)
    assert joint.value == 1
