"""Frouros: PSI and KS of the numeric features, one detector a feature, fitted before."""

import json
import sys
from pathlib import Path

from frouros.detectors.data_drift import PSI, KSTest

from benchmarks.peer_scripts.rows import Case, cases, measured


def compared(case: Case, kind: type) -> dict[str, float]:
    detectors = [kind() for _ in case.numbers]
    for detector, numbers in zip(detectors, case.numbers, strict=True):
        detector.fit(X=numbers[: case.rows])

    def judge() -> None:
        for detector, numbers in zip(detectors, case.numbers, strict=True):
            detector.compare(X=numbers[case.rows :])

    return measured(judge, len(case.numbers) * case.rows)


if __name__ == "__main__":
    found = {case.name: {"psi": compared(case, PSI), "ks": compared(case, KSTest)} for case in cases(Path(sys.argv[1]))}
    print(json.dumps(found))
