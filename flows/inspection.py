"""Wires the commands that look at what was recorded: `report` opens PostgreSQL, the others read logs alone.

Plots and pages are imported when they are asked for: what is printed needs nothing but the flow.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from flows import compare, declare, reports, tune
from flows.app import bounds_of
from flows.offline import parse_log
from flows.settings import FlowSettings
from online_models.contracts.events import TimeBounds
from online_models.errors import SourceError
from online_models.ports import WindowStore
from online_models.settings import StoreSettings
from online_models.stores.postgres import Database
from online_models.stores.postgres_windows import PostgresWindows
from online_models.stores.servers import open_servers


def inspect(options: argparse.Namespace, settings: FlowSettings, stores: StoreSettings, now: datetime) -> str:
    """Run a command; what it says is returned, files are written on the way.

    Raises
    ------
    PenstockError
        When a log, a window or a place to write to is not there.
    """
    bounds = bounds_of(settings, now)
    match options.command:
        case "report":
            return _report(options, stores)
        case "compare":
            return _compare(options, settings, bounds)
        case "tune":
            return _tune(options, settings, bounds)
        case _:
            return _declare(options)


def _report(options: argparse.Namespace, stores: StoreSettings) -> str:
    reports.check_windows(options.windows)
    with _windows(stores) as store:
        found = reports.reports(store, options.windows, options.model, options.feature)
    said = [reports.text_of(report) for report in found]
    if options.out:
        from flows.plots import write_plots

        written = [path for report in found for path in write_plots(report, options.out)]
        said.append(f"wrote {reports.counted(len(written), 'plot')} into {options.out}")
    if options.html:
        from flows.pages import report_page, write_page

        write_page(report_page(found), options.html)
        said.append(f"wrote {options.html}")
    return "\n\n".join(said)


@contextmanager
def _windows(stores: StoreSettings) -> Iterator[WindowStore]:
    with open_servers(stores) as endpoints:
        database = Database(endpoints.postgres_dsn)
        try:
            yield PostgresWindows(database)
        finally:
            database.close()


def _compare(options: argparse.Namespace, settings: FlowSettings, bounds: TimeBounds) -> str:
    before, after = parse_log(options.before), parse_log(options.after)
    if options.declare:
        settings = settings.model_copy(update={"features": ()})
    found = compare.compare(before, after, settings, bounds)
    said = compare.text_of(found)
    if options.html:
        from flows.pages import compare_page, write_page

        write_page(compare_page(found), options.html)
        said += f"\n\nwrote {options.html}"
    return said


def _tune(options: argparse.Namespace, settings: FlowSettings, bounds: TimeBounds) -> str:
    log = parse_log(options.log)
    if options.declare:
        settings = settings.model_copy(update={"features": ()})
    features = compare.features_of([log], settings, bounds)
    settings = settings.model_copy(update={"features": features})
    sets = tune.usual_sets(settings, sorted({spec.component for spec in features}))
    sets += tune.read_sets(options.sets, settings) if options.sets else []
    span = tune.reference_span(options.reference, log, settings, bounds)
    outcomes = tune.tune(log, span, settings, sets, bounds)
    said = tune.text_of(outcomes, span)
    if options.json:
        try:
            options.json.write_bytes(tune.json_of(outcomes, span))
        except OSError as error:
            raise SourceError(f"--json: {options.json}: cannot be written: {error}") from error
        said += f"\n\nwrote {options.json}"
    return said


def _declare(options: argparse.Namespace) -> str:
    return declare.main_declare([parse_log(log) for log in options.logs])
