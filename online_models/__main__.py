"""Command line of the kernel: `evaluate` tests models on a recorded log, `off-policy` tells what other lists would earn on it."""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from online_models.als import POSITIVE_RATING
from online_models.contracts.events import ATTRIBUTION_MS
from online_models.errors import PenstockError, SourceError
from online_models.evaluation import off_policy_report
from online_models.evaluation.contenders import CONTENDERS, DESCRIPTIONS, Result
from online_models.evaluation.off_policy import (
    ITEM,
    SAME,
    Study,
    places_of_policy,
    places_of_shadow,
    read_policy,
    study_candidate,
    study_positions,
)
from online_models.evaluation.protocol import CUTOFF
from online_models.evaluation.recorded import evaluate
from online_models.evaluation.report import Evaluation, json_of, text_of
from online_models.evaluation.shown import read_shown
from online_models.metrics import hit_at
from online_models.off_policy import Terms
from online_models.stores.log_files import log_paths
from online_models.stores.recorded import ENDINGS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 when it did its work, 1 with a message when it could not."""
    options = parser().parse_args(arguments)
    try:
        options.run(options)
    except PenstockError as error:
        print(f"penstock: {error}", file=sys.stderr)
        return 1
    return 0


def run_evaluate(options: argparse.Namespace) -> None:
    """Test models on a recorded log."""
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


def run_off_policy(options: argparse.Namespace) -> None:
    """Tell positions, and what a candidate's lists would earn."""
    _check_json(options)
    terms, title = _terms(options), ", ".join(Path(log).name for log in options.log)
    policy = read_policy(options.policy) if options.policy else None
    paths = [path for log in options.log for path in log_paths(log)]
    shown = read_shown(paths, options.domain, round(options.attribution_minutes * 60_000))
    study = Study(options.looks, None) if options.looks is not None else study_positions(shown, options.same)
    if policy is not None:
        study = study_candidate(shown, places_of_policy(shown, policy), study, terms, options.logged)
    elif options.shadow:
        study = study_candidate(shown, places_of_shadow(shown, options.shadow), study, terms, options.logged)
    print(off_policy_report.text_of(title, shown, study, options.same))
    if options.json:
        options.json.write_text(off_policy_report.json_of(title, shown, study, options.same) + "\n")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m online_models",
        description=__doc__,
        epilog="example: python -m online_models evaluate events.ndjson --plots plots --json evaluation.json",
    )
    commands = top.add_subparsers(dest="command", required=True)
    _add_evaluate(commands)
    _add_off_policy(commands)
    return top


def _add_evaluate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
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
    command.set_defaults(run=run_evaluate)


def _add_off_policy(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser(
        "off-policy",
        help="from logged lists, how much positions are looked at and what another ranker's lists would earn",
        description="Position propensities from lists of several rankers, and the value of a candidate's lists on them: of\n"
        "a file, or of a version that was scored in the shadow. Without a candidate, the positions alone.\n\n"
        'a line of the file: {"request_id": "...", "items": ["a", "b"]}, or "user_id" in place of the request, and, for a\n'
        'candidate that gives places to chance, "propensities": [0.9, 1.0]',
        epilog="example: python -m online_models off-policy 'logs/*.ndjson' --shadow v12 --json off_policy.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("log", metavar="LOG", nargs="+", help=f"file or quoted glob, ending in {', '.join(ENDINGS)}")
    candidate = command.add_mutually_exclusive_group()
    candidate.add_argument("--policy", type=Path, metavar="FILE", help="the candidate's lists, NDJSON")
    candidate.add_argument("--shadow", metavar="VERSION", help="the candidate is this version, scored in the shadow")
    candidate.add_argument("--positions", action="store_true", help="positions alone, as without a candidate")
    command.add_argument("--logged", metavar="VERSION", help="compare with this version's lists; with all if not given")
    command.add_argument("--domain", metavar="D", help="impressions of this domain; of all if not given")
    command.add_argument(
        "--same", choices=sorted(SAME), default=ITEM, help="; ".join(f"{n}: {w}" for n, w in SAME.items())
    )
    command.add_argument(
        "--looks",
        type=_looks,
        metavar="1,0.6,...",
        help="how much positions 0, 1, ... are looked at",
    )
    command.add_argument("--clip", type=float, default=math.inf, metavar="W", help="largest weight (none)")
    command.add_argument(
        "--min-ess", type=float, default=500.0, metavar="N", help="fewer effective rows are refused (500)"
    )
    command.add_argument(
        "--attribution-minutes",
        type=float,
        default=ATTRIBUTION_MS / 60_000,
        metavar="M",
        help="of an answer to no request (%(default)g)",
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON")
    command.set_defaults(run=run_off_policy)


def _looks(text: str) -> npt.NDArray[np.float64]:
    """Numbers above 0, comma-separated."""
    found = np.array([float(each) for each in text.split(",")])
    if not ((found > 0) & np.isfinite(found)).all():
        raise argparse.ArgumentTypeError(f"expected numbers above 0, got {text}")
    return found


def _terms(options: argparse.Namespace) -> Terms:
    try:
        return Terms(clip=options.clip, min_ess=options.min_ess)
    except ValueError as error:
        raise SourceError(f"--clip, --min-ess: {error}") from error


def tell(result: Result) -> None:
    """One line of progress."""
    said = f"did not run: {result.reason}"
    if result.outcome is not None:
        said = f"hit@{CUTOFF} {hit_at(result.outcome.ranks, CUTOFF).mean():.4f}"
    print(f"{result.name}: {said} ({result.seconds:.1f} s)", file=sys.stderr, flush=True)


def _check_places(options: argparse.Namespace) -> None:
    """Before an hour's work, not after it."""
    _check_json(options)
    if options.plots:
        if options.plots.exists() and not options.plots.is_dir():
            raise SourceError(f"--plots: not a directory: {options.plots}")
        try:
            import matplotlib  # noqa: F401
        except ModuleNotFoundError as error:
            raise SourceError("--plots needs matplotlib: pip install 'penstock[report]'") from error


def _check_json(options: argparse.Namespace) -> None:
    if options.json and not options.json.resolve().parent.is_dir():
        raise SourceError(f"--json: no such directory: {options.json.resolve().parent}")


def _plot(found: Evaluation, folder: Path) -> None:
    from online_models.evaluation.plots import write_plots

    for path in write_plots(found, folder):
        print(f"wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
