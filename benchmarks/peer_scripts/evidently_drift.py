"""Evidently: a report with PSI of the numeric features; `Report.run` alone, nothing rendered or saved."""

import json
import sys
from pathlib import Path

from evidently import DataDefinition, Dataset, Report
from evidently.presets import DataDriftPreset

from benchmarks.peer_scripts.frame import frames
from benchmarks.peer_scripts.rows import Case, cases, measured, peak_mib


def reported(case: Case, runs: int) -> dict[str, float]:
    definition = DataDefinition(numerical_columns=case.numeric_names)
    reference, window = (Dataset.from_pandas(frame, definition) for frame in frames(case, words=False))
    report = Report([DataDriftPreset(num_method="psi")])
    figures = measured(
        lambda: report.run(window, reference), len(case.numeric_names) * case.rows, runs, warm=len(case.numbers) <= 20
    )
    return {**figures, "peak_mib": peak_mib()}


if __name__ == "__main__":
    runs = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    # A report of hundreds of columns takes minutes: once is enough to know its order of magnitude.
    found = {
        case.name: {"report psi": reported(case, runs if len(case.numbers) <= 20 else 1)}
        for case in cases(Path(sys.argv[1]))
    }
    print(json.dumps(found))
