"""The generated catalogue of the LoRA benchmark, and how ways to train are compared."""

import numpy as np
import pytest

from benchmarks.lora import FULL, Found, quality_targets, summary
from benchmarks.lora_costs import Cost
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


def found(auc: float, seconds: float, peak_bytes: int) -> Found:
    levels = auc + np.tile([0.1, -0.1], 50)
    return Found(Cost(0.1, 0.0, 0.0, peak_bytes, 0), [seconds] * 2, [levels] * 2, [levels] * 2)


def test_a_way_is_compared_with_full_fine_tuning_in_percent() -> None:
    of = summary(found(0.72, 3.0, 30), found(0.75, 10.0, 100))
    assert (of.time, of.memory, of.difference) == pytest.approx((-70.0, -70.0, -4.0))
    assert of.half == pytest.approx(0.0, abs=1e-9)


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
