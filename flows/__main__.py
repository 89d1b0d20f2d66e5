"""Command line of the stream job: `python -m flows replay|run`, and of its reports: `report|compare|tune|declare`."""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from glob import glob
from pathlib import Path
from typing import TypeAlias

from flows.app import ReplayOptions, replay, run_live
from flows.settings import FlowSettings
from online_models.errors import PenstockError, SourceError
from online_models.settings import StoreSettings
from online_models.stores.log_files import CATALOGUE_SUFFIX

_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 when it did its work, 1 with a message when it could not."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        print(_run(options))
    except PenstockError as error:
        print(f"penstock: {error}", file=sys.stderr)
        return 1
    return 0


def _run(options: argparse.Namespace) -> str:
    """What a command has to say. Reports are imported when asked for: the stream job runs without their extra."""
    for name in ("report", "html", "json"):
        path = getattr(options, name, None)
        if path and not path.resolve().parent.is_dir():
            raise SourceError(f"--{name}: no such directory: {path.resolve().parent}")
    if options.command in ("replay", "run"):
        return _stream(options)
    from flows.inspection import inspect

    try:
        return inspect(options, FlowSettings.load(), StoreSettings.load(), datetime.now(UTC))  # noqa: TID251 (the edge)
    except ModuleNotFoundError as error:
        if error.name not in ("jinja2", "markupsafe", "matplotlib"):
            raise
        raise SourceError(f"plots and pages need {error.name}: pip install 'penstock[report]'") from error


def _stream(options: argparse.Namespace) -> str:
    if options.command == "replay":
        figures = replay(FlowSettings.load(), StoreSettings.load(), replay_options(options))
    else:
        figures = run_live(FlowSettings.load(), StoreSettings.load())
    report = json.dumps(figures, indent=1)
    if options.report:
        options.report.write_text(report + "\n")
    return report


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="penstock-flow",
        description="The stream job: windows, drift, online embeddings, retrain jobs.",
        epilog="example: python -m flows replay events.ndjson --report report.json",
    )
    commands = top.add_subparsers(dest="command", required=True)
    replay_parser = commands.add_parser(
        "replay",
        help="read recorded logs to their end",
        epilog="example: python -m flows replay 'logs/2026-*.ndjson.gz' --speed 60 --report report.json",
    )
    replay_parser.add_argument("logs", nargs="+", metavar="LOG", help="files or quoted globs, read in name order")
    replay_parser.add_argument("--report", type=Path, metavar="FILE", help="write the report as JSON")
    replay_parser.add_argument("--speed", default="max", metavar="N|max", help="event seconds per second")
    replay_parser.add_argument("--resume", action="store_true", help="continue a replay that was killed")
    replay_parser.add_argument(
        "--catalogue", type=Path, action="append", metavar="FILE", help="titles; default: LOG's .items.ndjson"
    )
    run_parser = commands.add_parser(
        "run",
        help="follow the live event log until stopped",
        epilog="example: python -m flows run --report report.json",
    )
    run_parser.add_argument("--report", type=Path, metavar="FILE", help="write the report as JSON at the end")
    _add_report(commands)
    _add_compare(commands)
    _add_tune(commands)
    _add_declare(commands)
    return top


LOG_HELP = "file or quoted glob, with @A..B only those event times, such as log.ndjson@2011-01-01..2011-03-01"


def _add_report(commands: _Commands) -> None:
    report = commands.add_parser(
        "report",
        help="what features looked like in stored windows, and what drifted",
        epilog="example: python -m flows report 2011-03-01..2011-04-01 --model movies --html report.html",
    )
    report.add_argument(
        "windows",
        metavar="WINDOW|RANGE",
        help="latest, the time at which a window ended, or A..B for all that ended then",
    )
    report.add_argument("--model", metavar="M", help="of this model only")
    report.add_argument("--feature", metavar="F", help="of this feature only")
    report.add_argument("--out", type=Path, metavar="DIR", help="write the plots as PNG files")
    report.add_argument("--html", type=Path, metavar="FILE", help="write one page with everything")


def _add_compare(commands: _Commands) -> None:
    compare = commands.add_parser(
        "compare",
        help="compare the features of two logs, without any store",
        epilog="example: python -m flows compare 'log.ndjson@..2011-03-01' 'log.ndjson@2011-03-01..' --html page.html",
    )
    compare.add_argument("before", metavar="A", help=f"the reference: {LOG_HELP}")
    compare.add_argument("after", metavar="B", help="what is compared with it, written likewise")
    compare.add_argument("--html", type=Path, metavar="FILE", help="write one page with everything")
    _add_declared(compare)


def _add_tune(commands: _Commands) -> None:
    tune = commands.add_parser(
        "tune",
        help="which alarms several sets of policies would have raised on a log",
        epilog="example: python -m flows tune log.ndjson --reference 30% --sets mine.toml --json alarms.json",
    )
    tune.add_argument("log", metavar="LOG", help=LOG_HELP)
    tune.add_argument("--reference", metavar="RANGE|SHARE", help="event times A..B, or the first part (default: 30%%)")
    tune.add_argument(
        "--sets", type=Path, metavar="FILE", help="TOML with more sets: [NAME.recommender], [NAME.trigger]"
    )
    tune.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON")
    _add_declared(tune)


def _add_declare(commands: _Commands) -> None:
    declare = commands.add_parser(
        "declare",
        help="propose the declarations of a log's features, as TOML for penstock.toml",
        epilog="example: python -m flows declare log.ndjson > penstock.toml",
    )
    declare.add_argument("logs", nargs="+", metavar="LOG", help="files or quoted globs")


def _add_declared(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--declare", action="store_true", help="declare features from what is in the log, whatever the settings say"
    )


def replay_options(options: argparse.Namespace) -> ReplayOptions:
    """Checked options of a replay.

    Raises
    ------
    SourceError
        When a log or a catalogue is not there, or the speed is not a positive number.
    """
    paths = sorted({Path(found) for pattern in options.logs for found in glob(pattern) or [pattern]})
    logs = [path for path in paths if not path.name.endswith(CATALOGUE_SUFFIX)]
    for path in [*logs, *(options.catalogue or [])]:
        if not path.is_file():
            raise SourceError(f"no such file: {path}")
    catalogues = options.catalogue or [found for path in logs if (found := catalogue_of(path)).is_file()]
    return ReplayOptions(logs, catalogues, speed_of(options.speed), options.resume)


def catalogue_of(log: Path) -> Path:
    """Where a log's catalogue is looked for: `ml.ndjson.gz` -> `ml.items.ndjson`."""
    return log.with_name(log.name.split(".", 1)[0] + CATALOGUE_SUFFIX)


def speed_of(text: str) -> float | None:
    """Event seconds per wall second; None for `max`."""
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise SourceError(f"--speed: expected a positive number or max, got {text!r}")
    return speed


if __name__ == "__main__":
    sys.exit(main())
