"""Command line of serving: `python -m serving_api serve|control|rollout|keys|precompute|smoke`."""

import argparse
import logging
import secrets
import signal
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import msgspec
import uvicorn
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from online_models.contracts.ids import ModelName, UserId
from online_models.contracts.smoke import encode_smoke
from online_models.errors import PenstockError, SettingsError
from online_models.settings import StoreSettings
from serving_api.app import build_controller, create_app, now, open_precompute, open_stores, tuned_interpreter
from serving_api.commands.keys import KeyDesk, add_key_commands
from serving_api.commands.rollouts import add_rollout_commands, run_rollout_command
from serving_api.precompute import ListSink, ParquetLists, Progress, RedisLists
from serving_api.rollouts.controller import Pacing
from serving_api.settings import ServingSettings, share_metrics
from serving_api.smoke import Load, User, smoke

PRECOMPUTE_PATIENCE = timedelta(seconds=10)
"""Longest wait for Redis while lists are made."""

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 when it ended as asked, 1 with a message when it could not do its work."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    try:
        if options.command == "smoke":
            return smoke_test(options)
        settings, store_settings = ServingSettings.load(), StoreSettings.load()
        if options.command == "rollout":
            return run_rollout_command(options, settings.api_key.get_secret_value(), lambda: str(uuid.uuid4()))
        if options.command == "keys":
            return keys(store_settings, options)
        if options.command == "serve":
            given = {name: getattr(options, name) for name in ("host", "port", "workers")}
            chosen = {name: option for name, option in given.items() if option is not None}
            return serve(settings.model_copy(update=chosen), store_settings)
        if options.command == "precompute":
            return precompute(settings, store_settings, options)
        return control(settings, store_settings, once=options.once)
    except PenstockError as error:
        print(f"penstock-api: {error}", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="penstock-api",
        description="Serve recommendations, and move rollouts from stage to stage.",
        epilog="example: python -m serving_api serve --port 8000   (and beside it) python -m serving_api control",
    )
    commands = top.add_subparsers(dest="command", required=True)
    serving = commands.add_parser(
        "serve",
        help="answer HTTP requests until SIGTERM or SIGINT",
        epilog="example: python -m serving_api serve --host 0.0.0.0 --port 8000 --workers 4",
    )
    serving.add_argument("--host", help="address to listen on (default: the setting `host`)")
    serving.add_argument("--port", type=int, help="port to listen on (default: the setting `port`)")
    serving.add_argument(
        "--workers", type=at_least_one, metavar="N", help="processes that answer (default: the setting `workers`)"
    )
    controlling = commands.add_parser(
        "control",
        help="move rollouts until SIGTERM or SIGINT",
        epilog="example: python -m serving_api control --once",
    )
    controlling.add_argument("--once", action="store_true", help="one tick over all models, then leave")
    listing = commands.add_parser(
        "precompute",
        help="make the lists of all known users, for the modes hybrid and precomputed or for somebody else",
        epilog="example: python -m serving_api precompute --domain movies --top 100 --to parquet top.parquet",
    )
    listing.add_argument("--domain", help="whose users and items (default: the first of the setting `domains`)")
    listing.add_argument("--top", type=at_least_one, default=100, metavar="N", help="items in a list (default: 100)")
    listing.add_argument(
        "--to", nargs="+", default=["redis"], metavar="WHERE", help="`redis` (default) or `parquet PATH`"
    )
    listing.add_argument(
        "--users", default="all", metavar="FILE", help="one user id a line (default: all, those in PostgreSQL)"
    )
    add_rollout_commands(commands.add_parser("rollout", help="start, look at and move rollouts, through the API"))
    add_key_commands(commands.add_parser("keys", help="make, list and revoke the API keys of operators"))
    _add_smoke(commands)
    return top


def _add_smoke(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    smoking = commands.add_parser(
        "smoke",
        help="load an artifact as a reader does and ask it, without any store; the last line is JSON",
        epilog="example: python -m serving_api smoke movies .penstock/artifacts/movies/v1 --requests 1000",
    )
    smoking.add_argument("model", help="whose artifact it is, such as movies")
    smoking.add_argument("artifact", type=Path, help="its directory: ROOT/MODEL/VERSION")
    smoking.add_argument("--requests", type=at_least_one, default=1_000, metavar="N", help="asked (default: 1000)")
    smoking.add_argument("--clients", type=at_least_one, default=8, metavar="N", help="that ask at once (default: 8)")
    smoking.add_argument("--top", type=at_least_one, default=10, metavar="K", help="items in a list (default: 10)")
    smoking.add_argument("--seed", type=int, default=0, help="of the users that are drawn (default: 0)")
    smoking.add_argument(
        "--users", metavar="FILE", help='JSON [{"user_id": "u", "items": ["i"]}] instead, - for standard input'
    )


def at_least_one(text: str) -> int:
    """A number from 1. Raises ArgumentTypeError when it is none."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text!r}")
    return int(text)


def serve(settings: ServingSettings, store_settings: StoreSettings) -> int:
    """Answer requests until SIGTERM or SIGINT; requests in flight are finished first.

    Raises
    ------
    StoreUnavailable
        When a store is away at the start.
    """
    with open_stores(store_settings) as stores:  # here, for uvicorn would show a traceback
        if settings.workers > 1:
            return supervise(settings)
        server = uvicorn.Server(server_config(create_app(settings, store_settings, stores), settings))
        # After its own graceful end uvicorn raises the signal again, for whoever handled it before: nobody has to.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        server.run()
        return 0 if server.started else 1


def supervise(settings: ServingSettings) -> int:
    """Answer with several processes on one socket, and replace those that die."""
    with tempfile.TemporaryDirectory(prefix="penstock-metrics-") as directory:
        share_metrics(directory)
        config = server_config(f"{__package__}.__main__:worker_app", settings)
        supervisor = Multiprocess(config, [config.bind_socket()])
        supervisor.run()
    return 1 if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes) else 0


def worker_app() -> FastAPI:
    """The application of one of several processes."""
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    return create_app()


def server_config(app: FastAPI | str, settings: ServingSettings) -> uvicorn.Config:
    """How HTTP is spoken."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        factory=isinstance(app, str),
        loop="uvloop",
        http="httptools",
        ws="none",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=10,
    )


def control(settings: ServingSettings, store_settings: StoreSettings, *, once: bool) -> int:
    """Move rollouts until SIGTERM or SIGINT, or for one tick; a tick is never cut short."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with open_stores(store_settings) as stores:
        controller = build_controller(settings, stores)
        if once:
            controller.tick()
            return 1 if controller.failures else 0
        controller.run(stop, Pacing(settings.control_seconds, settings.control_fast_seconds))
    return 0


def keys(store_settings: StoreSettings, options: argparse.Namespace) -> int:
    """Make, list or revoke API keys in the database."""
    with open_stores(store_settings) as stores:
        desk = KeyDesk(stores.keys, now(), secrets.token_bytes, lambda said: print(said, file=sys.stderr))
        print("\n".join(options.answer(options, desk)))
    return 0


def precompute(settings: ServingSettings, store_settings: StoreSettings, options: argparse.Namespace) -> int:
    """Make lists, and tell on stderr how far it is and how fast it was."""
    domain = options.domain or settings.domains[0]
    if domain not in settings.domains:
        raise SettingsError(f"--domain: expected one of {', '.join(settings.domains)}, got {domain!r}")
    match options.to:
        case ["redis"]:
            path = None
        case ["parquet", name]:
            path = Path(name)
        case other:
            raise SettingsError(f"--to: expected `redis` or `parquet PATH`, got {' '.join(other)!r}")
    settings = settings.model_copy(update={"domains": (domain,)})
    with open_stores(store_settings) as stores, open_precompute(settings, stores, PRECOMPUTE_PATIENCE) as making:
        users = making.all_users() if options.users == "all" else users_of(Path(options.users))
        lists: ParquetLists | nullcontext[ListSink]
        lists = ParquetLists(path) if path else nullcontext(RedisLists(making.kept, settings.precomputed_ttl))
        done = Progress(0, 0, 0.0)
        with lists as sink:
            for done in making.run(ModelName(domain), users, options.top, sink):
                print(f"\r{done.users:,} users, {done.lists:,} lists", end="", file=sys.stderr, flush=True)
    torn = f", {done.torn:,} left out as torn" if done.torn else ""
    print(
        f"\r{done.users:,} users, {done.lists:,} lists{torn} in {done.seconds:.1f} s: {done.users_per_second:,.0f} users/s",
        file=sys.stderr,
    )
    return 0


def smoke_test(options: argparse.Namespace) -> int:
    """Print what an artifact does in the reader's code; 1 when a request raised something, or has no answer that can be shown."""
    load = Load(options.requests, options.clients, options.top, options.seed)
    users = None if options.users is None else told_users(options.users)
    with tuned_interpreter():
        figures = smoke(options.artifact, ModelName(options.model), load, users)
    print(encode_smoke(figures).decode())
    return 1 if figures.errors or figures.empty or figures.wrong else 0


def told_users(file: str) -> list[User]:
    """Users in a JSON file, or on standard input. Raises SettingsError when there are none."""
    try:
        raw = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        users = msgspec.json.decode(raw, type=list[User])
    except (OSError, msgspec.DecodeError) as error:
        raise SettingsError(f"--users: {error}") from error
    if not users:
        raise SettingsError("--users: expected at least one, got none")
    return users


def users_of(path: Path) -> Iterator[UserId]:
    """The user ids of a file, one a line. Raises SettingsError when it cannot be read."""
    try:
        with path.open(encoding="utf-8") as lines:
            yield from (UserId(user) for line in lines if (user := line.rstrip("\n")))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--users: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
