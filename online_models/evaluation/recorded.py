"""From the name of a recorded log to what every model makes of it: what the command line and the benchmark both do."""

from collections.abc import Callable, Sequence
from pathlib import Path

from online_models.als import POSITIVE_RATING
from online_models.evaluation.contenders import CONTENDERS, Result, known_names, run, study_of
from online_models.evaluation.log import log_of
from online_models.evaluation.report import Evaluation, evaluation_of
from online_models.stores.log_files import log_paths
from online_models.stores.recorded import read_log


def evaluate(
    pattern: str,
    *,
    split: float = 0.8,
    names: Sequence[str] = tuple(CONTENDERS),
    domain: str | None = None,
    min_rating: float = POSITIVE_RATING,
    told: Callable[[Result], None] = lambda _: None,
) -> Evaluation:
    """Test models on a log.

    Parameters
    ----------
    pattern : file or glob; catalogues that lie beside logs are left out
    split : share of the events before the test; names : of `CONTENDERS`; domain, min_rating : see `log_of`
    told : each result as it comes

    Raises
    ------
    SourceError
        When the log cannot be read or holds too little, or a name is not known.
    """
    known_names(names)
    recorded = read_log(log_paths(pattern))
    log, domain = log_of(recorded, domain, min_rating)
    study = study_of(log, split)
    return evaluation_of(Path(pattern).name, domain, recorded, study, run(study, names, told))
