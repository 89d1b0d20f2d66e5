"""`python -m retrain_workers models ...`: what each command is given, and the lines it answers with.

- A command without a name is `list`. A version may be named by its alias: `models show movies champion`.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from online_models.contracts.events import TYPE_CODES, EventType
from online_models.contracts.ids import ModelName, ModelVersion
from online_models.contracts.jobs import Start, TrainAls, TrainTwoTower
from retrain_workers.app import Stores, retention_of, rules_of, tracker_of
from retrain_workers.data.datasets import dataset_of, refuse_too_little
from retrain_workers.job_rules import TrainingRules, TrainingStores
from retrain_workers.publish import orphans, remove_orphans
from retrain_workers.registry.collection import collect_model, collectable
from retrain_workers.registry.garbage import Retention
from retrain_workers.registry.mirror import mirror, waiting_lines
from retrain_workers.registry.models import diff_lines, list_lines, record_of, show_json, show_lines
from retrain_workers.reports.head_to_head import HeadToHead, head_to_head, lines_of
from retrain_workers.settings import WorkerSettings

Compare = Callable[[ModelName, ModelVersion, ModelVersion, TrainingStores, TrainingRules], HeadToHead]

ACTOR = "models gc"


@dataclass(frozen=True, slots=True)
class Bench:
    """What the commands work on; compare : how two versions are ranked on the same events."""

    stores: Stores
    settings: WorkerSettings
    now: datetime
    compare: Compare = head_to_head


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The commands of `models`."""
    parser.set_defaults(answer=list_models, model=None)
    commands = parser.add_subparsers(dest="models_command")
    every = commands.add_parser("list", help="the versions of a model, or of all")
    every.add_argument("model", nargs="?", help="one model only, such as movies")
    every.set_defaults(answer=list_models)
    show = commands.add_parser("show", help="everything that is known of a version")
    _name_versions(show, "version")
    show.add_argument("--json", action="store_true", help="one JSON object on one line")
    show.set_defaults(answer=show_model)
    diff = commands.add_parser("diff", help="what sets two versions apart")
    _name_versions(diff, "first", "second")
    diff.set_defaults(answer=diff_models)
    compare = commands.add_parser("compare", help="rank the same later events by two versions")
    _name_versions(compare, "first", "second")
    compare.set_defaults(answer=compare_models)
    report = commands.add_parser(
        "report", help="fit each kind of model to the stored events and compare them: Markdown, JSON, plot"
    )
    report.add_argument("model", help="such as movies")
    report.add_argument("--out", type=Path, default=Path("comparison"), metavar="DIR", help="(default: comparison)")
    report.add_argument(
        "--splits",
        choices=("chronological", "sliding", "expanding"),
        default="chronological",
        help="compare at one cut, or also at several over the later half of the time, with sliding or expanding histories",
    )
    report.set_defaults(answer=report_models)
    gc = commands.add_parser("gc", help="remove the artifacts that nothing needs any more")
    gc.add_argument("model", nargs="?", help="one model only, such as movies")
    gc.add_argument("--dry-run", action="store_true", help="only say what would go")
    gc.add_argument("--keep", type=int, help="former champions that are kept (default: setting keep_champions)")
    gc.add_argument(
        "--grace-seconds",
        type=float,
        help="spare what is younger (default: setting collect_grace_seconds); a short one wants locks, which NFS has not",
    )
    gc.set_defaults(answer=collect_garbage)
    send = commands.add_parser("mirror", help="send to MLflow what it has not been told")
    send.add_argument("--all", action="store_true", help="also what it has been told")
    send.set_defaults(answer=mirror_models)


def _name_versions(parser: argparse.ArgumentParser, *names: str) -> None:
    parser.add_argument("model", help="such as movies")
    for name in names:
        parser.add_argument(name, help="such as v12, or an alias: champion, challenger, previous")


def list_models(options: argparse.Namespace, bench: Bench) -> list[str]:
    """A table per model. Raises StoreError when the model that is asked for has no version."""
    registry = bench.stores.registry
    models = [ModelName(options.model)] if options.model else registry.models()
    return [line for model in models for line in list_lines(record_of(registry, model))] or ["no model has a version"]


def show_model(options: argparse.Namespace, bench: Bench) -> list[str]:
    """One version. Raises StoreError when it is not registered."""
    record = record_of(bench.stores.registry, ModelName(options.model))
    version = record.resolve(options.version)
    if options.json:
        return [show_json(record, version, bench.stores.rollouts)]
    return show_lines(record, version, bench.stores.rollouts)


def diff_models(options: argparse.Namespace, bench: Bench) -> list[str]:
    """What sets two versions apart. Raises StoreError when one is not registered."""
    record = record_of(bench.stores.registry, ModelName(options.model))
    return diff_lines(record, record.resolve(options.first), record.resolve(options.second))


def compare_models(options: argparse.Namespace, bench: Bench) -> list[str]:
    """Two versions on the same events.

    Raises
    ------
    StoreError
        When one is not registered, or its artifact is collected.
    ArtifactError, TrainingError
        See `head_to_head`.
    """
    record = record_of(bench.stores.registry, ModelName(options.model))
    first, second = (record.kept(name) for name in (options.first, options.second))
    found = bench.compare(record.model, first, second, bench.stores, rules_of(bench.settings))
    return [record.model, *lines_of(first, second, found)]


def report_models(options: argparse.Namespace, bench: Bench) -> list[str]:
    """ALS, two towers, boosted trees and popularity on the events that are stored; paths of the reports' files.

    Raises TrainingError when there are too few events to compare anything.
    """
    from retrain_workers.reports.comparison import compare, contenders  # they bring torch and scikit-learn
    from retrain_workers.reports.files import write_comparison
    from retrain_workers.reports.over_time import over_time, rolling, write_over_time

    model, rules = ModelName(options.model), rules_of(bench.settings)
    interactions = bench.stores.interactions.interactions(model)
    dataset = dataset_of(interactions)
    refuse_too_little(dataset, rules.min_positive_events, rules.min_items)
    catalogue = {item.item_id: item for item in bench.stores.interactions.items(model)}
    ratings = np.where(interactions.type == TYPE_CODES[EventType.RATING], interactions.value, np.nan)
    models = contenders(TrainAls(), bench.settings.recency_half_life_events, catalogue, TrainTwoTower(start=Start.COLD))
    found = compare(dataset, models, min_users=rules.gate.min_users, ratings=ratings)
    written = write_comparison(found, options.out, model)
    if options.splits != "chronological":
        windows = over_time(models, rolling(dataset, options.splits), rules.gate.min_users)
        written += write_over_time(windows, options.out, f"{model}, {options.splits} histories")
    return [str(path) for path in written]


def collect_garbage(options: argparse.Namespace, bench: Bench) -> list[str]:
    """Remove artifacts, or say which would go; what was never registered or never finished too. Raises StoreError."""
    stores, retention, dry = bench.stores, _retention(options, bench.settings), options.dry_run
    models = [record_of(stores.registry, ModelName(options.model)).model] if options.model else stores.registry.models()
    done = "would be" if dry else "was"
    lines = []
    for model in models:
        gone = (
            collectable(stores.registry, model, bench.now, retention)
            if dry
            else collect_model(stores.artifacts, stores.registry, model, bench.now, retention, ACTOR)
        )
        lines += [f"{model} {version}: {done} collected" for version in gone]
        look = orphans if dry else remove_orphans
        lost = look(stores.artifacts, stores.registry, stores.queue, model, bench.now, retention.grace)
        lines += [f"{model} {version}: {done} removed, it was never registered" for version in lost]
        sweep = stores.artifacts.unfinished if dry else stores.artifacts.remove_unfinished
        left = sweep(model, bench.now - retention.grace)
        lines += [f"{model} {name}: {done} removed, it was never finished" for name in left]
    return lines or ["nothing to collect"]


def _retention(options: argparse.Namespace, settings: WorkerSettings) -> Retention:
    usual = retention_of(settings)
    return Retention(
        champions=usual.champions if options.keep is None else options.keep,
        grace=usual.grace if options.grace_seconds is None else timedelta(seconds=options.grace_seconds),
    )


def mirror_models(options: argparse.Namespace, bench: Bench) -> list[str]:
    """Send what waits; with `--all` everything that ever happened. Raises StoreError only when PostgreSQL fails."""
    tracker, outbox = tracker_of(bench.settings), bench.stores.outbox
    if tracker is None:
        return ["no mirror: the setting mlflow_uri is empty"]
    if options.all:
        outbox.refill()
    done = mirror(outbox, bench.stores.registry, tracker, limit=timedelta(hours=1))
    error = [f"MLflow failed: {done.error}"] if done.error else []
    return [f"{done.sent} versions sent", *error, *waiting_lines(outbox)]
