"""Test-then-train on recorded logs: our learner as shipped beside the baselines, in the last fifth of each log.

- MovieLens latest-small (ratings of 4 and more) and Online Retail, or any log; nothing is set by hand for one of them.
- The protocol and the models are those of `python -m online_models evaluate`; standard errors are clustered by user.
- How far ours is ahead is paired: both have predicted the same events, and what is hard for both cancels.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.report import Machine, Target, data_folder, result
from online_models.errors import PenstockError
from online_models.evaluation.contenders import CONTENDERS, FROZEN, OURS
from online_models.evaluation.measures import leads
from online_models.evaluation.recorded import evaluate
from online_models.evaluation.report import Evaluation, text_of
from scripts import import_dataset

QUICK_EVENTS: Final = 12_000
QUICK_MODELS: Final = ("popularity", "recent-popularity", "item-knn-30", "rules", FROZEN, OURS)

TIMES_FROZEN: Final = 1.8
WITHIN_ERRORS: Final = -1.0


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set that `import_dataset` knows, in its folder, and what ours is to reach on it.

    at_least : metric -> figure that is asked for; aim : hit rate that is hoped for
    """

    name: str
    dataset: str
    source: str
    at_least: Mapping[str, float]
    aim: float


DATA_SETS: Final = (
    DataSet("MovieLens", "movielens", "ml-latest-small", {"hit@10": 0.110, "NDCG@10": 0.060}, 0.120),
    DataSet("Online Retail", "online-retail", "online-retail", {"hit@10": 0.053, "NDCG@10": 0.026}, 0.060),
)


def main(arguments: Sequence[str]) -> int:
    """Measure and print; 0 when it ran, whether or not every target is met, 1 with a message when a log cannot be measured."""
    options = parser().parse_args(arguments)
    machine, figures, targets = Machine.here(), dict[str, float](), list[Target]()
    names = QUICK_MODELS if options.quick else tuple(CONTENDERS)
    try:
        with logs(options) as found:
            for name, (path, data_set) in found.items():
                measured = evaluate(str(path), split=options.split, names=names, min_rating=options.min_rating)
                print(f"\n{text_of(measured)}")
                figures |= figures_of(name, measured)
                targets += targets_of(name, measured, None if options.quick else data_set)
    except PenstockError as error:
        print(f"prequential: {error}", file=sys.stderr)
        return 1
    print(result("prequential", machine, figures, targets))
    return 0


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m benchmarks prequential",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python -m benchmarks prequential --log events.ndjson.gz",
    )
    found.add_argument(
        "--log", type=Path, action="append", metavar="FILE", help="recorded log, instead of the data sets"
    )
    found.add_argument(
        "--min-rating", type=float, default=4.0, metavar="R", help="a lower rating says nothing positive"
    )
    found.add_argument("--split", type=float, default=0.8, metavar="SHARE", help="of the events before the test")
    found.add_argument(
        "--quick", action="store_true", help=f"first {QUICK_EVENTS:,} events of the data sets, fewer baselines"
    )
    return found


@contextmanager
def logs(options: argparse.Namespace) -> Iterator[dict[str, tuple[Path, DataSet | None]]]:
    """Name -> a log and the data set that it is; data sets are imported into a folder that is gone afterwards."""
    if options.log:
        names = [path.name for path in options.log]
        yield {str(path) if names.count(path.name) > 1 else path.name: (path, None) for path in options.log}
        return
    data = data_folder()
    limit = ["--limit", str(QUICK_EVENTS)] if options.quick else []
    found: dict[str, tuple[Path, DataSet | None]] = {}
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        for each in DATA_SETS:
            if not (data / each.source).is_dir():
                print(f"{each.name}: no {data / each.source}; set PENSTOCK_DATA to the folder of the data sets")
                continue
            path = Path(folder) / f"{each.source}.ndjson"
            import_dataset.main([each.dataset, str(data / each.source), str(path), *limit])
            found[each.name] = path, each
        yield found


def figures_of(name: str, measured: Evaluation) -> dict[str, float]:
    """What is published of each model, with its standard errors."""
    figures: dict[str, float] = {}
    for model, found in measured.measures.items():
        for metric, estimate in (("hit@10", found.accuracy.hit), ("NDCG@10", found.accuracy.ndcg)):
            figures[f"{name}: {metric}, {model}"] = round(estimate.mean, 4)
            figures[f"{name}: {metric} SE, {model}"] = round(estimate.standard_error, 4)
        figures[f"{name}: us to predict, {model}"] = round(found.predict_us, 1)
    seconds = sum(each.seconds for each in measured.results)
    return figures | {
        f"{name}: events of the test": len(measured.yardstick.users),
        f"{name}: seconds": round(seconds, 1),
    }


def targets_of(name: str, measured: Evaluation, data_set: DataSet | None) -> list[Target]:
    """Ahead of the best baseline or level with it, far ahead of frozen ALS, and the figures that are asked for of a data set."""
    outcomes = {each.name: each.outcome for each in measured.results if each.outcome is not None}
    ours, frozen = measured.measures[OURS].accuracy, measured.measures[FROZEN].accuracy
    pairs = {"hit@10": (ours.hit.mean, frozen.hit.mean), "NDCG@10": (ours.ndcg.mean, frozen.ndcg.mean)}
    targets = [
        Target(
            f"{name}: {lead.metric} of ours - {lead.best}, in standard errors of the difference",
            round(lead.in_errors, 2),
            at_least=WITHIN_ERRORS,
        )
        for lead in leads(OURS, outcomes, measured.yardstick.users)
    ]
    for metric, (mine, theirs) in pairs.items():
        if theirs > 0:
            targets.append(
                Target(f"{name}: {metric} of ours / frozen ALS", round(mine / theirs, 2), at_least=TIMES_FROZEN)
            )
    if data_set is not None:
        for metric, least in data_set.at_least.items():
            targets.append(Target(f"{name}: {metric} of ours", round(pairs[metric][0], 4), at_least=least))
        targets.append(Target(f"{name}: hit@10 of ours, the aim", round(ours.hit.mean, 4), at_least=data_set.aim))
    return targets
