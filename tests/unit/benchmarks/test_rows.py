"""The rows that peers judge, and their timing."""

from pathlib import Path

import numpy as np

from benchmarks.peer_scripts.rows import cases, measured


def test_cases_are_read_smallest_first(tmp_path: Path) -> None:
    for name, rows in (("large", 40), ("small", 8)):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "numbers.npy", np.zeros((2, rows)))
        np.save(tmp_path / name / "words.npy", np.zeros((1, rows), np.uint32))
    small, large = cases(tmp_path)
    assert (small.name, small.rows, large.rows) == ("small", 4, 20)
    assert (small.numeric_names, small.word_names) == (["n0", "n1"], ["c0"])


def test_work_is_timed_by_the_median_of_its_runs_after_a_warm_one() -> None:
    calls: list[int] = []
    figures = measured(lambda: calls.append(sum(range(200_000))), 1_000, runs=3)
    assert len(calls) == 4
    assert figures["values_per_cpu_second"] == 1_000 / figures["cpu_seconds"]
    assert figures["wall_seconds"] > 0
