"""Evidently: a report on the numeric features, with PSI and by default; `Report.run` alone, nothing rendered or saved."""

import json
import sys
from pathlib import Path

from evidently import DataDefinition, Dataset, Report
from evidently.presets import DataDriftPreset

from benchmarks.peer_scripts.frame import frames
from benchmarks.peer_scripts.rows import Case, cases, measured, peak_mib


def reported(case: Case, runs: int, preset: DataDriftPreset) -> dict[str, float]:
    definition = DataDefinition(numerical_columns=case.numeric_names)
    reference, window = (Dataset.from_pandas(frame, definition) for frame in frames(case, words=False))
    report = Report([preset])
    figures = measured(
        lambda: report.run(window, reference), len(case.numeric_names) * case.rows, runs, warm=len(case.numbers) <= 20
    )
    return {**figures, "peak_mib": peak_mib()}


if __name__ == "__main__":
    runs = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    # A report of hundreds of columns takes minutes: once is enough to know its order of magnitude.
    found = {}
    for case in cases(Path(sys.argv[1])):
        narrow = len(case.numbers) <= 20
        found[case.name] = {"report psi": reported(case, runs if narrow else 1, DataDriftPreset(num_method="psi"))}
        if narrow:
            found[case.name]["report by default"] = reported(case, runs, DataDriftPreset())
    print(json.dumps(found))
