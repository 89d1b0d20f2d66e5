"""A served world, an API over it, and workers on stores, for the tests that take them as they are; others make their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from online_models.stores.embedded import Endpoints
from tests.api_process import Api, started_api
from tests.served_world import World, served_world
from tests.workshop import Workshop, opened_workshop


@pytest.fixture
def world(fresh_stores: Endpoints, tmp_path: Path) -> Iterator[World]:
    with served_world(fresh_stores, tmp_path) as world:
        yield world


@pytest.fixture
def api(world: World) -> Iterator[Api]:
    with started_api(world.settings) as api:
        yield api


@pytest.fixture
def workshop(fresh_stores: Endpoints, tmp_path: Path) -> Iterator[Workshop]:
    with opened_workshop(fresh_stores, tmp_path) as workshop:
        yield workshop
