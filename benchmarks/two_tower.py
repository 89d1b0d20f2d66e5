"""Two towers beside popularity, ALS with fold-in, item-kNN and EASE: test-then-train in the last fifth of recorded logs.

- MovieLens latest-small (ratings of 4 and more) and Online Retail, or any log, by the protocol of `python -m online_models
  evaluate`: all unseen items are ranked, by a history of everything before the event, events of the test among it once past.
- ALS and the towers rank by items as they were trained before the test. ALS is the best of a fold-in of all events alike and of
  the newest most, chosen before the test, as is every other setting; the towers' are the shipped ones of the retrain job.
- Cold towers are trained on what comes before the test; warm ones go on from towers of the first 60 % over the next 20 %.
- Several seeds: figures are means over them, differences are paired by event and clustered by user. CPU is of this process.
"""

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace as with_fields
from threadpoolctl import threadpool_limits

from benchmarks import prequential as recorded_logs
from benchmarks.report import Machine, Target, result, table
from online_models.contracts.events import Item
from online_models.contracts.jobs import Start, TrainTwoTower
from online_models.errors import PenstockError, TrainingError
from online_models.evaluation import baselines
from online_models.evaluation.contenders import RECENCY_HALF_LIVES, Study, study_of
from online_models.evaluation.factor_baselines import FoldInAls
from online_models.evaluation.log import Log, Moment, log_of
from online_models.evaluation.protocol import CUTOFF, Model, Outcome, prequential
from online_models.metrics import (
    clustered_difference,
    clustered_mean,
    covered_share,
    hit_at,
    ndcg_at,
    recommendation_counts,
)
from online_models.stores.catalogue import read_catalogue
from online_models.stores.log_files import CATALOGUE_SUFFIX
from online_models.stores.recorded import read_log
from online_models.two_tower import UserTower
from retrain_workers.attempt import Unwatched
from retrain_workers.two_tower.examples import TowerData
from retrain_workers.two_tower.fitting import TrainedTowers, train

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Catalogue = Mapping[str, Item]

SPLIT: Final = 0.8
CHAMPION_SHARE: Final = 0.6
"""Of the events: what the towers that a warm start goes on from have learned."""

MIN_RATING: Final = 4.0
ALS, COLD, WARM, WITHOUT = "ALS, fold-in", "two towers, cold", "two towers, warm", "two towers, no logQ"
STALE: Final = "two towers of 60 %"
TIMES_ALS: Final = 1.15
WARM_OF_COLD: Final = 0.98
WARM_CPU: Final = 0.2
NO_MOVIES: Final = "Online Retail"
"""The log whose ratio to ALS is a figure and no target."""


@dataclass(frozen=True, slots=True)
class Tested:
    """A model's test, one outcome for each seed (one where there is none); CPU seconds of its training, mean over them."""

    name: str
    outcomes: Sequence[Outcome]
    training_seconds: float

    def mean(self, figure: Callable[[npt.NDArray[np.int64], int], F64]) -> F64:
        """A figure of each event of the test (n,), mean over the seeds."""
        mean: F64 = np.mean([figure(outcome.ranks, CUTOFF) for outcome in self.outcomes], axis=0)
        return mean

    def coverage(self, items: int) -> float:
        """Share of all items recommended at all, mean over the seeds."""
        shown = (outcome.lists[(outcome.lists >= 0).any(axis=1)] for outcome in self.outcomes)
        return float(np.mean([covered_share(recommendation_counts(lists, items)) for lists in shown]))

    @property
    def predict_us(self) -> float:
        """CPU of scoring all items for a user, median."""
        return 1e6 * float(np.median([outcome.predict_seconds for outcome in self.outcomes]))


class TowerModel:
    """Trained towers in the protocol; as `TwoTowerRanker`, live popularity without a known item."""

    def __init__(self, log: Log, until: int, towers: TrainedTowers) -> None:
        self._log, self._tower = log, UserTower.of(towers.serving)
        self._popular = baselines.Popularity(log, until)

    def scores(self, at: Moment) -> F32:
        """See `Model`."""
        rows = self._log.item[at.history]
        rows = np.where(rows < len(self._tower), rows, -1)
        if not (rows >= 0).any():
            return self._popular.scores(at)
        scores = np.full(at.items, -np.inf, np.float32)
        scores[: len(self._tower)] = self._tower.scores(self._tower.vector(rows))
        return scores

    def learn(self, at: Moment) -> None:
        """See `Model`."""
        self._popular.learn(at)


def main(arguments: Sequence[str]) -> int:
    """Measure and print; 0 when it ran, whether or not every target is met, 1 with a message when a log cannot be measured."""
    options = parser().parse_args(arguments)
    machine, figures, targets = Machine.here(), dict[str, float](), list[Target]()
    seeds = range(options.seed, options.seed + options.seeds)
    try:
        with logs(options.log) as found, threadpool_limits(1):
            for name, path in found.items():
                log, catalogue = read(path)
                print(f"\n{name}: {len(log):,} events of {log.users:,} users with {len(log.ids):,} items", flush=True)
                study = study_of(log, SPLIT)
                tested = tests_of(study, catalogue, options.job, seeds)
                print(table_of(study, tested))
                figures |= figures_of(name, study, tested)
                targets += targets_of(name, tested)
    except PenstockError as error:
        print(f"two_tower: {error}", file=sys.stderr)
        return 1
    print(result("two_tower", machine, figures, targets))
    return 0


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m benchmarks two_tower",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python -m benchmarks two_tower --log movielens --seed 7",
    )
    found.add_argument(
        "--log", action="append", metavar="LOG", help="movielens, retail, or a recorded log; both data sets by default"
    )
    found.add_argument("--seed", type=int, default=0, metavar="N", help="the first seed of the towers")
    found.add_argument("--seeds", type=int, default=3, metavar="N", help="how many seeds")
    found.set_defaults(job=TrainTwoTower())
    return found


@contextmanager
def logs(wanted: Sequence[str] | None) -> Iterator[dict[str, Path]]:
    """Name -> a log, with its catalogue beside it where there is one."""
    known = {"movielens": "MovieLens", "retail": "Online Retail"}
    names = [known[log] for log in wanted or known if log in known]
    files = {Path(log).name: Path(log) for log in wanted or () if log not in known}
    if not names:
        yield files
        return
    with recorded_logs.logs(argparse.Namespace(log=None, quick=False)) as found:
        yield {name: path for name, (path, _) in found.items() if name in names} | files


def read(path: Path) -> tuple[Log, Catalogue]:
    """The positive events of a log's main domain, and what is known of its items."""
    log, _ = log_of(read_log([path]), min_rating=MIN_RATING)
    beside = path.with_name(path.name.split(".")[0] + CATALOGUE_SUFFIX)
    return log, {item.item_id: item for item in read_catalogue(beside)} if beside.exists() else {}


def tests_of(study: Study, catalogue: Catalogue, job: TrainTwoTower, seeds: Sequence[int]) -> list[Tested]:
    """Every model's test; one that cannot take part is told and left out."""
    log, split = study.log, study.split
    rivals: dict[str, Callable[[], Model]] = {
        "popularity": partial(baselines.popularity, log, split),
        "recent popularity": partial(baselines.recent_popularity, log, split),
        ALS: partial(best_als, study),
        "item-kNN": partial(baselines.item_knn, log, split),
        "item-kNN, 30 events": partial(baselines.recent_item_knn, log, split),
        "EASE": partial(baselines.ease, log, split),
    }
    tested = []
    for name, made in rivals.items():
        try:
            tested.append(tested_of(name, study, [made]))
        except TrainingError as error:
            print(f"{name} did not run: {error}")
    return tested + towers_of(study, catalogue, [with_fields(job, seed=seed) for seed in seeds])


def towers_of(study: Study, catalogue: Catalogue, jobs: Sequence[TrainTwoTower]) -> list[Tested]:
    """The tests of the towers, a job for each seed."""
    log, split = study.log, study.split
    champion = champion_group(log)
    champions = [cold(log, catalogue, champion, job) for job in jobs]

    def served(trained: Callable[[], TrainedTowers]) -> Model:
        return TowerModel(log, split.test, trained())

    def tested(name: str, trained: Sequence[Callable[[], TrainedTowers]]) -> Tested:
        return tested_of(name, study, [partial(served, each) for each in trained])

    pairs = zip(jobs, champions, strict=True)
    return [
        tested(COLD, [partial(cold, log, catalogue, split.test, job) for job in jobs]),
        tested(WARM, [partial(warm, log, catalogue, champion, split.test, job, before) for job, before in pairs]),
        tested(WITHOUT, [partial(cold, log, catalogue, split.test, job, corrected=False) for job in jobs]),
        untimed(tested(STALE, [partial(same, towers) for towers in champions])),
    ]


def same(towers: TrainedTowers) -> TrainedTowers:
    """Towers that are trained already."""
    return towers


def untimed(tested: Tested) -> Tested:
    """Of towers that were trained elsewhere."""
    return replace(tested, training_seconds=np.nan)


def tested_of(name: str, study: Study, made: Sequence[Callable[[], Model]]) -> Tested:
    """The test of each model as it is made."""
    outcomes, seconds = [], 0.0
    for make in made:
        begun = time.process_time()
        model = make()
        seconds += time.process_time() - begun
        outcomes.append(prequential(model, study.log, study.split.test, study.log.groups, time.process_time))
    return Tested(name, outcomes, seconds / len(made))


def best_als(study: Study) -> FoldInAls:
    """ALS as trained, users folded in over their live histories, by the half-life of events that is best before the test."""
    log, split, how = study.log, study.split, study.how

    def folded(half_life: float, group: int) -> FoldInAls:
        return FoldInAls(log, group, study.factors(group), how, half_life=half_life)

    settings = (np.inf, *RECENCY_HALF_LIVES)
    return folded(
        baselines.best_of(settings, lambda half_life: folded(half_life, split.tuning), log, split), split.test
    )


def champion_group(log: Log) -> int:
    """The group at which `CHAMPION_SHARE` of the events are past."""
    return int(np.searchsorted(log.begins, int(len(log) * CHAMPION_SHARE)))


def data_of(log: Log, catalogue: Catalogue, until: int) -> TowerData:
    """The events of the groups before `until`."""
    end = int(log.begins[until])
    items = log.ids[: int(log.item[:end].max()) + 1]
    return TowerData(items, catalogue, log.user[:end], log.item[:end], log.ts_ms[:end], log.strength[:end])


def cold(log: Log, catalogue: Catalogue, until: int, job: TrainTwoTower, *, corrected: bool = True) -> TrainedTowers:
    """Towers from nothing."""
    data = data_of(log, catalogue, until)
    return train(data, with_fields(job, start=Start.COLD), None, None, Unwatched(), corrected=corrected)


def warm(
    log: Log, catalogue: Catalogue, champion: int, until: int, job: TrainTwoTower, towers: TrainedTowers
) -> TrainedTowers:
    """Towers that go on from those of the groups before `champion`."""
    before, data = data_of(log, catalogue, champion), data_of(log, catalogue, until)
    since = int(before.ts_ms[-1])
    return train(data, job, towers.training, before.items, Unwatched(), since_ms=since)


def table_of(study: Study, tested: Sequence[Tested]) -> str:
    """All models, for people."""
    users, items = users_of(study), len(study.log.ids)
    rows = [
        ["model", f"hit@{CUTOFF}", "± SE", f"NDCG@{CUTOFF}", "coverage", "seed spread", "CPU s to train", "µs to score"]
    ]
    for each in tested:
        hit = clustered_mean(each.mean(hit_at), users)
        spread = np.std([hit_at(outcome.ranks, CUTOFF).mean() for outcome in each.outcomes])
        row = [each.name, f"{hit.mean:.4f}", f"{hit.standard_error:.4f}", f"{each.mean(ndcg_at).mean():.4f}"]
        row += [f"{each.coverage(items):.1%}", f"{spread:.4f}" if len(each.outcomes) > 1 else "-"]
        rows.append(
            [
                *row,
                f"{each.training_seconds:.1f}" if np.isfinite(each.training_seconds) else "-",
                f"{each.predict_us:,.0f}",
            ]
        )
    lines = [table(rows)]
    by_name = {each.name: each for each in tested}
    for name, other in pairs_of(by_name):
        difference = clustered_difference(by_name[name].mean(hit_at), by_name[other].mean(hit_at), users)
        lines.append(
            f"{name} - {other}: {difference.mean:+.4f} ± {difference.standard_error:.4f} hit@{CUTOFF} (paired)"
        )
    return "\n".join(lines)


def users_of(study: Study) -> npt.NDArray[np.int64]:
    """Of each event of the test."""
    return study.log.user[int(study.log.begins[study.split.test]) :]


def figures_of(name: str, study: Study, tested: Sequence[Tested]) -> dict[str, float]:
    """What is published of each model."""
    users, figures = users_of(study), dict[str, float]()
    for each in tested:
        for metric, figure in ((f"hit@{CUTOFF}", hit_at), (f"NDCG@{CUTOFF}", ndcg_at)):
            estimate = clustered_mean(each.mean(figure), users)
            figures[f"{name}: {metric}, {each.name}"] = round(estimate.mean, 4)
            figures[f"{name}: {metric} SE, {each.name}"] = round(estimate.standard_error, 4)
        figures[f"{name}: coverage@{CUTOFF}, {each.name}"] = round(each.coverage(len(study.log.ids)), 4)
        figures[f"{name}: CPU s to train, {each.name}"] = round(each.training_seconds, 2)
    hits = {each.name: each.mean(hit_at) for each in tested}
    for one, other in pairs_of(hits):
        difference = clustered_difference(hits[one], hits[other], users)
        figures[f"{name}: hit@{CUTOFF}, {one} - {other}"] = round(difference.mean, 4)
        figures[f"{name}: hit@{CUTOFF} SE, {one} - {other}"] = round(difference.standard_error, 4)
    if COLD in hits and ALS in hits:
        figures[f"{name}: hit@{CUTOFF}, {COLD} / {ALS}"] = round(ratio(hits[COLD].mean(), hits[ALS].mean()), 4)
    return figures


def pairs_of(tested: Container[str]) -> list[tuple[str, str]]:
    """Whom to compare with whom, of those that took part."""
    return [(one, other) for one, other in ((COLD, ALS), (WARM, COLD)) if one in tested and other in tested]


def targets_of(name: str, tested: Sequence[Tested]) -> list[Target]:
    """Ahead of ALS where the log is like MovieLens; a warm start as good as a cold one, and cheaper."""
    hits = defaultdict(float, {each.name: float(each.mean(hit_at).mean()) for each in tested})
    seconds = defaultdict(float, {each.name: each.training_seconds for each in tested})
    metric = f"{name}: hit@{CUTOFF} of"
    against_als = Target(f"{metric} {COLD} / {ALS}", round(ratio(hits[COLD], hits[ALS]), 3), at_least=TIMES_ALS)
    return [
        *([against_als] if name != NO_MOVIES else []),
        Target(f"{metric} {WARM} / cold", round(ratio(hits[WARM], hits[COLD]), 3), at_least=WARM_OF_COLD),
        Target(
            f"{name}: CPU of a warm start / of a cold one",
            round(ratio(seconds[WARM], seconds[COLD]), 3),
            at_most=WARM_CPU,
        ),
    ]


def ratio(one: float, other: float) -> float:
    """NaN where there is nothing to divide by."""
    return one / other if other > 0 else np.nan
