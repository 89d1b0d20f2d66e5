"""What is told of a shadow's lists: figures where the counts can tell, the reason where they cannot, nothing without counts."""

import json
from math import log2

import numpy as np

from online_models.rollout_store import Shadowed
from serving_api.rollouts.shadow_estimates import offline


def drawn(scale: int = 1) -> Shadowed:
    """Lists of ten; of what was shown a fifth is not in the shadow's, and the rest stands elsewhere in it."""
    rng = np.random.default_rng(0)
    found = np.zeros((2, 20, 61), np.int64)
    found[0, :10, :15] = rng.multinomial(800 // scale, np.full(15, 1 / 15), size=10)
    found[0, :10, 60] = 200 // scale
    found[1] = rng.binomial(found[0], 0.1)
    return found


def test_figures_are_those_of_plain_loops_with_the_looks_that_they_assume() -> None:
    counts = drawn()
    found = offline(counts)
    assert found is not None
    shown, taken = counts.tolist()
    looks = [1 / log2(position + 2) for position in range(20)]
    pairs = [(position, place) for position in range(10) for place in range(10)]
    ours = sum(taken[p][q] * looks[q] / looks[p] for p, q in pairs)
    kept = sum(taken[p][q] for p, q in pairs)
    our_rate = ours / sum(shown[p][q] * looks[q] for p, q in pairs)
    their_rate = kept / sum(shown[p][q] * looks[p] for p, q in pairs)
    weights = [(shown[p][q], looks[q] / looks[p]) for p, q in pairs]
    clicks, order = sum(map(sum, taken)), found.pop("order")
    assert found == {
        "looks": "assumed",
        "unit": "impression",
        "impressions": 10 * (800 + 200),
        "taken": clicks,
        "lists": 1_000,
        "positions": 10,
        "clicks_per_list": round(clicks / 1_000, 6),
        "at_least": round(ours / 1_000, 6),
        "kept": round(kept / clicks, 6),
        "effective": round(sum(n * w for n, w in weights) ** 2 / sum(n * w * w for n, w in weights), 6),
        "refused": None,
    }
    assert isinstance(order, dict)
    assert order["value"] == round(our_rate / their_rate - 1, 6)
    assert order["lower"] < order["value"] < order["upper"]


def test_few_impressions_are_refused_with_the_reason_and_no_figure() -> None:
    found = offline(drawn(scale=20))
    assert found is not None
    refused = found["refused"]
    assert isinstance(refused, dict)
    assert refused["reason"] == "small_sample"
    assert "effective impressions of 500, 500 needed" in refused["detail"]
    assert isinstance(found["effective"], float)
    names = ("lists", "positions", "clicks_per_list", "at_least", "order", "kept")
    assert [found[name] for name in names] == [None] * 6


def test_what_cannot_be_weighed_at_all_is_ready_for_json_too() -> None:
    later = np.zeros((2, 20, 61), np.int64)
    later[0, 10:, 0] = 1_000
    found = offline(later)
    assert found is not None
    assert found["effective"] is None
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_without_counts_there_is_nothing() -> None:
    assert offline(None) is None
    assert offline(np.zeros((2, 20, 61), np.int64)) is None
