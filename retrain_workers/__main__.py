"""`python -m retrain_workers run|models`: the worker process, and a look at the registry."""

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from online_models.contracts.ids import ModelName
from online_models.errors import PenstockError
from online_models.ports import ModelRegistry, RegisteredVersion
from online_models.settings import StoreSettings
from retrain_workers.app import build_worker, configure_logging, open_stores
from retrain_workers.settings import WorkerSettings
from retrain_workers.worker import StopRequest

_EXAMPLES = """\
examples:
  python -m retrain_workers run             work until SIGTERM or Ctrl-C, which give the current lease back
  python -m retrain_workers run --once      work off the jobs that are due now, then leave
  python -m retrain_workers models movies   versions of one model with figures and parents, * marks the champion

Settings are PENSTOCK_* and PENSTOCK_WORKER_* in the environment, or penstock.toml; without a database address an
embedded PostgreSQL under .penstock/ is used.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    options = _parser().parse_args(arguments)
    configure_logging()
    try:
        if options.command == "run":
            run(options.config, once=options.once)
        else:
            show_models(options.config, options.model)
    except PenstockError as error:
        logging.getLogger(__name__).error("%s: %s", type(error).__name__, error)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="penstock-worker",
        description="Trains, judges and publishes recommendation models as the stream asks for them.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, help="settings file (default: penstock.toml)")
    commands = parser.add_subparsers(dest="command", required=True)
    run_parser = commands.add_parser("run", help="take jobs from the queue")
    run_parser.add_argument("--once", action="store_true", help="leave when no job is due")
    models = commands.add_parser("models", help="list model versions")
    models.add_argument("model", nargs="?", help="one model only, such as movies")
    return parser


def run(config: Path | None, *, once: bool) -> None:
    """Work until SIGTERM or SIGINT, or with `once` until no job is due."""
    stop = StopRequest()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.request())
    with open_stores(StoreSettings.load(config)) as (stores, found):
        worker = build_worker(WorkerSettings.load(config), stores, found)
        if once:
            worker.run_due(stop)
        else:
            worker.run(stop)


def show_models(config: Path | None, model: str | None) -> None:
    """Print the versions of one model or of all, oldest first."""
    with open_stores(StoreSettings.load(config)) as (stores, _):
        models = [ModelName(model)] if model else stores.registry.models()
        lines = [line for name in models for line in lines_of(name, stores.registry)] or ["no model has a version"]
        sys.stdout.write("\n".join(lines) + "\n")


def lines_of(model: ModelName, registry: ModelRegistry) -> list[str]:
    """One line per version: champion mark, lineage, what it was trained on, and its figures."""
    champion = registry.champion(model)
    versions = registry.versions(model)
    if not versions:
        return [f"{model}: no versions"]
    return [model, *(_line(version, version.version == champion) for version in versions)]


def _line(registered: RegisteredVersion, is_champion: bool) -> str:
    manifest = registered.manifest
    origin = f"job={manifest.job_id}" if manifest.job_id is not None else "no job"
    figures = " ".join(f"{name}={figure:.4g}" for name, figure in sorted(manifest.metrics.items()))
    return (
        f"{'*' if is_champion else ' '} {registered.version} {manifest.kind} parent={manifest.parent or '-'} {origin} "
        f"created={registered.created_at:%Y-%m-%dT%H:%M:%SZ} events={manifest.data_window.events} {figures}"
    )


if __name__ == "__main__":
    sys.exit(main())
