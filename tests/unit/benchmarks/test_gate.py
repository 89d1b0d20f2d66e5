"""The gate's benchmark: its worlds are what they say, and a short run keeps to the targets."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gate import (
    Rate,
    grid_targets,
    main,
    movielens_scores,
    ranker_verdicts,
    simulated_scores,
    simulated_verdicts,
    swapped_verdicts,
    synthetic_log,
    verdicts_of_two_looks,
)
from retrain_workers.validation.gate import Gate, Verdict


@pytest.mark.parametrize("gain", [-0.1, 0.0, 0.2])
def test_a_simulated_candidate_gains_what_is_said(gain: float) -> None:
    champion, candidate = simulated_scores(np.random.default_rng(0), 200, 1_000, 0.2, 0.7, gain)
    assert candidate.mean() / champion.mean() == pytest.approx(1 + gain, abs=0.02)
    assert 0.4 < (champion == 0).mean() < 0.95
    assert champion.max() <= 1 + 1e-12


def test_two_looks_share_the_error_and_the_second_is_taken_where_the_first_refuses() -> None:
    rng = np.random.default_rng(1)
    found = verdicts_of_two_looks(rng, 300, 200, 0.2, 0.7, 0.0, Gate())
    assert sum(verdict is Verdict.BETTER for verdict in found) <= 15
    one, two = (
        sum(
            verdict.accepts
            for verdict in make(np.random.default_rng(2), 300, 200, 0.2, 0.7, 0.2, Gate().for_each_of(n))
        )
        for make, n in ((simulated_verdicts, 2), (verdicts_of_two_looks, 1))
    )
    assert two > one


def test_a_synthetic_log_is_seeded_and_in_order() -> None:
    one, again, other = synthetic_log(1), synthetic_log(1), synthetic_log(2)
    assert one.item.tolist() == again.item.tolist() != other.item.tolist()
    assert (np.diff(one.ts_ms) > 0).all()


def test_a_few_real_rankers_of_other_seeds_are_rarely_told_apart_and_spoiled_ones_refused() -> None:
    equal, spoiled = ranker_verdicts(3, 8, Gate())
    assert sum(verdict is Verdict.BETTER for verdict in equal) <= 2
    assert sum(verdict.accepts for verdict in spoiled) <= 2


def test_a_coin_makes_scores_equal() -> None:
    rng = np.random.default_rng(0)
    good, bad = rng.random(500), np.zeros(500)
    equal, _ = swapped_verdicts(rng, 60, good, bad, Gate())
    assert sum(verdict is Verdict.BETTER for verdict in equal) <= 6


def test_a_rate_has_its_interval() -> None:
    assert Rate(0, 50).bounds[0] == 0.0
    assert Rate(50, 50).bounds[1] == 1.0
    assert str(Rate(10, 200)) == "5.0% (2.4% to 9.0%)"


def test_without_the_data_there_is_a_message_and_the_other_targets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PENSTOCK_DATA", str(tmp_path))
    assert main(["--pairs", "3", "--grid-pairs", "5"]) == 0
    out = capsys.readouterr().out
    assert "MovieLens: no ml-latest-small; set PENSTOCK_DATA" in out
    found = json.loads(out.splitlines()[-1])
    assert found["benchmark"] == "gate"
    assert [target["target"] for target in found["targets"]] == ["<= 0.05", ">= 0.95"] * 4
    assert movielens_scores(tmp_path) is None


def test_the_worst_cells_are_the_targets() -> None:
    figures = {
        "a: equal called better": 0.01,
        "b: equal called better": 0.03,
        "a: -10% accepted": 0.02,
        "b: -10% accepted": 0.04,
    }
    assert [target.value for target in grid_targets(figures)] == [0.03, 0.96]
