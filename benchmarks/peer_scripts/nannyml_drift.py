"""NannyML: KS of the numeric and chi-square of the categorical features.

`calculate` takes the window as one chunk, a verdict as the others give it, and as the ten chunks that are its default.
"""

import json
import sys
from pathlib import Path

import nannyml

from benchmarks.peer_scripts.frame import frames
from benchmarks.peer_scripts.rows import Case, cases, measured, peak_mib


def calculated(case: Case, chunks: int | None) -> dict[str, float]:
    reference, window = frames(case, words=True)
    calculator = nannyml.UnivariateDriftCalculator(
        column_names=[*case.numeric_names, *case.word_names],
        treat_as_categorical=case.word_names,
        continuous_methods=["kolmogorov_smirnov"],
        categorical_methods=["chi2"],
        chunk_number=chunks,
    ).fit(reference)
    figures = measured(lambda: calculator.calculate(window), window.size)
    return {**figures, "peak_mib": peak_mib()}


def found(case: Case) -> dict[str, dict[str, float]]:
    return {"ks+chi2": calculated(case, 1), "ks+chi2, ten chunks": calculated(case, None)}


if __name__ == "__main__":
    print(json.dumps({case.name: found(case) for case in cases(Path(sys.argv[1]))}))
