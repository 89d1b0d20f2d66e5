"""Command line of the kernel: `python -m online_models evaluate LOG` tests models on a recorded log."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from online_models.als import POSITIVE_RATING
from online_models.errors import PenstockError, SourceError
from online_models.evaluation.contenders import CONTENDERS, DESCRIPTIONS, Result
from online_models.evaluation.protocol import CUTOFF
from online_models.evaluation.recorded import evaluate
from online_models.evaluation.report import Evaluation, json_of, text_of
from online_models.metrics import hit_at
from online_models.stores.recorded import ENDINGS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 when it did its work, 1 with a message when it could not."""
    options = parser().parse_args(arguments)
    try:
        _check_places(options)
        found = evaluate(
            options.log,
            split=options.split,
            names=options.models.split(","),
            domain=options.domain,
            min_rating=options.min_rating,
            told=tell,
        )
        print(text_of(found))
        if options.json:
            options.json.write_text(json_of(found) + "\n")
        if options.plots:
            _plot(found, options.plots)
    except PenstockError as error:
        print(f"penstock: {error}", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m online_models",
        description=__doc__,
        epilog="example: python -m online_models evaluate events.ndjson --plots plots --json evaluation.json",
    )
    commands = top.add_subparsers(dest="command", required=True)
    models = "\n".join(f"  {name:18} {what}" for name, what in DESCRIPTIONS.items())
    command = commands.add_parser(
        "evaluate",
        help="test models on a recorded log: each event is predicted from what came before it, then learned",
        description="Test-then-train over the last part of a log, all items ranked that the user has not met.\n\n"
        f"models:\n{models}",
        epilog="example: python -m online_models evaluate 'logs/2026-*.ndjson.gz' --models rules,ours --plots plots",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("log", metavar="LOG", help=f"file or quoted glob, ending in {', '.join(ENDINGS)}")
    command.add_argument(
        "--split", type=float, default=0.8, metavar="SHARE", help="of the events that come before the test (0.8)"
    )
    command.add_argument("--models", default=",".join(CONTENDERS), metavar="A,B", help="all if not given")
    command.add_argument("--domain", metavar="D", help="the one with most positive events if not given")
    command.add_argument(
        "--min-rating",
        type=float,
        default=POSITIVE_RATING,
        metavar="R",
        help=f"a lower rating says nothing positive ({POSITIVE_RATING})",
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON")
    command.add_argument("--plots", type=Path, metavar="DIR", help="write figures as PNG files")
    return top


def tell(result: Result) -> None:
    """One line of progress."""
    said = f"did not run: {result.reason}"
    if result.outcome is not None:
        said = f"hit@{CUTOFF} {hit_at(result.outcome.ranks, CUTOFF).mean():.4f}"
    print(f"{result.name}: {said} ({result.seconds:.1f} s)", file=sys.stderr, flush=True)


def _check_places(options: argparse.Namespace) -> None:
    """Before an hour's work, not after it."""
    if options.json and not options.json.resolve().parent.is_dir():
        raise SourceError(f"--json: no such directory: {options.json.resolve().parent}")
    if options.plots:
        if options.plots.exists() and not options.plots.is_dir():
            raise SourceError(f"--plots: not a directory: {options.plots}")
        try:
            import matplotlib  # noqa: F401
        except ModuleNotFoundError as error:
            raise SourceError("--plots needs matplotlib: pip install 'penstock[report]'") from error


def _plot(found: Evaluation, folder: Path) -> None:
    from online_models.evaluation.plots import write_plots

    for path in write_plots(found, folder):
        print(f"wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
