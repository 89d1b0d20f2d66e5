"""Who takes part in an evaluation, each from the same log and the same split, and the run itself.

- Factors are trained once per cut and shared: frozen ALS, fold-in and our own version begin the test with the same ones.
- A contender that cannot take part, as a dense table of too many items, is told with its reason; the others run.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from online_models.contracts.jobs import TrainAls
from online_models.errors import SourceError, TrainingError
from online_models.evaluation import baselines
from online_models.evaluation.factor_baselines import FoldInAls, FrozenAls, events_per_refit
from online_models.evaluation.factorization import Factors, factorize, trained
from online_models.evaluation.log import Log
from online_models.evaluation.ours import ours
from online_models.evaluation.protocol import Model, Outcome, Split, prequential, split_of
from online_models.learner import Trained

OURS: Final = "ours"
FROZEN: Final = "als-frozen"


@dataclass(frozen=True, slots=True)
class Study:
    """A log, its split, how versions are trained, and the factors that were already."""

    log: Log
    split: Split
    how: TrainAls
    _known: dict[int, Factors] = field(default_factory=dict)

    def factors(self, group: int) -> Factors:
        """Trained on the events before a group."""
        if group not in self._known:
            self._known[group] = factorize(self.log, int(self.log.begins[group]), self.how)
        return self._known[group]

    def trained(self, group: int) -> Trained:
        """The same, as the learner takes it."""
        return trained(self.log, self.factors(group), self.how)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a contender: an outcome of the test, or why there is none; `seconds` that it took in all."""

    name: str
    outcome: Outcome | None
    seconds: float
    reason: str = ""


RECENCY_HALF_LIVES: Final = (3.0, 10.0, 30.0)
"""Of a user's events, for the strongest batch rival; which, is chosen before the test."""


def refitted_with_recency(study: Study) -> FoldInAls:
    """Refits and a fold-in that weighs the newest events most, by the half-life that is best before the test."""
    log, split, how = study.log, study.split, study.how

    def folded(half_life: float) -> FoldInAls:
        return FoldInAls(log, split.tuning, study.factors(split.tuning), how, half_life=half_life)

    half_life = baselines.best_of(RECENCY_HALF_LIVES, folded, log, split)
    every = events_per_refit(log, split)
    return FoldInAls(log, split.test, study.factors(split.test), how, every, half_life)


CONTENDERS: Final[Mapping[str, Callable[[Study], Model]]] = {
    "popularity": lambda study: baselines.popularity(study.log, study.split),
    "recent-popularity": lambda study: baselines.recent_popularity(study.log, study.split),
    "item-knn": lambda study: baselines.item_knn(study.log, study.split),
    "item-knn-30": lambda study: baselines.recent_item_knn(study.log, study.split),
    "rules": lambda study: baselines.sequential_rules(study.log, study.split),
    "ease": lambda study: baselines.ease(study.log, study.split),
    FROZEN: lambda study: FrozenAls(study.log, study.split.test, study.factors(study.split.test)),
    "als-fold-in": lambda study: FoldInAls(study.log, study.split.test, study.factors(study.split.test), study.how),
    "als-refit": lambda study: FoldInAls(
        study.log,
        study.split.test,
        study.factors(study.split.test),
        study.how,
        events_per_refit(study.log, study.split),
    ),
    "als-refit-recency": lambda study: refitted_with_recency(study),
    OURS: lambda study: ours(study.log, study.split, study.trained),
}
"""Name -> how it is made ready for the test."""

DESCRIPTIONS: Final[Mapping[str, str]] = {
    "als-refit-recency": "als-refit, the newest events weighing most; half-life of 3, 10 or 30 events, the best before the test",
    "popularity": "counts of all events so far",
    "recent-popularity": "decayed counts; half-life of 1, 7, 30 or 180 days, the best before the test",
    "item-knn": "cosine of all that users met, over the user's whole history",
    "item-knn-30": "cosine within 30 events, over the user's last 30 events, the newest weighing most",
    "rules": "what follows the user's last 20 items within 10 events",
    "ease": "EASE as trained before the test, over the user's live history; ridge chosen before the test",
    FROZEN: "ALS as trained before the test",
    "als-fold-in": "the same items, users folded in over all of their events",
    "als-refit": "fold-in, and all factors fitted anew every tenth of the test",
    OURS: "this library's learner with its shipped settings",
}


def study_of(log: Log, share: float) -> Study:
    """A study with the shipped training settings. Raises SourceError when the log is too small for the split."""
    return Study(log, split_of(log, share), TrainAls())


def known_names(names: Sequence[str]) -> list[str]:
    """Each name once. Raises SourceError when there is none, or one is not of `CONTENDERS`."""
    unknown = [name for name in names if name not in CONTENDERS]
    if unknown or not names:
        raise SourceError(f"expected models of {', '.join(CONTENDERS)}, got {', '.join(map(repr, unknown)) or 'none'}")
    return list(dict.fromkeys(names))


def run(study: Study, names: Sequence[str], told: Callable[[Result], None] = lambda _: None) -> list[Result]:
    """The test of each contender, in the order of the names; each is told as it is through. Raises as `known_names`."""
    results = []
    for name in known_names(names):
        results.append(result_of(study, name))
        told(results[-1])
    return results


def result_of(study: Study, name: str) -> Result:
    """The test of one contender."""
    begun = time.perf_counter()
    try:
        model = CONTENDERS[name](study)
    except TrainingError as error:
        return Result(name, None, time.perf_counter() - begun, str(error))
    outcome = prequential(model, study.log, study.split.test, study.log.groups)
    return Result(name, outcome, time.perf_counter() - begun)
