"""The data frames that peers want: numbers as they are, words as text."""

import numpy as np
import pandas as pd

from benchmarks.peer_scripts.rows import Case


def frames(case: Case, words: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The reference and the window; columns of words only if asked for."""
    columns: dict[str, object] = dict(zip(case.numeric_names, case.numbers, strict=True))
    if words:
        text = np.array([f"w{word}" for word in range(int(case.words.max()) + 1)], object)
        columns |= {name: text[of] for name, of in zip(case.word_names, case.words, strict=True)}
    whole = pd.DataFrame(columns)
    return whole[: case.rows].reset_index(drop=True), whole[case.rows :].reset_index(drop=True)
