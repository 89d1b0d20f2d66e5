"""Scouter: PSI of the numeric features (Rust, quantile bins).

Its speed is a matter of how the values lie in memory, so every input that it takes is measured: frames of pandas, as in its
documentation, and of polars, a table of Arrow, and both orders of a matrix. Column-major is what its kernel reads fastest.
"""

import json
import sys
from pathlib import Path

import numpy as np
import polars
import pyarrow
from scouter.drift import Drifter, PsiDriftConfig

from benchmarks.peer_scripts.frame import frames
from benchmarks.peer_scripts.rows import Case, cases, measured


def psi(reference: object, window: object, values: int) -> dict[str, float]:
    drifter = Drifter()
    profile = drifter.create_drift_profile(reference, PsiDriftConfig(space="bench", name="bench"))
    return measured(lambda: drifter.compute_drift(window, profile), values, runs=9)


def found(case: Case) -> dict[str, dict[str, float]]:
    reference, window = case.numbers[:, : case.rows].T, case.numbers[:, case.rows :].T  # (rows, features)
    by_row, by_column = np.ascontiguousarray, np.asfortranarray
    before, now = (dict(zip(case.numeric_names, half.T, strict=True)) for half in (reference, window))
    return {
        "psi, frame": psi(*frames(case, words=False), window.size),
        "psi, polars frame": psi(polars.DataFrame(before), polars.DataFrame(now), window.size),
        "psi, Arrow table": psi(pyarrow.table(before), pyarrow.table(now), window.size),
        "psi, row-major matrix": psi(by_row(reference), by_row(window), window.size),
        "psi, column-major matrix": psi(by_column(reference), by_column(window), window.size),
    }


if __name__ == "__main__":
    print(json.dumps({case.name: found(case) for case in cases(Path(sys.argv[1]))}))
