"""What is documented exists, and what exists is documented: settings, routes, event fields, commands."""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from itertools import chain
from pathlib import Path
from pkgutil import iter_modules

import pytest
from fastapi.routing import APIRoute

from flows.settings import FlowSettings
from online_models.contracts.events import Event, EventType
from online_models.settings import SECTIONS, Settings, StoreSettings, env_prefix
from retrain_workers.settings import WorkerSettings
from serving_api import routes
from serving_api.app import create_app
from serving_api.settings import ServingSettings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SETTINGS: tuple[type[Settings], ...] = (StoreSettings, FlowSettings, WorkerSettings, ServingSettings)

PROCESSES = ("flows", "retrain_workers", "serving_api")
PATIENCE_SECONDS = 180.0
"""All commands are asked at once, on however few cores."""

COMMANDS = sorted(set(re.findall(r"python ((?:-m \w+|scripts/\w+\.py) [\w-]+)", README)))
"""Program and subcommand of each command of the README."""


def documented(kind: type[Settings]) -> list[str]:
    """Names before the colon in the docstring's list: `a, b : what they are`."""
    lists = re.findall(r"^ *([a-z_]+(?:, [a-z_]+)*) : ", kind.__doc__ or "", re.MULTILINE)
    return list(chain.from_iterable(names.split(", ") for names in lists))


@pytest.mark.parametrize("kind", SETTINGS)
def test_every_setting_is_documented_once_and_nothing_else_is(kind: type[Settings]) -> None:
    assert sorted(documented(kind)) == sorted(kind.model_fields)


def test_the_readme_names_the_settings_of_every_section() -> None:
    assert {kind.section for kind in SETTINGS} == {"", *SECTIONS}
    for kind in SETTINGS:
        names = [f"{env_prefix(kind)}..."] if kind.section else [f"PENSTOCK_{key}".upper() for key in kind.model_fields]
        assert [name for name in names if f"`{name}`" not in README] == []


def test_every_route_is_in_the_openapi_document_with_a_summary() -> None:
    paths = create_app(ServingSettings(), StoreSettings()).openapi()["paths"]
    resources = [import_module(f"serving_api.routes.{found.name}") for found in iter_modules(routes.__path__)]
    declared = [route for resource in resources if hasattr(resource, "router") for route in resource.router.routes]
    assert len(declared) >= 8
    for route in declared:
        assert isinstance(route, APIRoute)
        assert route.methods
        for method in route.methods:
            operation = paths.get(route.path_format, {}).get(method.lower())
            assert operation, f"{method} {route.path} is not in the OpenAPI document"
            assert operation.get("summary"), f"{method} {route.path} has no summary"
            assert operation.get("description"), f"{method} {route.path} has no description"


def test_the_readme_s_routes_exist() -> None:
    paths = set(create_app(ServingSettings(), StoreSettings()).openapi()["paths"])
    called = set(re.findall(r"http://127\.0\.0\.1:8000(/[\w/]+)", README)) | set(re.findall(r"`(/\w+)`", README))
    assert called >= {"/v1/recommendations/1", "/v1/events", "/healthz"}
    known = paths | {"/docs", "/v1/recommendations/1", "/v1/items/318/similar", "/v1/users/new/preferences"}
    assert "/v1/recommendations/{user_id}" in paths
    assert sorted(called - known) == []


def test_the_readme_describes_every_field_of_an_event_and_every_type() -> None:
    table = README.split("## An event")[1].split("\n## ")[0]
    described = set(re.findall(r"`(\w+)`", table))
    assert set(Event.__struct_fields__) - described == set()
    assert {str(kind) for kind in EventType} - described == set()


@pytest.fixture(scope="module")
def helps() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """Every command asked for help, all at once."""
    asked = {
        command: subprocess.Popen(
            [sys.executable, *command.split(), "--help"],
            cwd=ROOT,
            env={"PATH": os.defpath, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for command in (*COMMANDS, *(f"-m {package}" for package in PROCESSES))
    }
    yield asked
    for process in asked.values():
        process.kill()
        process.communicate()


def test_the_readme_has_the_commands_of_every_process() -> None:
    assert {command.split()[1] for command in COMMANDS} >= set(PROCESSES)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_exists(helps: dict[str, subprocess.Popen[str]], command: str) -> None:
    process = helps[command]
    output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, output
    assert output.startswith("usage:")


def test_the_readme_s_options_are_those_of_the_commands() -> None:
    from flows.__main__ import parser

    for options in re.findall(r"python -m flows (.*?)\s*(?:#.*)?$", README, re.MULTILINE):
        parser().parse_args(options.split())


def test_the_installed_commands_are_what_python_runs() -> None:
    scripts: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert set(scripts) == {"penstock-flow", "penstock-worker", "penstock-api"}
    for target in scripts.values():
        module, function = target.split(":")
        assert callable(getattr(import_module(module), function))


def test_the_make_targets_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", README, re.MULTILINE))
    assert named >= {"demo", "test", "setup"}
    assert named - targets == set()


@pytest.mark.parametrize("package", PROCESSES)
def test_the_help_of_a_process_shows_an_example(helps: dict[str, subprocess.Popen[str]], package: str) -> None:
    process = helps[f"-m {package}"]
    output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, output
    assert f"python -m {package}" in output.split("example")[1]
