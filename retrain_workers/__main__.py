"""`python -m retrain_workers run|jobs|models`: the worker process, and a look at the queue and the registry."""

import argparse
import logging
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from online_models.contracts.ids import ModelName
from online_models.contracts.jobs import JobKind
from online_models.errors import PenstockError, SettingsError
from online_models.settings import StoreSettings
from retrain_workers.app import build_worker, configure_logging, now, open_stores
from retrain_workers.jobs import SHOWN, as_json, table
from retrain_workers.model_commands import Bench, add_arguments
from retrain_workers.settings import WorkerSettings, under_torchrun
from retrain_workers.worker import StopRequest

CLEAR_SCREEN: Final = "\x1b[2J\x1b[H"

_EXAMPLES = """\
examples:
  python -m retrain_workers run             work until SIGTERM or Ctrl-C, which give the current lease back
  python -m retrain_workers run --once      work off the jobs that are due now, then leave
  python -m retrain_workers run --types als,two_tower   leave the other kinds to other workers
  python -m retrain_workers jobs --watch    the queue, with progress, estimates and costs, again every second
  python -m retrain_workers models          versions with aliases, parents, figures and costs
  python -m retrain_workers models show movies champion   a version with lineage, files, events and rollouts
  python -m retrain_workers models compare movies previous champion   both on the same later events
  python -m retrain_workers models gc --dry-run   artifacts that nothing needs any more

Settings are PENSTOCK_* and PENSTOCK_WORKER_* in the environment, or penstock.toml; without a database address an
embedded PostgreSQL under .penstock/ is used.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    options = _parser().parse_args(arguments)
    configure_logging()
    try:
        if options.command == "run":
            run(options.config, once=options.once, types=options.types)
        elif options.command == "jobs":
            show_jobs(options)
        else:
            show_models(options)
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
    run_parser.add_argument(
        "--types",
        type=kinds_of,
        help=f"kinds of jobs to take, such as als,lora; of {', '.join(JobKind)} (default: all)",
    )
    jobs_parser = commands.add_parser("jobs", help="list retrain jobs")
    jobs_parser.add_argument("model", nargs="?", help="one model only, such as movies")
    jobs_parser.add_argument("--last", type=int, default=SHOWN, help="how many of the youngest (default: %(default)s)")
    jobs_parser.add_argument("--json", action="store_true", help="a JSON array on one line")
    jobs_parser.add_argument("--watch", action="store_true", help="again every second until Ctrl-C")
    add_arguments(commands.add_parser("models", help="list, show, compare, collect or mirror model versions"))
    return parser


def kinds_of(text: str) -> tuple[JobKind, ...]:
    """
    >>> kinds_of("als,lora")
    (<JobKind.ALS: 'als'>, <JobKind.LORA: 'lora'>)
    """
    try:
        return tuple(JobKind(name.strip()) for name in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(JobKind)}; got {text!r}") from error


def run(config: Path | None, *, once: bool, types: tuple[JobKind, ...] | None = None) -> None:
    """Work until SIGTERM or SIGINT, or with `once` until no job is due; `types` take the place of the settings'.

    Raises SettingsError under torchrun: each of its processes would take jobs of its own and wait for the others in them.
    """
    if under_torchrun():
        raise SettingsError(
            "a worker trains in one process: start it without torchrun, which is for `two_tower.fitting.train`"
        )
    stop = StopRequest()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.request())
    with open_stores(StoreSettings.load(config)) as (stores, found):
        settings = WorkerSettings.load(config)
        if types is not None:
            settings = settings.model_copy(update={"types": types})
        worker = build_worker(settings, stores, found)
        if once:
            worker.run_due(stop)
        else:
            worker.run(stop)


def show_jobs(options: argparse.Namespace) -> None:
    """Print the youngest jobs of one model or of all, once or until Ctrl-C."""
    model = ModelName(options.model) if options.model else None
    with open_stores(StoreSettings.load(options.config)) as (stores, _), suppress(KeyboardInterrupt):
        while True:
            jobs = stores.queue.statuses(model, options.last)
            clear = CLEAR_SCREEN if options.watch and not options.json and sys.stdout.isatty() else ""
            sys.stdout.write(f"{clear}{as_json(jobs) if options.json else chr(10).join(table(jobs))}\n")
            sys.stdout.flush()
            if not options.watch:
                return
            time.sleep(1.0)


def show_models(options: argparse.Namespace) -> None:
    """Print the answer of a `models` command."""
    with open_stores(StoreSettings.load(options.config)) as (stores, _):
        bench = Bench(stores, WorkerSettings.load(options.config), now())
        sys.stdout.write("\n".join(options.answer(options, bench)) + "\n")


if __name__ == "__main__":
    sys.exit(main())
