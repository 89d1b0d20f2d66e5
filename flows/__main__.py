"""Command line of the stream job: `python -m flows replay|run`."""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from glob import glob
from pathlib import Path

from flows.app import ReplayOptions, replay, run_live
from flows.settings import FlowSettings
from online_models.errors import PenstockError, SourceError
from online_models.settings import StoreSettings

CATALOGUE_SUFFIX = ".items.ndjson"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 when it did its work, 1 with a message when it could not."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        if options.report and not options.report.resolve().parent.is_dir():
            raise SourceError(f"--report: no such directory: {options.report.resolve().parent}")
        match options.command:
            case "replay":
                figures = replay(FlowSettings.load(), StoreSettings.load(), replay_options(options))
            case _:
                figures = run_live(FlowSettings.load(), StoreSettings.load())
    except PenstockError as error:
        print(f"penstock: {error}", file=sys.stderr)
        return 1
    report = json.dumps(figures, indent=1)
    print(report)
    if options.report:
        options.report.write_text(report + "\n")
    return 0


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
    run_parser = commands.add_parser("run", help="follow the live event log until stopped")
    run_parser.add_argument("--report", type=Path, metavar="FILE", help="write the report as JSON at the end")
    return top


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
