"""OutRank: its numba kernel of mutual information, plain and with the correction for cardinality that is its default.

- Inputs are `<case>/cells.npy` int32 (features, rows) and `<case>/target.npy` int32 (rows,).
"""

import json
import sys
from pathlib import Path

import numpy as np
from outrank.algorithms.feature_ranking.ranking_mi_numba import mutual_info_estimator_numba

from benchmarks.peer_scripts.rows import measured

WHOLE = np.float32(1.0)


def ranked(case: Path, corrected: bool) -> dict[str, object]:
    features, target = np.load(case / "cells.npy"), np.load(case / "target.npy")

    def rank() -> list[float]:
        return [float(mutual_info_estimator_numba(target, feature, WHOLE, corrected)) for feature in features]

    return {**measured(rank, features.size), "nats": rank()}


if __name__ == "__main__":
    cases = [each for each in Path(sys.argv[1]).iterdir() if each.is_dir()]
    print(json.dumps({each.name: {"plain": ranked(each, False), "corrected": ranked(each, True)} for each in cases}))
