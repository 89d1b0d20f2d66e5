"""Command line of serving: `python -m serving_api serve|control`."""

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Sequence

import uvicorn

from online_models.errors import PenstockError
from online_models.settings import StoreSettings
from serving_api.app import build_controller, create_app, open_stores
from serving_api.settings import ServingSettings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 when it ended as asked, 1 with a message when it could not do its work."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        settings, store_settings = ServingSettings.load(), StoreSettings.load()
        if options.command == "serve":
            return serve(settings, store_settings, options.host, options.port)
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
        epilog="example: python -m serving_api serve --host 0.0.0.0 --port 8000",
    )
    serving.add_argument("--host", help="address to listen on (default: the setting `host`)")
    serving.add_argument("--port", type=int, help="port to listen on (default: the setting `port`)")
    controlling = commands.add_parser(
        "control",
        help="move rollouts until SIGTERM or SIGINT",
        epilog="example: python -m serving_api control --once",
    )
    controlling.add_argument("--once", action="store_true", help="one tick over all models, then leave")
    return top


def serve(settings: ServingSettings, store_settings: StoreSettings, host: str | None, port: int | None) -> int:
    """Answer requests until SIGTERM or SIGINT; requests in flight are finished first.

    Raises
    ------
    StoreUnavailable
        When a store is away at the start.
    """
    with open_stores(store_settings) as stores:  # here, for uvicorn would show a traceback
        config = uvicorn.Config(
            create_app(settings, store_settings, stores),
            host=host or settings.host,
            port=settings.port if port is None else port,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=10,
        )
        server = uvicorn.Server(config)
        # After its own graceful end uvicorn raises the signal again, for whoever handled it before: nobody has to.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        server.run()
        return 0 if server.started else 1


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
        controller.run(stop, settings.control_seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
