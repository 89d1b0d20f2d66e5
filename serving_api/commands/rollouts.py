"""`python -m serving_api rollout start|status|pause|resume|promote|abort|rollback|history`: operators' commands.

- They speak to the API over HTTP with a key, so they work from anywhere, and the API decides what the key may do.
- Exit status: 0 it is done; 1 the server refuses, and its reason is on standard error; 2 it could not be asked.
"""

import argparse
import logging
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from online_models.errors import SettingsError
from serving_api.commands.client import Body, Failure, NoAnswer, Refused, RolloutClient
from serving_api.commands.lines import history_lines, order_lines, start_lines, status_lines

URL: Final = "http://127.0.0.1:8000"

_EXAMPLES: Final = """\
examples:
  python -m serving_api rollout status movies
  python -m serving_api rollout start movies --reason "retrained on the new catalogue"
  python -m serving_api rollout start movies --kind ab --canary v12 --reason "which is better"
  python -m serving_api rollout pause movies --reason "looking at complaints"
  python -m serving_api rollout abort movies --reason "lists are empty"
  python -m serving_api rollout rollback movies --to previous --reason "v12 shows what was sold out"

The key is in PENSTOCK_SERVING_API_KEY, or in the file of --key-file; `python -m serving_api keys create` makes one.
"""

HELP: Final = {
    "pause": "keep the weight where it is; harm still ends the rollout (operator)",
    "resume": "let a paused rollout go on (operator)",
    "promote": "make the canary the champion at once (approver)",
    "abort": "send everybody back to the stable version at once (operator)",
}
MATCHED: Final = ("pause", "resume", "promote")
"""Done only to the rollout as it is when the command is given."""


@dataclass(frozen=True, slots=True)
class Console:
    """What a command speaks to; new_id : a fresh idempotency key."""

    client: RolloutClient
    new_id: Callable[[], str]


def add_rollout_commands(parser: argparse.ArgumentParser) -> None:
    """The commands of `rollout`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EXAMPLES
    commands = parser.add_subparsers(dest="rollout_command", required=True)
    _add_start(commands)
    status = _command(commands, "status", "where the youngest rollout stands, and what it waits for (viewer)", "")
    status.set_defaults(ask=ask_status, lines=status_lines)
    for verb, told in HELP.items():
        order = _command(commands, verb, told, ' --reason "seen in the shop"')
        order.add_argument("--reason", required=True, help="why, for the audit trail")
        order.set_defaults(ask=ask_order, lines=order_lines)
    back = _command(commands, "rollback", "return to a version of before at once (operator; approver)", _BACK)
    back.add_argument(
        "--to",
        default="previous",
        metavar="VERSION",
        help="a retained version (default: previous, the one that the last promotion replaced)",
    )
    back.add_argument("--reason", required=True, help="why, for the audit trail")
    back.set_defaults(ask=ask_rollback, lines=order_lines)
    history = _command(commands, "history", "the last rollouts, and who did what to them (viewer)", " --limit 5")
    history.add_argument("--limit", type=int, default=5, metavar="N", help="how many rollouts (default: 5)")
    history.set_defaults(ask=ask_history, lines=history_lines)


_BACK: Final = ' --to v7 --reason "the last one that was right"'

Commands = argparse._SubParsersAction


def _add_start(commands: "Commands[argparse.ArgumentParser]") -> None:
    start = _command(
        commands,
        "start",
        "begin a canary or an experiment (operator; with --stages or --gate approver)",
        ' --canary v12 --reason "a try"',
    )
    start.add_argument("--kind", choices=("canary", "ab", "aa", "bandit"), default="canary", help="(default: canary)")
    start.add_argument("--canary", metavar="VERSION", help="(default: the youngest candidate)")
    start.add_argument("--arms", nargs="+", metavar="VERSION", help="of a bandit, the champion among them")
    start.add_argument(
        "--stages", type=_json, metavar="JSON", help='such as \'[{"weight_bp": 500}, {"weight_bp": 5000}]\''
    )
    start.add_argument("--gate", type=_json, metavar="JSON", help="such as '{\"margin\": 0.05}'")
    start.add_argument("--reason", required=True, help="why, for the audit trail")
    start.set_defaults(ask=ask_start, lines=start_lines)


def _command(
    commands: "Commands[argparse.ArgumentParser]", name: str, told: str, example: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=told, epilog=f"example: python -m serving_api rollout {name} movies{example}"
    )
    parser.add_argument("model", help="such as movies")
    parser.add_argument("--url", default=URL, help=f"of the API (default: {URL})")
    parser.add_argument("--key-file", type=Path, metavar="FILE", help="holds the API key")
    parser.add_argument("--json", action="store_true", help="the server's answer as it is")
    return parser


def run_rollout_command(options: argparse.Namespace, api_key: str, new_id: Callable[[], str]) -> int:
    """Ask, and print the answer. Raises SettingsError when the key or the URL is none."""
    logging.getLogger("httpx").setLevel(logging.WARNING)
    ask: Callable[[argparse.Namespace, Console], bytes | Failure] = options.ask
    key = api_key if options.key_file is None else _key_in(options.key_file)
    with closing(RolloutClient(options.url, key)) as client:
        try:
            answer = ask(options, Console(client, new_id))
            shown = _shown(answer, options) if isinstance(answer, bytes) else answer
        except ValueError as error:  # of pydantic and of msgspec, both
            shown = NoAnswer(f"{options.url} speaks as another release does: {error}")
    match shown:
        case Refused(reason):
            print(f"refused: {reason}", file=sys.stderr)
            return 1
        case NoAnswer(reason):
            print(f"no answer: {reason}", file=sys.stderr)
            return 2
        case content:
            print("\n".join(content))
            return 0


def _shown(content: bytes, options: argparse.Namespace) -> list[str]:
    lines: Callable[[bytes], list[str]] = options.lines
    return [content.decode()] if options.json else lines(content)


def ask_start(options: argparse.Namespace, console: Console) -> bytes | Failure:
    """A new rollout."""
    given = {name: getattr(options, name) for name in ("kind", "canary", "arms", "stages", "gate", "reason")}
    body: Body = {name: told for name, told in given.items() if told is not None}
    return console.client.start(options.model, body, console.new_id())


def ask_status(options: argparse.Namespace, console: Console) -> bytes | Failure:
    """Where the youngest rollout stands."""
    return console.client.status(options.model)


def ask_history(options: argparse.Namespace, console: Console) -> bytes | Failure:
    """The last rollouts."""
    return console.client.history(options.model, options.limit)


def ask_order(options: argparse.Namespace, console: Console) -> bytes | Failure:
    """Pause, resume, promote or abort."""
    verb = options.rollout_command
    body: Body = {"reason": options.reason}
    return console.client.order(options.model, verb, body, console.new_id(), matched=verb in MATCHED)


def ask_rollback(options: argparse.Namespace, console: Console) -> bytes | Failure:
    """Return to a version of before."""
    body: Body = {"version": options.to, "reason": options.reason}
    return console.client.order(options.model, "rollback", body, console.new_id(), matched=False)


def _key_in(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--key-file: {error}") from error


def _json(text: str) -> object:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise argparse.ArgumentTypeError(f"expected JSON: {error}") from error
